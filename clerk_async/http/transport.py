"""The one file that knows aiohttp: sends one attempt, and turns what happens into our own terms.

A `Wire` belongs to one event loop: a session with its connection pool. It makes no decisions; when
to send again is decided in `clerk_async.http.calls`.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from clerk_async.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    RequestTimeoutError,
    ResponseDecodeError,
)
from clerk_async.http.attempt_timer import Alarms
from clerk_async.http.daemon import look_up
from clerk_async.http.settings import proxy_of_environment
from clerk_async.http.sockets import let_go
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.http.settings import Proxy, WireSettings

MAX_BODY: Final = 64 * 2**20
"""Bytes of a body, after decompression, that are read at the most; a full page is 0.5 MB."""
CONNECT_SHARE: Final = 0.98
"""The part of a short attempt that connecting may use, so that it is told from a late answer."""

_FIRST_ERROR_STATUS: Final = 300
_FIRST_SERVER_ERROR: Final = 500
_REFUSAL: Final = re.compile("_ALERT_(?:[A-Z_]*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
_OF_THE_WIRE: Final = (aiohttp.ClientError, OSError)
_FORESEEN: Final = (*_OF_THE_WIRE, RuntimeError, ResponseDecodeError)


class Answer:
    """A status, the headers and a whole body."""

    __slots__ = ("attempts", "body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body
        self.attempts: int = 0


class Wire:
    """A session in one event loop, and the calls that are using it."""

    def __init__(
        self,
        settings: WireSettings,
        session: aiohttp.ClientSession,
        *,
        is_ours: bool,
        proxy: Proxy | None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.pid: int = os.getpid()
        self.slots: asyncio.Semaphore = asyncio.Semaphore(settings.pool_size)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_closing: bool = False
        self._alarms = Alarms(self.loop)
        self._session = session
        self._is_ours = is_ours
        connector = session.connector
        self._connecting: set[asyncio.Task[Any]] = set()
        if isinstance(connector, _Connector):
            self._connecting = connector.connecting
        self._root = URL(settings.base_url, encoded=True)
        self._prefix = self._root.raw_path.rstrip("/")
        self._headers = settings.headers
        self._has_headers = is_ours and proxy is None  # the session sends them by itself
        self._options: dict[str, Any] = {"allow_redirects": False}
        if not is_ours:  # and may have been made to do otherwise
            self._options["raise_for_status"] = False
            self._options["auto_decompress"] = True
            self._options["skip_auto_headers"] = _SKIPPED_HEADERS
        if proxy is not None:
            self._options["proxy"] = URL(proxy.url)
            if self._root.scheme == "https":
                self._options["proxy_headers"] = proxy.headers
            else:  # there's no tunnel to ask for: the request itself goes to the proxy
                self._headers = {**settings.headers, **proxy.headers}
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    @property
    def is_dead(self) -> bool:
        """Whether its loop can't run any more here: closed, stopped, or left behind by a fork."""
        return (
            self.pid != os.getpid()
            or self.loop.is_closed()
            or not (self.loop.is_running() or self.loop is asyncio.get_running_loop())
        )

    async def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        *,
        limit: float | None,
        connect: float | None,
    ) -> Answer:
        """Send one request and read the whole answer.

        Args:
            method: The HTTP method.
            path: Below the base URL, encoded.
            query: Encoded; empty for none.
            headers: Those that differ from the client's own, or None.
            body: The encoded body, or None.
            limit: Seconds for the whole attempt with its body.
            connect: Seconds to make a connection, where there's none to reuse.

        Raises:
            TransportError: If no whole answer came.
            ResponseDecodeError: If the answer is larger than anything we'd read.
            ClientClosedError: If the session was closed by its owner.
            ConfigurationError: If the owner's session adds credentials of its own.
        """
        if limit is not None and (connect is None or limit <= connect):
            connect = limit * CONNECT_SHARE
        timeout = self._timeouts.get(connect) or self._timeout_for(connect)
        task = cast("asyncio.Task[Any]", asyncio.current_task(self.loop))
        cancelled_before = task.cancelling()
        if limit is not None:
            self._alarms.set(task, limit)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._session.request(
                method,
                self._url_of(path, query),
                data=body,
                # in no local of ours: reports of errors may show those
                headers=headers if self._has_headers else {**self._headers, **(headers or {})},
                timeout=timeout,
                **self._options,
            )
            content = await _read(response)
        except BaseException as error:
            if response is not None:
                response.close()
            failure = self._foreseen(error, task, cancelled_before)
            self._connecting.discard(task)
            if failure is None:
                raise
        else:
            return Answer(response.status, response.headers, content)
        finally:
            if limit is not None:
                self._alarms.clear(task)
        if response is not None and response.status >= _FIRST_ERROR_STATUS:
            return Answer(response.status, response.headers, b"")
        # Out here, as nothing may be chained to it, nor stay a local: aiohttp's own quote headers.
        told = self._translated(failure)
        del failure, response
        raise told

    def _url_of(self, path: str, query: str) -> URL:
        """Put path and query behind the base URL, without parsing what is encoded already."""
        if not query:
            return self._root.with_path(self._prefix + path, encoded=True)
        return URL.build(
            scheme=self._root.scheme,
            authority=self._root.raw_authority,
            path=self._prefix + path,
            query_string=query,
            encoded=True,
        )

    def _foreseen(
        self, error: BaseException, task: asyncio.Task[Any], cancelled_before: int
    ) -> Exception | None:
        """Tell our own alarm from the user's cancellation, and trouble of the wire from bugs."""
        is_late = self._alarms.has_rung(task) and task.uncancel() <= cancelled_before
        if is_late and isinstance(error, asyncio.CancelledError):
            return aiohttp.ConnectionTimeoutError() if task in self._connecting else TimeoutError()
        is_foreseen = isinstance(error, _FORESEEN) or (
            type(error) is ValueError and not self._is_ours  # what a session of theirs adds
        )
        return cast("Exception", error) if is_foreseen else None

    def _timeout_for(self, connect: float | None) -> aiohttp.ClientTimeout:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=connect, sock_read=None, ceil_threshold=math.inf
        )
        if len(self._timeouts) < 16:  # noqa: PLR2004 - the usual ones; deadlines vary endlessly
            self._timeouts[connect] = timeout
        return timeout

    def _translated(self, error: Exception) -> Exception:  # noqa: PLR0911 - a table
        """Say in our own terms what a low-level exception means for this request."""
        if isinstance(error, ResponseDecodeError):
            return error
        if isinstance(error.__cause__, ContentEncodingError):
            return ResponseDecodeError("the body of the answer isn't what its encoding says")
        if isinstance(error, RuntimeError | ValueError) and not isinstance(error, _OF_THE_WIRE):
            return self._theirs(error)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return RequestTimeoutError("no connection within the time allowed", phase="connect")
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
            return RequestTimeoutError("no whole answer within the time allowed", phase="response")
        if isinstance(error, aiohttp.ClientSSLError) or _refuses_us(error):
            return ConnectError(
                f"TLS failed: {_told(error)} (if your network has its own certificate "
                "authority, SSL_CERT_FILE or ssl_context tells us of it)",
                is_final=True,
            )
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return ConnectError(
                f"the proxy refused to connect: {error.status}",
                is_final=error.status < _FIRST_SERVER_ERROR,  # a repeat mends no credentials
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            return ConnectError(
                f"can't connect to {error.host}:{error.port}: {_why(error.os_error)}"
            )
        return ConnectionLostError(f"the connection was lost: {_told(error)}")

    def _theirs(self, error: Exception) -> Exception:
        """Say what is wrong with a session that was handed in."""
        if self._session.closed:
            return ClientClosedError("the client_session that was handed in is closed")
        if isinstance(error, ValueError):
            return ConfigurationError(
                "the client_session that was handed in can't send our requests: it adds "
                "credentials of its own (auth=, or trust_env with a .netrc file)"
            )
        return error

    async def aclose(self) -> None:
        """Close what is ours; ends the calls in flight, which see `is_closing`."""
        self.is_closing = True
        self._alarms.stop()
        for task in list(self.tasks):
            task.cancel()
        for _ in range(100):  # a cancelled call needs a few turns of the loop to let go
            if not self.tasks:
                break
            await asyncio.sleep(0)
        if self._is_ours:
            await self._session.close()

    def abandon(self) -> None:
        """Let go of a wire whose client is gone, or whose loop can't run any more here."""
        if not self._is_ours:
            return
        connector = self._session.connector
        self._session.detach()
        is_reachable = self.pid == os.getpid() and not self.loop.is_closed()
        let_go(_emptied(connector), self.loop if is_reachable else None)


def _emptied(connector: Any) -> list[Any]:
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


def _refuses_us(error: Exception) -> bool:
    """Whether the server's TLS turned us away after we had begun to speak.

    In TLS 1.3 a server judges the client's certificate last, and reads no request before
    (RFC 8446, section 4.4.2).
    """
    cause = error.__cause__
    return isinstance(cause, ssl.SSLError) and bool(_REFUSAL.search(cause.reason or ""))


def _told(error: Exception) -> str:
    """Give an exception's own words, without what they may quote of the request."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer isn't HTTP ({type(error).__name__})"
    return redact(str(error)) or type(error).__name__


def _why(error: OSError) -> str:
    """Say why there's no connection, in the system's words rather than asyncio's."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return redact(error.strerror or str(error)) or type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body up to MAX_BODY bytes."""
    length = response.content_length
    if length is not None and length <= MAX_BODY and "Content-Encoding" not in response.headers:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY or (length or 0) > MAX_BODY:
            response.close()
            raise ResponseDecodeError(
                f"the body of the answer is larger than {MAX_BODY} bytes", status=response.status
            )
        chunks.append(chunk)
    response.release()
    return b"".join(chunks)


_SKIPPED_HEADERS: Final = ("Content-Type",)  # a POST without a body has no type


def open_wire(settings: WireSettings) -> Wire:
    """Make a wire in the running loop, around the user's session or one of our own."""
    proxy = settings.proxy
    if settings.client_session is not None:
        return Wire(settings, settings.client_session, is_ours=False, proxy=proxy)
    if proxy is None and settings.trust_env:  # once: aiohttp's own look costs a thread a request
        proxy = proxy_of_environment(settings.base_url)
    connector = _Connector(
        limit=0,  # our own semaphore stands in front, where waiting costs no attempt's time
        ssl=True if settings.ssl_context is None else settings.ssl_context,
        resolver=_Resolver(),
    )
    connector.connecting = set()
    session = aiohttp.ClientSession(
        connector=connector,
        # aiohttp sends a session's own headers to the proxy too, and these hold the secret key.
        headers=settings.headers if proxy is None else None,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_SKIPPED_HEADERS,
        trace_configs=list(settings.trace_configs),
    )
    if hasattr(session, "_retry_connection"):
        session._retry_connection = False  # noqa: SLF001 - every send is ours to decide and to count
    return Wire(settings, session, is_ours=True, proxy=proxy)


class _Connector(aiohttp.TCPConnector):
    """Knows who still waits for a connection: on a busy machine two timers can ring as one."""

    connecting: set[asyncio.Task[Any]]

    async def connect(self, *args: Any, **options: Any) -> Any:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.connecting.add(task)  # whose failure leaves it in: the wire asks, and takes it out
        connection = await super().connect(*args, **options)
        self.connecting.discard(task)
        return connection


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
