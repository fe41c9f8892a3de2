"""Rejects valid tokens whose session or user was denied, or whose session has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from clerk_async.errors import (
    ConfigurationError,
    DenialsUnavailableError,
    InvalidArgumentError,
    TokenVerificationError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.claims import read_claims
from clerk_async.tokens.jose import json_object
from clerk_async.tokens.refusals import refused
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.denials.table import Denials
    from clerk_async.shared.link import Link
    from clerk_async.tokens.rules import Rules

GONE: Final = ""  # the status of a session that the service doesn't know
_PASSING: Final = frozenset({"active", "pending", GONE})
_MAX_LOOK_UPS: Final = 10_000


class DenialCheck:
    """Checks a token against a client's denials, after all other checks have passed.

    Args:
        denials: The client's denials.
        skew: Seconds by which the service's clock may be ahead.
        link: The client's link to other processes, if it shares its state.
        max_age: The greatest age, in seconds, of what is known of other processes' denials; None
            for any age.
    """

    def __init__(
        self, denials: Denials, skew: float, link: Link | None, max_age: float | None
    ) -> None:
        denials.is_watched = True
        self._denials = denials
        self._skew = skew
        self._link = link
        self._max_age = max_age
        if link is not None and max_age is not None:
            link.keep_within(max_age)

    def check(self, payload: Mapping[str, Any]) -> None:
        """Check a token that is otherwise valid.

        Raises:
            TokenVerificationError: If its session or user was denied.
            DenialsUnavailableError: If it wasn't, as far as is known, but `max_age` is set and
                knowledge of denials is too old.
        """
        denials, session_id = self._denials, payload.get("sid")
        if not denials.has_cuts:  # the common case, kept fast
            is_denied = session_id is not None and denials.denies(session_id)
        else:
            is_denied = denials.refuses(
                session_id,
                payload["sub"],
                payload.get("iat"),
                _first_factor_age(payload),
                self._skew,
                actor=_actor(payload),
                is_pending=payload.get("sts") == "pending",
            )
        if is_denied:
            raise refused(
                Reason.SESSION_REVOKED,
                "The token's session was revoked or its user was denied: they must sign in again.",
            )
        if self._max_age is not None:
            self.check_knowledge()

    def check_unverified(self, payload_segment: bytes, rules: Rules, now: float) -> None:
        """Check a token whose key is unavailable: if it was denied, even a genuine one is invalid.

        Raises:
            TokenVerificationError: If it can be read, and its session or user was denied.
        """
        try:
            payload = json_object(payload_segment, "payload")
            rules.check(payload, now)
            read_claims(payload, {})
            self.check(payload)
        except TokenVerificationError as error:
            if error.reason is Reason.SESSION_REVOKED:
                raise

    def check_knowledge(self) -> None:
        """Check that what is known of other processes' denials is recent enough.

        Raises:
            DenialsUnavailableError: If it is older than `max_age`.
        """
        if self._link is None or self._max_age is None:
            return
        age = self._link.age()
        if age > self._max_age:
            known = "never known" if age == math.inf else f"last known {age:.1f} seconds ago"
            raise DenialsUnavailableError(
                f"The denials of other processes were {known}, and denials_max_age is "
                f"{self._max_age:g}: the token could not be checked.",
                reason=Reason.DENIALS_UNAVAILABLE,
            )


def _actor(payload: Mapping[str, Any]) -> str | None:
    act = payload.get("act")
    actor = cast("Mapping[str, object]", act).get("sub") if isinstance(act, Mapping) else None
    return actor if isinstance(actor, str) else None


def _first_factor_age(payload: Mapping[str, Any]) -> int | None:
    fva = payload.get("fva")
    ages = cast("Sequence[object]", fva) if isinstance(fva, list | tuple) else ()
    age = ages[0] if ages else None
    return age if type(age) is int else None


class LookUps:
    """Session statuses that `check_session` has seen, to save requests.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, str]] = {}
        on_reset(self.forget)

    def forget(self) -> None:
        """Forget everything, between two tests."""
        self._seen.clear()

    def status(self, session_id: str, max_age: float) -> str | None:
        """Return the status seen at most `max_age` seconds ago, or the status of an ended session.

        An ended session's status never changes, so it may be of any age, unless `max_age` is 0.
        A session that the service did not know may only be too new for it.
        """
        seen = self._seen.get(session_id) if max_age else None
        if seen is None:
            return None
        at, status = seen
        is_recent = status not in _PASSING or self._clock() - at < max_age
        return status if is_recent else None

    def note(self, session_id: str, status: str) -> str:
        """Record a status that the service has just returned, and return it; may evict the oldest.

        A look-up records the status before it ends: a caller who is too late to share the look-up
        finds the status here.
        """
        self._seen.pop(session_id, None)
        self._seen[session_id] = (self._clock(), status)
        while len(self._seen) > _MAX_LOOK_UPS:
            with suppress(StopIteration, RuntimeError):  # another thread makes room, too
                self._seen.pop(next(iter(self._seen)), None)
        return status


def max_age_of(check_session: object) -> float | None:
    """Return how old, in seconds, a session's status may be; None if it is not to be checked.

    Raises:
        InvalidArgumentError: If `check_session` is neither a bool nor a number of seconds.
    """
    if check_session is False:
        return None
    if check_session is True:
        return 0.0
    if isinstance(check_session, int | float) and 0 <= check_session < math.inf:
        return float(check_session)
    raise InvalidArgumentError(
        "check_session must be True, False, or for how many seconds a session's status counts, "
        f"not {check_session!r}"
    )


def checked_max_age(value: float | None, link: Link | None, *, checks_denials: bool) -> None:
    """Check `denials_max_age`.

    Raises:
        ConfigurationError: If it is not a positive number, or if the verifier has no shared state
            or does not check denials.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance] - of untyped callers
        raise ConfigurationError(f"denials_max_age must be a number of seconds, not {value!r}.")
    if link is None or not checks_denials:
        raise ConfigurationError(
            "denials_max_age needs check_denials and a client that shares its state: pass the "
            "verifier sessions= with a client that has shared_state=."
        )
