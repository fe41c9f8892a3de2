"""`TokenVerifier`: the verifier for sync code, usable from any number of threads."""

from __future__ import annotations

import contextvars
import math
import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import clerk_async
from clerk_async.errors import ClerkError, NotFoundError
from clerk_async.redaction import empty_frames
from clerk_async.tokens.claims import SessionClaims
from clerk_async.tokens.denied import GONE
from clerk_async.tokens.key_set import Flight, KeysNeeded
from clerk_async.tokens.settings import Verifier
from clerk_async.tokens.sources import SessionsSource, fetch_published, load_client
from clerk_async.tokens.verification import Need, RefreshNeeded, SessionNeeded, Steps
from clerk_async.under_test import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.http.errand import Errand
    from clerk_async.tokens.requests import RequestState

T = TypeVar("T")


class TokenVerifier(Verifier[SessionsSource]):
    """Verifies session tokens without a request to the service, except to fetch its public keys.

    The thread-safe sync counterpart of `AsyncTokenVerifier`. Create one for the life of the app,
    because it caches keys and tokens. It fetches keys in a separate thread, which delays neither
    requests nor the exit of the program; a forked child fetches its own. Times are in seconds.

    Example:
        >>> from clerk_async import SessionsApi, TokenVerifier
        >>> def user_of(token: str) -> str:
        ...     with SessionsApi() as sessions:
        ...         verifier = TokenVerifier(
        ...             sessions=sessions, authorized_parties=["https://app.example.com"]
        ...         )
        ...         return verifier.verify(token).user_id
    """

    _client = "SessionsApi"
    _is_async = False

    def verify(
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
            return self._run(
                self._verification.verify(
                    token, check_session=check_session, accept_pending=accept_pending
                )
            )
        except BaseException as error:
            del token
            empty_frames(error)
            raise

    def authenticate_request(
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
            return self._run(steps)
        except BaseException as error:
            del request
            empty_frames(error)
            raise

    def warm_up(self) -> None:
        """Fetch the keys now, when the app starts, so that no request waits for them.

        With shared state, also wait up to 5 seconds for the denials of other processes.

        Raises:
            KeysUnavailableError: If the keys can't be fetched.
            DenialsUnavailableError: With `denials_max_age`, if the denials are unavailable.
        """
        self._run(self._verification.keys.prepare())
        if self._link is not None:
            self._client_that_shares._catch_up()  # noqa: SLF001 - offered to verifiers alone
            self._check_knowledge()

    def _start_link(self) -> None:
        self._client_that_shares._start_link()  # noqa: SLF001 - offered to verifiers alone

    @property
    def _client_that_shares(self) -> Any:
        return self._sessions  # because it has a link, it is one of our clients

    # --- meeting the needs of a verification ---

    def _run(self, steps: Steps[T]) -> T:
        try:
            need = next(steps)
            while True:
                try:
                    answer = self._meet(need)
                except ClerkError as error:
                    need = steps.throw(error)
                else:
                    need = steps.send(answer)
        except StopIteration as stop:
            return cast("T", stop.value)

    def _meet(self, need: Need) -> object:
        sessions = self._sessions
        match need:
            case KeysNeeded():
                self._meet_keys(need)
                return None
            case SessionNeeded() if sessions is not None:
                return self._meet_session(need, sessions)
            case RefreshNeeded() if sessions is not None:
                return self._meet_refresh(need, sessions)
            case _:
                raise AssertionError

    def _meet_refresh(self, need: RefreshNeeded, sessions: SessionsSource) -> Sequence[str]:
        """Refresh once for all requests that a page sends at the same time or just after.

        A refresh token can be used only once: a second refresh would sign the user out.
        """
        late = self._recent.get(need.shared_by)
        if late:  # a result without cookies is requested again
            return late
        return self._once(
            need.shared_by,
            # Look again: a refresh that was in flight just before has ended and left its result.
            lambda: self._recent.get(need.shared_by) or self._refresh(need, sessions),
        )

    def _meet_session(self, need: SessionNeeded, sessions: SessionsSource) -> str:
        if not need.max_age:
            return self._look_up(need, sessions)
        return self._once(("get", need.session_id), lambda: self._look_up(need, sessions))

    def _look_up(self, need: SessionNeeded, sessions: SessionsSource) -> str:
        # Look again: a request that was in flight just before has ended and left its result.
        status = self._look_ups.status(need.session_id, need.max_age)
        if status is not None:
            return status
        try:
            status = str(sessions.get(need.session_id).status)
        except NotFoundError:
            status = GONE
        return self._look_ups.note(need.session_id, status)

    def _once(self, shared_by: tuple[str, ...], ask: Callable[[], T]) -> T:
        """Ask the service once for all callers that need the same thing at the same time."""
        key = (os.getpid(), *shared_by)  # a forked child must not wait for the parent's thread

        def work() -> T:
            try:
                return ask()
            finally:
                self._under_way.pop(key, None)

        errand: Errand[T] = self._under_way.setdefault(
            key, _errand("clerk_async: asking the service", work)
        )
        return errand.result()

    def _refresh(self, need: RefreshNeeded, sessions: SessionsSource) -> Sequence[str]:
        answer = need.sent_by(sessions.refresh)
        return self._recent.keep(need.shared_by, answer)

    def _meet_keys(self, need: KeysNeeded) -> None:
        flight = need.flight
        if flight.landed.is_open:  # another fetch has just ended, so there is nothing to do
            return
        if self._sessions is None:
            load_client()
        # Every waiting thread ensures that the fetch runs: the one that decided may be interrupted.
        errand = _errand("clerk_async: fetching keys", lambda: self._fly(flight))
        flight.carried_by(errand).send()
        if need.patience != 0:
            flight.landed.wait(math.inf if need.patience is None else need.patience)

    def _fetch(self) -> bytes:
        if self._sessions is not None:
            return self._sessions._fetch_jwks()  # noqa: SLF001 - offered to verifiers alone
        import asyncio  # noqa: PLC0415 - heavy

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(fetch_published(self._issuer))

    def _fly(self, flight: Flight) -> None:
        try:
            body = self._fetch()
        except BaseException as error:  # noqa: BLE001 - any error must reach the waiting callers
            self._fetched.fail(flight, error)
        else:
            self._fetched.land(flight, body)


def _errand(name: str, work: Callable[[], T]) -> Errand[T]:
    """Return an errand that runs work in a separate thread with the current context.

    Ctrl-C in one waiting caller must not end the work for the others, and the program can exit
    without waiting for it.
    """
    from clerk_async.http.errand import Errand  # noqa: PLC0415 - on first use

    context = contextvars.copy_context()
    return Errand(name, lambda: context.run(work))
