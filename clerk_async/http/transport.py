"""Sends one attempt through aiohttp, and returns a response or one of our own errors.

A `Wire` belongs to one event loop and has an aiohttp session with its connection pool. It makes no
decisions: `clerk_async.http.calls` decides when to retry. Only this module,
`clerk_async.http.connections` and `clerk_async.http.failures` depend on aiohttp.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import aiohttp
from yarl import URL

from clerk_async.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectionLostError,
    RequestTimeoutError,
    ResponseDecodeError,
)
from clerk_async.http.attempt_timer import AttemptTimer
from clerk_async.http.bodies import read_body
from clerk_async.http.connections import (
    Connector,
    break_off,
    close_spent,
    distrust,
    emptied,
    let_go,
)
from clerk_async.http.failures import drop_frames, translated
from clerk_async.http.settings import proxy_to_use, refuse_their_proxy
from clerk_async.under_test import settle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.http.attempt_timer import Attempt
    from clerk_async.http.operations import Request
    from clerk_async.http.settings import Proxy, WireSettings

MAX_HEADER: Final = 2**16
"""The most bytes of one header to read, as in curl and Go; aiohttp's own limit is 8190."""
MAX_HEADERS: Final = 1000
CONNECT_SHARE: Final = 0.98
"""The share of a short attempt for connecting, to distinguish that from a late response."""

_FIRST_ERROR_STATUS: Final = 300
_OF_THE_WIRE: Final = (aiohttp.ClientError, OSError)
_FORESEEN: Final = (*_OF_THE_WIRE, RuntimeError, ResponseDecodeError)


class Answer:
    """A response: status, headers and whole body, and the connection that it came on."""

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
        """Close its connection, because the next response there may be another request's too."""
        break_off(self._protocol)


class Slots:
    """Counts the free slots of a connection pool; each attempt takes one.

    It works like asyncio's semaphore, which makes eight Python calls even if it needn't wait.
    """

    __slots__ = ("_waiting", "free")

    def __init__(self, count: int) -> None:
        self.free: int = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a free slot; return false if there is none."""
        if self.free:
            self.free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Wait for a slot, in order of arrival."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it got a slot in the same loop iteration
                self.release()
            with suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def release(self) -> None:
        """Pass the slot to the first waiting attempt, or mark it as free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if settle(turn):  # otherwise it was cancelled meanwhile
                return
        self.free += 1


class CallUnderWay(Protocol):
    """A call that is using a wire."""

    task: asyncio.Task[Any]


