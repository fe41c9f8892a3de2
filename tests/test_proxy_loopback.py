"""Loopback is never proxied, whatever the environment or an argument says: no key leaves."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import pytest
from clients import MODES, ONCE, Mode, run
from programs import run_program
from relays import ELSEWHERE, fake_elsewhere

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ConfigurationError,
    ConnectError,
    TokenVerifier,
)
from clerk_async.http.settings import proxy_of_environment

if TYPE_CHECKING:
    from types import TracebackType

    from clerk_async.testing import FakeClerk

HOSTS: Final = (
    "localhost",
    "LocalHost",
    "localhost.",
    "api.localhost",
    "a.b.LOCALHOST.",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7F000001",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
)
VARIABLES: Final = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
)


class Listener:
    """A proxy that notes what comes, and hangs up."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listening.accept()[0]
            except OSError:
                return
            with connection:
                self.seen.append(connection.recv(65_536))


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a proxy that every variable of the environment names."""
    with Listener() as running:
        for name in VARIABLES:
            monkeypatch.setenv(name, running.url)
        yield running


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", HOSTS)
def test_no_environment_sends_loopback_through_a_proxy(
    mode: Mode, host: str, fake: FakeClerk, listener: Listener
) -> None:
    """However the host is spelled: the call works, and the proxy sees nothing."""
    ended = run(mode, fake, "get", base_url=f"http://{host}:{fake.port}/v1", retry=ONCE)
    assert ended.error is None
    assert (len(fake.requests), listener.seen) == (1, [])


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", ["revoke", "list", "create", "refresh"])
def test_no_argument_does_either(mode: Mode, operation: str, fake: FakeClerk) -> None:
    """Such as that of a client which tests point here; with credentials or without."""
    with Listener() as proxy:
        url = proxy.url.replace("//", "//name:word@")
        assert run(mode, fake, operation, proxy=url, retry=ONCE).error is None
        assert proxy.seen == []


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "http://[::1:9", "::", "127.0.0.1:x"])
def test_what_can_not_be_a_proxy_is_no_trouble_here(
    value: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would use it for loopback; elsewhere it is refused, with the variable's name."""
    monkeypatch.setenv("HTTP_PROXY", value)
    assert run("async", fake, "get").error is None
    error = run("async", fake, "get", **fake_elsewhere(fake)).error
    assert isinstance(error, ConfigurationError)
    assert "HTTP_PROXY" in str(error)


def test_another_machine_is_asked_for_through_the_proxy(
    fake: FakeClerk, listener: Listener
) -> None:
    """As before: only loopback is an exception."""
    error = run("async", fake, "get", retry=ONCE, **fake_elsewhere(fake)).error
    assert error is not None
    assert len(listener.seen) == 1
    assert proxy_of_environment("https://api.clerk.com/v1") is not None
    assert proxy_of_environment("http://127.0.0.1:1/v1") is None


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("source", ["sessions", "issuer"])
async def test_a_verifier_fetches_its_keys_straight(
    source: str, fake: FakeClerk, listener: Listener
) -> None:
    """Through its client, and from an issuer's public key set, in either kind of code."""
    token = fake.mint(fake.add_session())
    issuer = f"http://127.0.0.1:{fake.port}"
    if source == "issuer":
        fake.issuer = issuer
        token = fake.mint(fake.add_session())
        assert (await AsyncTokenVerifier(issuer=issuer).verify(token)).session_id
        claims = await asyncio.to_thread(TokenVerifier(issuer=issuer).verify, token)
        assert claims.session_id
    else:
        async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
            claims = await AsyncTokenVerifier(sessions=sessions).verify(token, check_session=True)
            assert claims.session_id
    assert listener.seen == []


async def test_bulk_runs_go_straight_too(fake: FakeClerk, listener: Listener) -> None:
    """And a view of the client."""
    known = [fake.add_session(user_id="user_1").id for _ in range(3)]
    async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
        assert (await sessions.revoke_many(known[:1])).ok
        assert (await sessions.with_options(retry=ONCE).revoke_all(user_id="user_1")).ok
    assert listener.seen == []


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("way", ["trust_env", "proxy"])
async def test_a_session_that_would_use_a_proxy_is_refused(
    way: str, fake: FakeClerk, listener: Listener
) -> None:
    """One that was handed in can't be told to go straight: an error, rather than a key in clear."""
    options: dict[str, Any] = {"trust_env": True} if way == "trust_env" else {"proxy": listener.url}
    async with aiohttp.ClientSession(**options) as theirs:
        client = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, client_session=theirs)
        with pytest.raises(ConfigurationError, match="NO_PROXY"):
            await client.get("sess_1")
    assert listener.seen == []
    assert fake.requests == []


async def test_a_session_that_would_use_none_is_taken(
    fake: FakeClerk, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without trust_env, or with the host in NO_PROXY."""
    known = fake.add_session().id
    async with aiohttp.ClientSession() as theirs:
        client = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, client_session=theirs)
        assert (await client.get(known)).id == known
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with aiohttp.ClientSession(trust_env=True) as theirs:
        client = AsyncSessionsApi(
            fake.secret_key, base_url=fake.base_url, client_session=theirs, proxy=listener.url
        )
        assert (await client.get(known)).id == known
    assert listener.seen == []


async def test_a_name_below_localhost_is_never_looked_up_elsewhere(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6761: whoever asks a name server for it sends the key wherever that says."""
    asked: list[Any] = []
    look = socket.getaddrinfo

    def noted(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        return look(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    for host in ("api.localhost", "localhost.", "LOCALHOST"):
        base_url = f"http://{host}:{fake.port}/v1"
        async with AsyncSessionsApi(fake.secret_key, base_url=base_url) as client:
            await client.list(user_id="user_1")
    assert set(asked) == {"localhost"}


@pytest.mark.promise("loopback")
def test_the_fake_and_the_demo_work_in_a_shell_with_a_proxy() -> None:
    """As in a company's network, in CI, or in a sandbox."""
    ended = run_program(
        """
        import os
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            os.environ[name] = "http://127.0.0.1:9"
        from clerk_async.cli import main
        main(["demo", "--sessions", "20", "--progress", "none"])
        """,
        None,
        limit=50,
    )
    assert ended.code == 0, ended.out + ended.err


def test_elsewhere_is_no_loopback(fake: FakeClerk) -> None:
    """What these tests stand on."""
    with pytest.raises(ConfigurationError, match="in the clear"):
        AsyncSessionsApi(fake.secret_key, base_url=f"http://{ELSEWHERE}:1/v1")
    error = run("async", fake, "get", proxy="http://127.0.0.1:9", **fake_elsewhere(fake)).error
    assert isinstance(error, ConnectError)
