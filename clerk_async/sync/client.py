"""SessionsApi: the same client for code without an event loop.

A thin shell: every rule lives in `clerk_async.sessions`, and runs here in a private event loop in a
thread of its own. Only signatures are carried across.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from clerk_async.config import DEFAULT_API_VERSION, DEFAULT_POOL_SIZE
from clerk_async.http.paging import check_where, is_meant
from clerk_async.http_info import VERIFY_ADVICE
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
    import ssl
    from collections.abc import (
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )
    from types import TracebackType

    import aiohttp

    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.config import RateLimit, RetryPolicy, Timeouts
    from clerk_async.models import (
        Cookies,
        Session,
        SessionPage,
        SessionStatus,
        Token,
        UnreadableItem,
    )
    from clerk_async.shared.state import SharedState


class SessionsApi(BulkRevocation, Sharing, TokenSources):
    """Clerk's Sessions API for code without an event loop.

    One client for a program, used by many threads at once, inside a running loop too, and after a
    fork: it keeps connections open, retries what is safe to retry, and pauses as a whole when the
    service says so. Constructing does no I/O. It starts a thread with its first call, and needs no
    `close()` for a program to end.

    Example:
        >>> with SessionsApi("sk_test_…") as sessions:
        ...     for session in sessions.iterate(user_id="user_1"):
        ...         print(session.id, session.status)

    Every operation can raise `ApiError` (by status: see `clerk_async.errors`), `TransportError`,
    `ResponseDecodeError`, `ClientClosedError` and `WrongLoopError`; before anything is sent,
    `InvalidArgumentError`.

    Args:
        secret_key: The instance's key, `sk_test_…` or `sk_live_…`; default: `CLERK_SECRET_KEY`. The
            environment is read at the first call, once, and a key that is missing then is a
            `ConfigurationError`: an app can be imported without secrets.
        base_url: With the version path; default: `CLERK_API_URL` (which gets `/v1` where it has no
            path), else `https://api.clerk.com/v1`.
        api_version: The `Clerk-API-Version` to ask for.
        timeout: Seconds for one attempt with its body, or a `Timeouts`.
        retry: When and how often to try again.
        pool_size: Connections, and so requests, at once; others wait their turn.
        rate_limit: For bulk runs, taken as it is; default: four fifths of the key's own limit, or
            nine tenths with shared state, where single calls are counted too.
        ssl_context: For your own certificate authorities.
        proxy: A URL, with credentials if need be.
        trust_env: Whether `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` count.
        trace_configs: aiohttp's hooks into its sending.
        headers: Sent with every request; those that the client sets itself are refused.
        allow_insecure: Whether a base URL may be http:// on a host that isn't this machine.
        shared_state: A Redis URL, or a `SharedState`: all processes on the key keep to one rate
            limit, one pause and one list of denials. Default: `CLERK_ASYNC_SHARED_STATE`.

    Raises:
        ConfigurationError: If the key is malformed, an option can't be used, or gevent or eventlet
            has patched the threads of this process.
        InvalidArgumentError: If a number is out of its range.
    """

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
        shared_state: str | SharedState | None = None,
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
        """List sessions, newest first, one page.

        The service wants one of `client_id` and `user_id`, and keeps no old inactive sessions.

        Args:
            client_id: Those of this client.
            user_id: Those of this user.
            status: Those with this status; sent as it is. The service's filter knows no `pending`.
            limit: How many at most, 1 to 500; the service's default is 10.
            offset: How many to skip; the default is 0.

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
        """Create a session, for tests: the service refuses it on production instances.

        Never sent again when the first may have arrived. Calls about a new session may raise
        `NotFoundError` for a moment: call again after half a second, for a few seconds at the most.

        Args:
            user_id: Whose session.
            active_organization_id: The organization to make active in it.
        """
        return self._thread.call(
            self._async.create, user_id, active_organization_id=active_organization_id
        )

    def get(self, session_id: str) -> Session:
        """Get a session.

        Args:
            session_id: Such as `sess_…`.
        """
        return self._thread.call(self._async.get, session_id)

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

        An `AuthenticationError` here is about the session, not about the secret key; its `code`
        says why. Never sent again when the first may have arrived: a refresh token is used up.

        Args:
            session_id: The session that the token belongs to.
            expired_token: From the `__session` cookie.
            refresh_token: From the `__refresh` cookie.
            request_origin: Must equal the `azp` of the token.
            request_headers: The headers of the request that is being served, each with one value
                or a list of them.
            format: `token` returns a Token, `cookie` returns Cookies.
            request_originating_ip: Where that request came from.
            suffixed_cookies: Whether the request's cookies had a suffix (`__session_…`), so that
                the new ones get it too; None leaves it to the service. Clerk's JavaScript SDK
                sends it, the published API description does not have it.
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

        Session tokens that were issued already stay valid until they expire, 60 s by default; but a
        success or a 404 also denies the session, so verifiers made with this client refuse them at
        once, and with shared state those of every process.

        Args:
            session_id: Such as `sess_…`.
            user_id: Only if it is this user's, which one `get` finds out first; if it isn't, that
                is a `NotFoundError`, and nothing is revoked. None: whoever's it is.
        """
        return self._thread.call(self._async.revoke, session_id, user_id=user_id)

    def verify(self, session_id: str, token: str | Token) -> Session:
        """Verify a session token over the network: deprecated by Clerk, use a verifier instead.

        Always asks for API version 2025-03-12, the last that has it.

        Args:
            session_id: The session that the token belongs to.
            token: The session token, as a string or as `create_token` gave it.

        Warns:
            DeprecationWarning: Always; `TokenVerifier` does it better without the network.
        """
        warnings.warn(VERIFY_ADVICE, DeprecationWarning, stacklevel=2)
        return self._thread.call(self._async._verify, session_id, token)  # noqa: SLF001

    def create_token(self, session_id: str, *, expires_in_seconds: int | None = None) -> Token:
        """Create a session token.

        Args:
            session_id: The session; one that was just made may be unknown for a moment (`create`).
            expires_in_seconds: Its lifetime, 30 to 315360000; the service's default is 60.
        """
        return self._thread.call(
            self._async.create_token, session_id, expires_in_seconds=expires_in_seconds
        )

    def create_token_from_template(
        self, session_id: str, template_name: str, *, expires_in_seconds: int | None = None
    ) -> Token:
        """Create a token with the claims of a JWT template of the instance.

        Args:
            session_id: The session; one that was just made may be unknown for a moment (`create`).
            template_name: Such as `custom_hasura`.
            expires_in_seconds: Its lifetime, 30 to 315360000; default: the template's own.
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
        """Iterate over all sessions that match, page by page.

        Every session that was there at the start comes once, unless it leaves the list before its
        turn, whatever happens meanwhile: sessions may end, begin, or be revoked by the loop itself.
        So pages overlap, the end of the list is looked at twice, and a list costs at least two
        requests more than it has pages. Sessions that begin meanwhile may come too.

        Args:
            client_id: Those of this client.
            user_id: Those of this user.
            status: Those with this status.
            where: Those of which this function is true; what it raises ends the iteration.
            page_size: Sessions per request, 1 to 500; 1 counts as 2, because pages overlap.
            on_unreadable: Called with each entry that is no session; without it they are logged.

        Raises:
            ResponseDecodeError: If the list doesn't end, because the service ignores the offset or
                goes on more than 100,000 sessions beyond what it told of.
        """
        caller = CallerThread(self._thread)
        pages = self._async.iterate(
            client_id=client_id,
            user_id=user_id,
            status=status,
            page_size=page_size,
            on_unreadable=in_caller_thread(caller, "on_unreadable", on_unreadable),
        )
        check_where(where)
        return iterated(caller, pages, partial(is_meant, where))

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
    ) -> Self:
        """Give a view of this client with other options; None leaves one as it is.

        It shares the pool, the limits and the pauses, and closing it closes nothing.

        Args:
            timeout: Seconds for one attempt with its body, or a `Timeouts`.
            retry: When and how often to try again.
            rate_limit: For bulk runs.
        """
        view = type(self).__new__(type(self))
        options = self._async.with_options(timeout=timeout, retry=retry, rate_limit=rate_limit)
        view.__dict__.update({**self.__dict__, "_async": options, "_is_view": True})
        return view

    @property
    def with_http_info(self) -> SessionsWithHttpInfo:
        """The eight operations, with status, headers, attempts and trace id around the value."""
        return SessionsWithHttpInfo(self._thread, self._async.with_http_info)

    def close(self) -> None:
        """Close the connections; calls in flight end with `ClientClosedError`. Can be repeated.

        Raises:
            WrongLoopError: If it is called in the client's own thread, as by a trace hook.
        """
        if not self._is_view:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "SessionsApi can't be pickled or copied, as it holds a secret key and open "
            "connections: make one in each process"
        )

    def _target(self) -> RevocationTarget:
        return self._async._target()  # noqa: SLF001 - the shell of that method

    def _fetch_jwks(self) -> bytes:
        return self._thread.call(self._async._fetch_jwks)  # noqa: SLF001 - the shell of that method
