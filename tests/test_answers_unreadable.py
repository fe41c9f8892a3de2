"""A response that can't be parsed: sent once, reported with the reason; a status counts."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
import zlib
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from clients import MODES, Mode
from talkative import Asked, Talkative, http, right, session

from clerk_async import (
    ApiError,
    AsyncSessionsApi,
    AsyncTokenVerifier,
    AuthenticationError,
    ConnectionLostError,
    KeysUnavailableError,
    NotFoundError,
    RateLimitedError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
    SessionsApi,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

JSON: Final = http(session("sess_A")).partition(b"\r\n\r\n")[2]
ZSTD: Final = b"\x28\xb5\x2f\xfd"
QUICK: Final = RetryPolicy(base_delay=0.0)


def packed(how: str, body: bytes, status: str = "200 OK") -> bytes:
    """Make a response with a Content-Encoding."""
    return http(body, status, f"Content-Encoding: {how}")


def raw_deflate(body: bytes) -> bytes:
    """Compress without the zlib header, as some servers do."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def chunked(how: str, body: bytes) -> bytes:
    """Make a response in chunks of three bytes."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {how}\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [body[at : at + 3] for at in range(0, len(body), 3)]
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in [*pieces, b""])


READABLE: Final[dict[str, bytes]] = {
    "a header of 9 kB": http(JSON, "200 OK", f"Content-Security-Policy: {'a' * 9000}"),
    "a header of nearly 64 KiB": http(JSON, "200 OK", f"X: {'a' * 65_000}"),
    "a long name of a header": http(JSON, "200 OK", f"{'X' * 20_000}: a"),
    "900 headers": http(JSON, "200 OK", *[f"X-{n}: {'a' * 60}" for n in range(900)]),
    "a long reason": http(JSON, f"200 {'O' * 20_000}"),
    "gzip": packed("gzip", gzip.compress(JSON)),
    "GZIP": packed(" GZIP ", gzip.compress(JSON)),
    "x-gzip": packed("x-gzip", gzip.compress(JSON)),
    "deflate": packed("deflate", zlib.compress(JSON)),
    "deflate without its header": packed("deflate", raw_deflate(JSON)),
    "two members of gzip": packed("gzip", gzip.compress(JSON[:9]) + gzip.compress(JSON[9:])),
    "gzip with padding": packed("gzip", gzip.compress(JSON) + b"\0" * 99),
    "gzip in small chunks": chunked("gzip", gzip.compress(JSON[:9]) + gzip.compress(JSON[9:])),
    "deflate in small chunks": chunked("deflate", zlib.compress(JSON)),
    "no encoding": packed("identity", JSON),
    "an empty encoding": packed("", JSON),
    "an unknown encoding": packed("utf-8", JSON),
    "no length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + JSON,
}
UNREADABLE: Final[dict[str, tuple[bytes, str]]] = {
    "br": (packed("br", b"\x0b\x02\x80" + JSON), "encoded as br"),
    "invalid br": (packed("br", JSON), "encoded as br"),
    "zstd": (packed("zstd", ZSTD + JSON), "encoded as zstd"),
    "compress": (packed("compress", JSON), "encoded as compress"),
    "invalid gzip": (packed("gzip", JSON), "match its Content-Encoding"),
    "invalid deflate": (packed("deflate", b"\x08" + JSON), "match its Content-Encoding"),
    "half of a gzip": (packed("gzip", gzip.compress(JSON)[:-9]), "match its Content-Encoding"),
    "a header of 70 kB": (http(JSON, "200 OK", f"X: {'PLANTED' * 10_000}"), "65536 bytes"),
    "a header without a colon": (http(JSON, "200 OK", "X PLANTED"), "Invalid header"),
    "a header with a NUL": (http(JSON, "200 OK", "X: PLA\0NTED PLANTED"), "Invalid"),
    "2000 headers": (http(JSON, "200 OK", *["X: PLANTED"] * 2000), "Too many headers"),
    "two lengths": (http(JSON, "200 OK", "Content-Length: 5"), "Content-Length"),
    "length and chunks": (http(JSON, "200 OK", "Transfer-Encoding: chunked"), "Content-Length"),
    "an invalid length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: PLANTED\r\n\r\n" + JSON,
        "Content-Length",
    ),
    "invalid chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nPLANTED\r\n" + JSON,
        "chunk size",
    ),
}
WITHOUT_STATUS: Final[dict[str, tuple[bytes, str]]] = {
    "an invalid status": (b"HTTP/1.1 2x0 PLANTED\r\n\r\n", "status"),
    "a status of one digit": (b"HTTP/1.1 4 PLANTED\r\n\r\n", "status"),
    "SSH": (b"SSH-2.0-PLANTED\r\n", "HTTP"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", "HTTP"),
    "HTTP/0.9": (b"<html>PLANTED</html>", "HTTP"),
    "HTTP/2": (b"HTTP/2 401 PLANTED\r\n\r\n", "Expected dot"),
}


@asynccontextmanager
async def client_at(
    server: Talkative, *, is_theirs: bool = False, **options: Any
) -> AsyncGenerator[AsyncSessionsApi]:
    """Make a client, with its own aiohttp session or the user's."""
    options = {"base_url": server.base_url, "retry": QUICK, **options}
    if not is_theirs:
        async with AsyncSessionsApi("sk_test_x", **options) as client:
            yield client
        return
    async with aiohttp.ClientSession() as theirs:
        yield AsyncSessionsApi("sk_test_x", client_session=theirs, **options)


