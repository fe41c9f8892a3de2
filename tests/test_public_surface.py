"""The public names: importable, documented, sorted, light, and complete."""

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
PUBLIC_MODULES = {"clerk_async.errors", "clerk_async.sync", "clerk_async.testing"}
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
    """Return the sort key of ruff's RUF022: constants, then classes, then the rest."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        return 0, name
    return (1, name) if name[0].isupper() else (2, name)


@pytest.mark.promise("public-surface")
@pytest.mark.parametrize("name", clerk_async.__all__)
def test_each_name_exists_and_is_documented(name: str) -> None:
    """Every name of `__all__` can be imported and has a docstring."""
    value = getattr(clerk_async, name)
    if name != "__version__":
        assert inspect.getdoc(value), name
        assert value.__name__ == name
        assert value.__module__.startswith("clerk_async.")
    assert name in dir(clerk_async)


def test_all_is_sorted_and_complete() -> None:
    """Sorted as ruff sorts, without duplicates, with every settled name and every error."""
    names = clerk_async.__all__
    assert names == sorted(names, key=order)
    assert len(set(names)) == len(names)
    assert set(names) >= SETTLED
    tree = [value for value in vars(errors).values() if inspect.isclass(value)]
    raised = {cls.__name__ for cls in tree if issubclass(cls, ClerkError)} - {"_CallError"}
    assert raised <= set(names)


def test_the_lazy_table_and_the_typed_imports_agree() -> None:
    """Type checkers and the running program see the same names."""
    assert set(clerk_async._HOME_OF) | {"__version__"} == set(clerk_async.__all__)
    tree = ast.parse(Path(clerk_async.__file__).read_text(encoding="utf-8"))
    typed: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and "clerk_async." in node.module:
            typed |= {alias.name: node.module for alias in node.names}
    typed.pop("__version__")
    assert typed == clerk_async._HOME_OF


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = clerk_async.no_such_name
    assert not hasattr(clerk_async, "sessions_api")


@pytest.mark.promise("public-surface")
def test_import_is_light() -> None:
    """`import clerk_async` imports nothing heavy, and none of our own modules but itself."""
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
    """There are no import cycles."""
    assert len(MODULES) > 30
    ended = run_program(
        f"""
        import os, sys
        import aiohttp, anyio, attrs, cattrs, click, cryptography.x509, redis.asyncio, rich.console
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


ROOMS = (
    (
        "errors",
        "models",
        "config",
        "version",
        "reasons",
        "redaction",
        "denials",
        "under_test",
        "extras",
    ),
    ("pacing",),
    ("http",),
    ("shared",),
    ("tokens", "bulk"),
    ("http_info",),
    ("sharing",),
    ("sessions",),
    ("sync",),
    ("webhooks",),
    ("cli",),
    ("__main__",),
)
"""From the bottom up. A layer may import those below it; the lowest may import itself."""
MADE_FOR_TESTS = {
    ("clerk_async.testing.tokens", "clerk_async.tokens.claims"),
    ("clerk_async.testing.keys", "clerk_async.extras"),
}
"""`make_claims` returns a value of the client, and imports its module when called."""


def imported(path: Path, *, with_types: bool = False) -> set[str]:
    """Return the modules that a file imports, at run time or also for type checkers."""
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
        if id(node) in typed and not with_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            parts = [f"{module}.{alias.name}" for alias in node.names]
            names |= {part if part in MODULES else module for part in parts}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {str(name.value) for name in node.args if isinstance(name, ast.Constant)}
    return names


def arrows() -> dict[str, set[str]]:
    """Return the modules of ours that each module imports, including imports for types only."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("clerk_async", *path.relative_to(PACKAGE).with_suffix("").parts)
        module = ".".join(parts).removesuffix(".__init__")
        found[module] = {name for name in imported(path, with_types=True) if name in MODULES}
    return found


def room_of(module: str) -> str:
    """Return the layer of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.promise("public-surface")
