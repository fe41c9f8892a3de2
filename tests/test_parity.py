"""The sync client is the async one without await: names, parameters, defaults, types, docs."""

from __future__ import annotations

import ast
import inspect
import re
from textwrap import dedent
from typing import Any

import pytest

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, SessionsApi, TokenVerifier
from clerk_async.http_info import AsyncSessionsWithHttpInfo
from clerk_async.sync.http_info import SessionsWithHttpInfo

OPERATIONS = (
    "list",
    "create",
    "get",
    "refresh",
    "revoke",
    "verify",
    "create_token",
    "create_token_from_template",
)
PAIRS: list[tuple[type[Any], type[Any]]] = [
    (AsyncSessionsApi, SessionsApi),
    (AsyncSessionsWithHttpInfo, SessionsWithHttpInfo),
]
CALLBACKS = {"should_stop", "on_outcome", "on_progress"}
"""Plain functions in the sync client, plain or coroutine functions in the async one."""


def public(cls: type[Any]) -> set[str]:
    """Return the names that users call."""
    return {name for name in dir(cls) if not name.startswith("_")}


def shared_methods() -> list[Any]:
    """Return every method that both clients of a pair have."""
    return [
        pytest.param(one, other, name, id=f"{other.__name__}.{name}")
        for one, other in PAIRS
        for name in sorted(public(other) - {"close", "with_http_info"})
    ]


@pytest.mark.promise("sync-parity")
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both_clients_have_the_same_names(one: type[Any], other: type[Any]) -> None:
    """Only the methods for closing differ."""
    assert public(one) - {"aclose"} == public(other) - {"close"}
    assert public(other) >= set(OPERATIONS)
    assert hasattr(SessionsApi, "close")
    assert hasattr(AsyncSessionsApi, "aclose")


@pytest.mark.promise("sync-parity")
@pytest.mark.parametrize(("one", "other", "name"), shared_methods())
def test_both_clients_have_the_same_parameters(one: type[Any], other: type[Any], name: str) -> None:
    """Names, order, kinds and defaults are equal; types differ only if they need a loop."""
    theirs = inspect.signature(getattr(one, name)).parameters
    ours = inspect.signature(getattr(other, name)).parameters
    assert list(theirs) == list(ours)
    for parameter, there in theirs.items():
        here = ours[parameter]
        assert (here.kind, here.default) == (there.kind, there.default), parameter
        if parameter not in CALLBACKS:
            expected = str(there.annotation).replace(" | AsyncIterable[str]", "")
            assert str(here.annotation) == expected, parameter


@pytest.mark.parametrize(("one", "other", "name"), shared_methods())
def test_both_clients_have_the_same_results(one: type[Any], other: type[Any], name: str) -> None:
    """What one awaits the other returns, and both iterate over the same values."""
    there = str(inspect.signature(getattr(one, name)).return_annotation)
    here = str(inspect.signature(getattr(other, name)).return_annotation)
    there = re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", there)
    there = re.sub(r"^AsyncGenerator\[(\w+), None\]$", r"\1, one by one", there)
    here = re.sub(r"^Iterator\[(\w+)\]$", r"\1, one by one", here)
    here = re.sub(r"^Generator\[(\w+), None, None\]$", r"\1, one by one", here)
    assert here == there.replace("AsyncTokenSource", "TokenSource")


IN_SYNC_WORDS = (
    ("AsyncSessionsApi", "SessionsApi"),
    ("AsyncTokenVerifier", "TokenVerifier"),
    ("Any iterable or async iterable;", "Any iterable;"),
    ("; may be a coroutine function", ", in the caller's thread"),
    ("await ", ""),
    ("async ", ""),
)
"""What the docs of the async clients say about awaiting, and the sync wording for it."""
SYNC_ALONE = (
    "Iterables and callbacks run in the caller's thread. Ctrl-C waits for requests in flight.",
)
"""Paragraphs that only the sync clients need."""


