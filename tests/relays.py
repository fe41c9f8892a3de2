"""Servers between a client and the fake: one terminates TLS, one is an HTTP CONNECT proxy."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from clerk_async.testing import FakeClerk


ELSEWHERE: Final = "0.0.0.0"
"""Counts as another machine, so proxies are used, but leads to this one on Linux."""
_TURNS_TO_CONNECT: Final = 4


def fake_elsewhere(fake: FakeClerk) -> dict[str, Any]:
    """Return client options that make the fake appear to be on another machine."""
    return {"base_url": f"http://{ELSEWHERE}:{fake.port}/v1", "allow_insecure": True}


async def stop_accepting(server: asyncio.Server) -> None:
    """Close a server, and lose no connection that it accepts at this moment.

    asyncio makes the transport of an accepted connection a turn of the loop later. If the server is
    closed in between, older Pythons drop the transport and leave its socket open.
    """
    for each in server.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())
    for _ in range(_TURNS_TO_CONNECT):
        await asyncio.sleep(0)
    server.close()


class Relay:
    """A server on loopback, in its own thread and event loop, that forwards bytes."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        await stop_accepting(server)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            port = await self._prepare(reader, writer)
            if port is not None:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await self._hand_on(reader, writer, inner_reader, inner_writer)
                finally:
                    inner_writer.transport.abort()
        writer.transport.abort()

    async def _hand_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inner_reader: asyncio.StreamReader,
        inner_writer: asyncio.StreamWriter,
    ) -> None:
        pumps = {
            asyncio.ensure_future(_pump(reader, inner_writer)),
            asyncio.ensure_future(_pump(inner_reader, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _prepare(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int | None:
        """Prepare a connection, and return the port behind it."""
        raise NotImplementedError


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


class TlsFront(Relay):
    """Terminates TLS in front of a plain server."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__()
        self._behind = port
        self._context = context

    @property
    def base_url(self) -> str:
        """The address of the Clerk API, with a host name for which certificates can be issued."""
        return f"https://localhost:{self.port}/v1"

    async def _prepare(
        self,
        reader: asyncio.StreamReader,  # noqa: ARG002 - TLS starts on the writer
        writer: asyncio.StreamWriter,
    ) -> int | None:
        await writer.start_tls(self._context)
        return self._behind


class Refusing:
    """A blocking server that does a TLS handshake as its context says, and sends every alert.

    It closes each accepted connection right after the handshake, and then sets `has_closed_one`.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.accepted = 0
        self.has_closed_one = threading.Event()
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"https://localhost:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.accepted += 1
            with connection, connection.dup() as bare, contextlib.suppress(OSError):
                bare.settimeout(10)
                secured = self._context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                with secured, contextlib.suppress(OSError):
                    secured.do_handshake()
                bare.shutdown(socket.SHUT_WR)
                self.has_closed_one.set()
                while bare.recv(65_536):  # closing with unread bytes would send a reset
                    pass


class ConnectProxy(Relay):
    """An HTTP proxy that supports only CONNECT, and requires a login if it was given one.

    Args:
        login: Name and password, separated by a colon; None for no login.
        status: Its response to an authorized CONNECT; it forwards only with 200.
        says: Bytes that it sends instead of a response before it closes.
    """

    def __init__(
        self, login: str | None = None, *, status: int | None = 200, says: bytes | None = None
    ) -> None:
        super().__init__()
        self.heads: list[str] = []
        self._says = says
        self._status = status
        self._wanted = None
        if login is not None:
            self._wanted = f"Basic {base64.b64encode(login.encode()).decode()}"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def _prepare(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        request, *lines = head.split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        if self._says is not None:
            writer.write(self._says)
            await writer.drain()
            return None
        if self._status is None:
            await self._stop.wait()
            return None
        if self._wanted is not None and headers.get("proxy-authorization") != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(f"HTTP/1.1 {self._status} As It Is\r\n\r\n".encode())
        await writer.drain()
        if (
            not request.startswith("CONNECT ")
            or self._status != 200
            or (self._wanted is not None and headers.get("proxy-authorization") != self._wanted)
        ):
            return None
        return int(request.split()[1].rpartition(":")[2])
