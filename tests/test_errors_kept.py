"""What an error keeps of the response for callers who read it by name; nothing else shows it."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from typing import Any

import pytest
from clients import MODES, ONCE, Mode, run

from clerk_async import (
    ApiError,
    AsyncTokenVerifier,
    AuthenticationError,
    BadRequestError,
    ClerkError,
    ErrorDetail,
    KeysUnavailableError,
    NotFoundError,
    ResponseDecodeError,
    ServerError,
    TokenVerificationReason,
    TransportError,
)
from clerk_async.errors import MAX_KEPT_BODY
from clerk_async.http.error_bodies import api_error, refuses_key
from clerk_async.redaction import REDACTED, ResponseHeaders
from clerk_async.testing import FakeClerk, Fault

KEY = "sk_test_PLANTEDKEYPLANTEDKEYPLANTEDKEY"
ODD_KEY = "PLANTED-key-without-a-shape"
JWT = "eyJhbGciOiJQTEFOVEVEIn0.eyJzdWIiOiJQTEFOVEVEIn0.PLANTEDSIGNATURE"
COOKIE = "__session=PLANTED; Path=/; HttpOnly"
PLANTED = (KEY, ODD_KEY, JWT, "PLANTED")


def failing(fake: FakeClerk, mode: Mode, fault: Fault, call: Any = "get", **options: Any) -> Any:
    """Make one call that meets a fault, and return its error."""
    fake.inject(fault)
    error = run(mode, fake, call, retry=ONCE, **options).error
    assert error is not None
    return error


@pytest.mark.promise("raw-errors")
@pytest.mark.parametrize("mode", MODES)
def test_the_page_of_a_proxy_can_be_read(mode: Mode, fake: FakeClerk) -> None:
    """Body and headers are kept as received; meta is None, because it isn't a Clerk error."""
    page = "<html><h1>502 Bad Gateway</h1></html>"
    headers = {"Content-Type": "text/html", "Server": "envoy", "Set-Cookie": COOKIE}
    error = failing(fake, mode, Fault.status(502, body=page, headers=headers))
    assert isinstance(error, ServerError)
    assert error.body == page.encode()
    assert error.headers["server"] == "envoy"
    assert error.headers["SET-COOKIE"] == COOKIE
    assert (error.errors, error.meta) == ((), None)


def test_the_meta_of_the_whole_error_is_kept(fake: FakeClerk) -> None:
    """It is in `meta`, beside the one of each entry."""
    body = {"errors": [{"code": "c", "meta": {"param": "x"}}], "meta": {"hint": ["y"]}}
    error = failing(fake, "async", Fault.status(422, body=body))
    assert error.meta == {"hint": ["y"]}
    assert error.errors[0].meta == {"param": "x"}
    for other in (None, "text", ["a"], 1):
        error = failing(fake, "async", Fault.status(422, body={"errors": [], "meta": other}))
        assert error.meta is None


def test_at_most_4_kib_of_a_body_are_kept(fake: FakeClerk) -> None:
    """Whatever its length; nothing is kept if there is no body."""
    error = failing(fake, "async", Fault.status(500, body="x" * 100_000))
    assert error.body == b"x" * 4096
    error = failing(fake, "async", Fault.status(500, body=""))
    assert error.body == b""


def test_an_error_made_by_hand_has_them_too() -> None:
    """Tests that mock a call make errors: all arguments are optional, and given ones are kept."""
    error = NotFoundError("gone")
    assert (dict(error.headers), error.meta, error.body) == ({}, None, b"")
    error = NotFoundError("gone", headers={"A": "b"}, meta={"c": 1}, body=b"d")
    assert (error.headers, error.meta, error.body) == ({"A": "b"}, {"c": 1}, b"d")
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)  # noqa: S301


SECRET_HEADERS = {
    "Set-Cookie": COOKIE,
    "Cookie": "a=PLANTED",
    "Authorization": "Basic PLANTED",
    "Proxy-Authorization": "Basic PLANTED",
    "X-Api-Key": "PLANTED",
    "X-Csrf-Token": "PLANTED",
    "X-Client-Secret": "PLANTED",
    "X-Echo": f"Bearer {JWT}",
    "Location": f"https://a.example/?t={JWT}&k={KEY}",
    "X-Known": f"was {ODD_KEY}",
    KEY: "a name can hold one too",
}


def test_the_repr_of_headers_hides_secrets() -> None:
    """By name, by shape, and by the call's known secrets; the values themselves are kept."""
    pairs = [*SECRET_HEADERS.items(), ("X-Known", f"again {ODD_KEY}"), ("Server", "envoy")]
    headers = ResponseHeaders(pairs, (ODD_KEY,))
    assert "PLANTED" not in f"{headers!r} {headers}"
    assert "envoy" in repr(headers)
    assert headers["x-api-key"] == "PLANTED"
    assert headers == ResponseHeaders(pairs)
    assert headers != ResponseHeaders(pairs[1:])
    assert headers == dict(headers.items())
    assert "PLANTED" not in repr(ResponseHeaders(pairs[:9]))


