"""A misbehaving TCP proxy that imitates a bad network between the client and the service.

It runs in its own thread and event loop. Each connection gets a `Way` when it is made, which says
how slow it is and where it ends. The proxy keeps all bytes from the client, including those that it
does not forward, so that a test knows what the client has sent without trusting the client.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Self

import attrs
from chaos_talk import HABITS, Asked, Habit, Talker, Told
from relays import stop_accepting

if TYPE_CHECKING:
    from collections.abc import Callable

HOST: Final = "127.0.0.1"
_RESET: Final = struct.pack("ii", 1, 0)
_PIECE: Final = 65536
_HEAD = re.compile(rb"(GET|POST) (/\S*) HTTP/1\.1\r\n")

Ending = Literal["fin", "reset", "hush"]
"""How a connection ends: closed properly, by a reset, or by silence (half-open)."""


@attrs.frozen(kw_only=True)
class Way:
    """The behaviour of one connection; bytes are counted from its start, per direction.

    Attributes:
        latency: Seconds that each chunk takes.
        jitter: The most additional seconds, drawn for each chunk.
        bandwidth: Bytes a second, or None for no limit.
        cut_up: The connection ends after this many bytes from the client.
        cut_down: The connection ends after this many bytes from the service.
        ending: How the connection ends.
        stall_at: The connection pauses after this many bytes from the service.
        stall: The length of that pause in seconds.
        refuse: Whether the connection ends before any byte has passed.
        habit: Which unsolicited data is sent on it; None for none.
        late: The longest delay of such data in seconds.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    cut_up: int | None = None
    cut_down: int | None = None
    ending: Ending = "fin"
    stall_at: int | None = None
    stall: float = 0.0
    refuse: bool = False
    habit: Habit | None = None
    late: float = 0.03


CLEAR: Final = Way()


def clear(_: int) -> Way:
    """Give every connection a way without faults."""
    return CLEAR


def draw_way(draw: random.Random, *, slow: float = 0.2) -> Way:
    """Draw the behaviour of a connection; three in twelve have no fault.

    Args:
        draw: The random numbers.
        slow: Seconds that count as slow.
    """
    endings: tuple[Ending, ...] = ("fin", "reset", "hush")
    drawn: dict[str, Way] = {
        "slow": Way(latency=draw.uniform(0, slow / 4)),
        "jitter": Way(jitter=draw.uniform(0, slow / 2)),
        "narrow": Way(bandwidth=draw.choice((2_000, 20_000, 200_000))),
        "up": Way(cut_up=draw.randrange(1200), ending=draw.choice(endings)),
        "down": Way(cut_down=draw.randrange(3000), ending=draw.choice(endings)),
        "stall": Way(stall_at=draw.randrange(1500), stall=draw.uniform(0, slow)),
        "refuse": Way(refuse=True, ending=draw.choice(endings[:2])),
        "talkative": Way(habit=draw.choice(HABITS)),
        "insistent": Way(habit=draw.choice(HABITS), late=slow / 2),
    }
    return drawn.get(draw.choice((*drawn, "clear", "clear", "clear")), CLEAR)


