"""`authenticate_request`: which token of a request counts, and the state that it returns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from email.message import Message
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from token_samples import (
    GONE,
    NOW,
    OTHER,
    OURS,
    PARTY,
    AsyncStub,
    Clock,
    SyncStub,
    claims,
    header,
    token,
)

from clerk_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectError,
    ErrorDetail,
    InvalidArgumentError,
    KeysUnavailableError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TokenVerificationError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.sync_verifier import TokenVerifier
from clerk_async.tokens.verifier import AsyncTokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.tokens.requests import RequestState

GOOD = token()
EXPIRED = token(claims(exp=NOW - 60, iat=NOW - 120, nbf=NOW - 130, jti="old"))
NEW = token(claims(jti="new"))
VERIFIER = TokenVerifier(jwt_key=OURS.jwk, authorized_parties=[PARTY], clock=Clock())


def state_of(request: object) -> RequestState:
    """Authenticate a request without a network."""
    return VERIFIER.authenticate_request(request)


class Pairs:
    """Headers that are not a Mapping, like werkzeug's: `items` repeats a name for each value."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._pairs = pairs

    def items(self) -> list[tuple[str, str]]:
        return list(self._pairs)


class Scope(Mapping[str, Any]):
    """A request that is itself a mapping, like Starlette's and aiohttp's."""

    method = "GET"

    def __init__(self, cookies: str) -> None:
        self.headers = httpx.Headers({"cookie": cookies})

    def __getitem__(self, name: str) -> Any:
        return {"type": "http", "headers": [(b"authorization", b"Bearer x")]}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["type", "headers"])

    def __len__(self) -> int:
        return 2


def message(**headers: str) -> Message:
    """Make the headers of `http.server`."""
    made = Message()
    for name, value in headers.items():
        made[name] = value
    return made


AUTH, COOKIE = f"Bearer {GOOD}", f"a=b; __session={GOOD}; c=d"
SHAPES: dict[str, Callable[[], object]] = {
    "a dict": lambda: {"Authorization": AUTH},
    "a dict in lower case": lambda: {"authorization": AUTH},
    "a dict in capitals": lambda: {"AUTHORIZATION": AUTH},
    "a dict with a cookie": lambda: {"Cookie": COOKIE},
    "a dict of lists": lambda: {"cookie": ["a=b", COOKIE]},
    "a dict of bytes": lambda: {b"authorization": AUTH.encode()},
    "pairs": lambda: [("Host", "x"), ("Authorization", AUTH)],
    "pairs of bytes": lambda: [(b"cookie", COOKIE.encode())],
    "a multidict": lambda: CIMultiDict({"authorization": AUTH}),
    "an aiohttp request": lambda: make_mocked_request("GET", "/", headers={"Cookie": COOKIE}),
    "an httpx request": lambda: httpx.Request("GET", "https://x", headers={"authorization": AUTH}),
    "httpx headers": lambda: httpx.Headers({"cookie": COOKIE}),
    "a requests request": lambda: requests.Request(
        "GET", "https://x", headers={"Authorization": AUTH}
    ).prepare(),
    "a Flask request": lambda: SimpleNamespace(headers=Pairs(("Host", "x"), ("Cookie", COOKIE))),
    "a Starlette request": lambda: Scope(COOKIE),
    "an old Django request": lambda: SimpleNamespace(
        META={"REQUEST_METHOD": "GET", "HTTP_COOKIE": COOKIE, "wsgi.input": object()}
    ),
    "a WSGI environ": lambda: {
        "REQUEST_METHOD": "GET",
        "HTTP_AUTHORIZATION": AUTH,
        "wsgi.version": (1, 0),
        "wsgi.errors": object(),
    },
    "an object with an environ": lambda: SimpleNamespace(environ={"HTTP_COOKIE": COOKIE}),
    "an ASGI scope": lambda: {
        "type": "http",
        "method": "GET",
        "headers": [(b"host", b"x"), (b"authorization", AUTH.encode())],
        "client": ("127.0.0.1", 1),
    },
    "an ASGI scope with an iterator": lambda: {
        "type": "http",
        "headers": iter([(b"authorization", AUTH.encode())]),
    },
    "an ASGI scope with split cookies": lambda: {
        "type": "websocket",
        "headers": [(b"cookie", text.encode()) for text in ("a=b", f"__session={GOOD}", "c=d")],
    },
    "http.server": lambda: SimpleNamespace(headers=message(Authorization=AUTH)),
}


