"""SessionsApi: the same client for code without an event loop.

It is a thin wrapper: `clerk_async.sessions` has all the logic, which runs here in a private event
loop in a separate thread. This module only repeats the signatures.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import clerk_async

# Now, because the loop's thread imports nothing.
import clerk_async.http.tolerant  # pyright: ignore[reportUnusedImport]
from clerk_async.config import (
    DEFAULT_API_VERSION,
    DEFAULT_POOL_SIZE,
    RateLimit,
    RetryPolicy,
    Timeouts,
)
from clerk_async.extras import Late
from clerk_async.http.paging import check_where, is_meant
from clerk_async.http_info import VERIFY_ADVICE
from clerk_async.models import Cookies, Session, SessionPage, SessionStatus, Token, UnreadableItem
from clerk_async.redaction import sealed
from clerk_async.sessions import (
    DEFAULT_PAGE_SIZE,
    DEFAULT_RETRY,
    DEFAULT_TIMEOUTS,
    AsyncSessionsApi,
)
from clerk_async.sync.bulk import BulkRevocation
from clerk_async.sync.caller_thread import CallerThread, in_caller_thread, iterated
from clerk_async.sync.http_info import SessionsWithHttpInfo
from clerk_async.sync.loop_thread import LoopThread
from clerk_async.sync.sharing import Sharing, TokenSources

if TYPE_CHECKING:
    import aiohttp

    from clerk_async.bulk.verdict import RevocationTarget
else:
    aiohttp = Late("aiohttp")


class SessionsApi(BulkRevocation, Sharing, TokenSources):
    """Clerk's Sessions API for code without an event loop.

    Create one client per program; many threads can use it at once, even inside a running loop and
    after a fork. It pools connections, retries requests that are safe to retry, and pauses all
    requests when the service asks it to. The constructor does no I/O. The first call starts a
    thread, and a program can exit without calling `close()`.

    Example:
        >>> with SessionsApi("sk_test_…") as sessions:
        ...     for session in sessions.iterate(user_id="user_1"):
        ...         print(session.id, session.status)

    With the extra `speed` (uvloop 0.23 or newer), its event loop is uvloop's. It is asyncio's on
    free-threaded Python, in asyncio's debug mode (and so in Python's development mode), or if the
    variable `CLERK_ASYNC_NO_UVLOOP` is set when you create the client.

    Every operation can raise `ApiError` (with a subclass per status, see `clerk_async.errors`),
    `TransportError`, `ResponseDecodeError`, `ClientClosedError` and `WrongLoopError`. It raises
    `InvalidArgumentError` before it sends anything.

    Args:
        secret_key: The instance's key, `sk_test_…` or `sk_live_…`; default: `CLERK_SECRET_KEY`. The
            first call reads the environment, once, and raises `ConfigurationError` if there is no
            key. So an app can be imported without secrets.
        base_url: The URL with its version path; default: `CLERK_API_URL` (`/v1` is added if it has
            no path), else `https://api.clerk.com/v1`.
        api_version: The `Clerk-API-Version` to request.
        timeout: Seconds for one attempt, body included, or a `Timeouts`.
        retry: When and how often to retry.
        pool_size: The most connections, and so requests, at a time; further requests wait.
        rate_limit: The limit for bulk runs, used as given; default: four fifths of the key's own
            limit, or nine tenths with shared state, which counts single calls too.
        ssl_context: An SSL context with your own certificate authorities.
        proxy: The proxy's URL, with credentials if it needs them.
        trust_env: Whether to use `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
        trace_configs: aiohttp's tracing hooks.
        headers: Headers for every request; the headers that the client sets itself are rejected.
        allow_insecure: Whether a base URL may be http:// on a host other than this machine.
        shared_state: A Redis URL, or a `SharedState`: all processes with this key share one rate
            limit, one pause and one list of denials. Default: `CLERK_ASYNC_SHARED_STATE`.

    Raises:
        ConfigurationError: If the key is malformed, an option can't be used, or gevent or eventlet
            has patched the threads of this process.
        InvalidArgumentError: If a number is out of range.
    """

    @sealed
    def __init__(
        self,
        secret_key: str | None = None,
        *,
        base_url: str | None = None,
        api_version: str = DEFAULT_API_VERSION,
        timeout: float | Timeouts = DEFAULT_TIMEOUTS,
        retry: RetryPolicy = DEFAULT_RETRY,
        pool_size: int = DEFAULT_POOL_SIZE,
        rate_limit: RateLimit | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        headers: Mapping[str, str] | None = None,
        allow_insecure: bool = False,
        shared_state: str | clerk_async.SharedState | None = None,
    ) -> None:
        self._async = AsyncSessionsApi(
            secret_key,
            base_url=base_url,
            api_version=api_version,
            timeout=timeout,
            retry=retry,
            pool_size=pool_size,
            rate_limit=rate_limit,
            ssl_context=ssl_context,
            proxy=proxy,
            trust_env=trust_env,
            trace_configs=trace_configs,
            headers=headers,
            allow_insecure=allow_insecure,
            shared_state=shared_state,
        )
        self._thread = LoopThread("clerk_async", self._async.aclose)
        self._is_view = False

    def list(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: SessionStatus | str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> SessionPage:
        """List one page of sessions, newest first.

        The service requires `client_id` or `user_id`. It does not keep old inactive sessions.

        Args:
            client_id: List the sessions of this client.
            user_id: List the sessions of this user.
            status: List sessions with this status, sent as given; `pending` is not supported.
            limit: The most sessions to return, 1 to 500; the service's default is 10.
            offset: How many sessions to skip; default: 0.

        Source: https://clerk.com/docs/reference/backend-api/tag/Sessions#operation/GetSessionList
        """
        return self._thread.call(
            self._async.list,
            client_id=client_id,
            user_id=user_id,
            status=status,
            limit=limit,
            offset=offset,
        )

    def create(self, user_id: str, *, active_organization_id: str | None = None) -> Session:
        """Create a session, for tests: the service rejects this call on production instances.

        The client does not retry a request that may have arrived. Calls about a new session may
        raise `NotFoundError` at first: retry them every half second, for a few seconds at most.

        Args:
            user_id: The user to create the session for.
            active_organization_id: The organization to make active in it.
        """
        return self._thread.call(
            self._async.create, user_id, active_organization_id=active_organization_id
        )

    def get(self, session_id: str) -> Session:
        """Get a session.

        Args:
            session_id: The session's id, such as `sess_…`.
        """
        return self._thread.call(self._async.get, session_id)

    @sealed
    def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, str | Sequence[str]] | None = None,
        format: Literal["token", "cookie"] | None = "token",  # noqa: A002 - the service's own name
        request_originating_ip: str | None = None,
        suffixed_cookies: bool | None = None,
    ) -> Token | Cookies:
        """Refresh a session with an expired session token and its refresh token.

        An `AuthenticationError` here is about the session, not the secret key; its `code` says why.
        The client does not retry a request that may have arrived: a refresh token works only once.

        Args:
            session_id: The session that the token belongs to.
            expired_token: The token from the `__session` cookie.
            refresh_token: The token from the `__refresh` cookie.
            request_origin: Must equal the `azp` of the token.
            request_headers: The headers of the request that your app is serving; each name maps to
                one value or a list of values.
            format: `token` returns a Token, `cookie` returns Cookies.
            request_originating_ip: The IP address that the request came from.
            suffixed_cookies: Whether the request's cookies had a suffix (`__session_…`) that the
                new cookies should have too; None lets the service decide. Clerk's JavaScript SDK
                sends this parameter, but the published API description does not list it.
        """
        return self._thread.call(
            self._async.refresh,
            session_id,
            expired_token=expired_token,
            refresh_token=refresh_token,
            request_origin=request_origin,
            request_headers=request_headers,
            format=format,
            request_originating_ip=request_originating_ip,
            suffixed_cookies=suffixed_cookies,
        )

    def revoke(self, session_id: str, *, user_id: str | None = None) -> Session:
        """Revoke a session: its user must sign in again.

        Tokens that were already issued stay valid until they expire, after 60 s by default. But a
        success or a 404 also denies the session: verifiers made with this client reject its tokens
        at once, and with shared state the verifiers of all processes do.

        Args:
            session_id: The session's id, such as `sess_…`.
            user_id: Revoke only if the session belongs to this user, which a `get` checks first; if
                it doesn't, nothing is revoked and `NotFoundError` is raised. None skips this.
        """
        return self._thread.call(self._async.revoke, session_id, user_id=user_id)

    @sealed
    def verify(self, session_id: str, token: str | Token) -> Session:
        """Verify a session token over the network: deprecated by Clerk, use a verifier instead.

        Always requests API version 2025-03-12, the last version that has this operation.

        Args:
            session_id: The session that the token belongs to.
            token: The session token, as a string or as the `Token` that `create_token` returned.

        Warns:
            DeprecationWarning: Always; `TokenVerifier` does this without the network.
        """
        warnings.warn(VERIFY_ADVICE, DeprecationWarning, stacklevel=3)
        return self._thread.call(self._async._verify, session_id, token)  # noqa: SLF001

    def create_token(self, session_id: str, *, expires_in_seconds: int | None = None) -> Token:
        """Create a session token.

        Args:
            session_id: The session; the service may not know a new one at first (see `create`).
            expires_in_seconds: The token's lifetime, 30 to 315360000; the service's default is 60.
        """
        return self._thread.call(
            self._async.create_token, session_id, expires_in_seconds=expires_in_seconds
        )

    def create_token_from_template(
        self, session_id: str, template_name: str, *, expires_in_seconds: int | None = None
    ) -> Token:
        """Create a token with the claims of one of the instance's JWT templates.

        Args:
            session_id: The session; the service may not know a new one at first (see `create`).
            template_name: The template's name, such as `custom_hasura`.
            expires_in_seconds: The token's lifetime, 30 to 315360000; default: the template's own.
        """
        return self._thread.call(
            self._async.create_token_from_template,
            session_id,
            template_name,
            expires_in_seconds=expires_in_seconds,
        )

    def iterate(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: SessionStatus | str | None = None,
        where: Callable[[Session], object] | None = None,
        page_size: int = DEFAULT_PAGE_SIZE,
        on_unreadable: Callable[[UnreadableItem], object] | None = None,
    ) -> Iterator[Session]:
        """Iterate over all matching sessions, page by page.

        Yields each session that is in the list at the start exactly once, unless it leaves the list
        before its turn. Sessions may begin, end or be revoked while you iterate, even by your code;
        new sessions may be yielded too. To ensure this, pages overlap and the end of the list is
        read twice, so a list takes at least two more requests than it has pages.

        Args:
            client_id: Yield the sessions of this client.
            user_id: Yield the sessions of this user.
            status: Yield sessions with this status.
            where: Yield sessions for which this returns true; if it raises, the iteration ends.
            page_size: Sessions per request, 1 to 500; 1 counts as 2, because pages overlap.
            on_unreadable: Called with each entry that isn't a session; default: log such entries.

        Raises:
            ResponseDecodeError: If the list doesn't end because the service ignores the offset, or
                shows over 100,000 more sessions than the total it reported.
        """
        caller = CallerThread(self._thread)
        pages = self._async.iterate(
            client_id=client_id,
            user_id=user_id,
            status=status,
            page_size=page_size,
            on_unreadable=in_caller_thread(caller, "on_unreadable", on_unreadable),
        )
        check_where("where", where)
        return iterated(caller, pages, partial(is_meant, where))

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
    ) -> Self:
        """Return a view of this client with other options; None keeps the current value.

        The view shares the client's pool, limits and pauses. Closing a view has no effect.

        Args:
            timeout: Seconds for one attempt, body included, or a `Timeouts`.
            retry: When and how often to retry.
            rate_limit: The limit for bulk runs.
        """
        view = type(self).__new__(type(self))
        options = self._async.with_options(timeout=timeout, retry=retry, rate_limit=rate_limit)
        view.__dict__.update({**self.__dict__, "_async": options, "_is_view": True})
        return view

    @property
    def with_http_info(self) -> SessionsWithHttpInfo:
        """The eight operations, returning status, headers, attempts and trace id with the value."""
        return SessionsWithHttpInfo(self._thread, self._async.with_http_info)

    def close(self) -> None:
        """Close the connections; calls in flight raise `ClientClosedError`. You can call it twice.

        So do bulk runs, even those that only wait for their input. Each outcome that is known by
        then has been passed to `on_outcome` and the journal.

        Raises:
            WrongLoopError: If called in the client's own thread, for example by a trace hook.
        """
        if not self._is_view:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "SessionsApi can't be pickled or copied because it holds a secret key and open "
            "connections: make one in each process"
        )

    def _target(self) -> RevocationTarget:
        return self._async._target()  # noqa: SLF001 - wraps that method

    def _fetch_jwks(self) -> bytes:
        return self._thread.call(self._async._fetch_jwks)  # noqa: SLF001 - wraps that method
