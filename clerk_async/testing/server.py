"""The server of a fake: a thread with a listening socket and an event loop, and its counters."""

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
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, cast

import anyio.to_thread
from aiohttp import web

from .checks import must_be
from .gauges import Gauges, monotonic

if TYPE_CHECKING:
    from collections.abc import Generator

    from aiohttp.web_protocol import RequestHandler

    from .wire import Wire

HOST = "127.0.0.1"
_BACKLOG = 1024
_TURNS_TO_CONNECT = 4
"""Turns of the loop until an accepted socket becomes a connection; only then can it be closed."""
_MAX_PORT = 65_535


class _Counting(web.Server):  # type: ignore[misc,unused-ignore]
    """aiohttp's low-level server, which counts every connection."""

    def __init__(self, wire: Wire, gauges: Gauges) -> None:
        # If a client disconnects, the work for it is cancelled.
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
    """One run of a server, from start to end: the thread and everything that belongs to it."""

    def __init__(self, gauges: Gauges, tls: ssl.SSLContext | None) -> None:
        self.pid = os.getpid()
        self.is_ending = False
        self.wire: Wire | None = None
        # The thread takes the socket out and closes it, or `end` does if the thread never started.
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
        """Start to listen: new connections wait for the thread. Return the port."""
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
        """Ask the run to end; it then does so by itself. May be called again."""
        self.is_ending = True
        while self._unclaimed:
            self._unclaimed.pop().close()
        self.call(self._stopping.set)

    def wait(self) -> None:
        """Wait until the run has ended."""
        with suppress(RuntimeError):  # its start was interrupted, so it ends as soon as it begins
            self._thread.join()

    def call(self, function: Callable[[], object]) -> None:
        """Run a function in the thread's loop, soon; drop it if the loop has ended."""
        self._calls.append(function)  # the loop checks this when it starts
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
        cast("Any", loop).time = monotonic  # with a frozen clock it would never wake up
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
        """Release the sockets in a forked child; otherwise they stay open when the parent stops."""
        held = [] if self._listening is None else [self._listening]
        if self._server is not None:
            held += [to.get_extra_info("socket") for to in list(self._server.open.values())]
        nowhere = os.open(os.devnull, os.O_RDWR)
        # Not closed: objects in this process still own the descriptors and may close them later.
        for descriptor in (each.fileno() for each in held):
            if descriptor >= 0:
                os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


@contextmanager
def _without_ctrl_c() -> Generator[None]:
    """Delay a Ctrl-C: if it interrupts the start of a thread, the thread stays listed forever."""
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
    """A server on loopback with its own thread and event loop; the base of `FakeClerk`."""

    def __init__(self, port: int, ssl_context: ssl.SSLContext | None) -> None:
        if not 0 <= must_be("port", port, int) <= _MAX_PORT:
            raise ValueError(f"port must be from 0 to {_MAX_PORT}, not {port}")
        self._port = port
        self._tls = must_be("ssl_context", ssl_context, ssl.SSLContext, None)
        self._gauges = Gauges()
        # Re-entrant, because a signal handler may stop a server that is being started.
        self._run_lock = threading.RLock()
        self._run: _Run | None = None

    def _make_wire(self) -> Wire:
        raise NotImplementedError

    # Start and stop

    def start(self) -> Self:
        """Start the server; do nothing if it is running. After `stop`, it keeps the same port.

        Raises:
            OSError: If the port is in use.
        """
        with self._run_lock:
            run = self._running()
            if run is not None and not run.is_ending:
                return self
            self.stop()  # in case that was interrupted before
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
        """Close every connection and end the thread; the fake keeps its state."""
        with self._run_lock:
            run = self._running()
            if run is None:
                return
            try:
                run.end()
                run.wait()
            except BaseException:  # Ctrl-C, before or after the run was asked to end
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
        except BaseException:  # Ctrl-C just after the start: nothing else would stop it
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except BaseException:
            self.stop()
            raise

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)

    # Address

    @property
    def _root(self) -> str:
        if not self._port:
            raise RuntimeError("the fake has no address yet: use `with FakeClerk() as fake:`")
        return f"{'http' if self._tls is None else 'https'}://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """The API's base URL, including `/v1`; it stays the same when the fake is stopped."""
        return f"{self._root}/v1"

    @property
    def port(self) -> int:
        """The port."""
        return self._port

    # Connections and requests

    def _call_in_loop(self, function: Callable[[], object]) -> bool:
        """Run a function in the server's loop, soon; return False if there is no loop."""
        run = self._running()
        if run is None or run.is_ending:
            return False
        run.call(function)
        return True

    def drop_connections(self) -> None:
        """Close every connection from this side, including idle ones, and keep listening."""
        run = self._running()
        if run is not None:
            run.call(run.drop_connections)

    @property
    def open_connections(self) -> int:
        """The number of connections that are open now."""
        return self._gauges.open_connections

    @property
    def max_open_connections(self) -> int:
        """The most connections that were open at once."""
        return self._gauges.max_open_connections

    @property
    def total_connections(self) -> int:
        """The number of connections that were made."""
        return self._gauges.total_connections

    @property
    def in_flight(self) -> int:
        """The number of requests that are being answered now, including held ones."""
        return self._gauges.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most requests that were being answered at once."""
        return self._gauges.max_in_flight

    @property
    def held(self) -> int:
        """The number of requests that `Fault.hold` is holding now."""
        return self._gauges.held

    def wait_for(self, predicate: Callable[[], object], timeout: float = 30.0) -> None:
        """Block until a condition is true, as in `fake.wait_for(lambda: fake.held == 3)`.

        Args:
            predicate: The condition; called after each event of the service.
            timeout: Seconds to wait at most. The default is long because a busy machine, such as
                one of a CI service, may stall for seconds; a wait ends as soon as it can.

        Raises:
            TimeoutError: If it is not true within the timeout.
        """
        self._gauges.wait_for(predicate, timeout)

    async def until(self, predicate: Callable[[], object], timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Wait like `wait_for`, but without blocking the event loop of an async test.

        Args:
            predicate: The condition; called after each event of the service.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: If it is not true within the timeout.
        """
        await self._gauges.until(predicate, timeout)


_RUNNING: weakref.WeakSet[_Run] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for run in list(_RUNNING):
        run.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
