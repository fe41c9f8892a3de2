"""The server under a fake: a thread with a listening socket and an event loop, and its gauges."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import ssl
import threading
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, cast

import anyio.to_thread
from aiohttp import web

from .checks import must_be
from .gauges import Gauges, monotonic

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from aiohttp.web_protocol import RequestHandler

    from .wire import Wire

HOST = "127.0.0.1"
_BACKLOG = 1024
_TURNS_TO_CONNECT = 4
"""Turns of the loop until a socket that was accepted is a connection, which alone can be closed."""
_MAX_PORT = 65_535


class _Counting(web.Server):  # type: ignore[misc,unused-ignore]
    """aiohttp's low-level server, with every connection counted."""

    def __init__(self, wire: Wire, gauges: Gauges) -> None:
        # A client that is gone ends what was being done for it.
        super().__init__(wire.handle, handler_cancellation=True, access_log=None)
        self._wire = wire
        self._gauges = gauges
        self.open: dict[RequestHandler, asyncio.Transport] = {}
        self.all_gone = asyncio.Event()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        self.open[handler] = transport
        self._wire.connection_numbers[handler] = self._gauges.connected()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if self.open.pop(handler, None) is not None:
            del self._wire.connection_numbers[handler]
            self._gauges.disconnected()
            if not self.open:
                self.all_gone.set()
        super().connection_lost(handler, exc)


class _Run:
    """One run of a server, from its start to its end: the thread, and all that is the thread's."""

    def __init__(self, gauges: Gauges, tls: ssl.SSLContext | None) -> None:
        self.pid = os.getpid()
        self.is_ending = False
        self.wire: Wire | None = None
        # Whoever takes the socket out closes it: the thread, or who ends this before it has begun.
        self._unclaimed: list[socket.socket] = []
        self._gauges = gauges
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: deque[Callable[[], object]] = deque()
        self._listening: socket.socket | None = None
        self._stopping = asyncio.Event()
        self._server: _Counting | None = None
        self._thread = threading.Thread(target=self._serve_until_stopped, daemon=True)

    def listen(self, port: int) -> int:
        """Listen, from now on: whoever connects waits for the thread. Returns the port."""
        self._unclaimed.append(socket.create_server((HOST, port), backlog=_BACKLOG))
        self._listening = self._unclaimed[0]
        port = self._listening.getsockname()[1]
        self._thread.name = f"FakeClerk:{port}"
        return port

    def begin(self, wire: Wire) -> None:
        """Start the thread."""
        self.wire = wire
        self._thread.start()

    def end(self) -> None:
        """Ask it to end, which it then does by itself; may be asked again."""
        self.is_ending = True
        while self._unclaimed:
            self._unclaimed.pop().close()
        self.call(self._stopping.set)

    def wait(self) -> None:
        """Wait until it has ended."""
        with suppress(RuntimeError):  # its start was interrupted: it ends as soon as it begins
            self._thread.join()

    def call(self, function: Callable[[], object]) -> None:
        """Run something in the thread's loop, soon; dropped if the loop has ended."""
        self._calls.append(function)  # the loop looks here when it begins
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._do_calls)

    def _do_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _serve_until_stopped(self) -> None:
        try:
            listening = self._unclaimed.pop()
        except IndexError:
            return
        assert self.wire is not None  # noqa: S101 - `begin` sets it
        self._loop = loop = asyncio.new_event_loop()
        cast("Any", loop).time = monotonic  # a frozen clock would keep it from waking up
        loop.call_soon(self._do_calls)
        try:
            loop.run_until_complete(self._serve(loop, listening, self.wire))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            listening.close()

    async def _serve(
        self, loop: asyncio.AbstractEventLoop, listening: socket.socket, wire: Wire
    ) -> None:
        self._server = counting = _Counting(wire, self._gauges)
        server = await loop.create_server(counting, sock=listening, backlog=_BACKLOG, ssl=self._tls)
        try:
            if not self.is_ending:
                await self._stopping.wait()
        finally:
            with suppress(NotImplementedError):  # on Windows, whose loop accepts in another way
                loop.remove_reader(listening.fileno())
            for _ in range(_TURNS_TO_CONNECT):
                await asyncio.sleep(0)
            server.close()
            for transport in list(counting.open.values()):
                transport.abort()
            handlers = asyncio.all_tasks() - {asyncio.current_task()}
            for task in handlers:
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            if counting.open:
                counting.all_gone.clear()
                await counting.all_gone.wait()
            await server.wait_closed()
            self._server = None

    def drop_connections(self) -> None:
        """Close every connection, in the loop's thread."""
        if self._server is not None:
            for transport in list(self._server.open.values()):
                transport.close()

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the sockets, or they stay open when the parent stops."""
        held = [] if self._listening is None else [self._listening]
        if self._server is not None:
            held += [to.get_extra_info("socket") for to in list(self._server.open.values())]
        nowhere = os.open(os.devnull, os.O_RDWR)
        # Not closed: each number still belongs to an object here, which may close it yet.
        for descriptor in (each.fileno() for each in held):
            if descriptor >= 0:
                os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


@contextmanager
def _without_ctrl_c() -> Generator[None]:
    """Let a Ctrl-C wait: a thread whose start it breaks off would be listed for good."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


