"""Requests to loopback never use a proxy, whatever environment or argument says: no key leaves."""

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
    """A proxy that records what arrives, and closes the connection."""

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
    """Yield a proxy that every environment variable names."""
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
def test_no_argument_sends_loopback_through_a_proxy(
    mode: Mode, operation: str, fake: FakeClerk
) -> None:
    """For example, in a client that tests point here; with or without credentials."""
    with Listener() as proxy:
        url = proxy.url.replace("//", "//name:word@")
        assert run(mode, fake, operation, proxy=url, retry=ONCE).error is None
        assert proxy.seen == []


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "http://[::1:9", "::", "127.0.0.1:x"])
def test_an_invalid_proxy_does_not_matter_for_loopback(
    value: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For other hosts it is rejected, and the error names the variable."""
    monkeypatch.setenv("HTTP_PROXY", value)
    assert run("async", fake, "get").error is None
    error = run("async", fake, "get", **fake_elsewhere(fake)).error
    assert isinstance(error, ConfigurationError)
    assert "HTTP_PROXY" in str(error)


def test_other_hosts_are_reached_through_the_proxy(fake: FakeClerk, listener: Listener) -> None:
    """Loopback is the only exception."""
    error = run("async", fake, "get", retry=ONCE, **fake_elsewhere(fake)).error
    assert error is not None
    assert len(listener.seen) == 1
    assert proxy_of_environment("https://api.clerk.com/v1") is not None
    assert proxy_of_environment("http://127.0.0.1:1/v1") is None


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("source", ["sessions", "issuer"])
async def test_a_verifier_fetches_its_keys_directly(
    source: str, fake: FakeClerk, listener: Listener
) -> None:
    """Through its client, or from an issuer's public key set, sync and async."""
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


async def test_bulk_runs_connect_directly_too(fake: FakeClerk, listener: Listener) -> None:
    """So does a view of the client."""
    known = [fake.add_session(user_id="user_1").id for _ in range(3)]
    async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
        assert (await sessions.revoke_many(known[:1])).ok
        assert (await sessions.with_options(retry=ONCE).revoke_all(user_id="user_1")).ok
    assert listener.seen == []


@pytest.mark.promise("loopback")
@pytest.mark.parametrize("way", ["trust_env", "proxy"])
async def test_an_aiohttp_session_that_would_use_a_proxy_is_rejected(
    way: str, fake: FakeClerk, listener: Listener
) -> None:
    """The user's own session can't be told to connect directly, so this is an error."""
    options: dict[str, Any] = {"trust_env": True} if way == "trust_env" else {"proxy": listener.url}
    async with aiohttp.ClientSession(**options) as theirs:
        client = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, client_session=theirs)
        with pytest.raises(ConfigurationError, match="NO_PROXY"):
            await client.get("sess_1")
    assert listener.seen == []
    assert fake.requests == []


async def test_an_aiohttp_session_that_would_use_no_proxy_is_accepted(
    fake: FakeClerk, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no trust_env, or the host is in NO_PROXY."""
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


async def test_a_name_below_localhost_is_never_looked_up_in_dns(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6761. The answer of a name server would decide where the key is sent."""
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


def test_elsewhere_is_not_loopback(fake: FakeClerk) -> None:
    """The other tests rely on this."""
    with pytest.raises(ConfigurationError, match="in the clear"):
        AsyncSessionsApi(fake.secret_key, base_url=f"http://{ELSEWHERE}:1/v1")
    error = run("async", fake, "get", proxy="http://127.0.0.1:9", **fake_elsewhere(fake)).error
    assert isinstance(error, ConnectError)
