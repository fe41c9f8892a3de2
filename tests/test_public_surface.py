"""The names that users see: importable, documented, sorted, light, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from programs import run_program

import clerk_async
from clerk_async import AsyncSessionsApi, ClerkError, SessionsApi, errors

PACKAGE = Path(clerk_async.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(PACKAGE)], prefix="clerk_async.")
)
SETTLED = set(
    """
    ApiError ApiResponse AsyncSessionsApi AsyncTokenVerifier AuthenticationError BadRequestError
    BulkRevocationError ClerkError ClientClosedError ConfigurationError ConflictError ConnectError
    ConnectionLostError Cookies GoneError InvalidArgumentError Journal JournalError
    KeysUnavailableError NotFoundError PermissionDeniedError RateLimit RateLimitedError RequestState
    RequestTimeoutError ResponseDecodeError RetryPolicy RevocationOutcome RevocationProgress
    RevocationReport RevocationStatus ServerError Session SessionActivity SessionClaims SessionPage
    SessionStatus SessionTask SessionsApi Timeouts Token TokenVerificationError TokenVerifier
    TransportError UnprocessableEntityError WrongLoopError
    """.split()  # noqa: SIM905 - a list of 46 strings reads worse
)


def order(name: str) -> tuple[int, str]:
    """Sort as ruff's RUF022 does: constants, then classes, then the rest."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        return 0, name
    return (1, name) if name[0].isupper() else (2, name)


