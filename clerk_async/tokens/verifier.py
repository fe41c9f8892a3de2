"""`AsyncTokenVerifier`: session tokens verified inside an event loop that is never blocked."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clerk_async.errors import ClerkError
from clerk_async.http.daemon import running_loop
from clerk_async.tokens.key_set import LOOK_AGAIN, Flight, KeysNeeded
from clerk_async.tokens.settings import Verifier
from clerk_async.tokens.sources import AsyncSessionsSource, fetch_published
from clerk_async.tokens.verification import Need, RefreshNeeded, SessionNeeded, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from clerk_async.models import Session
    from clerk_async.tokens.claims import SessionClaims
    from clerk_async.tokens.requests import RequestState

T = TypeVar("T")


class AsyncTokenVerifier(Verifier[AsyncSessionsSource]):
    """Verifies session tokens without asking the service, but for its public keys now and then.

    Make one for the life of the app: it remembers keys and tokens. Times are seconds.

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
        """Verify a session token and return what it says.

        A token made from a JWT template is accepted too; it names no session (`session_id` is
        None), outlives the one that it was made from, and so must not sign anybody in. Use
        `authenticate_request` for that, which refuses it.

        Args:
            token: The token; whitespace around it is not forgiven.
            check_session: Also look the session up (one `get`): for paths that must see a
                revocation at once, because a token stays valid for up to a minute after it. True
                asks the service each time; a number asks it only if this verifier hasn't done so in
                the last so many seconds. A session that was found ended stays refused.
            accept_pending: Whether a session with tasks left is let in; None for the verifier's
                own setting.

        Raises:
            TokenVerificationError: If it is refused; `reason` says why, the message what to do.
            KeysUnavailableError: If it could not be checked, as the keys can't be had.
            DenialsUnavailableError: If what others have denied is older than `denials_max_age`.
            ConfigurationError: If `check_session` is asked of a verifier without `sessions`.
            InvalidArgumentError: If `check_session` can't be used.
            ClerkError: With `check_session`, if the session could not be looked up.
        """
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

    async def authenticate_request(
        self,
        request: object,
        *,
        check_session: float = False,
        refresh_if_expired: bool = False,
        accept_pending: bool | None = None,
    ) -> RequestState:
        """Find out who sent a request.

        The token is that of the Authorization header (`Bearer`), else of the `__session` cookies,
        the first that verifies. Refused tokens raise nothing: see `RequestState`. Only session
        tokens sign anybody in: one of another kind, as made from a JWT template or for a machine,
        is refused with the reason `token-type-mismatch`. A cookie's token is also refused if the
        cookie `__client_uat` beside it says that the browser has signed out (0), or has signed in
        anew since the token was made.

        Args:
            request: A request of any framework, its headers, a WSGI environ or an ASGI scope.
            check_session: As in `verify`.
            refresh_if_expired: Whether an expired token of a GET request that carries the
                `__refresh` cookie is exchanged for a new one. The state then holds the new token,
                and Set-Cookie lines that must go onto the response. Requests with the same
                cookies that come at the same time, or up to 10 seconds later, share one refresh
                and get the same new cookies.
            accept_pending: As in `verify`.

        Raises:
            InvalidArgumentError: If no headers can be read from `request`, or `check_session` can't
                be used.
            ConfigurationError: If the service is to be asked by a verifier without `sessions`.
        """
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

    async def warm_up(self) -> None:
        """Fetch the keys now, at the start of an app, so that no request waits for them.

        With shared state, also wait until what other processes have denied is known, for 5 seconds
        at most.

        Raises:
            KeysUnavailableError: If the keys can't be had.
            DenialsUnavailableError: With `denials_max_age`, if what was denied can't be had.
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
        """Refresh once for all the requests that a page sends at the same time, or just after.

        A refresh uses its token up: whoever came second would be signed out.
        """
        recent = self._recent.get(need.shared_by)
        if recent is not None:
            return recent
        return await self._once(need.shared_by, lambda: self._refresh(need, sessions))

    async def _meet_session(self, need: SessionNeeded, sessions: AsyncSessionsSource) -> Session:
        if not need.is_shared:
            return await sessions.get(need.session_id)
        return await self._once(("get", need.session_id), lambda: sessions.get(need.session_id))

    async def _once(
        self, shared_by: tuple[str, ...], ask: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Ask the service once for all who need the same at the same time."""
        loop, under_way = running_loop(), self._under_way
        key = (loop, *shared_by)
        task: asyncio.Task[T] | None = under_way.get(key)
        if task is None:
            # A task of its own: who gave up waiting must not end it for the others.
            task = loop.create_task(ask(), name="clerk_async: asking the service")
            under_way[key] = task
            task.add_done_callback(lambda _: under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _refresh(self, need: RefreshNeeded, sessions: AsyncSessionsSource) -> Sequence[str]:
        answer = await sessions.refresh(
            need.session_id,
            expired_token=need.expired_token,
            refresh_token=need.refresh_token,
            request_origin=need.request_origin,
            request_headers=need.request_headers,
            format="cookie",
            suffixed_cookies=need.suffixed_cookies,
        )
        return self._recent.keep(need.shared_by, answer)

    async def _meet_keys(self, need: KeysNeeded) -> None:
        flight, loop = need.flight, running_loop()
        if need.start:
            # A task of its own: who gave up waiting must not end the fetch for the others.
            task = loop.create_task(self._fly(flight), name="clerk_async: fetching keys")
            flight.has_begun = True
            task.add_done_callback(lambda _: self._fetched.abandon(flight))  # if it was cancelled
        if need.patience == 0:
            return
        landed = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # this loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, landed)

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
        except Exception as error:  # noqa: BLE001 - whatever it is, waiters must be told
            self._fetched.fail(flight, error)
        else:
            self._fetched.land(flight, body)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
