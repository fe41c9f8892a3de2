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
from clerk_async.sync.caller_thread import (
    BULK_GRACE,
    CallerThread,
    in_caller_thread,
    iterated,
    read_in_caller_thread,
    told_in,
)
from clerk_async.sync.http_info import SessionsWithHttpInfo
from clerk_async.sync.loop_thread import LoopThread
from clerk_async.sync.sharing import Sharing

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import (
        Callable,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from datetime import datetime
    from types import TracebackType

    import aiohttp

    from clerk_async.bulk.journal import Journal
    from clerk_async.bulk.report import RevocationOutcome, RevocationProgress, RevocationReport
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


class SessionsApi(Sharing):
    """Clerk's Sessions API for code without an event loop.

    The same as `AsyncSessionsApi`, which see for the arguments and errors, without await. Usable
    from many threads at once, inside a running loop, and after a fork; it starts a thread with its
    first call and needs no `close()` for a program to end.

    Example:
        >>> with SessionsApi("sk_test_…") as sessions:
        ...     for session in sessions.iterate(user_id="user_1"):
        ...         print(session.id, session.status)

    Raises:
        ConfigurationError: If the key is missing, an option can't be used, or gevent or eventlet
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
        """List sessions, newest first, one page."""
        return self._thread.call(
            self._async.list,
            client_id=client_id,
            user_id=user_id,
            status=status,
            limit=limit,
            offset=offset,
        )

    def create(self, user_id: str, *, active_organization_id: str | None = None) -> Session:
        """Create a session, for tests: the service refuses it on production instances."""
        return self._thread.call(
            self._async.create, user_id, active_organization_id=active_organization_id
        )

    def get(self, session_id: str) -> Session:
        """Get a session."""
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
        """Refresh a session with an expired session token and its refresh token."""
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
        """Revoke a session: its user must sign in again."""
        return self._thread.call(self._async.revoke, session_id, user_id=user_id)

    def verify(self, session_id: str, token: str | Token) -> Session:
        """Verify a session token over the network: deprecated by Clerk, use a verifier instead."""
        warnings.warn(VERIFY_ADVICE, DeprecationWarning, stacklevel=2)
        return self._thread.call(self._async._verify, session_id, token)  # noqa: SLF001

    def create_token(self, session_id: str, *, expires_in_seconds: int | None = None) -> Token:
        """Create a session token."""
        return self._thread.call(
            self._async.create_token, session_id, expires_in_seconds=expires_in_seconds
        )

    def create_token_from_template(
        self, session_id: str, template_name: str, *, expires_in_seconds: int | None = None
    ) -> Token:
        """Create a token with the claims of a JWT template of the instance."""
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
        """Iterate over all sessions that match, page by page."""
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

    def revoke_many(
        self,
        session_ids: Iterable[str],
        *,
        concurrency: int | None = None,
        rate_limit: RateLimit | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dry_run: bool = False,
        max_failures: int | None = None,
        deadline: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> RevocationReport:
        """Revoke many sessions at once, as fast as the rate limit allows, and report.

        Iterable and callbacks run in the caller's thread. Ctrl-C finishes what is in flight first.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_many  # noqa: PLC0415 - likewise

        options = RunOptions(
            concurrency=concurrency,
            rate_limit=rate_limit,
            journal=journal,
            dry_run=dry_run,
            max_failures=max_failures,
            deadline=deadline,
            should_stop=should_stop,
            on_outcome=on_outcome,
            on_progress=on_progress,
        )
        caller = CallerThread(self._thread)
        ids = read_in_caller_thread(caller, "session_ids", session_ids)
        return caller.serve(BULK_GRACE, revoke_many, self._target(), ids, told_in(caller, options))

    def revoke_stream(
        self,
        session_ids: Iterable[str],
        *,
        concurrency: int | None = None,
        rate_limit: RateLimit | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dry_run: bool = False,
        max_failures: int | None = None,
        deadline: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> Generator[RevocationOutcome, None, None]:
        """Revoke many sessions at once, and iterate over the outcomes as they come.

        Iterable and callbacks run in the caller's thread.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_stream  # noqa: PLC0415 - likewise

        options = RunOptions(
            concurrency=concurrency,
            rate_limit=rate_limit,
            journal=journal,
            dry_run=dry_run,
            max_failures=max_failures,
            deadline=deadline,
            should_stop=should_stop,
            on_outcome=on_outcome,
            on_progress=on_progress,
        )
        caller = CallerThread(self._thread)
        ids = read_in_caller_thread(caller, "session_ids", session_ids)
        outcomes = revoke_stream(self._target(), ids, told_in(caller, options))
        return iterated(caller, outcomes)

    def revoke_all(
        self,
        *,
        user_id: str | None = None,
        user_ids: Iterable[str] | None = None,
        client_id: str | None = None,
        except_session_ids: Iterable[str] = (),
        created_before: datetime | None = None,
        last_active_before: datetime | None = None,
        actor: str | bool | None = None,
        where: Callable[[Session], object] | None = None,
        keep_newest: int | None = None,
        concurrency: int | None = None,
        rate_limit: RateLimit | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dry_run: bool = False,
        max_failures: int | None = None,
        deadline: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> RevocationReport:
        """Revoke every live session of a user, of many users or of a client, and report.

        Iterables and callbacks run in the caller's thread. Ctrl-C finishes what is in flight first.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_all  # noqa: PLC0415 - likewise
        from clerk_async.bulk.sweep import Selection  # noqa: PLC0415 - likewise

        caller = CallerThread(self._thread)
        selection = Selection(
            user_id=user_id,
            user_ids=None
            if user_ids is None
            else read_in_caller_thread(caller, "user_ids", user_ids),
            client_id=client_id,
            except_session_ids=except_session_ids,
            created_before=created_before,
            last_active_before=last_active_before,
            actor=actor,
            where=where,
            keep_newest=keep_newest,
            run_where=caller.run,
        )
        options = RunOptions(
            concurrency=concurrency,
            rate_limit=rate_limit,
            journal=journal,
            dry_run=dry_run,
            max_failures=max_failures,
            deadline=deadline,
            should_stop=should_stop,
            on_outcome=on_outcome,
            on_progress=on_progress,
        )
        return caller.serve(
            BULK_GRACE, revoke_all, self._target(), selection, told_in(caller, options)
        )

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
    ) -> Self:
        """Give a view of this client with other options; None leaves one as it is."""
        view = type(self).__new__(type(self))
        options = self._async.with_options(timeout=timeout, retry=retry, rate_limit=rate_limit)
        view.__dict__.update({**self.__dict__, "_async": options, "_is_view": True})
        return view

    @property
    def with_http_info(self) -> SessionsWithHttpInfo:
        """The eight operations, with status, headers, attempts and trace id around the value."""
        return SessionsWithHttpInfo(self._thread, self._async.with_http_info)

    def close(self) -> None:
        """Close the connections; calls in flight end with `ClientClosedError`. Can be repeated."""
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
