"""How connections are made, checked before reuse, and closed.

A used connection may contain unsolicited data: a response that was sent twice, the rest of a body
that was longer than announced, a load balancer's 408, or the end. The next request would take this
for its own response, and each later request would get the response of the one before. So we check
each connection when we take it from the pool, and close it if anything has arrived.

After an attempt without a response, we distrust the pool: whatever broke one connection has often
broken all the idle ones too.
"""

from __future__ import annotations

import re
import select
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from clerk_async.http.daemon import look_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from yarl import URL

    from clerk_async.http.attempt_timer import AttemptTimer

KEEP_ALIVE: Final = 180.0
"""Seconds that an idle connection is kept.

Clerk's edge keeps one for 400 s (https://developers.cloudflare.com/fundamentals/reference/
connection-limits/), and the NAT gateways of the big clouds keep one for at least 240 s.
"""

READ_AT_ONCE: Final = 2**16
"""The most bytes to read at once.

asyncio's own 256 KiB exceed the 128 KiB above which malloc maps memory from the system, and unmaps
it again, for each response.
"""

_LOST_SOON: Final = 0.1
"""Seconds within which the loop reports why it is closing a connection."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)[ \r\n]")


class SpokeFirstError(aiohttp.ClientConnectionError):
    """A new connection is unusable before anything was sent on it."""


class UnparsableBodyError(aiohttp.ClientPayloadError):
    """The body of a response can't be parsed."""


class _Protocol(ResponseHandler):
    """Remembers how a response begins, in case the rest of it can't be parsed.

    In that case it also raises an error for the reader of the body, which aiohttp would leave
    waiting until the timeout. If a request can't be written because its connection is closing, it
    waits for the reason, such as a TLS alert.
    """

    _begun_for: object = None
    _beginning: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # asyncio has a separate protocol for TLS; other loops have neither attribute
        reader: Any = getattr(transport, "_ssl_protocol", transport)
        if hasattr(reader, "max_size"):
            reader.max_size = READ_AT_ONCE

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if isinstance(self._exception, aiohttp.ClientOSError) and self._exception is not exc:
            self._exception.__cause__ = exc  # aiohttp sets it only for those who already wait

    def data_received(self, data: bytes) -> None:
        if self._begun_for is not self._parser:  # each request has its own parser
            self._begun_for, self._beginning = self._parser, data
        ResponseHandler.data_received(self, data)  # super() would cost one more call per request

    def set_exception(self, exc: Any, *args: Any, **options: Any) -> None:
        if isinstance(exc.__cause__, aiohttp.ClientConnectionResetError):  # nothing was written
            if self._exception is None and self.transport is not None:
                self._loop.call_later(_LOST_SOON, self._give_up, exc)
            else:
                self._give_up(exc)
            return
        super().set_exception(exc, *args, **options)
        if isinstance(exc, HttpProcessingError):
            unparsable: Any = exc
            unparsable.beginning = self._beginning
            if self._payload is not None and not self._payload.is_eof():
                self._payload.set_exception(UnparsableBodyError(exc.message), exc)

    def _give_up(self, exc: Exception) -> None:
        if self._exception is None:
            super().set_exception(exc)


def status_of(error: BaseException) -> int:
    """Return the status of a response that can't be parsed; 0 if no status had arrived."""
    found = _STATUS_LINE.match(getattr(error.__cause__, "beginning", b""))
    return int(found[1]) if found else 0


class Connector(aiohttp.TCPConnector):
    """A connection pool that checks each connection before it is reused.

    Args:
        timer: Knows the attempt that a connection is made for.
        **options: Passed on to aiohttp.
    """

    def __init__(self, timer: AttemptTimer, **options: Any) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - aiohttp's own is incomplete
            limit=0,  # our own semaphore limits, where waiting doesn't count as time of an attempt
            keepalive_timeout=KEEP_ALIVE,
            resolver=_Resolver(),
            **options,
        )
        if hasattr(self, "_factory"):
            factory: Any = partial(_Protocol, loop=self._loop)
            self._factory = factory
        self._attempts = timer
        self._polls: dict[Any, Callable[[int], object]] = {}

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        """Return a connection that has received nothing since its last response."""
        while True:
            connection = await super().connect(*args, **options)
            protocol: Any = connection.protocol
            poll = self._polls.get(protocol)
            if poll is None:
                return self._first_use(connection, protocol)
            if not _is_spent(protocol, poll):
                return connection
            connection.close()

    async def _create_connection(self, *args: Any, **options: Any) -> Any:
        attempt = self._attempts.current()
        if attempt is not None:
            attempt.is_connecting = True  # stays true if this fails: see `Wire`
        return await super()._create_connection(*args, **options)

    def _first_use(
        self, connection: aiohttp.connector.Connection, protocol: Any
    ) -> aiohttp.connector.Connection:
        if protocol.should_close or not protocol.is_connected() or _is_spoken_on(protocol):
            reason = protocol.exception()
            connection.close()
            if isinstance(reason, aiohttp.ClientOSError):
                raise reason
            raise SpokeFirstError("the new connection was closed, or received unsolicited data")
        for known in list(self._polls):
            if not known.is_connected():
                del self._polls[known]
        self._polls[protocol] = _poll_of(protocol)
        attempt = self._attempts.current()
        if attempt is not None:
            attempt.is_connecting = False
        return connection