@pytest.mark.promise("readable-answers")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("what", READABLE)
async def test_large_headers_and_all_encodings_are_read(what: str, *, is_theirs: bool) -> None:
    """Headers up to 64 KiB, many headers, and each accepted encoding in all its forms are read."""
    with Talkative(lambda _: READABLE[what]) as server:
        if what == "no length":
            server.answer = once(READABLE[what], server)
        async with client_at(server, is_theirs=is_theirs) as client:
            assert (await client.get("sess_A")).id == "sess_A"
    assert len(server.asked) == 1


def once(answer: bytes, server: Talkative) -> Callable[[Asked], bytes]:
    """Make a handler that responds once and closes the connection."""

    def say(_: Asked) -> bytes:
        server._loop.call_later(0.05, server._open[-1].close)
        return answer

    return say


@pytest.mark.promise("unreadable-once")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("what", [*UNREADABLE, *WITHOUT_STATUS])
async def test_an_unparsable_response_is_not_retried(
    what: str, caplog: pytest.LogCaptureFixture, *, is_theirs: bool
) -> None:
    """The error gives the reason without any content; the next call gets its own response."""
    caplog.set_level(logging.DEBUG)
    answer, reason = {**UNREADABLE, **WITHOUT_STATUS}[what]
    with Talkative(lambda asked: answer if asked.tail == "revoke" else right(asked)) as server:
        async with client_at(server, is_theirs=is_theirs) as client:
            with pytest.raises(ResponseDecodeError, match=reason) as caught:
                await client.revoke("sess_A")
            assert (await client.get("sess_B")).id == "sess_B"
    assert len(server.asked) == 2
    error = caught.value
    assert (error.attempts, error.method, error.path) == (1, "POST", "/sessions/sess_A/revoke")
    assert error.status == (0 if (is_theirs and what in HEADS) or what in WITHOUT_STATUS else 200)
    assert (error.__cause__, error.__context__) == (None, None)
    assert "PLANTED" not in f"{error} {error!r} {caplog.text}"


HEADS: Final = list(UNREADABLE)[list(UNREADABLE).index("a header of 70 kB") :]
"""Responses that fail before aiohttp tells a user's own session that there is a status."""


@pytest.mark.parametrize("mode", MODES)
def test_both_clients_raise_the_same_error(mode: Mode) -> None:
    """The sync client raises it too."""
    with (
        Talkative(lambda _: UNREADABLE["br"][0]) as server,
        pytest.raises(ResponseDecodeError, match="br"),
    ):
        revoke(mode, {"base_url": server.base_url, "retry": QUICK})
    assert len(server.asked) == 1


def revoke(mode: Mode, options: dict[str, Any]) -> None:
    """Revoke a session."""

    async def in_a_loop() -> None:
        async with AsyncSessionsApi("sk_test_x", **options) as client:
            await client.revoke("sess_A")

    if mode == "sync":
        with SessionsApi("sk_test_x", **options) as client:
            client.revoke("sess_A")
    else:
        asyncio.run(in_a_loop())


def answered(answer: bytes, _: Asked) -> bytes:
    """Respond with these bytes."""
    return answer


STATUSES: Final[dict[str, tuple[type[ApiError], int]]] = {
    "401 Unauthorized": (AuthenticationError, 1),
    "404 Not Found": (NotFoundError, 1),
    "418 Teapot": (ApiError, 1),
    "429 Too Many Requests": (RateLimitedError, 3),
    "500 Oops": (ServerError, 3),
    "503 Unavailable": (ServerError, 3),
}


@pytest.mark.promise("unreadable-once")
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("what", UNREADABLE)
async def test_a_received_status_counts(what: str, status: str) -> None:
    """A rejected key is reported as such whatever follows the status; retries work as usual."""
    answer = UNREADABLE[what][0].replace(b"HTTP/1.1 200 OK", f"HTTP/1.1 {status}".encode(), 1)
    expected, sends = STATUSES[status]
    with Talkative(lambda _: answer) as server:
        async with client_at(server) as client:
            with pytest.raises(expected) as caught:
                await client.revoke("sess_A")
    assert type(caught.value) is expected
    assert caught.value.status == int(status[:3])
    assert (len(server.asked), caught.value.attempts) == (sends, sends)


