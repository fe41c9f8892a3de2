"""SharedState: what it accepts, what it rejects, and what it never shows."""

from __future__ import annotations

import copy
import pickle
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

from clerk_async import (
    AsyncSessionsApi,
    ConfigurationError,
    InvalidArgumentError,
    RateLimit,
    SessionsApi,
    SharedState,
    SharedStatus,
)

if TYPE_CHECKING:
    from redis_servers import RedisServer

KEY = "sk_test_shared"
PASSWORD = "Pa55word-of-the-cache"
URL = f"redis://operator:{PASSWORD}@127.0.0.1:1/0"
"""Nothing listens there."""


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:6379/0",
        "redis://cache",
        "rediss://:secret@cache:6380/2?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
        "redis://[::1]:6379",
    ],
)
def test_urls_of_redis_py_are_accepted(url: str) -> None:
    """TLS and Unix sockets too; nothing connects yet."""
    SharedState(url)
    assert AsyncSessionsApi(KEY, shared_state=url).shared_status().connected is False


@pytest.mark.promise("shared-settings")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://cache:6379",
        "redis://",
        "redis://:6379",
        f"redis://operator:{PASSWORD}@cache:port",
        f"redis://operator:{PASSWORD}/1@cache:6379",
        f"redis://:{PASSWORD}@cache:0",
        f"redis://:{PASSWORD}@cache:70000",
        f"redis://:{PASSWORD}@cache:6379/0?no_such_option=1",
        f"redis://:{PASSWORD}@cache:6379/0?socket_timeout=soon",
        f"redis://:{PASSWORD}@ca che",
        "unix://",
        7,
        b"redis://cache",
    ],
)
@pytest.mark.parametrize("make", [AsyncSessionsApi, SessionsApi])
def test_an_unusable_url_is_rejected_at_once(make: Any, url: object) -> None:
    """The constructor raises a ConfigurationError that repeats no password."""
    with pytest.raises(ConfigurationError) as caught:
        make(KEY, shared_state=url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": ""}, ConfigurationError),
        ({"namespace": "a b"}, ConfigurationError),
        ({"namespace": "{a}"}, ConfigurationError),
        ({"namespace": 7}, ConfigurationError),
        ({"timeout": 0}, InvalidArgumentError),
        ({"timeout": float("nan")}, InvalidArgumentError),
        ({"keep": -1.0}, InvalidArgumentError),
        ({"keep": "3600"}, InvalidArgumentError),
        ({"client": object()}, ConfigurationError),
    ],
)
def test_an_unusable_option_is_rejected(options: dict[str, Any], error: type[Exception]) -> None:
    """Before anything connects."""
    url = None if "client" in options else URL
    with pytest.raises(error):
        SharedState(url, **options)


def test_it_takes_a_url_or_a_client_of_redis_asyncio() -> None:
    """Exactly one of the two, and no client that would block the loop."""
    import redis  # noqa: PLC0415
    import redis.asyncio  # noqa: PLC0415

    client = redis.asyncio.Redis(port=1)
    SharedState(client=client)
    blocking: Any = redis.Redis(port=1)
    for url, given in ((None, None), (URL, client), (None, blocking)):
        with pytest.raises(ConfigurationError):
            SharedState(url, client=given)


def test_it_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument overrides it; an empty variable counts as unset."""
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", "nonsense")
    with pytest.raises(ConfigurationError):
        AsyncSessionsApi(KEY)
    AsyncSessionsApi(KEY, shared_state=URL)
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", "")
    assert AsyncSessionsApi(KEY).shared_status().limit == 80
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", URL)
    assert AsyncSessionsApi(KEY).shared_status().limit == 90


@pytest.mark.promise("nothing-secret-shared")
def test_a_password_is_never_shown() -> None:
    """Nor a user name, nor the query of a URL."""
    state = SharedState(f"{URL}?client_name={PASSWORD}", namespace="production")
    assert repr(state) == (
        "SharedState('redis://127.0.0.1:1/0', namespace='production', timeout=0.25, keep=3600)"
    )
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(state)


def test_without_it_the_status_is_about_one_client() -> None:
    """Not connected, with the limit of its own runs; the same in both clients."""
    expected = SharedStatus(
        connected=False, age=None, processes=1, used=0, limit=50, paused_for=0.0, denied=0
    )
    limit = RateLimit(50, per=1.0)
    assert AsyncSessionsApi(KEY, rate_limit=limit).shared_status() == expected
    assert SessionsApi(KEY, rate_limit=limit).shared_status() == expected


@pytest.mark.promise("shared-settings")
def test_making_a_client_connects_to_nothing() -> None:
    """The server that it names gets no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        AsyncSessionsApi(KEY, shared_state=f"redis://127.0.0.1:{port}").shared_status()
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.promise("shared-settings")
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'clerk-async\[redis\]'"):
        AsyncSessionsApi(KEY, shared_state=URL)


@pytest.mark.promise("shared-settings")
def test_a_program_that_shares_nothing_imports_nothing_of_it() -> None:
    """Neither redis-py nor our own modules, even with a client and its list of denials in use."""
    ended = run_program(
        """
        import sys
        from clerk_async import AsyncSessionsApi, SessionsApi
        AsyncSessionsApi("sk_test_x")
        SessionsApi("sk_test_x")
        print([name for name in sys.modules if name.startswith(("redis", "clerk_async.shared"))])
        """,
        None,
    )
    assert (ended.out, ended.err) == ("[]\n", "")


async def test_the_users_own_redis_client_is_used_and_left_open(redis_server: RedisServer) -> None:
    """For when a URL is not enough; with either protocol, decoding responses or not."""
    import redis.asyncio  # noqa: PLC0415

    make: Any = redis.asyncio.Redis
    for options in ({}, {"decode_responses": True}, {"protocol": 3}):
        theirs = make(port=redis_server.port, **options)
        state = SharedState(client=theirs, namespace="own")
        async with AsyncSessionsApi(KEY, shared_state=state) as sessions:
            link = sessions._link
            assert link is not None
            link.start()
            await link.feed.current()
            await link.joined()
            assert sessions.shared_status().connected
        assert await theirs.ping()
        await theirs.aclose()