@pytest.mark.promise("any-request")
@pytest.mark.filterwarnings("ignore:Setting custom Request:DeprecationWarning")  # aiohttp 3.14.0
@pytest.mark.parametrize("shape", SHAPES)
def test_requests_of_any_framework_work(shape: str) -> None:
    """They are read through what they have in common."""
    state = state_of(SHAPES[shape]())
    assert (state.status, state.token, state.reason) == ("signed_in", GOOD, None)
    assert state.is_signed_in
    assert state.claims is not None
    assert state.claims.user_id == "user_1"


@pytest.mark.parametrize(
    "nothing",
    [
        None,
        5,
        "x",
        b"x",
        object(),
        [1],
        [("a",)],
        {"cookie": 1},
        {1: 2},
        {"HTTP_COOKIE": "x", 1: "y"},
    ],
)
def test_an_object_that_is_not_a_request_raises(nothing: Any) -> None:
    """A mistake in the program is reported as one, not as a signed-out user."""
    with pytest.raises(InvalidArgumentError, match="headers can't be read"):
        state_of(nothing)


def test_a_header_with_value_none_counts_as_absent() -> None:
    """Headers copied with `.get` from another request have None for missing ones."""
    assert state_of({"authorization": None, "cookie": COOKIE, "host": None}).is_signed_in
    assert state_of({"authorization": AUTH, "cookie": None}).is_signed_in
    nobody = state_of({"authorization": None, "cookie": None})
    assert nobody.reason is Reason.SESSION_TOKEN_MISSING


def cookie(*values: str) -> dict[str, str]:
    """Make a Cookie header."""
    return {"cookie": "; ".join(values)}


OTHERS = token(key=OTHER)
CASES: dict[str, tuple[dict[str, str], Reason | None]] = {
    "nothing": ({}, Reason.SESSION_TOKEN_MISSING),
    "other cookies": (cookie("a=b", "__client_uat=1", "session=x"), Reason.SESSION_TOKEN_MISSING),
    "empty cookie": (cookie("__session="), Reason.SESSION_TOKEN_MISSING),
    "cookie without a value": (cookie("__session"), Reason.SESSION_TOKEN_MISSING),
    "another scheme": ({"authorization": "Basic dTpw"}, Reason.SESSION_TOKEN_MISSING),
    "scheme alone": ({"authorization": "Bearer"}, Reason.SESSION_TOKEN_MISSING),
    "scheme and space": ({"authorization": "Bearer "}, Reason.SESSION_TOKEN_MISSING),
    "token without a scheme": ({"authorization": GOOD}, Reason.SESSION_TOKEN_MISSING),
    "scheme in lower case": ({"authorization": f"bearer {GOOD}"}, None),
    "scheme in capitals": ({"authorization": f"BEARER {GOOD}"}, None),
    "several spaces": ({"authorization": f"Bearer   {GOOD}"}, None),
    "bearer undefined": ({"authorization": "Bearer undefined"}, Reason.TOKEN_INVALID),
    "bearer before cookie": (
        {"authorization": f"Bearer {EXPIRED}", **cookie(f"__session={GOOD}")},
        Reason.TOKEN_EXPIRED,
    ),
    "another scheme and a cookie": (
        {"authorization": "Basic dTpw", **cookie(f"__session={GOOD}")},
        None,
    ),
    "quoted cookie": (cookie(f'__session="{GOOD}"'), None),
    "suffixed cookie": (cookie(f"__session_Ab-_0189={GOOD}"), None),
    "suffix too short": (cookie(f"__session_abc={GOOD}"), Reason.SESSION_TOKEN_MISSING),
    "suffix too long": (cookie(f"__session_abcdefghi={GOOD}"), Reason.SESSION_TOKEN_MISSING),
    "name in capitals": (cookie(f"__SESSION={GOOD}"), Reason.SESSION_TOKEN_MISSING),
    "another instance's first": (cookie(f"__session={OTHERS}", f"__session_abcdefgh={GOOD}"), None),
    "ours first": (cookie(f"__session={GOOD}", f"__session_abcdefgh={OTHERS}"), None),
    "an expired one first": (cookie(f"__session={EXPIRED}", f"__session_abcdefgh={GOOD}"), None),
    "junk first": (cookie("__session=junk", f"__session={GOOD}"), None),
    "another instance's alone": (cookie(f"__session={OTHERS}"), Reason.JWK_KID_MISMATCH),
    "expired and another's": (
        cookie(f"__session={OTHERS}", f"__session_abcdefgh={EXPIRED}"),
        Reason.TOKEN_EXPIRED,
    ),
    "wrong party and expired": (
        cookie(
            f"__session={token(claims(azp='https://evil.example'))}",
            f"__session_abcdefgh={EXPIRED}",
        ),
        Reason.TOKEN_EXPIRED,
    ),
    "pending": (cookie(f"__session={token(claims(sts='pending'))}"), Reason.SESSION_PENDING),
    "wrong party": (
        cookie(f"__session={token(claims(azp='https://evil.example'))}"),
        Reason.TOKEN_INVALID_AUTHORIZED_PARTIES,
    ),
}