ECHO: dict[str, Any] = {
    "errors": [
        {
            "message": f"bad {KEY}",
            "long_message": f"{COOKIE} {JWT} {ODD_KEY}",
            "code": f"bad_{JWT}",
            "meta": {"deep": [{JWT: [f"k {ODD_KEY}"]}, 7]},
        },
        {"code": ODD_KEY},
    ],
    "meta": {"token": JWT, ODD_KEY: KEY},
    "clerk_trace_id": f"trace {JWT} {ODD_KEY}",
}


def echoed(status: int, body: object = None, headers: dict[str, str] | None = None) -> Fault:
    """Make a fault whose response contains secrets wherever possible."""
    body = ECHO if body is None else body
    return Fault.status(status, body=body, headers=headers or SECRET_HEADERS)


BODIES: dict[str, object] = {
    "an error of Clerk's": ECHO,
    "a page": f"<pre>Authorization: Bearer {KEY}\nCookie: {COOKIE}\nX: {ODD_KEY}</pre>",
    "escaped": '{"x": "s\\u006b_test_PLANTEDKEYPLANTEDKEYPLANTEDKEY \\u0050LANTED"}',
    "in UTF-16": f"{KEY} {JWT}".encode("utf-16"),
    "not text": b"\xff\xfe" + KEY.encode(),
    "cut in a secret": "x " * 2040 + KEY + "x" * 100,
    "long": {"errors": [{"message": f"{JWT} {ODD_KEY}"}] * 2000},
}


