"""Secrets are planted everywhere, and everything that is shown is searched for them."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from clients import MODES, ONCE, Call, Mode, run
from relays import fake_elsewhere

import clerk_async
from clerk_async import (
    ApiError,
    AsyncSessionsApi,
    ClerkError,
    Cookies,
    InvalidArgumentError,
    SessionsApi,
)
from clerk_async.config import Endpoint, RateLimit
from clerk_async.http.failures import _told
from clerk_async.http.operations import verify_request
from clerk_async.redaction import redact
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk_test_PLANTEDKEYPLANTEDKEYPLANTEDKEY"
JWT = "eyJhbGciOiJQTEFOVEVEIn0.eyJzdWIiOiJQTEFOVEVEIn0.PLANTEDSIGNATURE"
REFRESH = "PLANTED-refresh-token"
COOKIE = "__session=PLANTED; Path=/; HttpOnly"
SECRETS = (KEY, JWT, REFRESH, "PLANTED")

CALLS: dict[str, Call] = {
    "get": lambda client: client.get("sess_1"),
    "verify": lambda client: client.verify("sess_1", JWT),
    "refresh": lambda client: client.refresh(
        "sess_1",
        expired_token=JWT,
        refresh_token=REFRESH,
        request_origin="https://example.com",
        request_headers={"Cookie": COOKIE, "Authorization": f"Bearer {JWT}", "X": ["y"]},
        request_originating_ip="192.0.2.1",
    ),
    "create_token": lambda client: client.create_token("sess_1"),
}
ECHO = {
    "errors": [
        {
            "message": f"bad {KEY} {JWT}",
            "long_message": f"{COOKIE} and Bearer {JWT} and {KEY}",
            "code": "x",
            "meta": {"token": JWT},
        }
    ]
    * 2,
    "clerk_trace_id": "trace",
}
FAULTS: dict[str, Fault] = {
    "echoed": Fault.status(400, body=ECHO, count=None),
    "echoed by a redirect": Fault.redirect(f"https://evil.example/{KEY}/{JWT}", count=None),
    "refused": Fault.status(401, headers={"Set-Cookie": COOKIE}, count=None),
    "rate limited": Fault.status(429, headers={"X-Key": KEY}, count=None),
    "cut before": Fault.cut("before", count=None),
    "cut after": Fault.cut("after", reset=True, count=None),
    "cut in the body": Fault.cut("body", count=None),
    "late": Fault.hold(count=None),
    "no json": Fault.not_json(f"{KEY} {JWT} {REFRESH} {COOKIE}", count=None),
    "truncated": Fault.not_json(f'{{"jwt": "{JWT}", "id": "{KEY}', count=None),
    "no utf-8": Fault.not_json(b'{"jwt": "' + JWT.encode() + b'\xff"}', count=None),
    "wrong shape": Fault.wrong_shape({"jwt": [JWT], "cookies": COOKIE, "key": KEY}, count=None),
    "no http": Fault.raw(
        f"HTTP/1.1 200 {KEY}\r\n{JWT}\r\nX {REFRESH}\r\n\r\n".encode(), count=None
    ),
    "no header": Fault.raw(f"HTTP/1.1 200 OK\r\nX {REFRESH}\r\n\r\n".encode(), count=None),
    "odd headers": Fault.raw(
        f"HTTP/1.1 200 OK\r\nSet-Cookie: {COOKIE}\r\nContent-Length: {KEY}\r\n\r\n".encode(),
        count=None,
    ),
    "bad compression": Fault.status(
        200, body=JWT, headers={"Content-Encoding": "gzip"}, count=None
    ),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for the whole table."""
    with FakeClerk(secret_key=KEY) as running:
        running.add_session(session_id="sess_1")
        yield running