@pytest.mark.promise("any-request")
@pytest.mark.parametrize("case", CASES)
def test_the_bearer_token_wins_then_the_first_cookie_that_verifies(case: str) -> None:
    """Bearer header before cookies; of several cookies the first that verifies."""
    headers, reason = CASES[case]
    state = state_of(headers)
    assert state.reason is reason
    assert state.status == ("signed_in" if reason is None else "signed_out")
    assert state.is_signed_in is (reason is None)
    assert (state.token is None) is (reason is not None)
    assert (state.message is None) is (reason is None)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=80), max_size=5))
def test_any_headers_produce_a_state(headers: dict[str, str]) -> None:
    """Whatever a client sends."""
    assert state_of(headers).status == "signed_out"


@given(st.text(max_size=200))
def test_any_cookie_header_is_read_or_skipped(text: str) -> None:
    """Whatever it contains."""
    assert state_of({"cookie": text}).status == "signed_out"
    assert state_of({"cookie": f"{text.replace(chr(34), '')};__session={GOOD}"}).is_signed_in


async def test_another_instances_cookie_costs_no_fetch_beside_ours() -> None:
    """On localhost the cookies of several apps are mixed: the known key is tried first."""
    stub = AsyncStub()
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    await verifier.warm_up()
    both = cookie(f"__session={OTHERS}", f"__session_abcdefgh={GOOD}")
    for _ in range(5):
        assert (await verifier.authenticate_request(both)).is_signed_in
    assert stub.fetches == 1


def test_at_most_sixteen_session_cookies_are_tried() -> None:
    """A request full of session cookies can't cause unlimited work."""
    bad = token(key=OTHER, head=header())
    cookies = [f"__session={bad[:-4]}{n:04}" for n in range(16)]
    assert state_of(cookie(*cookies[1:], f"__session={GOOD}")).is_signed_in
    assert not state_of(cookie(*cookies, f"__session={GOOD}")).is_signed_in


@pytest.mark.promise("key-outage")
async def test_unreachable_keys_make_the_state_unknown() -> None:
    """The user is not signed out: the app can respond with 503."""
    stub = AsyncStub()
    stub.goes_down()
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    state = await verifier.authenticate_request({"authorization": f"Bearer {GOOD}"})
    assert (state.status, state.reason) == ("unknown", Reason.JWK_FAILED_TO_LOAD)
    assert isinstance(state.error, KeysUnavailableError)
    assert not state.is_signed_in
    nobody = await verifier.authenticate_request({})
    assert nobody.status == "signed_out"


def test_a_state_shows_no_token() -> None:
    """Neither its repr nor its message contains a token of the request."""
    for headers in ({"authorization": AUTH}, cookie(f"__session={EXPIRED}")):
        state = state_of(headers)
        assert "eyJ" not in repr(state)
        assert "eyJ" not in str(state.message)


# --- check_session ---


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("active", None),
        ("pending", Reason.SESSION_PENDING),
        ("revoked", Reason.SESSION_INACTIVE),
        ("ended", Reason.SESSION_INACTIVE),
        ("expired", Reason.SESSION_INACTIVE),
        ("something_new", Reason.SESSION_INACTIVE),
        (None, Reason.SESSION_INACTIVE),
    ],
)
def test_check_session_sees_a_revocation_at_once(status: str | None, reason: Reason | None) -> None:
    """The token is still valid, but its session decides, even for a cached token."""
    stub = SyncStub()
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    verifier.verify(GOOD)
    stub.sessions = {} if status is None else {"sess_1": status}
    state = verifier.authenticate_request({"authorization": AUTH}, check_session=True)
    assert state.reason is reason
    assert state.status == ("signed_in" if reason is None else "signed_out")
    assert verifier.authenticate_request({"authorization": AUTH}).is_signed_in


