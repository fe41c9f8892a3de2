"""Authenticating a request: which of its tokens counts, and what to do when it has expired.

The order in which tokens are tried and the refresh follow Clerk's JavaScript SDK:
https://clerk.com/docs/reference/backend/authenticate-request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast

import attrs

from clerk_async.errors import (
    ClerkError,
    ConfigurationError,
    DenialsUnavailableError,
    InvalidArgumentError,
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
from clerk_async.tokens.rules import check_flag
from clerk_async.tokens.verification import Examined, RefreshNeeded, Steps, Verification, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class RequestState:
    """The result of authenticating a request.

    Attributes:
        status: `signed_in`, `signed_out`, or `unknown` if the request could not be checked (the
            keys, the service or the shared denials are unavailable): respond to those with 503
            rather than 401.
        reason: Why the request is not signed in; None if it is.
        message: The reason in words, and what to do about it; None if signed in.
        token: The session token, if signed in; after a refresh, the new one.
        claims: The token's claims, if signed in.
        set_cookies: After a refresh, the Set-Cookie lines to add to the response, each as a
            separate header, whatever the status; otherwise empty.
        error: The exception behind `reason`, for logs; None if signed in or without a token.
        pending_claims: The token's claims if the only reason for rejection is that its session is
            pending (`session-pending`): they say who has tasks left. None otherwise.
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
    """What the caller asks for one request.

    Attributes:
        check_session: Whether to look up the session, or how old in seconds its status may be.
        refresh_if_expired: Whether to exchange an expired token for a new one.
        accept_pending: Whether to accept pending sessions; None for the verifier's setting.
    """

    check_session: float
    refresh_if_expired: bool
    accept_pending: bool | None


@attrs.define(repr=False, eq=False)
class _Refusal:
    """A rejected token, and what its examination found before the rejection."""

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
        InvalidArgumentError: If headers can't be read from `request`, or an option is
            invalid.
        ConfigurationError: If the service must be asked and the verifier has no client.
    """
    wants_session = max_age_of(check_session) is not None
    for name, flag in (
        ("refresh_if_expired", refresh_if_expired),
        ("accept_pending", False if accept_pending is None else accept_pending),
    ):
        check_flag(name, flag, error=InvalidArgumentError)
    if (wants_session or refresh_if_expired) and not verification.can_look_up:
        raise ConfigurationError(
            "check_session and refresh_if_expired ask the service: pass the verifier a client "
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
        # Don't fetch a key for another instance's cookie if there is also a cookie of ours.
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
    """Verify one token; return None if that takes a fetch and `wait` is False."""
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
                "This browser has signed in again since the session token was issued: its cookie "
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
    """Return why no token counts; `unknown` if one of them could not be checked."""
    for refusal in refusals:
        error = refusal.error
        if isinstance(error, _OPEN) or not isinstance(error, TokenVerificationError):
            return RequestState("unknown", reason_of(error), str(error), error=error)
    told = min(refusals, key=_irrelevance)
    reason = reason_of(told.error)
    is_pending = reason is Reason.SESSION_PENDING and told.examined is not None
    return RequestState(
        "signed_out",
        reason,
        str(told.error),
        error=told.error,
        pending_claims=told.examined.claims if is_pending and told.examined else None,
    )


def _irrelevance(refusal: _Refusal) -> int:
    """Order rejected tokens: expired ones, other genuine tokens of this instance, and the rest."""
    if reason_of(refusal.error) is Reason.TOKEN_EXPIRED:
        return 0
    return 1 if refusal.examined is not None else 2


def _refresh_any(
    verification: Verification, credentials: Credentials, refusals: Sequence[_Refusal], asked: Asked
) -> Steps[RequestState | None]:
    """Refresh the first token that can be refreshed; return None if none can.

    A browser usually has the same token in two cookies, with and without the suffix: it is
    refreshed once, as the one with the suffix.
    """
    refused_first: RequestState | None = None
    suffixes = {each.cookie.token: each.cookie.suffix for each in refusals if each.cookie.suffix}
    asked_for: set[tuple[str, str, str]] = set()
    for refusal in refusals:
        cookie = refusal.cookie
        if cookie.suffix is None:
            cookie = cookie._replace(suffix=suffixes.get(cookie.token))
        need = refresh_for(
            reason_of(refusal.error), cookie, refusal.examined, credentials, verification
        )
        if need is None or need.shared_by in asked_for:
            continue
        asked_for.add(need.shared_by)
        state = yield from _refresh(verification, need, asked)
        if state.status != "signed_out" or state.set_cookies:
            return state
        refused_first = refused_first or state
    return refused_first


def _refresh(verification: Verification, need: RefreshNeeded, asked: Asked) -> Steps[RequestState]:
    """Exchange an expired token for a new one, and verify that like any other."""
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
    problem = "The service's response to a refresh has no token."
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
        # The old refresh token is used up, so the browser needs the new one in any case.
        return attrs.evolve(_verdict(refusals), set_cookies=lines)
    return _signed_out(Reason.SESSION_REFRESH_REFUSED, problem)
