"""Authenticating a request: which of its tokens counts, and what to do when it has expired.

The order of the places and the refresh follow Clerk's JavaScript SDK; the page:
https://clerk.com/docs/reference/backend/authenticate-request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast

import attrs

from clerk_async.errors import (
    ClerkError,
    ConfigurationError,
    DenialsUnavailableError,
    KeysUnavailableError,
    TokenVerificationError,
    WrongLoopError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.claims import SessionClaims
from clerk_async.tokens.credentials import (
    Credentials,
    SessionCookie,
    read_credentials,
    session_cookie_of,
)
from clerk_async.tokens.denied import max_age_of
from clerk_async.tokens.refreshing import failure_of, refresh_for
from clerk_async.tokens.refusals import refused
from clerk_async.tokens.verification import (
    Examined,
    RefreshNeeded,
    Steps,
    Verification,
    reason_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class RequestState:
    """What a request's credentials amount to.

    Attributes:
        status: `signed_in`, `signed_out`, or `unknown` if it could not be checked (the keys, the
            service or the shared denials are out of reach): answer those with 503 rather than 401.
        reason: Why not signed in; None if signed in.
        message: The same for people, with what to do; None if signed in.
        token: The session token, if signed in; the new one after a refresh.
        claims: What it says, if signed in.
        set_cookies: After a refresh, the Set-Cookie lines to put on the response, each a header of
            its own, whatever the status; otherwise empty.
        error: The exception behind `reason`, for logs; None if signed in or without a token.
        pending_claims: What the token says, if its session was refused only because it is pending
            (`session-pending`): who it is that has tasks left. None otherwise.
    """

    status: Literal["signed_in", "signed_out", "unknown"]
    reason: Reason | None = None
    message: str | None = None
    token: str | None = attrs.field(default=None, repr=False)
    claims: SessionClaims | None = None
    set_cookies: tuple[str, ...] = attrs.field(default=(), repr=False)
    error: ClerkError | None = attrs.field(default=None, repr=False, eq=False)
    pending_claims: SessionClaims | None = None

    @property
    def is_signed_in(self) -> bool:
        """Whether the request carries a session token that verifies."""
        return self.status == "signed_in"


_NEVER: Final = float("inf")
_OPEN: Final = (KeysUnavailableError, DenialsUnavailableError)


@attrs.define(eq=False)
class Asked:
    """What the caller wants of one request.

    Attributes:
        check_session: Whether, or if not seen for how many seconds, the session is looked up too.
        refresh_if_expired: Whether an expired token is exchanged for a new one.
        accept_pending: Whether pending sessions are let in; None for the verifier's own setting.
    """

    check_session: float
    refresh_if_expired: bool
    accept_pending: bool | None


@attrs.define(repr=False, eq=False)
class _Refusal:
    """A token that does not count, and what was found out about it before that showed."""

    cookie: SessionCookie
    error: ClerkError
    examined: Examined | None


def authenticate(
    verification: Verification,
    request: object,
    *,
    check_session: float,
    refresh_if_expired: bool,
    accept_pending: bool | None,
) -> Steps[RequestState]:
    """Find out who sent a request.

    Raises:
        InvalidArgumentError: If this is nothing that headers can be read from, or `check_session`
            can't be used.
        ConfigurationError: If the service is to be asked and the verifier has no client for it.
    """
    wants_session = max_age_of(check_session) is not None
    if (wants_session or refresh_if_expired) and not verification.can_look_up:
        raise ConfigurationError(
            "check_session and refresh_if_expired ask the service: hand the verifier a client "
            "with sessions=."
        )
    credentials = read_credentials(request)
    asked = Asked(check_session, refresh_if_expired, accept_pending)
    state = yield from _state_of(verification, credentials, asked)
    if state.reason is None:
        verification.tally.accept()
    else:
        verification.tally.refuse(state.reason, state.message)
    return state


def _state_of(
    verification: Verification, credentials: Credentials, asked: Asked
) -> Steps[RequestState]:
    refusals: list[_Refusal] = []
    tokens = credentials.session_tokens()
    for wait in (False, True):
        later: list[SessionCookie] = []
        for cookie in tokens:
            outcome = yield from _try(verification, cookie, asked, wait=wait)
            if isinstance(outcome, SessionClaims):
                return RequestState("signed_in", token=cookie.token, claims=outcome)
            if outcome is None:
                later.append(cookie)
            else:
                refusals.append(outcome)
        # Another instance's cookie must not cost a fetch while one of ours lies beside it.
        tokens = sorted(later, key=lambda cookie: not verification.has_key_of(cookie.token))
    if not refusals:
        return _signed_out(Reason.SESSION_TOKEN_MISSING, credentials.what_is_missing())
    if asked.refresh_if_expired:
        state = yield from _refresh_any(verification, credentials, refusals, asked)
        if state is not None:
            return state
    return _verdict(refusals)


def _try(
    verification: Verification, cookie: SessionCookie, asked: Asked, *, wait: bool = True
) -> Steps[SessionClaims | _Refusal | None]:
    """Verify one token; None if it has to wait for its key and `wait` says that it must not yet."""
    examined: Examined | None = None
    try:
        if cookie.client_uat == 0:
            raise refused(
                Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT,
                "This browser has signed out: its cookie __client_uat is 0, and its session token "
                "is left over.",
            )
        examined = verification.examine_at_once(cookie.token, session_only=True)
        if examined is None:
            if not wait:
                return None
            examined = yield from verification.examine(cookie.token, session_only=True)
        if cookie.client_uat is not None and cookie.client_uat > examined.payload.get(
            "iat", _NEVER
        ):
            raise refused(
                Reason.SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT,
                "This browser has signed in anew since the session token was made: its cookie "
                "__client_uat is later than the token's iat.",
            )
        claims = verification.accept(examined, accept_pending=asked.accept_pending)
        if (max_age := max_age_of(asked.check_session)) is not None:
            yield from verification.check_session(
                claims, max_age, accept_pending=asked.accept_pending
            )
    except (ConfigurationError, WrongLoopError):
        raise
    except ClerkError as error:
        return _Refusal(cookie, error, examined)
    return claims


def _signed_out(reason: Reason, message: str) -> RequestState:
    return RequestState("signed_out", reason, message)


def _verdict(refusals: Sequence[_Refusal]) -> RequestState:
    """Sum up why no token counts; one that could not be checked leaves the question open."""
    for refusal in refusals:
        error = refusal.error
        if isinstance(error, _OPEN) or not isinstance(error, TokenVerificationError):
            return RequestState("unknown", reason_of(error), str(error), error=error)
    told = next((r for r in refusals if reason_of(r.error) is Reason.TOKEN_EXPIRED), refusals[0])
    reason = reason_of(told.error)
    is_pending = reason is Reason.SESSION_PENDING and told.examined is not None
    return RequestState(
        "signed_out",
        reason,
        str(told.error),
        error=told.error,
        pending_claims=told.examined.claims if is_pending and told.examined else None,
    )


def _refresh_any(
    verification: Verification,
    credentials: Credentials,
    refusals: Sequence[_Refusal],
    asked: Asked,
) -> Steps[RequestState | None]:
    """Refresh the first token that can be; None if none can."""
    refused_first: RequestState | None = None
    for refusal in refusals:
        need = refresh_for(
            reason_of(refusal.error), refusal.cookie, refusal.examined, credentials, verification
        )
        if need is None:
            continue
        state = yield from _refresh(verification, need, asked)
        if state.status != "signed_out" or state.set_cookies:
            return state
        refused_first = refused_first or state
    return refused_first


def _refresh(verification: Verification, need: RefreshNeeded, asked: Asked) -> Steps[RequestState]:
    """Get a new token for an expired one, and verify it like any other."""
    try:
        lines = tuple(cast("Sequence[str]", (yield need)))
    except (ConfigurationError, WrongLoopError):
        raise
    except ClerkError as error:
        is_refused, reason = failure_of(error)
        return RequestState(
            "signed_out" if is_refused else "unknown", reason, str(error), error=error
        )
    refusals: list[_Refusal] = []
    problem = "The service's answer to a refresh holds no token."
    for cookie in filter(None, map(session_cookie_of, lines)):
        outcome = yield from _try(verification, cookie, asked)
        if isinstance(outcome, _Refusal):
            refusals.append(outcome)
        elif outcome is not None:
            if (outcome.session_id, outcome.user_id) == (need.session_id, need.user_id):
                return RequestState(
                    "signed_in", token=cookie.token, claims=outcome, set_cookies=lines
                )
            problem = "The refreshed token belongs to another session."
    if refusals:
        # The old refresh token is used up: the browser needs the new one, whatever came of this.
        return attrs.evolve(_verdict(refusals), set_cookies=lines)
    return _signed_out(Reason.SESSION_REFRESH_REFUSED, problem)
