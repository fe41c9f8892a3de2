"""HTTP CONNECT proxies, by argument or environment, with and without credentials."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, Final

import pytest
from clients import MODES, Ended, Mode, Time, run
from relays import ELSEWHERE, ConnectProxy, TlsFront, fake_elsewhere
from test_tls_certificates import AUTHORITY, PAST, client_context, server_context

from clerk_async import ConfigurationError, ConnectError, RequestTimeoutError, Timeouts

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

PASSWORD: Final = "p@ss/word"
LOGIN: Final = f"name:{PASSWORD}"
QUOTED: Final = "name:p%40ss%2Fword"


def through(
    mode: Mode, fake: FakeClerk, front: TlsFront, operation: str = "get", **options: Any
) -> Ended:
    """Make a call over TLS."""
    elsewhere = front.base_url.replace("localhost", ELSEWHERE)
    options = {"base_url": elsewhere, "ssl_context": client_context(), **options}
    return run(mode, fake, operation, **options)


def assert_silent(error: BaseException, caplog: pytest.LogCaptureFixture, fake: FakeClerk) -> None:
    """Check that neither the error nor the log shows the password or the key."""
    told = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
    for secret in (PASSWORD, "p%40ss", fake.secret_key):
        assert secret not in told


@pytest.mark.promise("tls-and-proxies")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["argument", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("login", [None, LOGIN])
def test_a_call_goes_through_the_proxy(
    mode: Mode, source: str, login: str | None, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees only host, port and its own credentials."""
    with TlsFront(fake.port, server_context()) as front, ConnectProxy(login) as proxy:
        url = f"http://{QUOTED}@{proxy.address}" if login else f"http://{proxy.address}"
        if source != "argument":
            monkeypatch.setenv(source, url)
        ended = through(mode, fake, front, proxy=url if source == "argument" else None)
        assert ended.error is None
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT {ELSEWHERE}:{front.port} HTTP/1.1\r\n")
        assert ("Proxy-Authorization: Basic " in head) is (login is not None)
        assert "\r\nAuthorization:" not in head
        assert fake.secret_key not in head
        assert front.accepted == 1
    (request,) = fake.requests
    assert not [name for name in request.headers if name.lower().startswith("proxy-")]


@pytest.mark.parametrize("mode", MODES)
def test_the_argument_overrides_the_environment(
    mode: Mode, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If both are set, the proxy of the argument is used."""
    with TlsFront(fake.port, server_context()) as front, ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        assert through(mode, fake, front, proxy=f"http://{proxy.address}").error is None
        assert len(proxy.heads) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["NO_PROXY", "trust_env"])
def test_the_proxy_of_the_environment_can_be_bypassed(
    mode: Mode, way: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY and `trust_env=False` each connect directly to the service."""
    with TlsFront(fake.port, server_context()) as front, ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        if way == "NO_PROXY":
            monkeypatch.setenv("NO_PROXY", f"example.com,{ELSEWHERE}")
        assert through(mode, fake, front, trust_env=way != "trust_env").error is None
        assert proxy.heads == []


@pytest.mark.promise("no-secret-shown")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("login", ["", "name:wrong@", f"{QUOTED}x@"])
def test_rejected_credentials_are_tried_once(
    mode: Mode, login: str, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """A 407 is final, because the same credentials will be rejected again."""
    caplog.set_level(logging.DEBUG)
    with TlsFront(fake.port, server_context()) as front, ConnectProxy(LOGIN) as proxy:
        error = through(mode, fake, front, proxy=f"http://{login}{proxy.address}").error
        assert isinstance(error, ConnectError)
        assert (error.attempts, len(proxy.heads), front.accepted) == (1, 1, 0)
    assert "proxy" in str(error)
    assert "407" in str(error)
    assert_silent(error, caplog, fake)


@pytest.mark.parametrize("mode", MODES)
def test_a_502_of_the_proxy_is_retried(
    mode: Mode, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is temporary, and nothing was sent: three attempts."""
    caplog.set_level(logging.DEBUG)
    with (
        TlsFront(fake.port, server_context()) as front,
        ConnectProxy(LOGIN, status=502) as proxy,
    ):
        url = f"http://{QUOTED}@{proxy.address}"
        error = through(mode, fake, front, proxy=url, time=Time()).error
        assert isinstance(error, ConnectError)
        assert (error.attempts, len(proxy.heads)) == (3, 3)
    assert_silent(error, caplog, fake)


@pytest.mark.parametrize("mode", MODES)
def test_an_unreachable_proxy_is_named_without_its_password(
    mode: Mode, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed connection to the proxy is a connect error, and is retried."""
    caplog.set_level(logging.DEBUG)
    with ConnectProxy() as gone:
        address = gone.address
    with TlsFront(fake.port, server_context()) as front:
        error = through(mode, fake, front, proxy=f"http://{QUOTED}@{address}", time=Time()).error
    assert isinstance(error, ConnectError)
    assert error.attempts == 3
    assert_silent(error, caplog, fake)


@pytest.mark.parametrize("mode", MODES)
def test_a_silent_proxy_hits_the_connect_timeout(mode: Mode, fake: FakeClerk) -> None:
    """The tunnel is part of connecting, so nothing was sent."""
    with (
        TlsFront(fake.port, server_context()) as front,
        ConnectProxy(status=None) as proxy,
    ):
        timeout = Timeouts(connect=0.1, attempt=5.0)
        url = f"http://{proxy.address}"
        error = through(mode, fake, front, proxy=url, timeout=timeout, time=Time()).error
    assert isinstance(error, RequestTimeoutError)
    assert error.phase == "connect"


@pytest.mark.promise("never-sent")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x28"])
def test_after_an_unusable_connect_response_even_create_is_retried(
    mode: Mode, says: bytes, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy closes the connection or speaks no HTTP, so nothing was sent."""
    caplog.set_level(logging.DEBUG)
    with TlsFront(fake.port, server_context()) as front, ConnectProxy(says=says) as proxy:
        url = f"http://{QUOTED}@{proxy.address}"
        error = through(mode, fake, front, "create", proxy=url, time=Time()).error
        assert isinstance(error, ConnectError)
        assert not error._may_have_arrived
        assert (error.attempts, len(proxy.heads), front.accepted) == (3, 3, 0)
    assert_silent(error, caplog, fake)


@pytest.mark.parametrize("mode", MODES)
def test_a_tls_failure_behind_the_proxy_is_final(
    mode: Mode, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The tunnel changes nothing about certificates."""
    expired = server_context(AUTHORITY.issue_cert(ELSEWHERE, not_after=PAST))
    with TlsFront(fake.port, expired) as front, ConnectProxy(LOGIN) as proxy:
        error = through(mode, fake, front, proxy=f"http://{QUOTED}@{proxy.address}").error
        assert isinstance(error, ConnectError)
        assert (error.attempts, len(proxy.heads)) == (1, 1)
    assert "certificate has expired" in str(error)
    assert fake.requests == []
    assert_silent(error, caplog, fake)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("url", [f"socks5://{QUOTED}@127.0.0.1:9", f"http://{QUOTED}@[::1:9"])
def test_a_proxy_with_an_invalid_url_is_rejected(
    mode: Mode,
    url: str,
    fake: FakeClerk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For the environment too, the error is ours and doesn't quote the URL."""
    monkeypatch.setenv("HTTP_PROXY", url)
    error = run(mode, fake, "get", **fake_elsewhere(fake)).error
    assert isinstance(error, ConfigurationError)
    assert_silent(error, caplog, fake)
