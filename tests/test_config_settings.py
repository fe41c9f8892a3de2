"""Sources of settings, and those that are rejected before there is a client."""

from __future__ import annotations

import base64
import math
import ssl
from typing import Any

import aiohttp
import pytest

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ConfigurationError,
    InvalidArgumentError,
    RateLimit,
    RetryPolicy,
    SessionsApi,
    Timeouts,
    TokenVerifier,
)
from clerk_async.config import DEFAULT_BASE_URL, LateEndpoint, is_loopback
from clerk_async.http.settings import parse_proxy

UNUSABLE_URLS = [
    "",
    "clerk.example.com",
    "ftp://clerk.example.com",
    "https://",
    "https://[::1",
    "https://me@clerk.example.com",
    "https://me:secret@clerk.example.com",
    "https://:secret@clerk.example.com",
    "https://clerk.example.com:0",
    "https://clerk.example.com:99999",
    "https://clerk.example.com:port",
    "https://clerk.example.com?x=1",
    "https://clerk.example.com?",
    "https://clerk.example.com#",
    "https://clerk.example.com/a b",
    "https://clerk.example.com/a\nb",
    "https://clerk.example.com/ä",
    "https://bücher.example",
    "https://clerk.example.com\\@evil.example",
    "http://clerk.example.com",
]
"""As a base URL or an issuer, whose keys are fetched from there."""
KEY = "sk_test_abc"
CLIENTS = [AsyncSessionsApi, SessionsApi]


def base_url_of(client: Any) -> Any:
    """Return the address to which a client would send."""
    return getattr(client, "_async", client)._endpoint.base_url


