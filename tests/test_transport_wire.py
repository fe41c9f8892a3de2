"""What aiohttp must not do on its own, and what a hostile or odd response must not do to us."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import tracemalloc
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from clients import MODES, ONCE, Mode, client_of, run
from relays import ELSEWHERE, fake_elsewhere

from clerk_async import (
    ApiError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    NotFoundError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
)
from clerk_async.http import connections
from clerk_async.http.bodies import MAX_BODY
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async.testing import ReceivedRequest


# --- no hidden sends ------------------------------------------------------------------------------


@pytest.mark.promise("counted-sends")
@pytest.mark.parametrize("operation", ["get", "revoke"])
@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_stale_connection_adds_no_uncounted_send(
    operation: str, stage: Any, fake: FakeClerk
) -> None:
    """If the server drops a kept connection during a request, that costs a counted attempt."""
    session = fake.add_session().id
    async with client_of(fake, retry=ONCE) as client:
        await client.get(session)
        fake.requests.clear()
        fake.inject(Fault.cut(stage, count=None))
        with pytest.raises(ConnectionLostError) as caught:
            await getattr(client, operation)(session)
    assert caught.value.attempts == len(fake.requests) == 1


async def test_idle_connections_closed_by_the_server_cause_no_error(fake: FakeClerk) -> None:
    """The next call connects again."""
    session = fake.add_session().id
    async with client_of(fake, retry=ONCE) as client:
        await client.get(session)
        fake.drop_connections()
        await fake.until(lambda: fake.open_connections == 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            await client.get(session)
        except ConnectionLostError:
            await client.get(session)  # the close had not reached us yet: reported, not hidden
    assert fake.total_connections == 2


async def test_connections_are_kept(fake: FakeClerk) -> None:
    """Sequential calls share one connection."""
    session = fake.add_session().id
    async with client_of(fake) as client:
        for _ in range(5):
            await client.get(session)
    assert fake.total_connections == 1


async def test_an_error_response_keeps_its_connection(fake: FakeClerk) -> None:
    """Failing calls leak no connections, because their bodies are read."""
    fake.inject(Fault.html(502, count=None))
    async with client_of(fake, retry=ONCE) as client:
        for _ in range(5):
            with pytest.raises(ServerError):
                await client.get("sess_1")
    assert fake.total_connections == 1


# --- no redirects, no cookies ---------------------------------------------------------------------


@pytest.mark.promise("bounded-answers")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("operation", ["get", "create"])
def test_a_redirect_is_an_error_and_is_not_followed(
    mode: Mode, status: int, operation: str, fake: FakeClerk
) -> None:
    """The secret key follows no Location, on this host or another."""
    with FakeClerk() as elsewhere:
        fake.inject(Fault.redirect(f"{elsewhere.base_url}/sessions/x", status))
        error = run(mode, fake, operation).error
        assert isinstance(error, ApiError)
        assert error.status == status
        assert elsewhere.total_connections == 0
    assert len(fake.requests) == 1


@pytest.mark.promise("bounded-answers")
async def test_cookies_are_not_kept(fake: FakeClerk) -> None:
    """A cookie of a response is not sent with later requests (an IP address would hide it)."""
    session = fake.add_session().id
    url = fake.base_url.replace("127.0.0.1", "localhost")
    async with client_of(fake, base_url=url) as client:
        fake.inject(Fault.with_headers({"Set-Cookie": "__client=planted; Path=/"}))
        response = await client.with_http_info.get(session)
        assert response.headers["Set-Cookie"].startswith("__client=")
        await client.get(session)
    assert [request.headers.get("Cookie") for request in fake.requests] == [None, None]


# --- bodies ---------------------------------------------------------------------------------------


def packed(fake: FakeClerk, encoding: str) -> Fault:
    """Respond with a compressed session."""
    body = json.dumps(fake.add_session(session_id="sess_packed").as_json()).encode()
    data = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    return Fault.status(200, body=data, headers={"Content-Encoding": encoding}, count=None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_are_read(mode: Mode, encoding: str, fake: FakeClerk) -> None:
    """Both encodings that we accept work."""
    fake.inject(packed(fake, encoding))
    assert run(mode, fake, lambda client: client.get("sess_packed")).value.id == "sess_packed"


@pytest.mark.parametrize("status", [200, 500])
def test_a_wrongly_compressed_body_is_unreadable(status: int, fake: FakeClerk) -> None:
    """An error status still counts."""
    fake.inject(
        Fault.status(status, body=b"not gzip", headers={"Content-Encoding": "gzip"}, count=None)
    )
    error = run("async", fake, "get", retry=ONCE).error
    assert isinstance(error, ServerError if status == 500 else ResponseDecodeError)


@pytest.mark.promise("bounded-answers")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [200, 500])
def test_a_decompression_bomb_is_given_up(mode: Mode, status: int, fake: FakeClerk) -> None:
    """A small body that decompresses beyond the cap is abandoned early, with little memory used."""
    bomb = gzip.compress(b"a" * (3 * MAX_BODY), compresslevel=9)
    assert len(bomb) < 1_000_000
    fake.inject(Fault.status(status, body=bomb, headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        error = run(mode, fake, "get", retry=ONCE).error
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error, ServerError if status == 500 else ResponseDecodeError)
    assert peak < 1.6 * MAX_BODY


@pytest.mark.promise("bounded-answers")
@pytest.mark.parametrize("status", [200, 502])
def test_a_huge_body_is_not_read(status: int, fake: FakeClerk) -> None:
    """A body longer than the cap according to its header is not read; the status counts first."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n{{"
    fake.inject(Fault.raw(head.encode(), count=None))
    error = run("async", fake, "get", retry=ONCE).error
    assert isinstance(error, ServerError if status == 502 else ResponseDecodeError)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: planted\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nplanted\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"planted" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"",
    ],
)
def test_a_response_that_is_not_http_is_a_lost_connection(raw: bytes, fake: FakeClerk) -> None:
    """The request may have arrived, and the text of the response isn't quoted."""
    fake.inject(Fault.raw(raw, count=None))
    error = run("async", fake, "get", retry=ONCE).error
    assert isinstance(error, ConnectionLostError | ResponseDecodeError)
    assert "planted" not in str(error)
    assert error.__cause__ is None


