"""What an error keeps of the answer, for who asks by name, and that nothing else shows it."""

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
def test_the_page_of_a_proxy_can_be_looked_at(mode: Mode, fake: FakeClerk) -> None:
    """Body and headers are kept as they came; meta is None, as it is no error of Clerk's."""
    page = "<html><h1>502 Bad Gateway</h1></html>"
    headers = {"Content-Type": "text/html", "Server": "envoy", "Set-Cookie": COOKIE}
    error = failing(fake, mode, Fault.status(502, body=page, headers=headers))
    assert isinstance(error, ServerError)
    assert error.body == page.encode()
    assert error.headers["server"] == "envoy"
    assert error.headers["SET-COOKIE"] == COOKIE
    assert (error.errors, error.meta) == ((), None)


def test_what_the_service_says_about_the_whole_error_is_kept(fake: FakeClerk) -> None:
    """In `meta`, beside the one of each entry."""
    body = {"errors": [{"code": "c", "meta": {"param": "x"}}], "meta": {"hint": ["y"]}}
    error = failing(fake, "async", Fault.status(422, body=body))
    assert error.meta == {"hint": ["y"]}
    assert error.errors[0].meta == {"param": "x"}
    for other in (None, "text", ["a"], 1):
        error = failing(fake, "async", Fault.status(422, body={"errors": [], "meta": other}))
        assert error.meta is None


def test_no_more_than_4_kib_of_a_body_are_kept(fake: FakeClerk) -> None:
    """However much came; and nothing without a body."""
    error = failing(fake, "async", Fault.status(500, body="x" * 100_000))
    assert error.body == b"x" * 4096
    error = failing(fake, "async", Fault.status(500, body=""))
    assert error.body == b""


def test_an_error_that_is_made_by_hand_has_them_too() -> None:
    """By tests that mock a call: nothing must be given, and what is given is kept."""
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


def test_the_repr_of_headers_hides_what_is_secret() -> None:
    """By name, by shape, and what is known of the call; the values themselves are kept."""
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
    """Make a fault whose answer holds secrets wherever it can."""
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
def test_what_is_echoed_shows_nowhere_and_in_no_pickle(
    mode: Mode, body: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in texts, nor in any attribute but those that are kept raw, nor in a pickle."""
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
def test_trace_id_and_code_hide_what_is_echoed(fake: FakeClerk) -> None:
    """The rest of them stays; a code that is none of Clerk's is cut."""
    error = failing(fake, "async", echoed(400))
    assert error.trace_id == f"trace {REDACTED} {ODD_KEY}"
    assert error.code == f"bad_{REDACTED}"
    error = failing(fake, "async", Fault.status(502, body="", headers={"cf-ray": f"r {JWT}"}))
    assert error.trace_id == f"r {REDACTED}"
    error = failing(fake, "async", Fault.status(400, body={"errors": [{"code": "x" * 9000}]}))
    assert error.code == "x" * 500


def test_copies_keep_what_is_raw() -> None:
    """A copy does not leave the process, so it hides nothing; its pickle does."""
    with FakeClerk(secret_key=ODD_KEY) as fake:
        error = failing(fake, "async", echoed(400))
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is BadRequestError
        assert vars(again) == vars(error)
        assert again.args == error.args
        assert KEY in again.errors[0].message
        assert b"PLANTED" not in pickle.dumps(again)
    assert copy.deepcopy(error).meta is not error.meta


def test_a_pickle_tells_as_much_as_it_may(fake: FakeClerk) -> None:
    """What holds no secret crosses unchanged: headers, meta and body too."""
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


def test_other_errors_of_ours_pickle_without_secrets_too() -> None:
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
async def test_keys_that_can_not_be_had_pickle_without_secrets() -> None:
    """Their cause is what the service answered: raw in the process, redacted in the pickle."""
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


def test_what_can_not_be_read_hides_an_id_that_is_a_secret(fake: FakeClerk) -> None:
    """On the error; an entry of a list keeps it, so that such a session can be revoked too."""
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
def test_a_token_in_the_place_of_an_id_is_not_told(mode: Mode, fake: FakeClerk) -> None:
    """It is sent, as an id may look like anything; the path on the error hides it."""
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
    "a code that tells by itself": (401, "expired_session_token_invalid", "", False),
    "forbidden": (403, "authorization_invalid", "/sessions/s/refresh", True),
    "another status": (404, "clerk_key_invalid", "/sessions/s", False),
}


@pytest.mark.parametrize("case", CODES)
def test_when_it_is_the_key_that_was_refused(case: str) -> None:
    """One rule for the message, bulk runs, verifiers and exit codes."""
    status, code, path, expected = CODES[case]
    body = b'{"errors": [{"message": "m", "code": "%s"}]}' % code.encode()
    error = api_error(status, body, {}, (), now=0.0, path=path)
    assert refuses_key(error) is expected
    if status == 401:
        assert ("is the secret key right" in str(error)) is expected


def test_bodies_are_kept_up_to_the_documented_size() -> None:
    """As the docs of `ApiError` say."""
    assert str(MAX_KEPT_BODY) in (ApiError.__doc__ or "")