@pytest.fixture
def fake(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Yield the shared service, reset after the previous row."""
    shared.clear_faults()
    yield shared
    shared.clear_faults()
    shared.release()


def shown(error: BaseException) -> str:
    """Return all that printing, logging and reporting an error shows, with its whole chain."""
    parts = ["".join(traceback.format_exception(error))]
    seen: list[BaseException | None] = [error]
    for link in seen:
        if link is None:
            continue
        parts += [str(link), repr(link), repr(link.args)]
        parts += [repr(value) for value in vars(link).values()] if link is not error else []
        seen += [other for other in (link.__cause__, link.__context__) if other not in seen]
    return "\n".join(parts)


@pytest.mark.promise("no-secret-shown")
@pytest.mark.filterwarnings("ignore:verify is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", CALLS)
def test_no_secret_is_shown(
    mode: Mode, operation: str, fault: str, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a log line at any level, nor in an error, its chain or its traceback."""
    caplog.set_level(logging.DEBUG)
    fake.inject(FAULTS[fault])
    if fault == "echoed" and operation == "refresh":  # it has no known shape
        fake.clear_faults()
        fake.inject(Fault.status(400, body={"errors": [{"code": f"x {REFRESH}"}]}))
    error = run(mode, fake, CALLS[operation], retry=ONCE, timeout=0.1).error
    assert error is not None
    everything = shown(error) + caplog.text
    for secret in SECRETS:
        assert secret not in everything


@pytest.mark.promise("no-secret-shown")
@pytest.mark.parametrize("mode", MODES)
def test_a_key_of_another_shape_is_redacted_too(mode: Mode) -> None:
    """A gateway in front of the service may need its own key: we redact it because we know it."""
    key = "PLANTED-key-of-a-gateway"
    with FakeClerk(secret_key=key) as fake:
        fake.inject(Fault.status(400, body={"errors": [{"message": f"bad {key}", "code": "c"}]}))
        error = run(mode, fake, CALLS["get"]).error
    assert str(error) == "400: bad [redacted] [c]"


@pytest.mark.promise("no-secret-shown")
async def test_asyncios_debug_mode_shows_no_secret(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reports of tasks and slow callbacks show only the reprs of arguments."""
    from clients import client_of  # noqa: PLC0415

    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(enabled=True)
    loop.slow_callback_duration = 0.0
    fake.inject(Fault.hold())
    client = client_of(fake)
    task = asyncio.ensure_future(CALLS["refresh"](client))
    await fake.until(lambda: fake.held == 1)
    text = repr(task) + repr(asyncio.all_tasks())
    await client.aclose()
    await asyncio.gather(task, return_exceptions=True)
    for secret in SECRETS:
        assert secret not in text + caplog.text


@pytest.mark.promise("raw-errors")
def test_the_raw_value_stays_on_errors(fake: FakeClerk) -> None:
    """The service's exact text is there, and only there."""
    fake.inject(FAULTS["echoed"])
    error = run("async", fake, CALLS["get"]).error
    assert isinstance(error, ApiError)
    assert KEY in error.errors[0].message
    assert error.errors[0].meta == {"token": JWT}
    assert "[redacted]" in str(error)


SILENT: dict[str, Fault] = {
    "refused": Fault.status(401, count=None),
    "cut": Fault.cut("after", count=None),
    "late": Fault.hold(count=None),
    "cut in the body": Fault.raw(
        f"HTTP/1.1 200 OK\r\nSet-Cookie: {COOKIE}\r\nContent-Length: 9\r\n\r\n{{".encode(),
        count=None,
    ),
    "bad compression": Fault.status(
        200, body="x", headers={"Content-Encoding": "gzip", "Set-Cookie": COOKIE}, count=None
    ),
    "no http": Fault.raw(b"HTTP/1.1 2x0\r\n\r\n", count=None),
}


async def get(options: dict[str, Any]) -> None:
    """Make a call with a client that has these options."""
    async with AsyncSessionsApi(KEY, **options) as client:
        await client.get("sess_1")


def get_in_thread(options: dict[str, Any]) -> None:
    """Make it with the sync client."""
    with SessionsApi(KEY, **options) as client:
        client.get("sess_1")


@pytest.mark.promise("no-secret-in-frames")
@pytest.mark.parametrize("way", ["pool", "session", "proxy", "thread"])
@pytest.mark.parametrize("fault", SILENT)
async def test_no_frame_of_ours_has_the_key(way: str, fault: str, fake: FakeClerk) -> None:
    """Reports that show the locals of frames, as Sentry's do, contain neither key nor cookie."""
    fake.inject(SILENT[fault])
    options: dict[str, Any] = {"base_url": fake.base_url, "retry": ONCE, "timeout": 0.1}
    async with aiohttp.ClientSession() as theirs:
        if way == "session":
            options["client_session"] = theirs
        if way == "proxy":
            options |= fake_elsewhere(fake)
            options["proxy"] = f"http://user:PLANTED@127.0.0.1:{fake.port}"
        call = asyncio.to_thread(get_in_thread, options) if way == "thread" else get(options)
        with pytest.raises(ClerkError) as raised:
            await call
    report = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    for frame in report.stack:
        if Path(clerk_async.__file__).parent in Path(frame.filename).parents:
            assert "PLANTED" not in str(frame.locals), f"{frame.filename}: {frame.name}"


@pytest.mark.parametrize("mode", MODES)
def test_responses_hide_their_secrets(mode: Mode, fake: FakeClerk) -> None:
    """The reprs of tokens, cookies and their headers show nothing secret."""
    fake.inject(Fault.with_headers({"Set-Cookie": COOKIE}, count=None))
    response = run(mode, fake, lambda client: client.with_http_info.create_token("sess_1")).value
    assert response.data.jwt.startswith("eyJ")
    assert "eyJ" not in repr(response)
    assert "PLANTED" not in f"{response!r} {response.headers!r} {response.headers}"
    assert response.headers["Set-Cookie"] == COOKIE
    assert "PLANTED" not in repr(Cookies(cookies=(COOKIE,)))


def test_a_rejected_argument_is_not_echoed(fake: FakeClerk) -> None:
    """The error doesn't show a token in the wrong place, or one with a stray newline."""
    calls: list[Call] = [
        lambda client: client.get(f"{JWT}\n"),
        lambda client: client.get(f"x/{KEY}"),
        lambda client: client.refresh(
            "s", expired_token=f"{JWT}\n", refresh_token="r", request_origin="o"
        ),
        lambda client: client.refresh(
            "s", expired_token=[JWT], refresh_token="r", request_origin="o"
        ),
        lambda client: client.refresh(
            "s",
            expired_token="e",
            refresh_token="r",
            request_origin="o",
            request_headers={COOKIE: 1},
        ),
    ]
    for call in calls:
        error = run("async", fake, call).error
        assert isinstance(error, InvalidArgumentError)
        assert "PLANTED" not in shown(error)


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": f"{KEY}\n{KEY}"},
        {"secret_key": f"pk_{KEY}"},
        {"secret_key": KEY.encode()},
        {"base_url": f"https://user:{KEY}@example.com"},
        {"base_url": f"https://example.com/?key={KEY}"},
        {"base_url": f"http://example.com/{KEY}"},
        {"headers": {"Authorization": KEY}},
        {"headers": {f"bad {KEY}": "x"}},
        {"headers": {"X": f"{KEY}\r\nY: z"}},
        {"proxy": f"ftp://user:{KEY}@proxy.example"},
        {"proxy": f"http://user:{KEY}@[bad"},
    ],
    ids=str,
)
def test_a_rejected_option_is_not_echoed(options: dict[str, Any], fake: FakeClerk) -> None:
    """The constructor's errors name the option, not its value."""
    error = run("async", fake, CALLS["get"], retry=ONCE, **options).error
    assert isinstance(error, ClerkError)
    assert "PLANTED" not in shown(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a {KEY} b", "a [redacted] b"),
        (f"Bearer {JWT}", "Bearer [redacted]"),
        ("sk_live_abc.def/x", "[redacted]"),
        ("__session_Ab3=eyx; Path", "[redacted]; Path"),
        ("__refresh=1", "[redacted]"),
        ("pk_test_public", "pk_test_public"),
        ("sess_1 user_1 org_1", "sess_1 user_1 org_1"),
    ],
)
def test_text_shaped_like_a_secret_is_redacted(text: str, expected: str) -> None:
    """Ids are kept."""
    assert redact(text) == expected


def test_messages_of_aiohttp_are_redacted() -> None:
    """The text of a connection error is shown, without any secret in it."""
    assert _told(aiohttp.ClientPayloadError(f"bad {KEY}")) == "bad [redacted]"


def test_known_secrets_are_redacted() -> None:
    """Secrets without a shape are replaced if they are known; single letters and "" are not."""
    assert redact("a bird can", ("bird", "", "a")) == "a [redacted] can"


def test_a_request_shows_nothing_of_its_body() -> None:
    """The repr of a request shows method and path."""
    assert "PLANTED" not in repr(verify_request("sess_1", JWT))


def test_an_endpoint_distinguishes_instances_without_the_key() -> None:
    """The fingerprint differs by key, and shows nothing of it."""
    one, two = (Endpoint(key, "https://x/v1", "2026-05-12") for key in (KEY, KEY + "2"))
    assert one.fingerprint != two.fingerprint
    assert KEY not in repr(one) + one.fingerprint
    assert one.key_limit == RateLimit(100, per=10.0)
