"""What a connection is: how one is made, looked at before it serves again, and let go.

A connection that was used before may hold what nobody asked for: an answer that was sent twice, the
rest of a body that was longer than it said, a balancer's 408, the end. The next request on it would
take the first of these for its own answer, and each request after it the answer of the one before.
So each connection is looked at when it is taken from the pool, and closed if anything has come.

After an attempt that got no answer the pool isn't trusted: what lost one connection has often lost
all that were idle beside it.
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
connection-limits/), and the address translation of the big clouds forgets one after 240 s at the
earliest.
"""

READ_AT_ONCE: Final = 2**16
"""Bytes that are read at once.

asyncio's own 256 KiB are above the 128 KiB from which malloc maps memory from the system, and
unmaps it, for each response.
"""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)[ \r\n]")


class SpokeFirstError(aiohttp.ClientConnectionError):
    """A connection that was just made is of no use, before anything was sent on it."""


class UnparsableBodyError(aiohttp.ClientPayloadError):
    """The body of an answer stopped making sense on its way."""


class _Protocol(ResponseHandler):
    """Remembers how an answer begins, in case the rest of it can't be parsed.

    And tells whoever reads the body: aiohttp leaves them waiting until the time is up.
    """

    _begun_for: object = None
    _beginning: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # asyncio reads TLS in a protocol of its own; other loops have neither attribute
        reader: Any = getattr(transport, "_ssl_protocol", transport)
        if hasattr(reader, "max_size"):
            reader.max_size = READ_AT_ONCE

    def data_received(self, data: bytes) -> None:
        if self._begun_for is not self._parser:  # each request has a parser of its own
            self._begun_for, self._beginning = self._parser, data
        ResponseHandler.data_received(self, data)  # super() would be one more call a request

    def set_exception(self, exc: Any, *args: Any, **options: Any) -> None:
        super().set_exception(exc, *args, **options)
        if isinstance(exc, HttpProcessingError):
            unparsable: Any = exc
            unparsable.beginning = self._beginning
            if self._payload is not None and not self._payload.is_eof():
                self._payload.set_exception(UnparsableBodyError(exc.message), exc)


def status_of(error: BaseException) -> int:
    """Return the status of an answer that can't be parsed; 0 if none had come."""
    found = _STATUS_LINE.match(getattr(error.__cause__, "beginning", b""))
    return int(found[1]) if found else 0


class Connector(aiohttp.TCPConnector):
    """A pool that looks at each connection before it is used again.

    Args:
        timer: Knows the attempt that a connection is made for.
        **options: aiohttp's own.
    """

    def __init__(self, timer: AttemptTimer, **options: Any) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - aiohttp's own is incomplete
            limit=0,  # our own semaphore stands in front, where waiting costs no attempt's time
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
        """Give a connection on which nothing has come since its last answer."""
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
            attempt.is_connecting = True  # and so it stays if this fails: see the wire
        return await super()._create_connection(*args, **options)

    def _first_use(
        self, connection: aiohttp.connector.Connection, protocol: Any
    ) -> aiohttp.connector.Connection:
        if protocol.should_close or not protocol.is_connected() or _is_spoken_on(protocol):
            connection.close()
            raise SpokeFirstError("the connection ended, or something was said on it, too early")
        for known in list(self._polls):
            if not known.is_connected():
                del self._polls[known]
        self._polls[protocol] = _poll_of(protocol)
        attempt = self._attempts.current()
        if attempt is not None:
            attempt.is_connecting = False
        return connection


def _poll_of(protocol: Any) -> Callable[[int], object]:
    """Give what tells whether a connection's socket has something to be read, or has ended."""
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
    """Whether a new connection has something to be read; not with TLS, which begins with more."""
    is_plain = protocol.transport.get_extra_info("sslcontext") is None
    return is_plain and bool(_poll_of(protocol)(0))


def _is_spent(protocol: Any, poll: Callable[[int], object]) -> object:
    """Whether anything has come on an idle connection: parsed, waiting in the socket, or half."""
    try:
        return protocol.should_close or poll(0) or protocol._parser.feed_eof()  # noqa: SLF001
    except AttributeError:  # an aiohttp with other names
        return False
    except Exception:  # noqa: BLE001 - whatever half of an answer is, it isn't ours
        return True


def close_spent(connector: Any, url: URL) -> None:
    """Close the idle connections to a host on which anything has come: for a pool of the user's."""
    for protocol in _idle(connector, url):
        if _is_spent(protocol, _poll_of(protocol)):
            protocol.close()


def distrust(connector: Any, url: URL) -> None:
    """Close all idle connections to a host."""
    for protocol in _idle(connector, url):
        break_off(protocol)


def break_off(protocol: Any) -> None:
    """End a connection at once, idle or in use; a call that uses it fails."""
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        transport.abort()


def _idle(connector: Any, url: URL) -> list[Any]:
    """Give what holds the idle connections to a host; none where aiohttp has other names."""
    pools: dict[Any, Any] = getattr(connector, "_conns", {})
    return [
        entry[0]
        for key, queue in pools.items()
        if (getattr(key, "host", None), getattr(key, "port", None)) == (url.raw_host, url.port)
        for entry in queue
        if entry[0].is_connected()
    ]


def emptied(connector: Any) -> list[Any]:
    """Take the transports out of a connector, as no public way of closing it leaves its loop alone.

    Where aiohttp has other names for its connections there are none: Python's collector, which
    warns, then closes them.
    """
    idle: dict[Any, Any] = getattr(connector, "_conns", {})
    busy: set[Any] = getattr(connector, "_acquired", set())
    protocols = [entry[0] for queue in idle.values() for entry in queue] + list(busy)
    idle.clear()
    busy.clear()
    if connector is not None:
        connector._closed = True  # noqa: SLF001 - so that it takes none back
    return [getattr(protocol, "transport", None) for protocol in protocols]


def let_go(transports: list[Any], loop: asyncio.AbstractEventLoop | None) -> None:
    """Close what is behind each transport.

    A loop that goes on, or may, is told of it: it would otherwise refuse, or lose, whatever gets
    the number of one of these sockets next.

    Args:
        transports: Those of the connections; None among them is passed over.
        loop: Theirs; None if it is closed, or is a parent's after a fork: the two share a selector,
            so nothing may go through it, and the child closes its own copies of the sockets.
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
    """Close a transport's socket under it, so that nobody waits for it and nothing warns.

    The attributes are asyncio's own; where a loop or a Python has others, its collector closes.
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
    """Looks names up as `clerk_async.http.daemon` does."""

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
        """Nothing to close: a look-up under way ends by itself."""
