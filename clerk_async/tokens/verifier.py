"""`AsyncTokenVerifier`: verifies session tokens without ever blocking the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import clerk_async
from clerk_async.errors import ClerkError, NotFoundError
from clerk_async.http.daemon import running_loop
from clerk_async.redaction import empty_frames
from clerk_async.tokens.claims import SessionClaims
from clerk_async.tokens.denied import GONE
from clerk_async.tokens.key_set import LOOK_AGAIN, Flight, KeysNeeded
from clerk_async.tokens.settings import Verifier
from clerk_async.tokens.sources import AsyncSessionsSource, fetch_published
from clerk_async.tokens.verification import Need, RefreshNeeded, SessionNeeded, Steps
from clerk_async.under_test import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from clerk_async.tokens.requests import RequestState

T = TypeVar("T")


class AsyncTokenVerifier(Verifier[AsyncSessionsSource]):
    """Verifies session tokens without a request to the service, except to fetch its public keys.

    Create one for the life of the app, because it caches keys and tokens. Times are in seconds.

    Example:
        >>> from clerk_async import AsyncSessionsApi, AsyncTokenVerifier
        >>> async def user_of(token: str) -> str:
        ...     async with AsyncSessionsApi() as sessions:
        ...         verifier = AsyncTokenVerifier(
        ...             sessions=sessions, authorized_parties=["https://app.example.com"]
        ...         )
        ...         claims = await verifier.verify(token)
        ...         return claims.user_id
    """

    _client = "AsyncSessionsApi"
    _is_async = True
    _home = staticmethod(running_loop)

    async def verify(
        self, token: str, *, check_session: float = False, accept_pending: bool | None = None
    ) -> SessionClaims:
        """Verify a session token and return its claims.

        It also accepts a token made from a JWT template. Such a token names no session
        (`session_id` is None) and outlives the session token that it was made from, so it must not
        sign anyone in. To sign users in, use `authenticate_request`, which rejects it.

        Args:
            token: The token, without any whitespace around it.
            check_session: Whether to look up the session too (one `get`), for paths that must see
                a revocation at once, because a token stays valid for up to a minute after it. True
                asks the service each time; a number asks it only if this verifier has not done so
                in that many seconds. A session once found to have ended stays rejected.
            accept_pending: Whether to accept a session with unfinished tasks; None uses the
                verifier's setting.

        Raises:
            TokenVerificationError: If the token is rejected; `reason` says why, and the message
                what to do.
            KeysUnavailableError: If the token could not be checked because the keys can't be
                fetched.
            DenialsUnavailableError: If the known denials are older than `denials_max_age`.
            ConfigurationError: If `check_session` is set and the verifier has no `sessions`.
            InvalidArgumentError: If `check_session` or `accept_pending` is invalid.
            ClerkError: With `check_session`, if the session could not be looked up.
        """
        try:
            if self._link is not None and not self._link.is_running:
                self._start_link()
            if check_session is False:
                claims = self._at_once(token, accept_pending=accept_pending)
                if claims is not None:
                    return claims
            return await self._run(
                self._verification.verify(
                    token, check_session=check_session, accept_pending=accept_pending
                )
            )
        except BaseException as error:
            del token
            empty_frames(error)
            raise

    async def authenticate_request(
        self,
        request: object,
        *,
        check_session: float = False,
        refresh_if_expired: bool = False,
        accept_pending: bool | None = None,
    ) -> clerk_async.RequestState:
        """Find out who sent a request.

        It uses the token of the Authorization header (`Bearer`), else the first valid one of the
        `__session` cookies. A rejected token does not raise an error: see `RequestState`. Only
        session tokens sign users in; a token of another kind, such as one made from a JWT template
        or for a machine, is rejected with the reason `token-type-mismatch`. A cookie's token is
        also rejected if the cookie `__client_uat` says that the browser has signed out (0), or has
        signed in again since the token was issued.

        Args:
            request: A request from any framework, its headers, a WSGI environ or an ASGI scope.
            check_session: As in `verify`.
            refresh_if_expired: Whether to exchange an expired token for a new one, if the request
                is a GET with the `__refresh` cookie. The state then has the new token, and
                Set-Cookie lines that you must add to the response. Requests with the same cookies
                that arrive at the same time, or up to 10 seconds later, share one refresh and get
                the same new cookies.
            accept_pending: As in `verify`.

        Raises:
            InvalidArgumentError: If headers can't be read from `request`, or an option is
                invalid.
            ConfigurationError: If the service must be asked and the verifier has no `sessions`.
        """
        try:
            if self._link is not None and not self._link.is_running:
                self._start_link()
            steps: Steps[RequestState] = (self._authenticate or self._load_authenticate())(
                self._verification,
                request,
                check_session=check_session,
                refresh_if_expired=refresh_if_expired,
                accept_pending=accept_pending,
            )
            return await self._run(steps)
        except BaseException as error:
            del request
            empty_frames(error)
            raise

    async def warm_up(self) -> None:
        """Fetch the keys now, when the app starts, so that no request waits for them.

        With shared state, also wait up to 5 seconds for the denials of other processes.

        Raises:
            KeysUnavailableError: If the keys can't be fetched.
            DenialsUnavailableError: With `denials_max_age`, if the denials are unavailable.
        """
        await self._run(self._verification.keys.prepare())
        if self._link is not None:
            await self._link.caught_up()
            self._check_knowledge()

    def _start_link(self) -> None:
        if self._link is not None:
            self._link.start()

    # --- meeting the needs of a verification ---

    async def _run(self, steps: Steps[T]) -> T:
        try:
            need = next(steps)
            while True:
                try:
                    answer = await self._meet(need)
                except ClerkError as error:
                    need = steps.throw(error)
                else:
                    need = steps.send(answer)
        except StopIteration as stop:
            return cast("T", stop.value)

    async def _meet(self, need: Need) -> object:
        sessions = self._sessions
        match need:
            case KeysNeeded():
                await self._meet_keys(need)
                return None
            case SessionNeeded() if sessions is not None:
                return await self._meet_session(need, sessions)
            case RefreshNeeded() if sessions is not None:
                return await self._meet_refresh(need, sessions)
            case _:
                raise AssertionError

    async def _meet_refresh(
        self, need: RefreshNeeded, sessions: AsyncSessionsSource
    ) -> Sequence[str]:
        """Refresh once for all requests that a page sends at the same time or just after.

        A refresh token can be used only once: a second refresh would sign the user out.
        """
        recent = self._recent.get(need.shared_by)
        if recent is not None:
            return recent
        return await self._once(need.shared_by, lambda: self._refresh(need, sessions))

    async def _meet_session(self, need: SessionNeeded, sessions: AsyncSessionsSource) -> str:
        if not need.max_age:
            return await self._look_up(need, sessions)
        return await self._once(("get", need.session_id), lambda: self._look_up(need, sessions))

    async def _look_up(self, need: SessionNeeded, sessions: AsyncSessionsSource) -> str:
        # Look again: a request that was in flight just before has ended and left its result.
        status = self._look_ups.status(need.session_id, need.max_age)
        if status is not None:
            return status
        try:
            status = str((await sessions.get(need.session_id)).status)
        except NotFoundError:
            status = GONE
        return self._look_ups.note(need.session_id, status)

    async def _once(
        self, shared_by: tuple[str, ...], ask: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Ask the service once for all callers that need the same thing at the same time."""
        loop, under_way = running_loop(), self._under_way
        key = (loop, *shared_by)
        task: asyncio.Task[T] | None = under_way.get(key)
        if task is None:
            for each in [each for each in list(under_way) if each[0].is_closed()]:  # never done
                under_way.pop(each, None)
            # A separate task, because a caller that gives up must not end it for the others.
            task = loop.create_task(ask(), name="clerk_async: asking the service")
            under_way[key] = task

            def end(ended: asyncio.Task[T]) -> None:
                under_way.pop(key, None)
                if not ended.cancelled():
                    ended.exception()  # retrieved, because all callers may have given up

            task.add_done_callback(end)
        return await asyncio.shield(task)

    async def _refresh(self, need: RefreshNeeded, sessions: AsyncSessionsSource) -> Sequence[str]:
        answer = await need.sent_by(sessions.refresh)
        return self._recent.keep(need.shared_by, answer)

    async def _meet_keys(self, need: KeysNeeded) -> None:
        flight, loop = need.flight, running_loop()
        if need.start:
            # A separate task, because a caller that gives up must not end the fetch for the others.
            task = loop.create_task(self._fly(flight), name="clerk_async: fetching keys")
            flight.has_begun = True
            task.add_done_callback(lambda _: self._fetched.abandon(flight))  # if it was cancelled
        if need.patience == 0:
            return
        landed = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # this loop has ended in the meantime
                loop.call_soon_threadsafe(settle, landed)

        flight.landed.tell(wake)
        left = float("inf") if need.patience is None else need.patience
        while left > 0 and not self._fetched.abandon_if_stranded(flight):
            if (await asyncio.wait([landed], timeout=min(left, LOOK_AGAIN)))[0]:
                return
            left -= LOOK_AGAIN

    async def _fetch(self) -> bytes:
        if self._sessions is not None:
            return await self._sessions._fetch_jwks()  # noqa: SLF001 - offered to verifiers alone

        return await fetch_published(self._issuer)

    async def _fly(self, flight: Flight) -> None:
        try:
            body = await self._fetch()
        except Exception as error:  # noqa: BLE001 - any error must reach the waiting callers
            self._fetched.fail(flight, error)
        else:
            self._fetched.land(flight, body)
