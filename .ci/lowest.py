"""Print the lowest versions that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [
    *project["dependencies"],
    *(each for name in ("jwt", "cli", "redis", "webhooks", "speed") for each in extras[name]),
]:
    name, lowest = re.fullmatch(r"([\w-]+)>=([\w.]+)(?:;.*)?", requirement).groups()
    print(f"{name}=={lowest}")
