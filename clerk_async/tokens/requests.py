"""Authenticating a request: which of its tokens counts, and what to do when it has expired.

The order of the places and the refresh follow Clerk's JavaScript SDK; the page:
https://clerk.com/docs/reference/backend/authenticate-request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import attrs

from clerk_async.errors import (
    ApiError,
    AuthenticationError,
    ClerkError,
    ConfigurationError,
    KeysUnavailableError,
    RateLimitedError,
    ServerError,
    TokenVerificationError,
)
from clerk_async.http.error_bodies import refuses_key
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.claims import SessionClaims
from clerk_async.tokens.credentials import (
    Credentials,
    SessionCookie,
    origin_for,
    read_credentials,
    session_cookie_of,
)
from clerk_async.tokens.verification import Examined, RefreshNeeded, Steps, Verification

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class RequestState:
    """What a request's credentials amount to.

    Attributes:
        status: `signed_in`, `signed_out`, or `unknown` where it could not be checked (the keys or
            the service are out of reach): answer those with 503 rather than 401.
        reason: Why not signed in; None where signed in.
        message: The same for people, with what to do; None where signed in.
        token: The session token, where signed in; the new one after a refresh.
        claims: What it says, where signed in.
        set_cookies: After a refresh, the Set-Cookie lines to put on the response, each a header of
            its own, whatever the status; otherwise empty.
        error: The exception behind `reason`, for logs; None where signed in or without a token.
    """

    status: Literal["signed_in", "signed_out", "unknown"]
    reason: Reason | None = None
    message: str | None = None
    token: str | None = attrs.field(default=None, repr=False)
    claims: SessionClaims | None = None
    set_cookies: tuple[str, ...] = attrs.field(default=(), repr=False)
    error: ClerkError | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def is_signed_in(self) -> bool:
        """Whether the request carries a session token that verifies."""
        return self.status == "signed_in"


def _signed_out(reason: Reason, message: str, error: ClerkError | None = None) -> RequestState:
    return RequestState("signed_out", reason, message, error=error)


def _unknown(reason: Reason, error: ClerkError) -> RequestState:
    return RequestState("unknown", reason, str(error), error=error)


def authenticate(
    verification: Verification, request: object, *, check_session: bool, refresh_if_expired: bool
) -> Steps[RequestState]:
    """Find out who sent a request.

    Raises:
        InvalidArgumentError: If this is nothing that headers can be read from.
        ConfigurationError: If the service is to be asked and the verifier has no client for it.
    """
    if (check_session or refresh_if_expired) and not verification.can_look_up:
        raise ConfigurationError(
            "check_session and refresh_if_expired ask the service: hand the verifier a client "
            "with sessions=."
        )
    credentials = read_credentials(request)
    candidates = _candidates(verification, credentials)
    if not candidates:
        return _signed_out(
            Reason.SESSION_TOKEN_MISSING,
            "The request carries no session token: neither an Authorization header with the "
            "Bearer scheme nor a __session cookie.",
        )
    refusals: list[_Refusal] = []
    for candidate in candidates:
        outcome = yield from _try(verification, candidate, check_session=check_session)
        if isinstance(outcome, SessionClaims):
            return RequestState("signed_in", token=candidate.token, claims=outcome)
        refusals.append(outcome)
    if refresh_if_expired:
        for refusal in refusals:
            need = _refresh_for(refusal, credentials)
            if need is not None:
                return (yield from _refresh(verification, need))
    return _verdict([refusal.error for refusal in refusals])


@attrs.frozen(repr=False)
class _Refusal:
    """A token that does not count, and what was found out about it before that showed."""

    cookie: SessionCookie
    error: ClerkError
    examined: Examined | None


def _try(
    verification: Verification, cookie: SessionCookie, *, check_session: bool
) -> Steps[SessionClaims | _Refusal]:
    examined: Examined | None = None
    try:
        examined = verification.examine_at_once(cookie.token)
        if examined is None:
            examined = yield from verification.examine(cookie.token)
        claims = verification.accept(examined)
        if check_session:
            yield from verification.check_session(claims)
    except ClerkError as error:
        return _Refusal(cookie, error, examined)
    return claims


def _candidates(verification: Verification, credentials: Credentials) -> Sequence[SessionCookie]:
    if credentials.bearer is not None:
        return [SessionCookie(credentials.bearer, None)]
    cookies = credentials.session_cookies()
    if len(cookies) > 1:
        # Another instance's cookie must not cost a fetch while one of ours lies beside it.
        cookies.sort(key=lambda cookie: not verification.has_key_of(cookie.token))
    return cookies


def _reason_of(error: ClerkError) -> Reason:
    return (
        error.reason if isinstance(error, TokenVerificationError) else Reason.SESSION_CHECK_FAILED
    )


def _verdict(refusals: Sequence[ClerkError]) -> RequestState:
    """Sum up why no token counts; one that could not be checked leaves the question open."""
    for error in refusals:
        if isinstance(error, KeysUnavailableError) or not isinstance(error, TokenVerificationError):
            return _unknown(_reason_of(error), error)
    told = next((e for e in refusals if _reason_of(e) is Reason.TOKEN_EXPIRED), refusals[0])
    return _signed_out(_reason_of(told), str(told), told)


def _refresh_for(refusal: _Refusal, credentials: Credentials) -> RefreshNeeded | None:
    """Tell what a refresh takes; None where the token or the request is not one to refresh."""
    examined = refusal.examined
    if examined is None or _reason_of(refusal.error) is not Reason.TOKEN_EXPIRED:
        return None
    session_id, party = examined.payload.get("sid"), examined.payload.get("azp")
    refresh_token = credentials.refresh_token_for(refusal.cookie.suffix)
    if credentials.method() not in {None, "GET"} or not refresh_token:
        return None
    if not (isinstance(session_id, str) and session_id):
        return None
    origin = origin_for(party if isinstance(party, str) else None, credentials)
    if not origin:
        return None
    return RefreshNeeded(
        session_id,
        examined.payload["sub"],
        refusal.cookie.token,
        refresh_token,
        origin,
        credentials.headers(),
    )


def _refresh(verification: Verification, need: RefreshNeeded) -> Steps[RequestState]:
    """Get a new token for an expired one, and verify it like any other."""
    try:
        lines = cast("Sequence[str]", (yield need))
    except ClerkError as error:
        return _refresh_failed(error)
    cookie = next(filter(None, map(session_cookie_of, lines)), None)
    if cookie is None:
        return _signed_out(
            Reason.SESSION_REFRESH_REFUSED, "The service's answer to a refresh holds no token."
        )
    outcome = yield from _try(verification, cookie, check_session=False)
    if isinstance(outcome, _Refusal):
        # The old refresh token is used up: the browser needs the new one, whatever came of this.
        return attrs.evolve(_verdict([outcome.error]), set_cookies=tuple(lines))
    if (outcome.session_id, outcome.user_id) != (need.session_id, need.user_id):
        return _signed_out(
            Reason.SESSION_REFRESH_REFUSED, "The refreshed token belongs to another session."
        )
    return RequestState("signed_in", token=cookie.token, claims=outcome, set_cookies=tuple(lines))


def _refresh_failed(error: ClerkError) -> RequestState:
    if (
        not isinstance(error, ApiError)
        or isinstance(error, ServerError | RateLimitedError)
        or refuses_key(error, of_a_refresh=True)
    ):
        return _unknown(Reason.SESSION_REFRESH_FAILED, error)
    reason = Reason.SESSION_REFRESH_REFUSED
    if isinstance(error, AuthenticationError) and error.code in set(Reason):
        reason = Reason(error.code)
    return _signed_out(reason, str(error), error)