@pytest.mark.parametrize("name", clerk_async.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    """Every name of `__all__` can be had and says what it is."""
    value = getattr(clerk_async, name)
    if name != "__version__":
        assert inspect.getdoc(value), name
        assert value.__name__ == name
        assert value.__module__.startswith("clerk_async.")
    assert name in dir(clerk_async)


def test_all_is_sorted_and_complete() -> None:
    """Sorted as ruff sorts, without doubles, with every settled name and every error."""
    names = clerk_async.__all__
    assert names == sorted(names, key=order)
    assert len(set(names)) == len(names)
    assert set(names) >= SETTLED
    tree = [value for value in vars(errors).values() if inspect.isclass(value)]
    raised = {cls.__name__ for cls in tree if issubclass(cls, ClerkError)} - {"_CallError"}
    assert raised <= set(names)


def test_the_lazy_table_and_the_typed_imports_agree() -> None:
    """What type checkers see is what is there when the program runs."""
    assert set(clerk_async._HOME_OF) | {"__version__"} == set(clerk_async.__all__)
    tree = ast.parse(Path(clerk_async.__file__).read_text(encoding="utf-8"))
    typed: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and "clerk_async." in node.module:
            typed |= {alias.name: node.module for alias in node.names}
    typed.pop("__version__")
    assert typed == clerk_async._HOME_OF


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = clerk_async.no_such_name
    assert not hasattr(clerk_async, "sessions_api")


def test_import_is_light() -> None:
    """`import clerk_async` loads nothing heavy, and nothing of ours but itself."""
    ended = run_program(
        """
        import sys
        before = set(sys.modules)
        import clerk_async
        new = {name for name in set(sys.modules) - before}
        print(sorted(name for name in new if name.startswith("clerk_async")))
        heavy = {"aiohttp", "attrs", "attr", "cattrs", "anyio", "msgspec", "cryptography", "rich"}
        print([name for name in {*heavy, "click", "asyncio", "ssl"} if name in sys.modules])
        clerk_async.__version__
        from clerk_async import ClerkError, NotFoundError, RetryPolicy
        print([name for name in ("aiohttp", "cattrs", "anyio", "asyncio") if name in sys.modules])
        """,
        None,
    )
    assert ended.err == ""
    assert ended.out.splitlines() == ["['clerk_async', 'clerk_async.version']", "[]", "[]"]


@pytest.mark.slow
def test_each_module_can_be_imported_first() -> None:
    """There are no import cycles: any module may be the first."""
    assert len(MODULES) > 30
    ended = run_program(
        f"""
        import os, sys
        for name in {MODULES!r}:
            if name.endswith("__main__"):
                continue
            child = os.fork()
            if not child:
                try:
                    __import__(name)
                except BaseException as error:
                    print(name, repr(error), flush=True)
                    os._exit(1)
                os._exit(0)
            os.waitpid(child, 0)
        """,
        None,
        limit=55,
    )
    assert (ended.code, ended.out) == (0, ""), ended.out


RANKS = {"errors": 0, "models": 0, "config": 0, "version": 0, "http": 1, "tokens": 2, "bulk": 2}
"""Arrows run down: cli → sync → sessions → bulk → http → models, errors, config; tokens → http."""


def imported(path: Path) -> set[str]:
    """Give the modules that a file imports when it runs, those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = ["clerk_async", *path.relative_to(PACKAGE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*above, *filter(None, [node.module])]))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {str(name.value) for name in node.args if isinstance(name, ast.Constant)}
    return names


def test_arrows_run_down() -> None:
    """No part imports what is above it; `testing` imports nothing of the client."""
    ranks = {**RANKS, "http_info": 3, "paging": 3, "sessions": 4, "loop_thread": 1, "sync": 5}
    ranks |= {"crossing": 2, "sync_http_info": 5, "cli": 6, "__main__": 7, "private_loop": 1}
    above: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imported(path):
            head, _, rest = module.partition(".")
            target = rest.partition(".")[0]
            if part == "__init__" or head != "clerk_async" or not target:
                continue
            if part == "testing":
                is_above = target != "testing"
            elif target == "testing":
                is_above = part != "cli"
            else:
                is_above = ranks[target] > ranks[part]
            if is_above or {part, target} == {"tokens", "bulk"}:
                above.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert above == []


def test_aiohttp_is_known_by_one_file() -> None:
    """Only the transport imports it when the program runs; the fake is a server of its own."""
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "aiohttp" for name in imported(path))
    }
    assert {name for name in knowing if not name.startswith("testing")} == {"http/transport.py"}


def documented(cls: type[Any]) -> list[Any]:
    """Give the public methods of a class, with their names."""
    return [
        pytest.param(cls, name, id=f"{cls.__name__}.{name}")
        for name, _ in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    ]


@pytest.mark.parametrize(("cls", "name"), [*documented(AsyncSessionsApi), *documented(SessionsApi)])
def test_each_method_is_documented(cls: type[Any], name: str) -> None:
    """Each has a summary; the async client's docs name every parameter, and no other."""
    function = getattr(cls, name)
    text = inspect.getdoc(function)
    assert text
    assert text.splitlines()[0].endswith((".", "`"))
    if cls is AsyncSessionsApi:
        section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        named = re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []
        assert named == [each for each in inspect.signature(function).parameters if each != "self"]


def test_the_constructors_docs_name_every_parameter() -> None:
    """In their order."""
    section = (inspect.getdoc(AsyncSessionsApi) or "").partition("Args:\n")[2]
    named = re.findall(r"^    (\w+):", section.partition("Raises:")[0], re.MULTILINE)
    assert named == list(inspect.signature(AsyncSessionsApi).parameters)


def test_the_error_tree_in_the_docs_is_the_real_one() -> None:
    """Each class stands under its parent, as drawn."""
    drawn = re.findall(r"^    ([│ ]*)(?:[├└]── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    parents: dict[int, str] = {}
    for indent, name in drawn:
        depth = 0 if name == "ClerkError" else len(indent) // 4 + 1
        parents[depth] = name
        cls = getattr(errors, name)
        if depth:
            mro = [base.__name__ for base in cls.__mro__]
            assert parents[depth - 1] in mro
            ours = [base for base in mro[1:] if base in clerk_async.__all__]
            assert ours[0] == parents[depth - 1]
    known = {name for name in clerk_async.__all__ if name.endswith("Error")}
    assert {name for _, name in drawn} == known


@pytest.mark.parametrize("name", MODULES)
def test_each_modules_all_is_real(name: str) -> None:
    """What a module says it offers is there."""
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    assert module.__doc__
    for each in getattr(module, "__all__", ()):
        assert hasattr(module, each)
