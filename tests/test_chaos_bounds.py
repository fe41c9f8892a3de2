"""Bounds that random faults are too short to show: exact deadlines, connections of long lives."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from contextlib import suppress
from threading import Timer
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from chaos_books import Lateness
from chaos_proxy import ChaosProxy, Way
from clients import client_of
from leaps import leap, leaping
from relays import Relay
from talkative import Talkative

from clerk_async import ClerkError, RequestTimeoutError, RetryPolicy, Timeouts
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE: Final = 3.0
PATIENT: Final[dict[str, Any]] = {
    "timeout": Timeouts(connect=30.0, attempt=30.0),
    "retry": RetryPolicy(attempts=1000, deadline=DEADLINE, base_delay=0.05, max_delay=0.2),
}
TROUBLE: Final[dict[str, Callable[[str], Fault]]] = {
    "no answer": lambda one: Fault.hold(session_id=one, count=None),
    "no end of a body": lambda one: Fault.slow_body(60.0, session_id=one, count=None),
    "errors": lambda one: Fault.status(500, session_id=one, count=None),
    "late errors": lambda one: Fault.status(502, delay=0.7, session_id=one, count=None),
    "refusals": lambda one: Fault.status(429, retry_after=0.3, session_id=one, count=None),
}


async def measure_the_end(lateness: Lateness) -> None:
    """Measure from shortly before the deadline, because earlier delays don't matter if they end."""
    loop = asyncio.get_running_loop()
    soon = loop.time() + DEADLINE * 0.9
    await asyncio.sleep(DEADLINE * 0.9)
    lateness.seconds = loop.time() - soon
    await lateness.measure()


async def seconds_of(client: Any, session_id: str) -> float:
    """Make a call that fails, and return how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ClerkError):
        await client.get(session_id)
    return loop.time() - began


async def seconds_alone(fake: FakeClerk, base_url: str, session_id: str) -> float:
    """Make it with a separate client, because a 429 makes all calls of a client wait."""
    async with client_of(fake, base_url=base_url, **PATIENT) as client:
        return await seconds_of(client, session_id)


async def seconds_in_the_queue(fake: FakeClerk, session_id: str) -> float:
    """Make it while another call uses the only connection."""
    async with client_of(fake, pool_size=1, **PATIENT) as client:
        endless = client.with_options(retry=RetryPolicy(deadline=None))
        other = asyncio.ensure_future(endless.get(session_id))
        await fake.until(lambda: fake.held >= 2)
        seconds = await seconds_of(client, session_id)
        other.cancel()
        return seconds


@pytest.mark.promise("deadline")
@pytest.mark.slow
async def test_a_deadline_is_accurate_to_5_percent(fake: FakeClerk) -> None:
    """Whatever a call waits for, it ends within 5 % after its deadline, and not long before it."""
    lateness = Lateness()
    with ChaosProxy(fake.port) as proxy:
        proxy.way_of = lambda _: Way(cut_up=0, ending="hush")
        waits: dict[str, Any] = {
            "half open": seconds_alone(fake, proxy.base_url, fake.add_session().id)
        }
        for name, make in TROUBLE.items():
            one = fake.add_session().id
            fake.inject(make(one))
            waits[name] = seconds_alone(fake, fake.base_url, one)
            if name == "no answer":
                waits["the pool"] = seconds_in_the_queue(fake, one)
        watch = asyncio.create_task(measure_the_end(lateness))
        took = dict(zip(waits, await asyncio.gather(*waits.values()), strict=True))
    watch.cancel()
    await asyncio.wait([watch])
    most = DEADLINE * 1.05 + 2 * lateness.seconds
    assert {name: seconds for name, seconds in took.items() if seconds > most} == {}
    assert {name: seconds for name, seconds in took.items() if seconds < DEADLINE / 2} == {}


@pytest.mark.promise("nothing-grows")
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["late", "cancelled"])
@leaping
async def test_a_response_that_stops_halfway_keeps_no_connection(
    *, is_packed: bool, is_cancelled: bool
) -> None:
    """A call that is abandoned in mid-body closes its connection: a client may live for months."""
    has_begun = asyncio.Event()

    async def begin(*_: Any) -> None:
        has_begun.set()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(begin)
    options: dict[str, Any] = {
        "retry": RetryPolicy(attempts=1, deadline=None),
        "timeout": 600.0,
        "trace_configs": [trace],
    }
    with FakeClerk(compress=is_packed) as fake, ChaosProxy(fake.port) as proxy:
        for _ in range(100):
            fake.add_session(user_id="user_1")
        proxy.way_of = lambda _: Way(cut_down=1_500, ending="hush")
        async with client_of(fake, base_url=proxy.base_url, **options) as client:
            for _ in range(3):
                call = asyncio.ensure_future(client.list(user_id="user_1", limit=100))
                await has_begun.wait()
                has_begun.clear()
                if is_cancelled:
                    call.cancel()
                else:
                    leap(600.0)
                with pytest.raises(asyncio.CancelledError if is_cancelled else RequestTimeoutError):
                    await call
            gone = await asyncio.to_thread(proxy.wait_for, lambda: not proxy.open_connections)
            assert gone, f"{proxy.open_connections} connections are left"
            assert proxy.total == 3


class NoTls(Relay):
    """Forwards bytes to a port."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target = port

    async def _prepare(self, reader: object, writer: object) -> int:
        del reader, writer
        return self._target


@pytest.mark.parametrize("kind", ["proxy", "relay", "talkative"])
def test_servers_in_tests_lose_no_connection_that_arrives_as_they_close(
    kind: str, fake: FakeClerk
) -> None:
    """Otherwise its socket stays open, and a random later test is blamed for it."""
    make: dict[str, Callable[[], Any]] = {
        "proxy": lambda: ChaosProxy(fake.port),
        "relay": lambda: NoTls(fake.port),
        "talkative": Talkative,
    }
    server = make[kind]()
    blocked, may_go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert may_go_on.wait(30)

    def connect() -> socket.socket:
        """Connect, and let the server see that at the same moment as the request to stop."""
        server._loop.call_soon_threadsafe(block)
        assert blocked.wait(30)
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        Timer(0.05, may_go_on.set).start()
        return connection

    with server:
        connection = connect()
        if kind == "proxy":
            server.stop_listening()
            server.drop_all()
    with connection, suppress(ConnectionError):
        assert connection.recv(1) == b""
    gc.collect()  # any socket left open fails the test
