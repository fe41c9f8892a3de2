"""SharedState: what it takes, what it refuses, and what it never shows."""

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
"""Nobody listens there."""


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
def test_what_redis_py_understands_is_taken(url: str) -> None:
    """TLS and sockets too; nothing is connected to."""
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
def test_a_url_that_can_not_be_used_is_refused_at_once(make: Any, url: object) -> None:
    """By the constructor, as a ConfigurationError that repeats no password."""
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
def test_an_option_that_can_not_be_used_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """Before anything is connected to."""
    url = None if "client" in options else URL
    with pytest.raises(error):
        SharedState(url, **options)


def test_it_takes_a_url_or_a_client_of_redis_asyncio() -> None:
    """Not both, not neither, and none that would block the loop."""
    import redis  # noqa: PLC0415
    import redis.asyncio  # noqa: PLC0415

    client = redis.asyncio.Redis(port=1)
    SharedState(client=client)
    blocking: Any = redis.Redis(port=1)
    for url, given in ((None, None), (URL, client), (None, blocking)):
        with pytest.raises(ConfigurationError):
            SharedState(url, client=given)


def test_the_environment_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument comes first; an empty variable is none."""
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
    """Nor a user, nor what a URL's query holds."""
    state = SharedState(f"{URL}?client_name={PASSWORD}", namespace="production")
    assert repr(state) == (
        "SharedState('redis://127.0.0.1:1/0', namespace='production', timeout=0.25, keep=3600)"
    )
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(state)


def test_without_it_a_client_tells_of_itself_alone() -> None:
    """Connected to nothing, with the limit of its own runs; the same in both clients."""
    expected = SharedStatus(
        connected=False, age=None, processes=1, used=0, limit=50, paused_for=0.0, denied=0
    )
    limit = RateLimit(50, per=1.0)
    assert AsyncSessionsApi(KEY, rate_limit=limit).shared_status() == expected
    assert SessionsApi(KEY, rate_limit=limit).shared_status() == expected


@pytest.mark.promise("shared-settings")
def test_making_a_client_connects_to_nothing() -> None:
    """The server it names sees nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        AsyncSessionsApi(KEY, shared_state=f"redis://127.0.0.1:{port}").shared_status()
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.promise("shared-settings")
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to install it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r'pip install "clerk-async\[redis\]"'):
        AsyncSessionsApi(KEY, shared_state=URL)


@pytest.mark.promise("shared-settings")
def test_who_shares_nothing_loads_nothing_of_it() -> None:
    """Neither redis-py nor our own room, with a client made and its list of denials in use."""
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


async def test_a_client_of_your_own_is_used_and_left_open(redis_server: RedisServer) -> None:
    """As where a URL is not enough; in whatever protocol, with answers decoded or not."""
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
