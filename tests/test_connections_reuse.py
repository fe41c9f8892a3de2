"""Each call gets the response to its own request, whatever else a connection receives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
import trustme
from bulk_client import until
from clients import ONCE
from leaps import here, leaping
from talkative import Talkative, http, jwt_of, right, session

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ClerkError,
    ConnectError,
    KeysUnavailableError,
    ResponseDecodeError,
    RetryPolicy,
    SessionsApi,
)
from clerk_async.http.connections import KEEP_ALIVE
from clerk_async.http.decode import decode_session
from clerk_async.http.operations import GET, for_session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from talkative import Asked

AUTHORITY: Final = trustme.CA()
ANOTHERS: Final = http(session("sess_A"))
UNASKED: Final[dict[str, bytes]] = {
    "the answer once more": http({"object": "token", "jwt": jwt_of("sess_A")}),
    "another answer": ANOTHERS,
    "a balancer's 408": b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\n\r\n",
    "a 101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "a 100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "half a head": ANOTHERS[:30],
    "a byte": b"H",
    "half a body": ANOTHERS[:-10],
    "the rest of a body": b'"}',
}


@functools.cache
def server_context() -> ssl.SSLContext:
    """Make the TLS context of a server at localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = AUTHORITY.issue_cert("localhost")
    certificate.configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    """Make the TLS context of a client that trusts it."""
    context = ssl.create_default_context()
    authority: Any = AUTHORITY
    authority.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def client_at(
    server: Talkative, *, is_theirs: bool = False, **options: Any
) -> AsyncGenerator[AsyncSessionsApi]:
    """Make a client with its own aiohttp session, or with the user's."""
    options = {"base_url": server.base_url, "retry": ONCE, "timeout": 5.0, **options}
    async with contextlib.AsyncExitStack() as stack:
        context = trusting() if server.base_url.startswith("https") else None
        if is_theirs:
            connector = aiohttp.TCPConnector(ssl=context or True)
            options["client_session"] = await stack.enter_async_context(
                aiohttp.ClientSession(connector=connector)
            )
        elif context is not None:
            options["ssl_context"] = context
        yield await stack.enter_async_context(AsyncSessionsApi("sk_test_x", **options))


async def let_the_loop_read() -> None:
    """Let the loop read what has arrived."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- data on an idle connection -------------------------------------------------------------------


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("is_read", [False, True], ids=["in the socket", "read"])
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("what", UNASKED)
async def test_a_connection_with_unexpected_data_is_not_used_again(
    what: str, *, has_tls: bool, is_read: bool, is_theirs: bool
) -> None:
    """Complete or partial, already read by the loop or not: the next call uses a new connection."""
    with Talkative(context=server_context() if has_tls else None) as server:
        async with client_at(server, is_theirs=is_theirs) as client:
            await client.create_token("sess_A")
            server.say(UNASKED[what])
            if is_read:
                await let_the_loop_read()
            assert (await client.create_token("sess_B")).jwt == jwt_of("sess_B")
            assert (await client.create_token("sess_C")).jwt == jwt_of("sess_C")
    assert [asked.connection for asked in server.asked] == [1, 2, 2]


@pytest.mark.promise("own-answers")
def test_the_sync_client_checks_a_connection_before_reuse() -> None:
    """It uses the same client underneath."""
    with Talkative() as server, SessionsApi("sk_test_x", base_url=server.base_url) as client:
        client.create_token("sess_A")
        server.say(UNASKED["the answer once more"])
        assert client.create_token("sess_B").jwt == jwt_of("sess_B")
    assert server.connections == 2


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("method", ["revoke_many", "revoke_stream"])
async def test_a_bulk_run_uses_no_response_of_another_request(method: str) -> None:
    """Sessions reported as revoked were revoked, though the first confirmation arrives twice."""
    revoked: list[str] = []
    told = asyncio.Event()

    def answer(asked: Asked) -> bytes:
        if asked.session_id == "sess_B":
            return http({"errors": []}, "403 Forbidden")
        revoked.append(asked.session_id)
        return right(asked)

    async def ids() -> AsyncIterator[str]:
        yield "sess_A"
        await told.wait()
        await asyncio.to_thread(server.say, http(session("sess_A", status="revoked")))
        yield "sess_B"

    with Talkative(answer) as server:
        async with client_at(server) as client:
            if method == "revoke_many":
                report = await client.revoke_many(ids(), on_outcome=lambda _: told.set())
                done = report.revoked
            else:
                done = 0
                async for outcome in client.revoke_stream(ids()):
                    told.set()
                    done += outcome.status == "revoked"
    assert revoked == ["sess_A"]
    assert done == 1


@pytest.mark.promise("own-answers")
async def test_a_key_set_is_not_read_from_the_rest_of_another_response() -> None:
    """A verifier's fetches behave the same way."""
    with Talkative() as server:
        async with client_at(server) as client:
            await client.get("sess_A")
            server.say(ANOTHERS)
            with pytest.raises(KeysUnavailableError):  # there's no key in that set
                await AsyncTokenVerifier(sessions=client, authorized_parties=["x"]).warm_up()
    assert [(asked.path, asked.connection) for asked in server.asked] == [
        ("/sessions/sess_A", 1),
        ("/jwks", 2),
    ]


