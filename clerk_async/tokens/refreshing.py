"""Exchanging an expired session token for a new one.

A refresh token can be used only once. If a browser sends several requests with the same old
cookies, all of them must get the same result: requests that arrive while the refresh is in flight
share it, and requests that arrive soon after get the same new cookies (`Recent`).

https://clerk.com/docs/reference/backend-api/tag/Sessions#operation/RefreshSession
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from clerk_async.errors import (
    ApiError,
    AuthenticationError,
    ClerkError,
    RateLimitedError,
    ServerError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.credentials import origin_for
from clerk_async.tokens.verification import RefreshNeeded
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.tokens.credentials import Credentials, SessionCookie
    from clerk_async.tokens.verification import Examined, Verification

KEPT_FOR: Final = 10.0
"""Seconds for which the result of a refresh is kept for late requests."""
_MAX_KEPT: Final = 1024

_MENDED_BY_A_REFRESH: Final = frozenset(
    {Reason.TOKEN_EXPIRED, Reason.SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT}
)


class Recent:
    """The results of recent refreshes, keyed by what their requests have in common; lock-free."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: dict[object, tuple[float, Sequence[str]]] = {}
        on_reset(self.forget)

    def __len__(self) -> int:
        return len(self._answers)

    def forget(self) -> None:
        """Forget everything, between two tests."""
        self._answers.clear()

    def get(self, shared_by: object) -> Sequence[str] | None:
        """Return the result for an equal request, or None if there is none or it is too old."""
        found = self._answers.get(shared_by)
        if found is None or self._clock() - found[0] > KEPT_FOR:
            return None
        return found[1]

    def keep(self, shared_by: object, answer: object) -> Sequence[str]:
        """Keep and return the Set-Cookie lines of the service's response (a token has none)."""
        now, lines = self._clock(), cast("Sequence[str]", getattr(answer, "cookies", ()))
        self._answers[shared_by] = (now, lines)
        for key, (since, _) in list(self._answers.items()):  # oldest first
            if now - since <= KEPT_FOR and len(self._answers) <= _MAX_KEPT:
                break
            self._answers.pop(key, None)
        return lines


def refresh_for(
    reason: Reason,
    cookie: SessionCookie,
    examined: Examined | None,
    credentials: Credentials,
    verification: Verification,
) -> RefreshNeeded | None:
    """Return the arguments of a refresh, or None if this token or request can't be refreshed.

    A token whose `azp` is not an authorized party is not refreshed, because it leaked from another
    origin.
    """
    if examined is None or reason not in _MENDED_BY_A_REFRESH:
        return None
    session_id, party = examined.payload.get("sid"), examined.payload.get("azp")
    if party is not None and not verification.rules.recognizes(party):
        return None
    refresh_token = credentials.refresh_token_for(cookie.suffix)
    if credentials.method() not in {None, "GET"} or not refresh_token:
        return None
    if not (isinstance(session_id, str) and session_id):
        return None
    origin = origin_for(party if isinstance(party, str) else None, credentials)
    if not origin:
        return None
    return RefreshNeeded(
        session_id,
        cast("str", examined.payload["sub"]),
        cookie.token,
        refresh_token,
        origin,
        credentials.headers(),
        None if cookie.suffix is None else True,
    )


def failure_of(error: ClerkError) -> tuple[bool, Reason]:
    """Return whether the service rejected the refresh (else it could not be asked), and why."""
    from clerk_async.http.error_bodies import refuses_key  # noqa: PLC0415 - heavy, seldom needed

    if (
        not isinstance(error, ApiError)
        or isinstance(error, ServerError | RateLimitedError)
        or refuses_key(error, of_a_refresh=True)
    ):
        return False, Reason.SESSION_REFRESH_FAILED
    if isinstance(error, AuthenticationError) and error.code in set(Reason):
        return True, Reason(error.code)
    return True, Reason.SESSION_REFRESH_REFUSED