def text_of(documented: object) -> str:
    """Return the whole docstring of a method or class, with line breaks normalized."""
    text = " ".join((inspect.getdoc(documented) or "").split())
    for paragraph in SYNC_ALONE:
        text = text.replace(f" {paragraph}", "")
    return text


def in_sync_words(text: str) -> str:
    """Translate an async client's docstring to that of the sync client."""
    for word, other in IN_SYNC_WORDS:
        text = text.replace(word, other)
    return text


@pytest.mark.promise("sync-parity")
@pytest.mark.parametrize(("one", "other", "name"), shared_methods())
def test_both_clients_have_the_same_docs(one: type[Any], other: type[Any], name: str) -> None:
    """The whole docstring: summary, arguments, errors, warnings and notes."""
    here = text_of(getattr(other, name))
    assert here == in_sync_words(text_of(getattr(one, name)))
    assert other.__doc__
    assert name in vars(SessionsWithHttpInfo) or "see `" not in here.lower()


@pytest.mark.promise("sync-parity")
@pytest.mark.parametrize("name", ["verify", "authenticate_request", "warm_up", "key_status"])
def test_both_verifiers_have_the_same_docs(name: str) -> None:
    """An editor shows them where either is typed."""
    here = text_of(getattr(TokenVerifier, name))
    assert here == in_sync_words(text_of(getattr(AsyncTokenVerifier, name)))
    assert here


def test_both_constructors_have_the_same_docs() -> None:
    """From the errors of all calls on, except aiohttp's session and what threads may do."""
    begin = "Every operation can raise"
    there = text_of(AsyncSessionsApi).partition(begin)[2]
    here = text_of(SessionsApi).partition(begin)[2]
    there = re.sub(r"client_session: .*? ssl_context:", "ssl_context:", there)
    of_threads = ", or gevent or eventlet has patched the threads of this process."
    here = here.replace(f"an option can't be used{of_threads}", "or an option can't be used.")
    assert here == in_sync_words(there)
    assert "Args:" in here


def test_the_docs_of_closing_correspond() -> None:
    """Each names the thread or loop that can't close it."""
    there, here = text_of(AsyncSessionsApi.aclose), text_of(SessionsApi.close)
    assert here.partition("Raises:")[0] == there.partition("Raises:")[0]
    assert "WrongLoopError" in here


@pytest.mark.parametrize("other", [SessionsApi, SessionsWithHttpInfo, TokenVerifier])
def test_editors_find_the_docs_in_the_source(other: type[Any]) -> None:
    """They read files and run nothing: each docstring is written at its method."""
    for cls in other.__mro__[:-1]:
        for name, method in vars(cls).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                assert ast.get_docstring(ast.parse(dedent(inspect.getsource(method))).body[0]), name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPERATIONS)
def test_with_http_info_takes_what_the_plain_method_takes(name: str) -> None:
    """It wraps the same value."""
    plain = inspect.signature(getattr(AsyncSessionsApi, name))
    twin = inspect.signature(getattr(AsyncSessionsWithHttpInfo, name))
    assert twin.parameters == plain.parameters
    value = re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", str(plain.return_annotation))
    wrapped = re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", str(twin.return_annotation))
    assert wrapped == f"ApiResponse[{value}]"


def test_both_constructors_have_the_same_parameters() -> None:
    """Except aiohttp's session, which needs a loop that doesn't exist yet."""
    there = dict(inspect.signature(AsyncSessionsApi).parameters)
    del there["client_session"]
    assert dict(inspect.signature(SessionsApi).parameters) == there


def test_the_constructor_parameters_are_stable() -> None:
    """Users rely on names and order; only the key may be positional."""
    parameters = inspect.signature(AsyncSessionsApi).parameters
    assert list(parameters) == [
        "secret_key",
        "base_url",
        "api_version",
        "timeout",
        "retry",
        "pool_size",
        "rate_limit",
        "client_session",
        "ssl_context",
        "proxy",
        "trust_env",
        "trace_configs",
        "headers",
        "allow_insecure",
        "shared_state",
    ]
    kinds = {parameter.kind for parameter in list(parameters.values())[1:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