@pytest.mark.promise("no-secret-shown")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 502])
def test_echoed_secrets_show_nowhere_and_in_no_pickle(
    mode: Mode, body: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in texts, not in a pickle, and only in the attributes that are kept raw."""
    caplog.set_level(logging.DEBUG)
    with FakeClerk(secret_key=ODD_KEY) as fake:
        error = failing(fake, mode, echoed(status, BODIES[body]))
    assert isinstance(error, ApiError)
    texts = [*traceback.format_exception(error), repr(error), str(error), caplog.text]
    texts += [str(getattr(error, name)) for name in vars(error) if name not in RAW]
    texts.append(repr(error.headers))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        texts.append(repr(pickle.dumps(error, protocol)))
        again: Any = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
        assert (str(again), again.status, again.code) == (str(error), status, error.code)
        texts.append(f"{again.__dict__} {dict(again.headers.items())}")
        texts.append(repr(pickle.dumps(again, protocol)))
    for text in texts:
        assert "PLANTED" not in text
    assert "PLANTED" in repr(error.headers["X-Echo"])


RAW = {"errors", "meta", "body", "headers"}


@pytest.mark.promise("no-secret-shown")
def test_trace_id_and_code_hide_echoed_secrets(fake: FakeClerk) -> None:
    """The rest of them is kept; a code that isn't one of Clerk's is truncated."""
    error = failing(fake, "async", echoed(400))
    assert error.trace_id == f"trace {REDACTED} {ODD_KEY}"
    assert error.code == f"bad_{REDACTED}"
    error = failing(fake, "async", Fault.status(502, body="", headers={"cf-ray": f"r {JWT}"}))
    assert error.trace_id == f"r {REDACTED}"
    error = failing(fake, "async", Fault.status(400, body={"errors": [{"code": "x" * 9000}]}))
    assert error.code == "x" * 500


def test_copies_keep_raw_values() -> None:
    """A copy stays in the process, so it hides nothing; its pickle does."""
    with FakeClerk(secret_key=ODD_KEY) as fake:
        error = failing(fake, "async", echoed(400))
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is BadRequestError
        assert vars(again) == vars(error)
        assert again.args == error.args
        assert KEY in again.errors[0].message
        assert b"PLANTED" not in pickle.dumps(again)
    assert copy.deepcopy(error).meta is not error.meta


def test_a_pickle_keeps_everything_without_secrets(fake: FakeClerk) -> None:
    """Headers, meta and body without secrets are unchanged too."""
    body = {"errors": [{"message": "m", "code": "c", "meta": {"a": [1]}}], "meta": {"b": "c"}}
    error = failing(fake, "async", Fault.status(422, body=body, headers={"X": "y"}))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert vars(again) == vars(error)
    assert again.headers.get("x") == "y"
    error = failing(fake, "async", echoed(422, {**body, "clerk_trace_id": JWT}))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert again.errors == error.errors
    assert again.meta == {"b": "c"}
    assert again.body == b""
    assert again.headers["X-Api-Key"] == REDACTED


def test_our_other_errors_pickle_without_secrets_too() -> None:
    """Whoever made them, and whatever note was added."""
    errors: list[ClerkError] = [
        ClerkError(f"bad {KEY}"),
        TransportError(f"lost {JWT}", path=f"/sessions/{JWT}"),
        NotFoundError(f"{COOKIE}", errors=(ErrorDetail(KEY, JWT, "c", {"x": [JWT]}),)),
        ApiError("m", status=418, headers={"X": KEY}, meta={KEY: JWT}, body=KEY.encode()),
    ]
    errors[0].add_note(f"while using {KEY}")
    errors.append(
        KeysUnavailableError(
            "m", reason=TokenVerificationReason.JWK_FAILED_TO_LOAD, cause=errors[2]
        )
    )
    for error in errors:
        pickled = pickle.dumps(error)
        assert b"PLANTED" not in pickled
        assert type(pickle.loads(pickled)) is type(error)  # noqa: S301


@pytest.mark.promise("no-secret-shown")
async def test_an_error_about_unavailable_keys_pickles_without_secrets() -> None:
    """Its cause is the service's response: raw in the process, redacted in the pickle."""
    from clients import client_of  # noqa: PLC0415

    with FakeClerk(secret_key=ODD_KEY) as fake:
        fake.inject(echoed(401))
        async with client_of(fake) as sessions:
            verifier = AsyncTokenVerifier(sessions=sessions)
            with pytest.raises(KeysUnavailableError) as caught:
                await verifier.verify(fake.mint(fake.add_session()))
    error = caught.value
    assert isinstance(error.cause, AuthenticationError)
    assert KEY in error.cause.errors[0].message
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(again.cause, AuthenticationError)
    assert again.cause.code == error.cause.code
    assert b"PLANTED" not in pickle.dumps(error)
    state = repr([verifier.key_status(), str(error), repr(error), *error.args])
    assert "PLANTED" not in state


def test_a_decode_error_hides_an_id_that_is_a_secret(fake: FakeClerk) -> None:
    """An unreadable list entry keeps its id, so that such a session can still be revoked."""
    error = failing(fake, "async", Fault.wrong_shape({"id": f"sess_{JWT}", "status": 1}))
    assert isinstance(error, ResponseDecodeError)
    assert error.session_id == f"sess_{REDACTED}"
    fake.inject(Fault.wrong_shape({"data": [{"id": JWT}], "total_count": 1}))
    (item,) = run("async", fake, "list").value.unreadable
    assert item.session_id == item.id == JWT
    assert item.error.session_id == REDACTED
    assert "PLANTED" not in repr(item)
    entry = {"id": JWT, "status": "active", "user_id": "user_of_calls", "client_id": KEY}
    fake.inject(Fault.wrong_shape({"data": [entry], "total_count": 1}))
    (session,) = run("async", fake, "list").value.data
    assert session.id == JWT
    assert "PLANTED" not in f"{session} {session!r}"


@pytest.mark.parametrize("mode", MODES)
def test_a_token_used_as_an_id_is_redacted(mode: Mode, fake: FakeClerk) -> None:
    """It is sent, because an id may look like anything; the path on the error hides it."""
    error = run(mode, fake, lambda client: client.get(JWT)).error
    assert isinstance(error, NotFoundError)
    assert error.path == f"/sessions/{REDACTED}"


CODES: dict[str, tuple[int, str, str, bool]] = {
    "a wrong key": (401, "clerk_key_invalid", "/sessions/s", True),
    "a wrong key in a refresh": (401, "clerk_key_invalid", "/sessions/s/refresh", True),
    "no code": (401, "", "/sessions/s", True),
    "no code in a refresh": (401, "", "/sessions/s/refresh", False),
    "a refresh": (401, "session_refresh_inactive_session", "/sessions/s/refresh", False),
    "a code that is new": (401, "new", "/sessions/s/refresh", False),
    "a code that decides alone": (401, "expired_session_token_invalid", "", False),
    "forbidden": (403, "authorization_invalid", "/sessions/s/refresh", True),
    "another status": (404, "clerk_key_invalid", "/sessions/s", False),
}


@pytest.mark.parametrize("case", CODES)
def test_one_rule_decides_whether_the_key_was_rejected(case: str) -> None:
    """Messages, bulk runs, verifiers and exit codes share it."""
    status, code, path, expected = CODES[case]
    body = b'{"errors": [{"message": "m", "code": "%s"}]}' % code.encode()
    error = api_error(status, body, {}, (), now=0.0, path=path)
    assert refuses_key(error) is expected
    if status == 401:
        assert ("is the secret key right" in str(error)) is expected


def test_bodies_are_kept_up_to_the_documented_size() -> None:
    """The docstring of `ApiError` gives the size."""
    assert str(MAX_KEPT_BODY) in (ApiError.__doc__ or "")
