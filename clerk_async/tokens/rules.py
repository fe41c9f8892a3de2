"""The rules for the claims of a token whose signature holds. Pure: the clock is handed in.

The checks are those of https://clerk.com/docs/guides/sessions/manual-jwt-verification; expiry
comes last, so that `token-expired` means that all the rest was in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs

from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.refusals import cut, malformed, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CENTURY = 100 * 365 * 86_400
_MACHINE = "mch_"  # `M2M_SUBJECT_PREFIX` in Clerk's JavaScript SDK


@attrs.frozen
class Rules:
    """What a verifier asks of every token.

    Attributes:
        authorized_parties: The accepted values of `azp`; None leaves it unchecked.
        audience: The accepted values of `aud`; None leaves it unchecked.
        issuer: The expected `iss`; None leaves it unchecked.
        clock_skew: Seconds by which this machine's clock and the service's may differ.
        accept_pending: Whether a session with tasks left is let in.
    """

    authorized_parties: frozenset[str] | None
    audience: frozenset[str] | None
    issuer: str | None
    clock_skew: float
    accept_pending: bool

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Check everything but expiry.

        Raises:
            TokenVerificationError: With the first rule that the claims break.
        """
        get = claims.get
        user_id = get("sub")
        if not (isinstance(user_id, str) and user_id):
            raise malformed("its sub, the user's id, is missing")
        if user_id.startswith(_MACHINE):
            raise malformed("it is a machine's token, not a user's")
        if self.issuer is not None and get("iss") != self.issuer:
            raise refused(
                Reason.TOKEN_INVALID_ISSUER,
                f"The token comes from {cut(get('iss'))}, not from {cut(self.issuer)}: "
                "it belongs to another Clerk instance.",
            )
        self.check_party(get("azp"))
        if self.audience is not None:
            self._check_audience(get("aud"))
        self._check_start(get("nbf"), now, "nbf", Reason.TOKEN_NOT_ACTIVE_YET)
        self._check_start(get("iat"), now, "iat", Reason.TOKEN_IAT_IN_THE_FUTURE)
        if get("sts") == "pending" and not self.accept_pending:
            raise refused(
                Reason.SESSION_PENDING,
                "The session is pending: the user has tasks left, such as choosing an "
                "organization. Set accept_pending=True where such sessions are welcome.",
            )

    def check_party(self, party: object) -> None:
        """Check `azp`.

        Raises:
            TokenVerificationError: If it is none of the authorized parties.
        """
        if self.authorized_parties is not None and not (
            isinstance(party, str) and party in self.authorized_parties
        ):
            told = "names no authorized party" if party is None else f"is for {cut(party)}"
            raise refused(
                Reason.TOKEN_INVALID_AUTHORIZED_PARTIES,
                f"The token {told}, which is none of authorized_parties; add the origin there "
                "(scheme, host and port, no trailing slash) if it is one of yours.",
            )

    def _check_audience(self, audience: object) -> None:
        expected = self.audience or frozenset()
        several = isinstance(audience, list | tuple)
        names = cast("Sequence[object]", audience) if several else (audience,)
        # One entry that is no string makes the whole claim one that was never meant for us.
        if not all(isinstance(name, str) for name in names) or expected.isdisjoint(names):
            raise refused(
                Reason.TOKEN_INVALID_AUDIENCE,
                f"The token's audience {cut(names)} holds none of those expected.",
            )

    def _check_start(self, start: object, now: float, claim: str, reason: Reason) -> None:
        if start is None:
            return
        if type(start) is not int:
            raise malformed(f"its {claim} is not an integer")
        if start > now + self.clock_skew:
            raise refused(
                reason,
                f"The token begins ({claim}) in {_span(start - int(now))}; "
                f"{self.clock_skew:g} s of clock skew are allowed. Is this machine's clock right?",
            )

    def check_expiry(self, expiry: object, now: float) -> None:
        """Check `exp`.

        Raises:
            TokenVerificationError: If it has passed by more than the clock skew, or is missing.
        """
        if expiry is None:
            raise malformed("its exp is missing, so that it would never end")
        if type(expiry) is not int:
            raise malformed("its exp is not an integer")
        if expiry <= now - self.clock_skew:
            raise refused(
                Reason.TOKEN_EXPIRED,
                f"The token expired {_span(int(now) - expiry)} ago; "
                f"{self.clock_skew:g} s of clock skew are allowed.",
            )


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < _CENTURY else "more than a century"