async def test_after_a_cut_in_mid_body_a_new_connection_is_used(fake: FakeClerk) -> None:
    """The retry does not reuse the old one."""
    session = fake.add_session().id
    fake.inject(Fault.cut("body"))
    async with client_of(fake, retry=RetryPolicy(base_delay=0)) as client:
        assert (await client.get(session)).id == session
    assert fake.total_connections == 2


# --- TLS, proxies, names --------------------------------------------------------------------------


async def test_a_tls_failure_is_final_and_names_the_remedy(fake: FakeClerk) -> None:
    """A server without TLS isn't tried again; the message names SSL_CERT_FILE."""
    url = fake.base_url.replace("http://", "https://")
    async with client_of(fake, base_url=url) as client:
        with pytest.raises(ConnectError) as caught:
            await client.get("sess_1")
    assert "SSL_CERT_FILE" in str(caught.value)
    assert caught.value.attempts == 1
    assert fake.requests == []


@pytest.mark.parametrize(
    "host", ["nobody.localhost.invalid", "a..b.invalid", f"{'x' * 64}.invalid"]
)
async def test_an_unknown_host_name_is_a_connect_error(host: str, fake: FakeClerk) -> None:
    """Nothing was sent; this also holds for invalid names."""
    async with client_of(
        fake, base_url=f"http://{host}/v1", retry=ONCE, allow_insecure=True
    ) as client:
        with pytest.raises(ConnectError):
            await client.get("sess_1")


