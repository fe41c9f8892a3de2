"""What the README's recipes show is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

from served_apps import APPS

README = Path(__file__).parent.parent / "README.md"


def test_each_recipe_stands_in_an_app_that_the_tests_serve() -> None:
    """Each paragraph of code below "Recipes" is found, as it is, in tests/apps."""
    section = re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    recipes = [part for part in section if part.startswith("Recipes\n")]
    served = "\n".join(app.read_text(encoding="utf-8") for app in sorted(APPS.glob("*.py")))
    assert recipes
    for block in re.findall(r"```python\n(.*?)```", "".join(recipes), flags=re.DOTALL):
        for paragraph in block.strip().split("\n\n\n"):
            assert paragraph in served