async def test_an_error_in_br_keeps_its_headers() -> None:
    """Retry-After and the trace id are read; the body is kept as it came."""
    lines = ("Content-Encoding: br", "Retry-After: 7", "cf-ray: ray")
    with Talkative(lambda _: http(b"\x0b\x02\x80", "429 Slow", *lines)) as server:
        async with client_at(server, retry=RetryPolicy(attempts=1)) as client:
            with pytest.raises(RateLimitedError) as caught:
                await client.get("sess_A")
    assert (caught.value.retry_after, caught.value.trace_id) == (7.0, "ray")
    assert caught.value.body == b"\x0b\x02\x80"


async def test_a_status_counts_if_the_rest_arrives_later() -> None:
    """The rest comes in separate segments, as over a real network."""
    whole = UNREADABLE["a header of 70 kB"][0].replace(b"200 OK", b"401 No", 1)
    pieces = [whole[:30], *[whole[at : at + 20_000] for at in range(30, len(whole), 20_000)]]
    asked = threading.Event()

    def begin(_: Asked) -> bytes:
        asked.set()
        return pieces[0]

    with Talkative(begin) as server:
        async with client_at(server) as client:
            call = asyncio.ensure_future(client.get("sess_A"))
            await asyncio.to_thread(asked.wait, 30)
            for piece in pieces[1:]:
                await asyncio.to_thread(server.say, piece)
            with pytest.raises(AuthenticationError):
                await call


async def test_a_late_bad_chunk_is_not_a_lost_connection() -> None:
    """The client does not wait for the rest and does not retry."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    reading = asyncio.Event()
    hooks = aiohttp.TraceConfig()

    async def begun(*_: object) -> None:
        reading.set()

    hooks.on_request_end.append(begun)
    with Talkative(lambda _: head + b"2\r\n{}\r\n") as server:
        async with client_at(server, trace_configs=[hooks]) as client:
            call = asyncio.ensure_future(client.revoke("sess_A"))
            await reading.wait()
            await asyncio.to_thread(server.say, b"PLANTED\r\nPLANTED\r\n")
            with pytest.raises(ResponseDecodeError, match="chunk") as caught:
                await call
    assert (len(server.asked), caught.value.status) == (1, 200)
    assert "PLANTED" not in str(caught.value)


async def test_a_truncated_response_is_a_lost_connection() -> None:
    """It may be complete the next time."""
    for head in (b"Content-Length: 999", b"Transfer-Encoding: chunked"):
        with Talkative() as server:
            server.answer = once(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", server)
            async with client_at(server) as client:
                with pytest.raises(ConnectionLostError):
                    await client.get("sess_A")
        assert len(server.asked) == 3


async def test_a_response_cut_within_its_headers_is_not_quoted() -> None:
    """They may contain a cookie."""
    with Talkative() as server:
        server.answer = once(b"HTTP/1.1 401 No\r\nSet-Cookie: a=PLANTED\r\nX-A: 1", server)
        async with client_at(server) as client:
            with pytest.raises(ConnectionLostError, match="in the middle of the headers") as caught:
                await client.get("sess_A")
    assert "PLANTED" not in repr(caught.value)


@pytest.mark.promise("unreadable-once")
@pytest.mark.parametrize("what", ["br", "a header of 70 kB"])
async def test_a_rejected_key_stops_a_bulk_run(what: str) -> None:
    """Nothing of the 401 except the status is readable."""
    answer = UNREADABLE[what][0].replace(b"200 OK", b"401 No", 1)
    with Talkative(lambda _: answer) as server:
        async with client_at(server) as client:
            report = await client.revoke_many(f"sess_{n}" for n in range(50))
    assert report.stopped_by == "authentication"
    assert len(server.asked) <= 16


@pytest.mark.parametrize("what", ["br", "a header without a colon"])
async def test_a_bulk_run_checks_a_session_after_an_unreadable_response(what: str) -> None:
    """It sends one revocation each, and one look that shows the result."""

    def answer(asked: Asked) -> bytes:
        if asked.tail == "revoke":
            return UNREADABLE[what][0]
        return http(session(asked.session_id, status="revoked"))

    with Talkative(answer) as server:
        async with client_at(server) as client:
            report = await client.revoke_many(["sess_A", "sess_B"])
    assert (report.revoked, report.failed, len(server.asked)) == (2, 0, 4)


async def test_an_unreadable_key_set_gives_the_reason() -> None:
    """A verifier's fetch behaves the same way."""
    for answer, cause in (
        (UNREADABLE["zstd"][0], ResponseDecodeError),
        (UNREADABLE["br"][0].replace(b"200 OK", b"401 No", 1), AuthenticationError),
    ):
        with Talkative(partial(answered, answer)) as server:
            async with client_at(server) as client:
                verifier = AsyncTokenVerifier(sessions=client)
                with pytest.raises(KeysUnavailableError) as caught:
                    await verifier.warm_up()
        assert isinstance(caught.value.cause, cause)
        assert len(server.asked) == 1
