"""The documentation runs: the README's examples and tables, and the docstrings' examples."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

import clerk_async
from clerk_async import AsyncSessionsApi, SessionsApi
from clerk_async.http import retry
from clerk_async.http.operations import OPERATIONS, RetryClass

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
APP = (
    (ROOT / "tests" / "apps" / "account_app.py").read_text(encoding="utf-8").split('"""\n\n', 1)[1]
)
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "account_app" not in block and block != APP
]


def cells(line: str) -> list[str]:
    """Return the cells of a table row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(heading: str, text: str = README) -> list[list[str]]:
    """Return the rows of the first table after a heading, without its header."""
    section = text.partition(f"{heading}\n")[2]
    table = re.search(r"^ *\|.*\|\n *\|[-|]+\|\n((?: *\|.*\|\n)+)", section, re.MULTILINE)
    assert table is not None, heading
    return [cells(line) for line in table[1].splitlines()]


USES = {
    "who_is": """
assert asyncio.run(who_is(token)) == "user_1"
assert asyncio.run(who_is("x")) == "nobody: token-invalid"
""",
}
"""How to use the functions that an example defines and doesn't call itself."""
SETTING = """
import asyncio, os
from clerk_async import AsyncSessionsApi
os.chdir({folder!r})
party, token = {party!r}, {token!r}
"""


@pytest.mark.promise("readme-examples")
@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_examples_run(block: str, fake: FakeClerk, tmp_path: Path) -> None:
    """Each Python block is a program that runs against the service, including its functions."""
    party = "https://app.example.com"
    for name in ("sess_1", "sess_2", "sess_mine"):
        fake.add_session(session_id=name, user_id="user_1", authorized_party=party)
    setting = SETTING.format(
        folder=str(tmp_path),
        party=party,
        token=fake.mint("sess_1"),
    )
    defined = re.findall(r"^(?:async )?def (\w+)", block, re.MULTILINE)
    uses = "".join(USES.get(name, "") for name in defined)
    for name in defined:
        assert len(re.findall(rf"\b{name}\b", block + uses)) > 1, f"{name} is never used"
    ended = run_program(setting + block + uses, fake)
    assert ended.code == 0, f"{block}{uses}\n{ended.err}"
    assert ended.err == ""


def test_the_readme_has_examples_and_commands() -> None:
    """Both commands are near its top, each on one line; the README has at most 300 lines."""
    assert len(BLOCKS) >= 3
    assert len(README.splitlines()) <= 300
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[1:]
    for command in commands[:2]:
        assert len(command.strip().splitlines()) == 1
        assert "venv" in command
    assert "demo" in commands[0]
    assert "pytest" in commands[1]


def test_the_readme_shows_the_whole_app() -> None:
    """The tests run the same text that readers paste."""
    assert f"```python\n{APP}```" in README


def test_the_readmes_links_are_valid() -> None:
    """The anchors and files that it links to exist."""
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_readmes_operations_are_the_real_ones() -> None:
    """Each operation takes the parameters in its table."""
    seen: set[str] = set()
    for cell, *_ in rows("## What it does"):
        for name, parameters in re.findall(r"`(\w+)\(([^)]*)\)`", cell):
            seen.add(name)
            real = inspect.signature(getattr(AsyncSessionsApi, name)).parameters
            for parameter in re.findall(r"(\w+)=", parameters):
                assert parameter in real, name
    assert seen >= set(OPERATIONS) - {"jwks"} | {"iterate", "revoke_many", "revoke_all"}


@pytest.mark.promise("retry-table")
def test_the_documented_retry_table_matches_the_code() -> None:
    """Row by row, as in the docstring of `clerk_async.http.retry`."""
    table = {
        RetryClass.SAFE: ("yes", "yes", "yes", "yes"),
        RetryClass.CREATES: (
            "yes",
            "only 409 `resource_locked` and 503 with Retry-After",
            "yes",
            "no",
        ),
        RetryClass.CONSUMES: ("yes", "only 503 with Retry-After", "yes", "no"),
    }
    seen: set[str] = set()
    for names, *columns in rows("The table::", retry.__doc__ or ""):
        for name in names.split(", "):
            operation = OPERATIONS["jwks" if name == "keys" else name]
            seen.add(operation.name)
            expected = table[operation.retry]
            assert [column.partition(" (")[0] for column in columns] == list(expected), name
    assert seen == set(OPERATIONS)


@pytest.mark.parametrize("cls", [AsyncSessionsApi, SessionsApi])
def test_the_docstrings_examples_run(cls: type[Any], fake: FakeClerk) -> None:
    """They run as written, except for the key and the address."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(cls) or "")
    assert examples
    fake.add_session(user_id="user_1")

    def made(_: str) -> Any:
        return cls(fake.secret_key, base_url=fake.base_url)

    for example in examples:
        source = textwrap.indent(example.source, "    ")
        head = "async def whole():\n" if cls is AsyncSessionsApi else "def whole():\n"
        names: dict[str, Any] = {cls.__name__: made}
        exec(head + source, names)  # noqa: S102
        if cls is AsyncSessionsApi:
            asyncio.run(names["whole"]())
        else:
            names["whole"]()
    assert "list" in {request.operation for request in fake.requests}


def test_the_changelog_names_this_version() -> None:
    """As in Keep a Changelog, new changes are under Unreleased or under their version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[?(Unreleased|{re.escape(clerk_async.__version__)})\b", changelog, re.MULTILINE
    )
