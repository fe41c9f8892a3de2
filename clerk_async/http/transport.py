"""Sends one attempt through aiohttp, and turns what happens into our own terms.

A `Wire` belongs to one event loop: a session with its connection pool. It makes no decisions; when
to send again is decided in `clerk_async.http.calls`. Only this file and
`clerk_async.http.connections` know aiohttp.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import aiohttp
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
from clerk_async.http.attempt_timer import AttemptTimer
from clerk_async.http.connections import (
    Connector,
    break_off,
    close_spent,
    distrust,
    emptied,
    let_go,
)
from clerk_async.http.settings import proxy_of_environment
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.http.attempt_timer import Attempt
    from clerk_async.http.operations import Request
    from clerk_async.http.settings import Proxy, WireSettings

MAX_BODY: Final = 64 * 2**20
"""Bytes of a body, after decompression, that are read at the most; a full page is 0.5 MB."""
CONNECT_SHARE: Final = 0.98
"""The part of a short attempt that connecting may use, so that it is told from a late answer."""

_FIRST_ERROR_STATUS: Final = 300
_FIRST_SERVER_ERROR: Final = 500
_REFUSAL: Final = re.compile("_ALERT_(?:[A-Z_]*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
_STRICT_CODES: Final = range(80, 95)
"""OpenSSL's verdicts of a strict check alone: from a path length without its key usage (80) to
explicit curve parameters (94), in the header x509_vfy.h."""
_OF_THE_WIRE: Final = (aiohttp.ClientError, OSError)
_FORESEEN: Final = (*_OF_THE_WIRE, RuntimeError, ResponseDecodeError)


class Answer:
    """A status, the headers and a whole body, and the connection that they came on."""

    __slots__ = ("_protocol", "attempts", "body", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, protocol: object = None
    ) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body
        self.attempts: int = 0
        self._protocol = protocol

    def distrust(self) -> None:
        """End the connection that it came on, as what comes next there may be another's too."""
        break_off(self._protocol)


class CallUnderWay(Protocol):
    """A call that is using a wire."""

    task: asyncio.Task[Any]


class Wire:
    """A session in one event loop, and the calls that are using it."""

    def __init__(
        self,
        settings: WireSettings,
        session: aiohttp.ClientSession,
        timer: AttemptTimer,
        *,
        is_ours: bool,
        proxy: Proxy | None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.pid: int = os.getpid()
        self.slots: asyncio.Semaphore = asyncio.Semaphore(settings.pool_size)
        self.calls: set[CallUnderWay] = set()
        self.is_closing: bool = False
        self._timer = timer
        self._session = session
        self._is_ours = is_ours
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
        request: Request,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        *,
        task: asyncio.Task[Any],
        limit: float | None,
        connect: float | None,
    ) -> Answer:
        """Send one request and read the whole answer.

        Args:
            request: What to send.
            headers: Its own, which differ from the client's, or None.
            body: Its body, encoded, or None.
            task: The running one.
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
        if not self._is_ours:
            close_spent(self._session.connector, self._root)
        cancelled_before = task.cancelling()
        attempt = self._timer.begin(task, limit)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._session.request(
                request.operation.method,
                self._url_of(request.path, request.query),
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
            failure = self._foreseen(error, attempt, cancelled_before)
            if failure is None:
                raise
        else:
            if attempt.has_rung:  # somebody on the way has swallowed it
                task.uncancel()
            protocol = getattr(response, "_protocol", None)
            return Answer(response.status, response.headers, content, protocol)
        finally:
            self._timer.finish(attempt)
        # Out here, as nothing may be chained to it, nor stay a local: aiohttp's own quote headers.
        told = self._translated(failure, is_connecting=attempt.is_connecting)
        if _tells_of_a_dead_pool(told):
            distrust(self._session.connector, self._root)
        if response is not None and response.status >= _FIRST_ERROR_STATUS:
            return Answer(response.status, response.headers, b"")
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
        self, error: BaseException, attempt: Attempt, cancelled_before: int
    ) -> Exception | None:
        """Tell our own alarm from the user's cancellation, and trouble of the wire from bugs."""
        is_late = attempt.has_rung and attempt.task.uncancel() <= cancelled_before
        if is_late and isinstance(error, asyncio.CancelledError):
            return aiohttp.ConnectionTimeoutError() if attempt.is_connecting else TimeoutError()
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

    def _translated(  # noqa: PLR0911 - a table
        self, error: Exception, *, is_connecting: bool
    ) -> Exception:
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
            return ConnectError(f"TLS failed: {_told(error)} ({_remedy(error)})", is_final=True)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return ConnectError(
                f"the proxy refused to connect: {error.status}",
                is_final=error.status < _FIRST_SERVER_ERROR,  # a repeat mends no credentials
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            return ConnectError(
                f"can't connect to {error.host}:{error.port}: {_why(error.os_error)}"
            )
        if is_connecting:  # as where a proxy hangs up, or answers CONNECT with what is no HTTP
            return ConnectError(f"can't connect: {_told(error)}")
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
        self._timer.stop()
        for call in list(self.calls):  # each of them, where one is made in the midst of another
            call.task.cancel()
        for _ in range(100):  # a cancelled call needs a few turns of the loop to let go
            if not self.calls:
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
        let_go(emptied(connector), self.loop if is_reachable else None)


def _tells_of_a_dead_pool(error: Exception) -> bool:
    """Whether what has befallen one connection may have befallen those beside it."""
    return isinstance(error, ConnectionLostError) or (
        isinstance(error, RequestTimeoutError) and error.phase == "response"
    )


def _refuses_us(error: Exception) -> bool:
    """Whether the server's TLS turned us away after we had begun to speak.

    In TLS 1.3 a server judges the client's certificate last, and reads no request before
    (RFC 8446, section 4.4.2).
    """
    cause = error.__cause__
    return isinstance(cause, ssl.SSLError) and bool(_REFUSAL.search(cause.reason or ""))


def _remedy(error: Exception) -> str:
    """Say what to do about a failure of TLS."""
    refused = getattr(error, "certificate_error", None)
    if getattr(refused, "verify_code", 0) in _STRICT_CODES:
        return (
            "Python 3.13 and later check certificates strictly, and this authority's don't pass: "
            "have them issued anew, or hand in an ssl_context without ssl.VERIFY_X509_STRICT"
        )
    if "SSL_CERT_FILE" in os.environ:
        return (
            "if your network has its own certificate authority, it must be in the file that this "
            "program was told of, or in an ssl_context"
        )
    return (
        "if your network has its own certificate authority, SSL_CERT_FILE or ssl_context tells us "
        "of it"
    )


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
    timer = AttemptTimer(asyncio.get_running_loop())
    if settings.client_session is not None:
        return Wire(settings, settings.client_session, timer, is_ours=False, proxy=proxy)
    if proxy is None and settings.trust_env:  # once: aiohttp's own look costs a thread a request
        proxy = proxy_of_environment(settings.base_url)
    connector = Connector(timer, ssl=settings.ssl_context or True)
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
    return Wire(settings, session, timer, is_ours=True, proxy=proxy)
