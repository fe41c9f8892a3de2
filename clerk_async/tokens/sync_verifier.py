"""`TokenVerifier`: the same verifier for sync code, from any number of threads."""

from __future__ import annotations

import contextvars
import math
import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clerk_async.errors import ClerkError
from clerk_async.tokens.key_set import Flight, KeysNeeded
from clerk_async.tokens.settings import Verifier
from clerk_async.tokens.sources import SessionsSource, fetch_published, load_client
from clerk_async.tokens.verification import Need, RefreshNeeded, SessionNeeded, Steps
from clerk_async.under_test import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.http.errand import Errand
    from clerk_async.models import Session
    from clerk_async.tokens.claims import SessionClaims
    from clerk_async.tokens.requests import RequestState

T = TypeVar("T")


class TokenVerifier(Verifier[SessionsSource]):
    """Verifies session tokens without asking the service, but for its public keys now and then.

    The sync twin of `AsyncTokenVerifier`, thread-safe. Make one for the life of the app: it
    remembers keys and tokens. Keys are fetched in a thread of their own, which holds up neither
    requests nor the end of the program, and a forked child fetches for itself. Times are seconds.

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
        return self._run(
            self._verification.verify(
                token, check_session=check_session, accept_pending=accept_pending
            )
        )

    def authenticate_request(
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
        return self._run(steps)

    def warm_up(self) -> None:
        """Fetch the keys now, at the start of an app, so that no request waits for them.

        With shared state, also wait until what other processes have denied is known, for 5 seconds
        at most.

        Raises:
            KeysUnavailableError: If the keys can't be had.
            DenialsUnavailableError: With `denials_max_age`, if what was denied can't be had.
        """
        self._run(self._verification.keys.prepare())
        if self._link is not None:
            self._client_that_shares._catch_up()  # noqa: SLF001 - offered to verifiers alone
            self._check_knowledge()

    def _start_link(self) -> None:
        self._client_that_shares._start_link()  # noqa: SLF001 - offered to verifiers alone

    @property
    def _client_that_shares(self) -> Any:
        return self._sessions  # the link is its own, so it is a client of ours

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
        """Refresh once for all the requests that a page sends at the same time, or just after.

        A refresh uses its token up: whoever came second would be signed out.
        """
        late = self._recent.get(need.shared_by)
        if late:  # an answer without cookies is asked for again
            return late
        return self._once(
            need.shared_by,
            # Only now: who was under way just before is done, and has left its answer there.
            lambda: self._recent.get(need.shared_by) or self._refresh(need, sessions),
        )

    def _meet_session(self, need: SessionNeeded, sessions: SessionsSource) -> Session:
        if not need.is_shared:
            return sessions.get(need.session_id)
        return self._once(("get", need.session_id), lambda: sessions.get(need.session_id))

    def _once(self, shared_by: tuple[str, ...], ask: Callable[[], T]) -> T:
        """Ask the service once for all who need the same at the same time."""
        key = (os.getpid(), *shared_by)  # a forked child waits for no thread left behind

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
        answer = sessions.refresh(
            need.session_id,
            expired_token=need.expired_token,
            refresh_token=need.refresh_token,
            request_origin=need.request_origin,
            request_headers=need.request_headers,
            format="cookie",
            suffixed_cookies=need.suffixed_cookies,
        )
        return self._recent.keep(need.shared_by, answer)

    def _meet_keys(self, need: KeysNeeded) -> None:
        flight = need.flight
        if flight.landed.is_open:  # another fetch has just ended: nothing is to be carried out
            return
        if self._sessions is None:
            load_client()
        # Whoever waits sees to it that it is carried out: who decided on it may be interrupted.
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
        except BaseException as error:  # noqa: BLE001 - whatever it is, waiters must be told
            self._fetched.fail(flight, error)
        else:
            self._fetched.land(flight, body)


def _errand(name: str, work: Callable[[], T]) -> Errand[T]:
    """Give work a thread of its own, with this one's context.

    Ctrl-C in who waits must not end it for the others, and a program need not wait for it in order
    to end.
    """
    from clerk_async.http.errand import Errand  # noqa: PLC0415 - on first use

    context = contextvars.copy_context()
    return Errand(name, lambda: context.run(work))