def test_imports_go_down_the_layers() -> None:
    """No layer imports one above or beside it, even for types; `testing` imports no other."""
    rank = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
    wrong: list[str] = []
    for module, targets in arrows().items():
        room = room_of(module)
        if not room:
            continue  # the package itself exports everything that users import
        for target in targets:
            aim = room_of(target)
            if aim in {"", room}:
                continue
            if "testing" in {room, aim}:
                is_wrong = room != "cli" and (module, target) not in MADE_FOR_TESTS
            else:
                is_wrong = rank[aim] > rank[room] or (rank[aim] == rank[room] > 0)
            if is_wrong:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


@pytest.mark.promise("public-surface")
def test_no_package_imports_its_own_modules() -> None:
    """If it did, two threads that import it and one of them at once would wait for each other.

    Python then ends one of the imports with a `_DeadlockError`. The version alone is imported,
    because nothing imports it before the package.
    """
    for path in PACKAGE.rglob("__init__.py"):
        package = ".".join(("clerk_async", *path.parent.relative_to(PACKAGE).parts))
        at_once = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {
            getattr(node, "module", None) or alias.name for node in at_once for alias in node.names
        }
        own = {name for name in names if name.startswith(package)}
        assert own <= {"clerk_async.version"}, path


def test_there_are_no_import_cycles() -> None:
    """Imports for types count too: a cycle means that files should be merged or split."""
    graph = arrows()
    graph.pop("clerk_async")
    while True:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        if not leaves:
            break
        graph = {module: targets for module, targets in graph.items() if module not in leaves}
    above = set[str]().union(*graph.values()) & graph.keys()
    assert sorted(module for module in graph if module in above) == []


@pytest.mark.promise("public-surface")
def test_no_file_is_longer_than_430_lines() -> None:
    """Few files are tiny, and the root of the package has few files."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, count in lines.items() if count > 430] == []
    assert len([path for path, count in lines.items() if count <= 85]) <= 22
    assert len([path for path in lines if path.parent == PACKAGE]) <= 13


def test_only_three_files_import_aiohttp() -> None:
    """The wire, its connections and its failures; the fake is a separate server."""
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "aiohttp" for name in imported(path))
    }
    assert {name for name in knowing if not name.startswith("testing")} == {
        "http/connections.py",
        "http/failures.py",
        "http/transport.py",
    }


def documented(cls: type[Any]) -> list[Any]:
    """Return the public methods of a class, with their names."""
    return [
        pytest.param(cls, name, id=f"{cls.__name__}.{name}")
        for name, _ in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    ]


@pytest.mark.parametrize(("cls", "name"), [*documented(AsyncSessionsApi), *documented(SessionsApi)])
def test_each_method_is_documented(cls: type[Any], name: str) -> None:
    """Each has a summary; the async client's docstrings name exactly the parameters."""
    function = getattr(cls, name)
    text = inspect.getdoc(function)
    assert text
    assert text.splitlines()[0].endswith((".", "`"))
    if cls is AsyncSessionsApi:
        section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        named = re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []
        assert named == [each for each in inspect.signature(function).parameters if each != "self"]


def test_the_constructors_docs_name_every_parameter() -> None:
    """In the order of the signature."""
    section = (inspect.getdoc(AsyncSessionsApi) or "").partition("Args:\n")[2]
    named = re.findall(r"^    (\w+):", section.partition("Raises:")[0], re.MULTILINE)
    assert named == list(inspect.signature(AsyncSessionsApi).parameters)


def test_the_error_tree_in_the_docs_is_the_real_one() -> None:
    """Each class is under its parent, as drawn."""
    drawn = re.findall(r"^    ([│ ]*)(?:[├└]── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    parents: dict[int, str] = {}
    for indent, name in drawn:
        depth = 0 if name == "ClerkError" else len(indent) // 4 + 1
        parents[depth] = name
        cls = getattr(clerk_async, name)
        if depth:
            mro = [base.__name__ for base in cls.__mro__]
            assert parents[depth - 1] in mro
            ours = [base for base in mro[1:] if base in clerk_async.__all__]
            assert ours[0] == parents[depth - 1]
    known = {name for name in clerk_async.__all__ if name.endswith("Error")}
    assert {name for _, name in drawn} == known


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_a_docstring(name: str) -> None:
    """Only modules that users import from list their names, and all of these exist."""
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    assert module.__doc__
    listed = getattr(module, "__all__", None)
    assert (listed is not None) == (name in PUBLIC_MODULES)
    for each in listed or ():
        assert hasattr(module, each)