@pytest.mark.parametrize("given", ["argument", "environment", "ignored", "no_proxy"])
def test_a_proxy_comes_from_argument_or_environment(
    given: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument wins; trust_env=False and NO_PROXY mean a direct connection."""
    with FakeClerk() as proxy:
        url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        options: dict[str, Any] = {"retry": ONCE, **fake_elsewhere(fake)}
        if given == "argument":
            options["proxy"] = url
        else:
            monkeypatch.setenv("http_proxy", url)
        if given == "ignored":
            options["trust_env"] = False
        if given == "no_proxy":
            monkeypatch.setenv("no_proxy", ELSEWHERE)
        run("async", fake, "get", **options)
        through: list[ReceivedRequest] = list(proxy.requests)
    if given in {"argument", "environment"}:
        assert fake.requests == []
        assert [request.headers["Proxy-Authorization"] for request in through] == [
            "Basic dXNlcjpwQHNz"
        ]
    else:
        assert through == []
        assert len(fake.requests) == 1
        assert "Proxy-Authorization" not in fake.requests[0].headers


@pytest.mark.promise("tls-and-proxies")
@pytest.mark.parametrize("has_own_session", [False, True])
async def test_the_proxy_never_sees_the_key(has_own_session: bool, fake: FakeClerk) -> None:
    """The CONNECT request has the proxy's credentials, and not the secret key."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(refuse, "127.0.0.1", 0) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        port = server.sockets[0].getsockname()[1]
        options: dict[str, Any] = {"base_url": "https://api.example.com/v1", "retry": ONCE}
        if has_own_session:
            options["client_session"] = await stack.enter_async_context(aiohttp.ClientSession())
        async with client_of(fake, proxy=f"http://user:pass@127.0.0.1:{port}", **options) as client:
            with pytest.raises(ConnectError, match="407") as caught:
                await client.create_token("sess_1")
    assert not caught.value._may_have_arrived
    [head] = asked
    assert head.startswith(b"CONNECT api.example.com:443 ")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz" in head
    assert fake.secret_key.encode() not in head


# --- the user's own session -----------------------------------------------------------------------


@pytest.mark.promise("views")
async def test_the_users_own_session_is_used_and_left_open(fake: FakeClerk) -> None:
    """We send with our headers, don't change its settings, and never close it."""
    session = fake.add_session().id
    async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as own:
        before = own._retry_connection
        async with client_of(fake, client_session=own) as client:
            await client.get(session)
            await client.create_token(session)
        assert not own.closed
        assert own._retry_connection is before
        with pytest.raises(ClientClosedError):
            await client.get(session)
    for request in fake.requests:
        assert request.headers["X-Mine"] == "1"
        assert request.headers["Authorization"] == f"Bearer {fake.secret_key}"
        assert request.headers["User-Agent"].startswith("clerk_async/")
        assert "Content-Type" not in request.headers


@pytest.mark.promise("own-client-session")
@pytest.mark.parametrize("is_function", [False, True])
async def test_a_session_with_raise_for_status_changes_no_error(
    is_function: bool, fake: FakeClerk
) -> None:
    """A 404 would otherwise look like a lost connection, and be retried."""

    async def check(response: aiohttp.ClientResponse) -> None:
        response.raise_for_status()

    raising = check if is_function else True
    async with (
        aiohttp.ClientSession(raise_for_status=raising) as own,
        client_of(fake, client_session=own) as client,
    ):
        with pytest.raises(NotFoundError, match="resource_not_found"):
            await client.get("sess_nobody")
    assert len(fake.requests) == 1


@pytest.mark.promise("own-client-session")
async def test_a_session_without_auto_decompress_works(fake: FakeClerk) -> None:
    """We ask for compression, so we make sure that bodies are decompressed."""
    fake.inject(packed(fake, "gzip"))
    async with (
        aiohttp.ClientSession(auto_decompress=False) as own,
        client_of(fake, client_session=own) as client,
    ):
        assert (await client.get("sess_packed")).id == "sess_packed"


async def test_a_session_with_its_own_credentials_raises_our_error(
    fake: FakeClerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would replace the key, which aiohttp rejects with a bare ValueError."""
    (tmp_path / "netrc").write_text("default login me password sesame\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with (
        aiohttp.ClientSession(trust_env=True) as own,
        client_of(fake, client_session=own) as client,
    ):
        with pytest.raises(ConfigurationError, match=r"client_session.*credentials"):
            await client.get("sess_1")
    assert not fake.requests


async def test_a_refused_connection_has_a_plain_message(fake: FakeClerk) -> None:
    """It says which host failed and why, without asyncio's and aiohttp's brackets."""
    async with client_of(fake, base_url="http://127.0.0.1:1/v1", retry=ONCE) as client:
        with pytest.raises(ConnectError, match=r"^can't connect to 127\.0\.0\.1:1: Connection re"):
            await client.get("sess_1")


async def test_a_closed_session_of_the_user_raises_our_error(fake: FakeClerk) -> None:
    """We have a separate error for that mistake."""
    async with aiohttp.ClientSession() as own:
        pass
    async with client_of(fake, client_session=own) as client:
        with pytest.raises(ClientClosedError, match="client_session"):
            await client.get("sess_1")


async def test_the_users_own_session_follows_no_redirect(fake: FakeClerk) -> None:
    """It doesn't carry the key elsewhere either."""
    fake.inject(Fault.redirect(f"{fake.base_url}/elsewhere"))
    async with aiohttp.ClientSession() as own, client_of(fake, client_session=own) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("sess_1")
    assert caught.value.status == 302
    assert len(fake.requests) == 1


async def test_options_without_effect_are_rejected(fake: FakeClerk) -> None:
    """A TLS context or trace hooks beside a session that has its own."""
    async with aiohttp.ClientSession() as own:
        for option in (
            {"ssl_context": ssl.create_default_context()},
            {"trace_configs": [aiohttp.TraceConfig()]},
        ):
            with pytest.raises(ConfigurationError):
                client_of(fake, client_session=own, **option)


@pytest.mark.promise("counted-sends")
async def test_trace_hooks_see_each_send(fake: FakeClerk) -> None:
    """The hooks of aiohttp work, and see each retry."""
    seen: list[str] = []

    async def on_end(_: Any, __: Any, params: aiohttp.TraceRequestEndParams) -> None:
        seen.append(f"{params.method} {params.response.status}")

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(on_end)
    session = fake.add_session().id
    fake.inject(Fault.status(500))
    async with client_of(fake, trace_configs=[trace], retry=RetryPolicy(base_delay=0)) as client:
        await client.get(session)
    assert seen == ["GET 500", "GET 200"]


async def test_trace_hooks_see_the_body(fake: FakeClerk) -> None:
    """Without hooks a short body is read directly; with hooks aiohttp delivers it."""
    seen: list[bytes] = []

    async def on_chunk(_: Any, __: Any, params: aiohttp.TraceResponseChunkReceivedParams) -> None:
        seen.append(params.chunk)

    trace = aiohttp.TraceConfig()
    trace.on_response_chunk_received.append(on_chunk)
    session = fake.add_session().id
    async with client_of(fake, trace_configs=[trace]) as client:
        await client.get(session)
    assert json.loads(b"".join(seen))["id"] == session


# --- non-public parts of aiohttp ------------------------------------------------------------------


@pytest.mark.promise("aiohttp-internals")
async def test_aiohttp_still_has_the_internals_that_we_use() -> None:
    """A rename breaks nothing (see below), but should be noticed: here, and in what follows it."""
    async with aiohttp.ClientSession() as session:
        assert session._retry_connection is True
        assert isinstance(session._loop, asyncio.AbstractEventLoop)
        connector = session.connector
        assert connector is not None
        assert (len(connector._conns), len(connector._acquired), connector._closed) == (0, 0, False)


@pytest.mark.promise("aiohttp-internals")
def test_an_aiohttp_with_renamed_internals_works() -> None:
    """Only a client that was never closed then leaves its sockets to Python."""
    assert connections.emptied(None) == connections.emptied(SimpleNamespace()) == []