@pytest.mark.promise("own-answers")
async def test_a_slow_trace_hook_leaves_no_gap_after_the_check() -> None:
    """The check comes last before a request is written."""

    async def hold(*_: Any) -> None:
        if len(server.asked) == 1 and server.connections == 1:
            await asyncio.to_thread(server.say, ANOTHERS)
            await let_the_loop_read()

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(hold)
    with Talkative() as server:
        async with client_at(server, trace_configs=[trace]) as client:
            await client.get("sess_A")
            assert (await client.get("sess_B")).id == "sess_B"
    assert server.connections == 2


# --- connections that are dead --------------------------------------------------------------------


@pytest.mark.promise("sent-once")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("operation", ["create", "refresh"])
async def test_a_non_repeatable_request_survives_a_dead_connection(
    operation: str, *, is_reset: bool, is_theirs: bool
) -> None:
    """The pending end of the connection is seen before the request is sent, so it is sent once."""
    with Talkative() as server:
        async with client_at(server, is_theirs=is_theirs) as client:
            await client.get("sess_A")
            server.end(reset=is_reset)
            if operation == "create":
                assert (await client.create("user_1")).user_id == "user_1"
            else:
                await client.refresh(
                    "sess_B", expired_token="e", refresh_token="r", request_origin="https://x.y"
                )
    assert [asked.connection for asked in server.asked] == [1, 2]


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("is_read", [False, True], ids=["in the socket", "read"])
@pytest.mark.parametrize("what", ["an answer", "the end"])
async def test_data_before_the_first_request_is_not_taken_for_a_response(
    what: str, *, is_read: bool
) -> None:
    """Nothing is sent on such a connection."""

    async def speak(*_: Any) -> None:
        await asyncio.to_thread(server.met.acquire)
        if what == "the end":
            await asyncio.to_thread(server.end)
        else:
            await asyncio.to_thread(server.say, ANOTHERS)
        if is_read:
            await let_the_loop_read()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(speak)
    with Talkative() as server:
        options: dict[str, Any] = {"retry": RetryPolicy(attempts=2, base_delay=0)}
        async with client_at(server, trace_configs=[trace], **options) as client:
            with pytest.raises(ConnectError) as caught:
                await client.create("user_1")
    assert caught.value.attempts == 2
    assert server.asked == []


@pytest.mark.promise("fresh-retries")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("how", ["silence", "the end"])
@leaping
async def test_after_a_call_without_a_response_the_pool_is_not_reused(
    how: str, *, is_theirs: bool
) -> None:
    """Ten connections die together: the first retry uses an eleventh, and so do later calls."""
    dead: set[int] = set()
    loop = here()

    def answer(asked: Asked) -> bytes | None:
        if asked.connection in dead:
            if how == "silence":
                loop.call_soon_threadsafe(loop.leap, 60.0)
                return None
            raise OSError
        return right(asked)

    with Talkative(answer, together=10) as server:
        options: dict[str, Any] = {"retry": RetryPolicy(attempts=2, base_delay=0, deadline=None)}
        async with client_at(server, is_theirs=is_theirs, timeout=60.0, **options) as client:
            await asyncio.gather(*(client.get(f"sess_{number}") for number in range(10)))
            dead.update(range(1, 11))
            found = [await client.with_http_info.get(name) for name in ("sess_A", "sess_B")]
    assert [(one.data.id, one.attempts) for one in found] == [("sess_A", 2), ("sess_B", 1)]
    assert [asked.connection for asked in server.asked][-2:] == [11, 11]
    assert server.connections == 11