class _Pair:
    """A connection of a client, and the proxy's connection to the service for it."""

    def __init__(self, proxy: ChaosProxy, number: int, way: Way) -> None:
        self.proxy = proxy
        self.way = way
        self.draw = random.Random(f"{proxy.seed} {number}")
        self.sent = bytearray()
        self.is_cut = False
        self.writers: list[asyncio.StreamWriter] = []
        self.asked = Asked()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward both directions until the client is gone, or the proxy cuts it off."""
        self.writers.append(writer)
        if self.way.refuse:
            self._break(self.way.ending)
            return
        try:
            from_service, to_service = await asyncio.open_connection(*self.proxy.target)
        except OSError:
            self._break("reset")
            return
        self.writers.append(to_service)
        down = asyncio.create_task(self._down(from_service, writer))
        try:
            await self._up(reader, to_service)
        finally:
            down.cancel()
            await asyncio.wait([down])

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(_PIECE):
            self.sent += data
            self.asked.feed(data)
            self.proxy.tell()
            if self.is_cut:
                continue  # half-open: it reads, and forwards nothing
            await self._take_time(len(data))
            cut = self.way.cut_up
            if cut is not None and passed + len(data) >= cut:
                writer.write(data[: cut - passed])
                self._break(self.way.ending)
                continue
            passed += len(data)
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed, way = 0, self.way
        has_stalled = False
        if way.habit is not None:
            talker = Talker(way.habit, way.late, self.draw, self.proxy.told, self.asked)
            with suppress(ConnectionError):
                await talker.greet(writer)
                await talker.pass_on(reader, writer, lambda: self._break("fin"))
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                if self.is_cut:
                    return
                await self._take_time(len(data))
                if (
                    way.stall_at is not None
                    and not has_stalled
                    and passed + len(data) > way.stall_at
                ):
                    has_stalled = True
                    writer.write(data[: way.stall_at - passed])
                    await asyncio.sleep(way.stall)
                    data = data[way.stall_at - passed :]
                if way.cut_down is not None and passed + len(data) >= way.cut_down:
                    writer.write(data[: way.cut_down - passed])
                    self._break(way.ending)
                    return
                passed += len(data)
                writer.write(data)
                await writer.drain()
        if not self.is_cut:
            writer.close()  # the service has closed the connection, so we do too

    async def _take_time(self, size: int) -> None:
        way = self.way
        seconds = way.latency
        if way.jitter:
            seconds += self.draw.uniform(0, way.jitter)
        if way.bandwidth is not None:
            seconds += size / way.bandwidth
        if seconds:
            await asyncio.sleep(seconds)

    def _break(self, ending: Ending) -> None:
        self.is_cut = True
        if ending == "hush":
            return
        for writer in self.writers:
            close(writer, reset=ending == "reset")

    def end(self) -> None:
        """Close both sides at once."""
        self.is_cut = True
        for writer in self.writers:
            close(writer, reset=True)


def close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close a connection: with a FIN after the remaining data, or with a RST at once."""
    if not reset:
        writer.close()
        return
    with suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class ChaosProxy:
    """Listens on loopback, and forwards each connection to the service as its `Way` says.

    Args:
        port: The service's port on loopback.

    Attributes:
        way_of: Returns the way of a connection by its number, from 0.
        seed: The seed of the random numbers within a connection.
    """

    def __init__(self, port: int) -> None:
        self.target = (HOST, port)
        self.way_of: Callable[[int], Way] = clear
        self.seed = ""
        self.port = 0
        self.total = 0
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self.told: list[Told] = []
        self._past: list[bytearray] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="chaos proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def base_url(self) -> str:
        """The base URL of the API, through the proxy."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def open_connections(self) -> int:
        """The number of connections that clients hold open."""
        return len(self._pairs)

    def heads(self) -> list[tuple[str, str]]:
        """Return the method and path of each request that clients have sent since `forget`."""
        streams = [*self._past, *(pair.sent for pair in list(self._pairs.values()))]
        return [
            (method.decode(), path.decode())
            for stream in streams
            for method, path in _HEAD.findall(bytes(stream))
        ]

    def bodies(self) -> bytes:
        """Return everything that clients have sent since `forget`."""
        return b"".join([*self._past, *(bytes(pair.sent) for pair in list(self._pairs.values()))])

    def forget(self) -> None:
        """Forget what was sent; all connections must have ended before."""
        self._past.clear()
        self.told.clear()
        self.total = 0

    def stop_listening(self) -> None:
        """Refuse new connections, like a service that is down."""
        asyncio.run_coroutine_threadsafe(self._unlisten(), self._loop).result()

    def listen_again(self) -> None:
        """Accept connections again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def drop_all(self) -> None:
        """Cut every connection with a reset."""
        self._loop.call_soon_threadsafe(self._drop)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 20.0) -> bool:
        """Block until a condition holds; return False if it does not within the given seconds."""
        ends_at = time.monotonic() + timeout
        with self._changed:
            while not predicate():
                left = ends_at - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.25))
        return True

    def tell(self) -> None:
        """Wake the waiting threads."""
        with self._changed:
            self._changed.notify_all()

    def _drop(self) -> None:
        for pair in list(self._pairs.values()):
            pair.end()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
            self._ready.set()
            self._loop.run_forever()
            self._drop()
            self._loop.run_until_complete(self._unlisten())
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks))
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._meet, HOST, self.port, backlog=512)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await stop_accepting(server)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        number = self.total
        self.total += 1
        pair = _Pair(self, number, self.way_of(number))
        self._pairs[task] = pair
        try:
            with suppress(ConnectionError, OSError):
                await pair.run(reader, writer)
        finally:
            for one in pair.writers:
                one.close()
            self._past.append(pair.sent)
            del self._pairs[task]
            self.tell()