async def test_a_session_that_can_not_be_checked_is_unknown() -> None:
    """`verify` raises the client's own error; `authenticate_request` returns unknown."""
    stub = AsyncStub(lookup_error=ConnectError("no route"))
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    with pytest.raises(ConnectError):
        await verifier.verify(GOOD, check_session=True)
    state = await verifier.authenticate_request({"authorization": AUTH}, check_session=True)
    assert (state.status, state.reason) == ("unknown", Reason.SESSION_CHECK_FAILED)
    assert isinstance(state.error, ConnectError)


def test_a_template_token_has_no_session_to_check() -> None:
    """With `check_session`, a token without a session is rejected."""
    verifier = TokenVerifier(sessions=SyncStub(), authorized_parties=[PARTY], clock=Clock())
    made = token(claims(sid=GONE))
    assert verifier.verify(made)
    with pytest.raises(TokenVerificationError, match="names no session"):
        verifier.verify(made, check_session=True)


@pytest.mark.parametrize("option", ["check_session", "refresh_if_expired"])
def test_options_that_use_the_service_need_a_client(option: str) -> None:
    """Without `sessions` they raise at the first request, as a mistake in the program."""
    with pytest.raises(ConfigurationError, match="sessions="):
        VERIFIER.authenticate_request({}, **{option: True})


# --- refresh_if_expired ---

LINES = (f"__session={NEW}; Path=/; Secure", "__refresh=r2; HttpOnly", "__client_uat=5")
HOST = {"host": "app.example.com", "user-agent": "test"}


def refreshing(stub: SyncStub, request: object, **options: Any) -> RequestState:
    """Authenticate a request with refresh."""
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock(), **options)
    return verifier.authenticate_request(request, refresh_if_expired=True)


