"""What is written runs: the README's examples, its tables, and the docstrings' examples."""

from __future__ import annotations

import asyncio
import doctest
import importlib.util
import inspect
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

import clerk_async
from clerk_async import AsyncSessionsApi, RetryPolicy, SessionsApi, Timeouts
from clerk_async.http.operations import OPERATIONS, RetryClass

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = re.compile(r"^## Recipes\n.*?(?=^## )", re.DOTALL | re.MULTILINE)  # run in their servers
BLOCKS = re.findall(
    r"(?:<!-- needs: (\S+) -->\n)?```python\n(.*?)```", RECIPES.sub("", README), re.DOTALL
)


def cells(line: str) -> list[str]:
    """Give the cells of a table's row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(heading: str) -> list[list[str]]:
    """Give the rows of the first table after a heading, without its head."""
    section = README.partition(f"{heading}\n")[2]
    table = re.search(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", section, re.MULTILINE)
    assert table is not None, heading
    return [cells(line) for line in table[1].splitlines()]


USES = {
    "look": """
async def use():
    async with AsyncSessionsApi() as sessions:
        await look(sessions)

asyncio.run(use())
""",
    "end_all": """
asyncio.run(end_all(["sess_1"]))
assert asyncio.run(left()) == ["sess_mine"]
""",
    "who_is": """
assert asyncio.run(who_is(token)) == "user_1"
assert asyncio.run(who_is("x")) == "nobody: token-invalid"
""",
    "invoices": """
import httpx

async def ask(headers):
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=transport, base_url=party) as client:
            return (await client.get("/invoices", headers=headers)).status_code

assert asyncio.run(ask({})) == 401
assert asyncio.run(ask({"Authorization": f"Bearer {token}"})) == 403
""",
    "signed_in_or_refreshed": """
from types import SimpleNamespace
from clerk_async import AsyncSessionsApi

names = []
response = SimpleNamespace(headers=SimpleNamespace(append=lambda name, _: names.append(name)))

async def use():
    async with AsyncSessionsApi() as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[party])
        request = {"host": party.removeprefix("https://"), "cookie": cookie}
        assert (await signed_in_or_refreshed(verifier, request, response)).is_signed_in

asyncio.run(use())
assert set(names) == {"Set-Cookie"}
""",
    "test_sign_out_everywhere": """
from clerk_async.testing import FakeClerk

with FakeClerk() as fake:
    test_sign_out_everywhere(fake)
""",
}
"""How the functions are used that an example defines and doesn't call itself."""
SETTING = """
import asyncio, os
from clerk_async import AsyncSessionsApi
os.chdir({folder!r})
party, token, cookie = {party!r}, {token!r}, {cookie!r}

async def left():
    async with AsyncSessionsApi() as sessions:
        return [session.id async for session in sessions.iterate(status="active", user_id="user_1")]
"""


@pytest.mark.promise("readme-examples")
@pytest.mark.slow
@pytest.mark.parametrize(("needs", "block"), BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_examples_run(needs: str, block: str, fake: FakeClerk, tmp_path: Path) -> None:
    """Each python block is a program that runs against the service, its functions too."""
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    party = "https://app.example.com"
    for name in ("sess_1", "sess_2", "sess_mine"):
        fake.add_session(session_id=name, user_id="user_1", authorized_party=party)
    setting = SETTING.format(
        folder=str(tmp_path),
        party=party,
        token=fake.mint("sess_1"),
        cookie=f"__session={fake.expired_token('sess_1')}; "
        f"__refresh={fake.refresh_token_for('sess_1')}",
    )
    defined = re.findall(r"^(?:async )?def (\w+)", block, re.MULTILINE)
    uses = "".join(USES.get(name, "") for name in defined)
    for name in defined:
        assert len(re.findall(rf"\b{name}\b", block + uses)) > 1, f"{name} is never used"
    ended = run_program(setting + block + uses, fake)
    assert ended.code == 0, f"{block}{uses}\n{ended.err}"
    assert ended.err == ""


def test_the_readme_has_examples_and_commands() -> None:
    """The two commands stand at its top, each one line; examples follow."""
    assert len(BLOCKS) >= 5
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for command in commands[:2]:
        assert len(command.strip().splitlines()) == 1
        assert "venv" in command
    assert "demo" in commands[0]
    assert "pytest" in commands[1]


def test_the_readmes_links_lead_somewhere() -> None:
    """Anchors and files that it points to are there."""
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
    """Each operation of its table takes what the table says."""
    seen: set[str] = set()
    for cell, *_ in rows("## Use"):
        for name, parameters in re.findall(r"`(\w+)\(([^)]*)\)`", cell):
            seen.add(name)
            real = inspect.signature(getattr(AsyncSessionsApi, name)).parameters
            for parameter in re.findall(r"(\w+)=", parameters):
                assert parameter in real, name
    assert seen >= set(OPERATIONS) - {"jwks"} | {"iterate", "revoke_many", "revoke_all"}


@pytest.mark.promise("readme-examples")
def test_the_readmes_settings_are_the_real_defaults() -> None:
    """Each argument is named, and where a default is given it's the one of the code."""
    real = inspect.signature(AsyncSessionsApi).parameters
    named: set[str] = set()
    for names, default, *_ in rows("### Settings"):
        for name in re.findall(r"`(\w+)`", names):
            named.add(name)
            if re.match(r"`(Timeouts|RetryPolicy)\(", default):
                value = eval(default.strip("`"), {"Timeouts": Timeouts, "RetryPolicy": RetryPolicy})  # noqa: S307
                assert value == real[name].default
                assert value == type(value)()
            elif name in {"pool_size", "api_version"}:
                assert default.strip("`") == str(real[name].default)
    assert named >= set(real) - {"allow_insecure"}


@pytest.mark.promise("retry-table")
def test_the_readmes_retry_table_is_the_codes() -> None:
    """Row by row: what may be sent again."""
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
    for names, *columns in rows("## What is retried"):
        for name in names.split(", "):
            operation = OPERATIONS["jwks" if name == "keys" else name]
            seen.add(operation.name)
            expected = table[operation.retry]
            assert [column.partition(" (")[0] for column in columns] == list(expected), name
    assert seen == set(OPERATIONS)


@pytest.mark.parametrize("cls", [AsyncSessionsApi, SessionsApi])
def test_the_docstrings_examples_run(cls: type[Any], fake: FakeClerk) -> None:
    """As they stand, but for the key and the address."""
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
    """Keep a Changelog: what comes stands under Unreleased, or under its version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[?(Unreleased|{re.escape(clerk_async.__version__)})\b", changelog, re.MULTILINE
    )