@pytest.mark.promise("settings")
@pytest.mark.parametrize("url", UNUSABLE_URLS)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (AsyncSessionsApi, "base_url"),
        (SessionsApi, "base_url"),
        (AsyncTokenVerifier, "issuer"),
        (TokenVerifier, "issuer"),
    ],
)
def test_an_unusable_url_is_rejected_by_the_same_rules_everywhere(
    make: Any, name: str, url: str
) -> None:
    """The error names the argument, and never quotes what may be a password."""
    with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
        make(**{name: url})
    assert "secret@" not in str(caught.value)


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", CLIENTS)
def test_an_argument_overrides_the_environment_and_that_the_default(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for the key and the address."""
    assert base_url_of(make(KEY)) == DEFAULT_BASE_URL == "https://api.clerk.com/v1"
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_environment")
    monkeypatch.setenv("CLERK_API_URL", "https://env.example")
    client = make()
    inner = getattr(client, "_async", client)
    assert inner._endpoint.secret_key == "sk_test_environment"
    assert base_url_of(client) == "https://env.example/v1"
    client = make(KEY, base_url="https://arg.example/v9")
    inner = getattr(client, "_async", client)
    assert inner._endpoint.secret_key == KEY
    assert base_url_of(client) == "https://arg.example/v9"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://api.clerk.com", "https://api.clerk.com/v1"),
        ("https://api.clerk.com/", "https://api.clerk.com/v1"),
        ("https://api.clerk.com/v1", "https://api.clerk.com/v1"),
        ("https://proxy.example/clerk/", "https://proxy.example/clerk"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("", DEFAULT_BASE_URL),
    ],
)
def test_an_address_in_the_environment_gets_v1_if_it_has_no_path(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is Clerk's own convention."""
    monkeypatch.setenv("CLERK_API_URL", value)
    endpoint = LateEndpoint(KEY, None, "2026-05-12", allow_insecure=False).settled()
    assert endpoint.base_url == expected


@pytest.mark.promise("settings")
@pytest.mark.parametrize(
    "value", ["http://api.clerk.com", "http://10.0.0.1/v1", "https://user@api.clerk.com", "api.x"]
)
def test_the_address_in_the_environment_is_checked_too(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all, no key is sent in plain text; the error names the variable."""
    monkeypatch.setenv("CLERK_API_URL", value)
    with pytest.raises(ConfigurationError, match="CLERK_API_URL"):
        LateEndpoint(KEY, None, "2026-05-12", allow_insecure=False)


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": ""},
        {"secret_key": "  "},
        {"secret_key": "pk_test_abc"},
        {"secret_key": "sk_test a"},
        {"secret_key": "sk_té"},
        {"secret_key": "sk_\ntest"},
        {"secret_key": b"sk_test"},
        {"secret_key": 5},
        {"base_url": ""},
        {"base_url": "api.clerk.com/v1"},
        {"base_url": "ftp://api.clerk.com"},
        {"base_url": "http://api.clerk.com/v1"},
        {"base_url": "http://10.0.0.1/v1"},
        {"base_url": "http://localhost.evil.example/v1"},
        {"base_url": "https://"},
        {"base_url": "https://user@api.clerk.com"},
        {"base_url": "https://api.clerk.com/v1?x=1"},
        {"base_url": "https://api.clerk.com/v1#x"},
        {"base_url": "https://api.clerk.com:99999"},
        {"base_url": "https://api.clerk.com/a b"},
        {"base_url": "https://api.clerk.com\\@evil.example"},
        {"base_url": "https://[::1"},
        {"base_url": "https://bücher.example/v1"},
        {"base_url": "https://api.clerk.com/ä"},
        {"base_url": 5},
        {"api_version": "latest"},
        {"api_version": ""},
        {"api_version": 20260512},
        {"api_version": "2026-05-12\r\nX: y"},
        {"headers": {"authorization": "x"}},
        {"headers": {"Clerk-API-Version": "x"}},
        {"headers": {"Content-Type": "x"}},
        {"headers": {"Cookie": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"a b": "x"}},
        {"headers": {"a": "x\r\ny: z"}},
        {"headers": {"a": 1}},
        {"headers": {1: "a"}},
        {"headers": [("a", "b")]},
        {"headers": "a"},
        {"ssl_context": "no context"},
        {"trace_configs": None},
        {"trace_configs": ["x"]},
        pytest.param({"trace_configs": aiohttp.TraceConfig()}, id="no sequence of hooks"),
        {"proxy": 5},
        {"proxy": ""},
        {"proxy": "socks5://127.0.0.1:9"},
        {"proxy": "http://:80"},
        {"proxy": "http://host:port"},
        {"proxy": "http://host:0"},
        {"proxy": "http://host\\x"},
        {"proxy": "http://[::1:9"},
        {"proxy": "http://a b"},
        {"proxy": "http://bücher.example"},
        {"proxy": "http://a%3Ab:c@host"},
    ],
    ids=ascii,
)
def test_unusable_settings_are_rejected(make: Any, options: dict[str, Any]) -> None:
    """At construction, with a ConfigurationError that names the option."""
    with pytest.raises(ConfigurationError) as caught:
        make(**{"secret_key": KEY, **options})
    assert next(iter(options)).replace("_", " ").split()[-1] in str(caught.value)


def test_a_session_of_another_library_is_rejected() -> None:
    """At construction, rather than with an AttributeError in the first call."""
    with pytest.raises(ConfigurationError, match="client_session"):
        AsyncSessionsApi(KEY, client_session=object())  # type: ignore[arg-type]


@pytest.mark.promise("no-secret-shown")
@pytest.mark.parametrize(
    ("given", "url", "login"),
    [
        ("proxy.example", "http://proxy.example", None),
        ("proxy.example:3128", "http://proxy.example:3128", None),
        ("https://[::1]:3128/ignored", "https://[::1]:3128", None),
        ("http://user:p%40ss@proxy.example", "http://proxy.example", "user:p@ss"),
        ("user@proxy.example:1", "http://proxy.example:1", "user:"),
        ("http://:pass@proxy.example", "http://proxy.example", ":pass"),
        ("http://ü:é@proxy.example", "http://proxy.example", "ü:é"),
    ],
)
def test_a_proxys_credentials_are_removed_from_its_url(
    given: str, url: str, login: str | None
) -> None:
    """They are sent in the proxy's own header, and appear in no repr."""
    proxy = parse_proxy("proxy", given)
    assert proxy.url == url
    coded = proxy.headers.get("Proxy-Authorization", "Basic ").removeprefix("Basic ")
    assert base64.b64decode(coded).decode() == (login or "")
    assert "Basic" not in repr(proxy)


def test_an_unusable_proxy_is_not_quoted() -> None:
    """An invalid URL may still contain a password: not even the hidden context shows it."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncSessionsApi(KEY, proxy="http://user:planted#word@proxy.example")
    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"timeout": "5"},
        {"timeout": True},
        {"timeout": None},
        {"retry": 3},
        {"retry": None},
        {"pool_size": 0},
        {"pool_size": 1.5},
        {"pool_size": True},
        {"rate_limit": 100},
        {"rate_limit": (100, 10)},
    ],
    ids=str,
)
def test_a_number_out_of_range_is_rejected(make: Any, options: dict[str, Any]) -> None:
    """At construction, with an InvalidArgumentError, which is a ValueError."""
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        make(KEY, **options)
    if next(iter(options)) != "pool_size":
        changed = {name: value for name, value in options.items() if value is not None}
        if changed:
            with pytest.raises(InvalidArgumentError):
                make(KEY).with_options(**changed)


@pytest.mark.parametrize("name", ["connect", "attempt"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True])
def test_timeouts_are_checked(name: str, value: Any) -> None:
    """Each is a finite number above zero, or None."""
    with pytest.raises(InvalidArgumentError, match=name):
        Timeouts(**{name: value})


@pytest.mark.promise("settings")
def test_defaults_are_the_documented_ones() -> None:
    """The documentation lists the real values."""
    assert Timeouts() == Timeouts(connect=5.0, attempt=15.0)
    assert RetryPolicy() == RetryPolicy(
        attempts=3,
        deadline=30.0,
        base_delay=0.25,
        max_delay=8.0,
        max_retry_after=120.0,
    )
    assert RateLimit(5) == RateLimit(5, per=10.0)
    client = AsyncSessionsApi(KEY)
    assert client._calls.timeouts == Timeouts()
    assert client._calls.policy == RetryPolicy()
    assert client._shared.settings.pool_size == 128


def test_a_share_of_a_limit_is_at_least_one_request() -> None:
    """It is never more than the whole."""
    limit = RateLimit(1000, per=10.0)
    assert limit.share(0.5) == RateLimit(500, per=10.0)
    assert limit.share(1) == limit
    assert RateLimit(100).share(0.29) == RateLimit(29)
    assert RateLimit(3).share(0.01) == RateLimit(1)
    for bad in (0, -1, 1.1, math.nan, math.inf, True, "0.5"):
        with pytest.raises(InvalidArgumentError):
            limit.share(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "per"), [(0, 10), (-1, 10), (1.5, 10), (True, 10), (1, 0), (1, math.nan), (1, "10")]
)
def test_a_limit_is_checked(count: Any, per: Any) -> None:
    """It is an integer above zero in a finite time above zero."""
    with pytest.raises(InvalidArgumentError):
        RateLimit(count, per=per)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("notlocalhost", False),
    ],
)
def test_is_loopback_recognizes_this_machine(host: str, expected: bool) -> None:
    """A key is sent without TLS only to this machine."""
    assert is_loopback(host) is expected


def test_allow_insecure_accepts_plain_http_elsewhere() -> None:
    """It accepts an http:// address of another host."""
    client = AsyncSessionsApi(KEY, base_url="http://clerk.internal/v1", allow_insecure=True)
    assert base_url_of(client) == "http://clerk.internal/v1"
    assert AsyncSessionsApi(KEY, ssl_context=ssl.create_default_context())
    assert base_url_of(AsyncSessionsApi(f" {KEY}\n")) == DEFAULT_BASE_URL, (
        "a pasted newline is fine"
    )