def test_an_expired_token_is_refreshed() -> None:
    """The new token is verified, and the state has the Set-Cookie lines for the response."""
    stub = SyncStub(cookies=LINES)
    state = refreshing(stub, {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")})
    assert (state.status, state.token, state.set_cookies) == ("signed_in", NEW, LINES)
    assert state.claims is not None
    assert state.claims.token_id == "new"
    [asked] = stub.refreshes
    assert asked == {
        "session_id": "sess_1",
        "expired_token": EXPIRED,
        "refresh_token": "r1",
        "request_origin": PARTY,
        "request_headers": {"host": ["app.example.com"], "user-agent": ["test"]},
        "format": "cookie",
        "suffixed_cookies": None,
    }
    assert "r2" not in repr(state)


def test_a_header_with_value_none_is_not_forwarded() -> None:
    """The service gets the others."""
    stub = SyncStub(cookies=LINES)
    request = {"origin": None, **HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")}
    assert refreshing(stub, request).is_signed_in
    [asked] = stub.refreshes
    assert asked["request_origin"] == PARTY
    assert asked["request_headers"] == {"host": ["app.example.com"], "user-agent": ["test"]}


def test_without_an_origin_nothing_is_refreshed() -> None:
    """A token without azp, on a request without its own origin, stays expired."""
    stub = SyncStub(cookies=LINES)
    verifier = TokenVerifier(sessions=stub, clock=Clock())
    expired = token(claims(exp=NOW - 60, azp=GONE))
    request = cookie(f"__session={expired}", "__refresh=r1")
    state = verifier.authenticate_request(request, refresh_if_expired=True)
    assert (state.reason, stub.refreshes) == (Reason.TOKEN_EXPIRED, [])


def test_a_valid_token_is_not_refreshed() -> None:
    """Only an expired token is refreshed, and only if it names its session."""
    stub = SyncStub(cookies=LINES)
    for session in (
        GOOD,
        OTHERS,
        "junk",
        token(claims(exp=NOW - 60, azp="https://evil")),
        token(claims(exp=NOW - 60, sid=GONE)),
        token(claims(exp=NOW - 60, sid=["sess_1"])),
    ):
        refreshing(stub, {**HOST, **cookie(f"__session={session}", "__refresh=r1")})
    assert not stub.refreshes


@pytest.mark.parametrize(
    ("cookies", "sent"),
    [
        (["__refresh=plain", "__refresh_abcdefgh=ours"], "ours"),
        (["__refresh=plain", "__refresh_zzzzzzzz=others"], "plain"),
        (["__refresh_zzzzzzzz=others"], "others"),
        (["__refresh_zzzzzzzz=a", "__refresh_yyyyyyyy=b"], None),
        ([], None),
    ],
)
def test_the_refresh_cookie_of_the_same_suffix_is_sent(
    cookies: list[str], sent: str | None
) -> None:
    """Otherwise the plain one, otherwise the only one; of several other suffixes none."""
    stub = SyncStub(cookies=LINES)
    request = {**HOST, **cookie(f"__session_abcdefgh={EXPIRED}", *cookies)}
    state = refreshing(stub, request)
    assert [asked["refresh_token"] for asked in stub.refreshes] == ([] if sent is None else [sent])
    assert state.is_signed_in is (sent is not None)
    if sent is None:
        assert state.reason is Reason.TOKEN_EXPIRED


@pytest.mark.filterwarnings("ignore:Setting custom Request:DeprecationWarning")  # aiohttp 3.14.0
@pytest.mark.parametrize(("method", "refreshes"), [("GET", 1), ("get", 1), ("POST", 0), ("PUT", 0)])
def test_only_get_requests_are_refreshed(method: str, refreshes: int) -> None:
    """As in Clerk's JavaScript SDK; plain headers have no method and count as GET."""
    headers = {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")}
    for request in (
        SimpleNamespace(headers=headers, method=method),
        make_mocked_request(method, "/", headers=headers),  # a mapping too, but without a method
    ):
        stub = SyncStub(cookies=LINES)
        state = refreshing(stub, request)
        assert len(stub.refreshes) == refreshes
        assert state.is_signed_in is bool(refreshes)


ORIGINS: dict[str, tuple[dict[str, str], str]] = {
    "host": ({"host": "app.example.com"}, PARTY),
    "localhost": ({"host": "localhost:3000"}, "http://localhost:3000"),
    "forwarded": (
        {
            "host": "10.0.0.1:8000",
            "x-forwarded-host": "app.example.com",
            "x-forwarded-proto": "https, http",
        },
        PARTY,
    ),
    "CloudFront": (
        {"host": "app.example.com", "cloudfront-forwarded-proto": "https"},
        PARTY,
    ),
    "default port": ({"host": "app.example.com:443", "x-forwarded-proto": "https"}, PARTY),
    "the Origin header, if it is the token's": (
        {"host": "api.example.com", "origin": PARTY},
        PARTY,
    ),
    "not a strange Origin": (
        {"host": "api.example.com", "origin": "https://evil.example"},
        "https://api.example.com",
    ),
    "no header tells": ({}, PARTY),
    "a broken host": ({"host": "[evil"}, "https://[evil"),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_the_request_origin_is_read_from_headers(name: str) -> None:
    """It is the address that the client used, as the proxy reports it."""
    headers, origin = ORIGINS[name]
    stub = SyncStub(cookies=LINES)
    refreshing(stub, {**headers, **cookie(f"__session={EXPIRED}", "__refresh=r1")})
    assert [asked["request_origin"] for asked in stub.refreshes] == [origin]


@pytest.mark.parametrize(
    ("details", "origin"),
    [
        ({"url": "https://app.example.com/path?q=1"}, PARTY),
        ({"url": httpx.URL("https://app.example.com/path")}, PARTY),
        ({"url": "http://[broken"}, PARTY),
        ({"scheme": "http", "url": "http://other.example/x"}, "http://other.example"),
    ],
)
def test_the_request_origin_is_read_from_a_request_object(
    details: dict[str, Any], origin: str
) -> None:
    """Its URL and scheme count if there is no header."""
    stub = SyncStub(cookies=LINES)
    headers = cookie(f"__session={EXPIRED}", "__refresh=r1")
    refreshing(stub, SimpleNamespace(headers=headers, method="GET", **details))
    assert [asked["request_origin"] for asked in stub.refreshes] == [origin]


def refused(code: str, status: int = 401) -> AuthenticationError:
    """Make the service's rejection of a refresh."""
    return AuthenticationError(
        "refused", status=status, errors=(ErrorDetail("refused", "refused", code),)
    )


CODES = [
    "refresh_request_origin_invalid",
    "expired_session_token_invalid",
    "expired_session_token_missing_azp",
    "refresh_request_origin_azp_mismatch",
    "session_refresh_session_not_found",
    "session_refresh_inactive_session",
    "expired_session_token_missing_sid",
    "refresh_sid_mismatch",
    "refresh_token_not_found",
    "session_refresh_user_not_found",
    "session_refresh_cannot_determine_session_token_age",
    "session_refresh_expired_session_token_too_old",
    "session_refresh_expired_session_token_missing_iat",
    "session_refresh_expired_session_token_consumed",
    "session_refresh_session_token_ineligible",
]


@pytest.mark.parametrize("code", CODES)
def test_the_services_codes_become_reasons(code: str) -> None:
    """A 401 of refresh is about the session: signed out, with the code as the reason."""
    stub = SyncStub(refresh_error=refused(code))
    state = refreshing(stub, {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")})
    assert (state.status, state.reason) == ("signed_out", code)
    assert isinstance(state.reason, Reason)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (refused("something_new"), "signed_out", Reason.SESSION_REFRESH_REFUSED),
        (refused("clerk_key_invalid"), "unknown", Reason.SESSION_REFRESH_FAILED),
        (BadRequestError("no", status=400), "signed_out", Reason.SESSION_REFRESH_REFUSED),
        (NotFoundError("no", status=404), "signed_out", Reason.SESSION_REFRESH_REFUSED),
        (ServerError("down", status=503), "unknown", Reason.SESSION_REFRESH_FAILED),
        (RateLimitedError("slow", status=429), "unknown", Reason.SESSION_REFRESH_FAILED),
        (ConnectError("down"), "unknown", Reason.SESSION_REFRESH_FAILED),
    ],
)
def test_a_failed_refresh_is_signed_out_or_unknown(error: Any, status: str, reason: Reason) -> None:
    """Rejected means signed out; an unreachable service or a wrong secret key means unknown."""
    stub = SyncStub(refresh_error=error)
    state = refreshing(stub, {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")})
    assert (state.status, state.reason) == (status, reason)
    assert state.error is error


@pytest.mark.parametrize(
    ("cookies", "reason"),
    [
        ((), Reason.SESSION_REFRESH_REFUSED),
        (("__client_uat=5",), Reason.SESSION_REFRESH_REFUSED),
        ((f"__session={EXPIRED}",), Reason.TOKEN_EXPIRED),
        ((f"__session={OTHERS}",), Reason.JWK_KID_MISMATCH),
        ((f"__session={token(claims(sub='user_2'))}",), Reason.SESSION_REFRESH_REFUSED),
        ((f"__session={token(claims(sid='sess_2'))}",), Reason.SESSION_REFRESH_REFUSED),
    ],
)
def test_a_refreshed_token_is_verified(cookies: tuple[str, ...], reason: Reason) -> None:
    """It is verified like any token, and must be for the same user and session."""
    stub = SyncStub(cookies=cookies)
    state = refreshing(stub, {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")})
    assert (state.status, state.reason) == ("signed_out", reason)
    assert len(stub.refreshes) == 1
    # The old refresh token is used up, so the browser gets the new one with a token of its own.
    assert state.set_cookies == (() if reason is Reason.SESSION_REFRESH_REFUSED else cookies)


async def test_the_async_verifier_refreshes_too() -> None:
    """Both verifiers share the steps."""
    stub = AsyncStub(cookies=LINES)
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    headers = {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1")}
    state = await verifier.authenticate_request(headers, refresh_if_expired=True)
    assert (state.status, state.token, state.set_cookies) == ("signed_in", NEW, LINES)


def test_no_secret_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Tokens, cookies and refresh tokens are in no log line, at any level."""
    caplog.set_level(logging.DEBUG)
    stub = SyncStub(cookies=LINES)
    stub.refresh_error = refused("refresh_token_not_found")
    refreshing(stub, {**HOST, **cookie(f"__session={EXPIRED}", "__refresh=r1secret")})
    stub.goes_down()
    refreshing(stub, {**HOST, "authorization": AUTH})
    for secret in ("eyJ", "r1secret"):
        assert secret not in caplog.text