@pytest.mark.promise("kept-connections")
async def test_an_idle_connection_is_kept_as_long_as_clerks_edge_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call after minutes of silence reuses its connection; after a longer time it does not."""
    silent = 0.0
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + silent)
    with Talkative() as server:
        async with client_at(server) as client:
            await client.get("sess_A")
            silent = KEEP_ALIVE - 5
            await client.get("sess_A")
            silent = 2 * KEEP_ALIVE
            await client.get("sess_A")
    assert [asked.connection for asked in server.asked] == [1, 1, 2]
    assert 60 <= KEEP_ALIVE < 400


# --- odd responses --------------------------------------------------------------------------------


def _shortened(answer: bytes) -> bytes:
    return answer.replace(b"Content-Length: ", b"Content-Length: 9\r\nX-Was: ")


ODD: Final[dict[str, Callable[[bytes], bytes]]] = {
    "the same twice": lambda answer: answer * 2,
    "another behind it": lambda answer: answer + ANOTHERS,
    "half of another behind it": lambda answer: answer + ANOTHERS[:30],
    "a 408 behind it": lambda answer: answer + UNASKED["a balancer's 408"],
    "a body that ends early": _shortened,
    "a body that ends early, and another": lambda answer: _shortened(answer) + ANOTHERS,
    "no body, and then it": lambda answer: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + answer,
    "a 101 before it": lambda answer: UNASKED["a 101"] + answer,
    "a 204 before it": lambda answer: UNASKED["a 204"] + answer,
    "a 205 before it": lambda answer: b"HTTP/1.1 205 R\r\nContent-Length: 0\r\n\r\n" + answer,
    "a 304 before it": lambda answer: b"HTTP/1.1 304 Not Modified\r\n\r\n" + answer,
    "two lengths": lambda answer: answer.replace(b"Content-L", b"Content-Length: 9\r\nContent-L"),
}


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("what", ODD)
async def test_after_an_odd_response_the_next_call_gets_its_own(
    what: str, *, is_theirs: bool
) -> None:
    """Whatever becomes of the call with that response, and wherever the data is split."""
    rests: list[bytes] = []

    def answer(asked: Asked) -> bytes:
        if not asked.session_id.startswith("sess_odd"):
            return right(asked)
        found = right(asked)
        whole = ODD[what](found)
        places = (len(whole), len(whole) - len(found), len(whole) - 9, whole.index(b"{") + 9)
        cut = max(1, places[int(asked.session_id[-1])])
        rests.append(whole[cut:])
        return whole[:cut]

    with Talkative(answer) as server:
        async with client_at(server, is_theirs=is_theirs) as client:
            for number in range(4):
                rests.clear()
                odd = asyncio.ensure_future(client.get(f"sess_odd{number}"))
                await until(lambda: bool(rests))
                await asyncio.wait([odd], timeout=0.1)
                server.say(rests[-1])
                with contextlib.suppress(ClerkError):
                    assert (await odd).id == f"sess_odd{number}"
                for name in ("sess_B", "sess_C"):
                    assert (await client.create_token(name)).jwt == jwt_of(name)


OUT_OF_STEP: Final[dict[str, bytes]] = {
    "a 101": UNASKED["a 101"],
    "a 204": UNASKED["a 204"],
    "a 205": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    "a 304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "no JSON": http(b"{"),
    "no body": http(b""),
}


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("is_theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("what", OUT_OF_STEP)
async def test_a_connection_with_an_unusable_response_is_closed(
    what: str, *, is_theirs: bool
) -> None:
    """The true response may come during the next request, which no check could detect."""
    suspect: set[int] = set()

    def answer(asked: Asked) -> bytes:
        if asked.session_id == "sess_A":
            suspect.add(asked.connection)
            return OUT_OF_STEP[what]
        late = ANOTHERS if asked.connection in suspect else b""
        return late + right(asked)

    with Talkative(answer) as server:
        async with client_at(server, is_theirs=is_theirs) as client:
            with pytest.raises(ClerkError):
                await client.get("sess_A")
            assert (await client.get("sess_B")).id == "sess_B"
    assert server.connections == 2


async def test_a_call_on_a_connection_found_out_of_step_is_retried() -> None:
    """Another call took it before the unusable response was read, and is notified."""
    unusable = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(asked: Asked) -> bytes | None:
        if asked.session_id == "sess_A":
            return http(b"{")
        if asked.connection == 1:
            loop.call_soon_threadsafe(unusable.set)
            return None
        return right(asked)

    with Talkative(answer) as server:
        async with client_at(server, pool_size=1, retry=RetryPolicy(base_delay=0)) as client:
            calls = client._calls
            first = await calls.call(for_session(GET, "sess_A"))
            other = asyncio.ensure_future(client.with_http_info.get("sess_B"))
            await unusable.wait()
            with pytest.raises(ResponseDecodeError):
                client._reader.value(decode_session, first, for_session(GET, "sess_A"))
            found = await other
    assert (found.data.id, found.attempts, server.connections) == ("sess_B", 2, 2)
