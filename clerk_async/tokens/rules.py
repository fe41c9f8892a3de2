"""The rules for the claims of a token with a valid signature; the caller passes the time.

The checks follow https://clerk.com/docs/guides/sessions/manual-jwt-verification. Expiry is checked
before the authorized party and the session's status: an expired token can be refreshed, and the
new one may pass where the old one would not.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import attrs

from clerk_async.errors import ConfigurationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.refusals import cut, malformed, of_another_kind, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clerk_async.errors import ClerkError

Parties: TypeAlias = frozenset[str] | Callable[[str], object]
"""The authorized parties: their names, or a function that recognizes them."""

_CENTURY: Final = 100 * 365 * 86_400
_MACHINE: Final = "mch_"  # `M2M_SUBJECT_PREFIX` in Clerk's JavaScript SDK
_ABSENT: Final = object()


@attrs.frozen(eq=False)
class Rules:
    """The rules that a verifier applies to every token.

    Attributes:
        authorized_parties: The accepted values of `azp`, or a function that accepts one; None if
            it is not checked.
        allow_missing_azp: Whether a token without `azp` is accepted.
        audience: The accepted values of `aud`; None if it is not checked.
        issuers: The accepted values of `iss`; None if it is not checked.
        clock_skew: Seconds by which this machine's clock and the service's may differ.
        accept_pending: Whether sessions with tasks left are accepted, unless a call overrides it.
    """

    authorized_parties: Parties | None
    allow_missing_azp: bool
    audience: frozenset[str] | None
    issuers: frozenset[str] | None
    clock_skew: float
    accept_pending: bool

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Check the token's user, issuer and audience, and that it is already valid.

        Raises:
            TokenVerificationError: With the first rule that the claims break.
        """
        get = claims.get
        user_id = get("sub")
        if not (isinstance(user_id, str) and user_id):
            raise malformed("its sub (the user's id) is missing")
        if user_id.startswith(_MACHINE):
            raise of_another_kind("it is a machine's token, not a user's")
        if self.issuers is not None:
            issuer = get("iss")
            if not (isinstance(issuer, str) and issuer in self.issuers):
                raise refused(
                    Reason.TOKEN_INVALID_ISSUER,
                    f"The token comes from {cut(issuer)}, not from "
                    f"{cut(', '.join(sorted(self.issuers)))}: it belongs to another Clerk "
                    "instance.",
                )
        if self.audience is not None:
            self._check_audience(get("aud"))
        latest = now + self.clock_skew
        for claim, reason in _STARTS:
            start = get(claim, _ABSENT)
            if start is _ABSENT:
                continue
            if type(start) is not int:
                raise malformed(f"its {claim} is not an integer")
            if start > latest:
                raise refused(
                    reason,
                    f"The token is not valid yet: its {claim} is {_span(start - int(now))} ahead; "
                    f"{self.clock_skew:g} s of clock skew are allowed. Is this machine's clock "
                    "right?",
                )

    def _check_audience(self, audience: object) -> None:
        expected = self.audience or frozenset()
        several = isinstance(audience, list | tuple)
        names = cast("Sequence[object]", audience) if several else (audience,)
        # A list with an entry that is not a string is invalid as a whole.
        if not all(isinstance(name, str) for name in names) or expected.isdisjoint(names):
            raise refused(
                Reason.TOKEN_INVALID_AUDIENCE,
                f"The token's audience {cut(names)} contains none of the expected ones.",
            )

    def check_access(self, claims: Mapping[str, Any], now: float) -> None:
        """Check that the token has not expired, and then that its origin is authorized.

        Raises:
            TokenVerificationError: If the token has expired or has no expiry, or if its `azp` is
                not an authorized party.
            ConfigurationError: If the function that recognizes parties can't be used.
        """
        expiry = claims.get("exp")
        if type(expiry) is not int:
            if expiry is None:
                raise malformed("its exp is missing, so it would never expire")
            raise malformed("its exp is not an integer")
        if expiry <= now - self.clock_skew:
            raise refused(
                Reason.TOKEN_EXPIRED,
                f"The token expired {_span(int(now) - expiry)} ago; "
                f"{self.clock_skew:g} s of clock skew are allowed.",
            )
        party = claims.get("azp")
        if self.authorized_parties is None or (party is None and self.allow_missing_azp):
            return
        if not self.recognizes(party):
            told = "has no azp" if party is None else f"is for {cut(party)}"
            remedy = (
                "allow_missing_azp=True accepts such tokens"
                if party is None
                else "add the origin there (scheme, host and port, no trailing slash) if it is one "
                "of yours"
            )
            raise refused(
                Reason.TOKEN_INVALID_AUTHORIZED_PARTIES,
                f"The token {told}, so authorized_parties rejects it; {remedy}.",
            )

    def recognizes(self, party: object) -> bool:
        """Return whether an `azp` is one of the authorized parties.

        Raises:
            ConfigurationError: If the function that recognizes them returns an awaitable or a
                generator.
        """
        parties = self.authorized_parties
        if parties is None:
            return True
        if not isinstance(party, str):
            return False
        if isinstance(parties, frozenset):
            return party in parties
        answer = parties(party)
        if inspect.isawaitable(answer) or isinstance(answer, Generator | AsyncGenerator):
            # It is always truthy and would let everyone in.
            close = getattr(cast("object", answer), "close", None)
            if close is not None:
                close()
            raise ConfigurationError(
                "authorized_parties must not be a coroutine function or a generator function."
            )
        return bool(answer)


_STARTS: Final = (("nbf", Reason.TOKEN_NOT_ACTIVE_YET), ("iat", Reason.TOKEN_IAT_IN_THE_FUTURE))


def check_flag(name: str, value: object, *, error: type[ClerkError] = ConfigurationError) -> None:
    """Reject anything but a bool: the text "false" of a setting would count as true.

    Raises:
        ClerkError: `error`, if it is something else.
    """
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, not {value!r}")


def pending() -> Exception:
    """Return the error for a session with tasks left."""
    return refused(
        Reason.SESSION_PENDING,
        "The session is pending: the user has tasks left, such as choosing an organization. Set "
        "accept_pending=True to accept such sessions.",
    )


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < _CENTURY else "more than a century"
