"""The fake's thread: a listening socket, an event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aiohttp.web_protocol import RequestHandler

    from .gauges import Gauges
    from .wire import Wire

HOST = "127.0.0.1"
_BACKLOG = 1024
_TURNS_TO_CONNECT = 4
"""Turns of the loop until a socket that was accepted is a connection, which alone can be closed."""


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


class ServerThread:
    """Runs a fake's server from `start` to `stop`; may be started again, on the same port."""

    def __init__(self, gauges: Gauges, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self._gauges = gauges
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._owner = 0
        self._server: _Counting | None = None
        self.port: int = port
        self.wire: Wire | None = None

    @property
    def running(self) -> bool:
        """Is it listening?"""
        return self._thread is not None and self._owner == os.getpid()

    def start(self, make_wire: Callable[[], Wire]) -> None:
        """Listen, and serve from a thread; does nothing while it runs.

        Raises:
            OSError: If the port is taken.
        """
        with self._lock:
            if self.running:
                return
            # The socket listens before the thread runs: whoever connects now waits in its queue.
            self._socket = socket.create_server((HOST, self.port), backlog=_BACKLOG)
            self.port = self._socket.getsockname()[1]
            self._loop = asyncio.new_event_loop()
            self._stopping = asyncio.Event()
            self._owner = os.getpid()
            self.wire = make_wire()
            self._thread = threading.Thread(
                target=self._run,
                args=(self._loop, self._socket, self._stopping, self.wire),
                name=f"FakeClerk:{self.port}",
                daemon=True,
            )
            self._thread.start()
            _RUNNING.add(self)
            atexit.register(self.stop)

    def stop(self) -> None:
        """Close every connection and end the thread; does nothing where nothing runs."""
        with self._lock:
            thread, loop, stopping = self._thread, self._loop, self._stopping
            self._thread = self._loop = self._stopping = None
            if thread is None or loop is None or stopping is None or self._owner != os.getpid():
                return
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            self.wire = None
            _RUNNING.discard(self)
            atexit.unregister(self.stop)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the sockets, or they stay open when the parent stops."""
        held = [] if self._socket is None else [self._socket]
        if self._server is not None:
            held += [to.get_extra_info("socket") for to in list(self._server.open.values())]
        nowhere = os.open(os.devnull, os.O_RDWR)
        # Not closed: each number still belongs to an object here, which may close it yet.
        for descriptor in (each.fileno() for each in held):
            if descriptor >= 0:
                os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)

    def call(self, function: Callable[[], Any]) -> None:
        """Run something on the server's loop, soon; dropped where nothing runs."""
        loop = self._loop
        if loop is not None and self.running:
            loop.call_soon_threadsafe(function)

    def drop_connections(self) -> None:
        """Close every connection from this side, and go on listening."""
        self.call(self._drop)

    def _drop(self) -> None:
        if self._server is not None:
            for transport in list(self._server.open.values()):
                transport.close()

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        stopping: asyncio.Event,
        wire: Wire,
    ) -> None:
        try:
            loop.run_until_complete(self._serve(listening, stopping, wire))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            listening.close()

    async def _serve(self, listening: socket.socket, stopping: asyncio.Event, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        self._server = counting = _Counting(wire, self._gauges)
        server = await loop.create_server(
            counting, sock=listening, backlog=_BACKLOG, ssl=self._ssl_context
        )
        try:
            await stopping.wait()
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


_RUNNING: weakref.WeakSet[ServerThread] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for running in list(_RUNNING):
        running.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