class Server:
    """A server on loopback, in a thread and event loop of its own; `FakeClerk` is one."""

    def __init__(self, port: int, ssl_context: ssl.SSLContext | None) -> None:
        if not 0 <= must_be("port", port, int) <= _MAX_PORT:
            raise ValueError(f"port must be from 0 to {_MAX_PORT}, not {port}")
        self._port = port
        self._tls = must_be("ssl_context", ssl_context, ssl.SSLContext, None)
        self._gauges = Gauges()
        # Re-entrant, as a signal handler may stop what is being started.
        self._run_lock = threading.RLock()
        self._run: _Run | None = None

    def _make_wire(self) -> Wire:
        raise NotImplementedError

    # Life

    def start(self) -> Self:
        """Start serving; does nothing while it runs. After `stop`, the port is the same again.

        Raises:
            OSError: If the port is taken.
        """
        with self._run_lock:
            run = self._running()
            if run is not None and not run.is_ending:
                return self
            self.stop()  # if that was interrupted before
            try:
                run = self._run = _Run(self._gauges, self._tls)
                _RUNNING.add(run)
                atexit.register(self.stop)
                with _without_ctrl_c():
                    self._port = run.listen(self._port)
                    run.begin(self._make_wire())
            except BaseException:
                self.stop()
                raise
            return self

    def stop(self) -> None:
        """Close every connection and end the thread; what the fake holds stays."""
        with self._run_lock:
            run = self._running()
            if run is None:
                return
            try:
                run.end()
                run.wait()
            except BaseException:  # Ctrl-C, before it was asked to end or while it did
                run.end()
                raise
            self._run = None
            _RUNNING.discard(run)
            atexit.unregister(self.stop)

    def _running(self) -> _Run | None:
        run = self._run
        return run if run is not None and run.pid == os.getpid() else None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:  # Ctrl-C when it had just been started: nobody would stop it
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except BaseException:
            self.stop()
            raise

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)

    # Where it is

    @property
    def _root(self) -> str:
        if not self._port:
            raise RuntimeError("the fake has no address yet: use `with FakeClerk() as fake:`")
        return f"{'http' if self._tls is None else 'https'}://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """The API's base URL, with its `/v1`; it stays when the fake is stopped."""
        return f"{self._root}/v1"

    @property
    def port(self) -> int:
        """The port."""
        return self._port

    # What its wire shows

    def _call_in_loop(self, function: Callable[[], object]) -> bool:
        """Run something in the server's loop, soon; False if there is none."""
        run = self._running()
        if run is None or run.is_ending:
            return False
        run.call(function)
        return True

    def drop_connections(self) -> None:
        """Close every connection from this side, idle ones too, and go on listening."""
        run = self._running()
        if run is not None:
            run.call(run.drop_connections)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._gauges.open_connections

    @property
    def max_open_connections(self) -> int:
        """How many connections were ever open at once."""
        return self._gauges.max_open_connections

    @property
    def total_connections(self) -> int:
        """How many connections were ever made."""
        return self._gauges.total_connections

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now, held ones too."""
        return self._gauges.in_flight

    @property
    def max_in_flight(self) -> int:
        """How many requests were ever being answered at once."""
        return self._gauges.max_in_flight

    @property
    def held(self) -> int:
        """How many requests `Fault.hold` keeps waiting now."""
        return self._gauges.held

    def wait_for(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Block until something about the fake holds: `fake.wait_for(lambda: fake.held == 3)`.

        Raises:
            TimeoutError: If it does not within so many seconds.
        """
        self._gauges.wait_for(predicate, timeout)

    async def until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """The same as `wait_for`, for async tests: their loop goes on.

        Raises:
            TimeoutError: If it does not within so many seconds.
        """
        await self._gauges.until(predicate, timeout)


_RUNNING: weakref.WeakSet[_Run] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for run in list(_RUNNING):
        run.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