class Wire:
    """An aiohttp session in one event loop, and the calls that are using it."""

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
        self.slots: Slots = Slots(settings.pool_size)
        self.calls: set[CallUnderWay] = set()
        self.is_closing: bool = False
        self._timer = timer
        self._session = session
        self._is_ours = is_ours
        self._root = URL(settings.base_url, encoded=True)
        self._has_own_trust = settings.ssl_context is not None
        self._prefix = self._root.raw_path.rstrip("/")
        self._headers = settings.headers
        self._has_headers = is_ours and proxy is None  # if so, the session sends them by itself
        self._is_traced = not is_ours or bool(settings.trace_configs)
        self._options: dict[str, Any] = {"allow_redirects": False}
        if not is_ours:  # the user may have set these otherwise
            self._options.update(_READING, raise_for_status=False)
            self._options["skip_auto_headers"] = _SKIPPED_HEADERS
        if proxy is not None:
            self._options["proxy"] = URL(proxy.url)
            if self._root.scheme == "https":
                self._options["proxy_headers"] = proxy.headers
            else:  # there is no CONNECT: the request itself goes to the proxy
                self._headers = {**settings.headers, **proxy.headers}
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    @property
    def is_dead(self) -> bool:
        """Whether its loop can't run here any more: closed, stopped, or left behind by a fork."""
        return (
            self.pid != os.getpid()
            or self.loop.is_closed()
            or not (self.loop.is_running() or self.loop is asyncio.get_running_loop())
        )

    async def send(
        self,
        request: Request,
        *,
        task: asyncio.Task[Any],
        limit: float | None,
        connect: float | None,
    ) -> Answer:
        """Send one request and read the whole response.

        Args:
            request: The request to send.
            task: The running task.
            limit: Seconds for the whole attempt, body included.
            connect: Seconds to connect, if there is no connection to reuse.

        Raises:
            TransportError: If no complete response arrived.
            ResponseDecodeError: If the response can't be read.
            ClientClosedError: If the user closed their session.
            ConfigurationError: If the user's session adds its own credentials.
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
                # not in a local variable: error reports may show those
                data=None if request.body is None else request.encoded_body(),
                headers=(
                    request.headers
                    if self._has_headers
                    else {**self._headers, **(request.headers or {})}
                ),
                timeout=timeout,
                **self._options,
            )
            content = await read_body(response, is_traced=self._is_traced)
        except BaseException as error:
            if response is not None:
                response.close()
            failure = self._foreseen(error, attempt, cancelled_before)
            if failure is None:
                response = None  # its repr shows cookies
                drop_frames(error)
                raise
        else:
            if attempt.has_rung:  # code in between has swallowed the cancellation
                task.uncancel()
            protocol = getattr(response, "_protocol", None)
            return Answer(response.status, response.headers, content, protocol)
        finally:
            self._timer.finish(attempt)
        # Outside the except block, so that aiohttp's errors, which quote headers, aren't chained.
        told = self._told(failure, attempt)
        if response is not None and response.status >= _FIRST_ERROR_STATUS:
            return Answer(response.status, response.headers, b"")
        if isinstance(told, ResponseDecodeError) and told.status >= _FIRST_ERROR_STATUS:
            return Answer(told.status, {}, b"")
        del failure, response
        raise told

    def _told(self, failure: Exception, attempt: Attempt) -> Exception:
        """Return our own error for a failed attempt, and distrust the pool if need be."""
        if isinstance(failure, RuntimeError | ValueError) and not isinstance(failure, _OF_THE_WIRE):
            return self._theirs(failure)
        told = translated(
            failure, is_connecting=attempt.is_connecting, has_own_trust=self._has_own_trust
        )
        if _tells_of_a_dead_pool(told):
            distrust(self._session.connector, self._root)
        return told

    def _url_of(self, path: str, query: str) -> URL:
        """Append path and query to the base URL, without parsing what is already encoded."""
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
        """Return a timeout or a network failure; None for the user's cancellation and for bugs."""
        is_late = attempt.has_rung and attempt.task.uncancel() <= cancelled_before
        if is_late and isinstance(error, asyncio.CancelledError):
            return aiohttp.ConnectionTimeoutError() if attempt.is_connecting else TimeoutError()
        is_foreseen = isinstance(error, _FORESEEN) or (
            type(error) is ValueError and not self._is_ours  # from options of the user's session
        )
        return cast("Exception", error) if is_foreseen else None

    def _timeout_for(self, connect: float | None) -> aiohttp.ClientTimeout:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=connect, sock_read=None, ceil_threshold=math.inf
        )
        if len(self._timeouts) < 16:  # noqa: PLR2004 - the usual ones; deadlines vary too much
            self._timeouts[connect] = timeout
        return timeout

    def _theirs(self, error: Exception) -> Exception:
        """Return an error that says what is wrong with the user's session."""
        if self._session.closed:
            return ClientClosedError("the given client_session is closed")
        if isinstance(error, ValueError):
            return ConfigurationError(
                "the given client_session can't send our requests because it adds its own "
                "credentials (auth=, or trust_env with a .netrc file)"
            )
        return error

    async def aclose(self) -> None:
        """Cancel the calls in flight, which see `is_closing`, and close our own session."""
        self.is_closing = True
        self._timer.stop()
        for call in list(self.calls):  # a task is cancelled once for each of its nested calls
            call.task.cancel()
        try:
            for _ in range(100):  # a cancelled call needs a few loop iterations to end
                if not self.calls:
                    break
                await asyncio.sleep(0)
        finally:
            if self._is_ours:
                await self._session.close()

    def abandon(self) -> None:
        """Close the connections of a wire whose client is gone or whose loop can't run any more."""
        if not self._is_ours:
            return
        connector = self._session.connector
        self._session.detach()
        is_reachable = self.pid == os.getpid() and not self.loop.is_closed()
        let_go(emptied(connector), self.loop if is_reachable else None)


def _tells_of_a_dead_pool(error: Exception) -> bool:
    """Whether the failure of one connection may affect the other connections of the pool."""
    return isinstance(error, ConnectionLostError) or (
        isinstance(error, RequestTimeoutError) and error.phase == "response"
    )


_SKIPPED_HEADERS: Final = ("Content-Type",)  # a POST without a body has no type
_READING: Final[dict[str, Any]] = {
    "auto_decompress": False,  # see `clerk_async.http.bodies`
    "max_line_size": MAX_HEADER,
    "max_field_size": MAX_HEADER,
    "max_headers": MAX_HEADERS,
}


class _Request(aiohttp.ClientRequest):
    """A request with complete headers: aiohttp adds none, not even a type for an empty body."""

    DEFAULT_HEADERS: Any = {}  # noqa: RUF012 - as aiohttp has it
    POST_METHODS: Any = frozenset[str]()


def open_wire(settings: WireSettings) -> Wire:
    """Create a wire in the running loop, with the user's session or one of our own."""
    timer = AttemptTimer(asyncio.get_running_loop())
    proxy = proxy_to_use(settings)  # once: aiohttp's own check costs a thread per request
    theirs = settings.client_session
    if theirs is not None:
        refuse_their_proxy(settings, theirs)
        return Wire(settings, theirs, timer, is_ours=False, proxy=proxy)
    connector = Connector(timer, ssl=settings.ssl_context or True)
    session = aiohttp.ClientSession(
        connector=connector,
        # aiohttp sends a session's headers to the proxy too, and these contain the secret key.
        headers=settings.headers if proxy is None else None,
        cookie_jar=aiohttp.DummyCookieJar(),
        request_class=_Request,
        trace_configs=list(settings.trace_configs),
        **_READING,
    )
    if hasattr(session, "_retry_connection"):
        session._retry_connection = False  # noqa: SLF001 - we decide on and count every send
    return Wire(settings, session, timer, is_ours=True, proxy=proxy)