def _poll_of(protocol: Any) -> Callable[[int], object]:
    """Return a function that returns whether a connection's socket has data or has ended."""
    sock = protocol.transport.get_extra_info("socket")
    if sock is None:  # another kind of transport
        return bool
    number: int = sock.fileno()
    if not hasattr(select, "poll"):  # Windows
        return lambda _: select.select([number], [], [], 0)[0]
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return poll.poll


def _is_spoken_on(protocol: Any) -> bool:
    """Whether a new connection has received data; false for TLS, where servers may send some."""
    is_plain = protocol.transport.get_extra_info("sslcontext") is None
    return is_plain and bool(_poll_of(protocol)(0))


def _is_spent(protocol: Any, poll: Callable[[int], object]) -> object:
    """Whether an idle connection has received anything: parsed, in the socket, or incomplete."""
    try:
        return protocol.should_close or poll(0) or protocol._parser.feed_eof()  # noqa: SLF001
    except AttributeError:  # an aiohttp with other names
        return False
    except Exception:  # noqa: BLE001 - an incomplete response, which isn't ours
        return True


def close_spent(connector: Any, url: URL) -> None:
    """Close a host's idle connections that have received anything: for the user's own pool."""
    for protocol in _idle(connector, url):
        if _is_spent(protocol, _poll_of(protocol)):
            protocol.close()


def distrust(connector: Any, url: URL) -> None:
    """Close all idle connections to a host."""
    for protocol in _idle(connector, url):
        break_off(protocol)


def break_off(protocol: Any) -> None:
    """Close a connection at once, idle or in use; a call that uses it fails."""
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        transport.abort()


def _idle(connector: Any, url: URL) -> list[Any]:
    """Return the protocols of a host's idle connections; none if aiohttp renames its attributes."""
    pools: dict[Any, Any] = getattr(connector, "_conns", {})
    return [
        entry[0]
        for key, queue in pools.items()
        if (getattr(key, "host", None), getattr(key, "port", None)) == (url.raw_host, url.port)
        for entry in queue
        if entry[0].is_connected()
    ]


def emptied(connector: Any) -> list[Any]:
    """Remove a connector's transports and return them; its public `close` would use its loop.

    If aiohttp renames its attributes, there are none: then Python's garbage collector closes them,
    with a warning.
    """
    idle: dict[Any, Any] = getattr(connector, "_conns", {})
    busy: set[Any] = getattr(connector, "_acquired", set())
    protocols = [entry[0] for queue in idle.values() for entry in queue] + list(busy)
    idle.clear()
    busy.clear()
    if connector is not None:
        connector._closed = True  # noqa: SLF001 - so that it takes no connection back
    return [getattr(protocol, "transport", None) for protocol in protocols]


def let_go(transports: list[Any], loop: asyncio.AbstractEventLoop | None) -> None:
    """Close the socket of each transport.

    A loop that may still run must learn of it. Otherwise it would reject or lose the next socket
    that gets the same file descriptor.

    Args:
        transports: The transports of the connections; None entries are skipped.
        loop: Their loop; None if it is closed, or is the parent's after a fork. Parent and child
            share a selector, so the child doesn't use it and closes only its copies of the sockets.
    """
    if loop is not None and loop.is_running():
        with suppress(RuntimeError):  # it has been closed meanwhile
            loop.call_soon_threadsafe(_abort, transports)
            return
    for transport in transports:
        _close_socket(transport, loop)


def _abort(transports: list[Any]) -> None:
    for transport in transports:
        if transport is not None:
            transport.abort()


def _close_socket(transport: Any, loop: Any) -> None:
    """Close a transport's socket directly, so that the loop doesn't wait for it and nothing warns.

    The attributes are private to asyncio. If a loop or a Python version has others, the garbage
    collector closes the socket.
    """
    with suppress(AttributeError):
        inner = transport._ssl_protocol._transport  # noqa: SLF001
        transport._closed = True  # noqa: SLF001
        transport = inner
    with suppress(AttributeError, OSError):
        sock, transport._sock = transport._sock, None  # noqa: SLF001
        if sock is not None:
            with suppress(AttributeError):  # another kind of loop
                if loop is not None:
                    transport._closing = True  # noqa: SLF001
                    loop._remove_reader(sock.fileno())  # noqa: SLF001
                    loop._remove_writer(sock.fileno())  # noqa: SLF001
            sock.close()


class _Resolver(AbstractResolver):
    """Resolves names with `clerk_async.http.daemon`."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in await look_up(host, port, family)
        ]

    async def close(self) -> None:
        """Do nothing: a running lookup ends by itself."""
