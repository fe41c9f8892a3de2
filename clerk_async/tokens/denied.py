"""What a verifier refuses although the token is in order: what was denied, and what has ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from clerk_async.errors import (
    ConfigurationError,
    DenialsUnavailableError,
    InvalidArgumentError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.refusals import refused
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clerk_async.denials import Denials

_LIVE: Final = frozenset({"active", "pending"})
_MAX_LOOK_UPS: Final = 10_000


class Link(Protocol):
    """What a verifier asks of a client's link to other processes."""

    @property
    def is_running(self) -> bool:
        """Whether the link has been started, in this process."""
        ...

    def age(self) -> float:
        """Return the seconds since all that others have denied was known; inf if it never was."""
        ...

    def start(self) -> None:
        """Begin in the running loop."""
        ...

    async def caught_up(self) -> None:
        """Wait until what others have denied is known, or can't be had."""
        ...

    def keep_within(self, seconds: float) -> None:
        """Ask often enough that what is known is never older, while Redis answers."""
        ...


class DenialCheck:
    """Consults a client's list of denials, after everything else about a token was checked.

    Args:
        denials: The client's list.
        skew: Seconds by which the service's clock may be ahead.
        link: The client's link to other processes, if it shares its state.
        max_age: How old, in seconds, knowledge of what others have denied may be; None: any age.
    """

    def __init__(
        self, denials: Denials, skew: float, link: Link | None, max_age: float | None
    ) -> None:
        denials.is_watched = True
        self._refuses = denials.refuses
        self._skew = skew
        self._link = link
        self._max_age = max_age
        if link is not None and max_age is not None:
            link.keep_within(max_age)

    def check(self, payload: Mapping[str, Any]) -> None:
        """Check a token that is valid otherwise.

        Raises:
            TokenVerificationError: If it was denied.
            DenialsUnavailableError: If that isn't known, and must be.
        """
        if self._max_age is not None:
            self.check_knowledge()
        fva = payload.get("fva")
        ages = cast("Sequence[object]", fva) if isinstance(fva, list | tuple) else ()
        age_of_factor = ages[0] if ages else None
        if self._refuses(
            payload.get("sid"),
            payload["sub"],
            payload.get("iat"),
            age_of_factor if type(age_of_factor) is int else None,
            self._skew,
        ):
            raise refused(
                Reason.SESSION_REVOKED,
                "The token's session was revoked, or its user was denied: they must sign in again.",
            )

    def check_knowledge(self) -> None:
        """Check that what others have denied is known well enough.

        Raises:
            DenialsUnavailableError: If it isn't.
        """
        if self._link is None or self._max_age is None:
            return
        age = self._link.age()
        if age > self._max_age:
            known = "never known" if age == math.inf else f"known {age:.1f} seconds ago"
            raise DenialsUnavailableError(
                f"What other processes have denied was {known}, and denials_max_age is "
                f"{self._max_age:g}: the token could not be checked.",
                reason=Reason.DENIALS_UNAVAILABLE,
            )


class LookUps:
    """What `check_session` has seen of sessions, so that it needn't ask about each token anew.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, str]] = {}
        on_reset(self.forget)

    def forget(self) -> None:
        """Begin anew, between two tests."""
        self._seen.clear()

    def status(self, session_id: str, max_age: float) -> str | None:
        """Return the status seen at most `max_age` seconds ago; of an ended session, whenever."""
        seen = self._seen.get(session_id) if max_age else None
        if seen is None:
            return None
        at, status = seen
        is_recent = status not in _LIVE or self._clock() - at < max_age
        return status if is_recent else None

    def note(self, session_id: str, status: str) -> None:
        """Note a status that the service has just told; the oldest makes room."""
        self._seen.pop(session_id, None)
        self._seen[session_id] = (self._clock(), status)
        while len(self._seen) > _MAX_LOOK_UPS:
            self._seen.pop(next(iter(self._seen)), None)


def max_age_of(check_session: object) -> float | None:
    """Return how old, in seconds, a look at the session may be; None: none is wanted.

    Raises:
        InvalidArgumentError: If it is neither a bool nor a number of seconds.
    """
    if check_session is False:
        return None
    if check_session is True:
        return 0.0
    if isinstance(check_session, int | float) and 0 <= check_session < math.inf:
        return float(check_session)
    raise InvalidArgumentError(
        "check_session must be True, False, or the seconds for which a look at the session counts, "
        f"not {check_session!r}"
    )


def checked_max_age(value: float | None, link: Link | None, *, checks_denials: bool) -> None:
    """Check `denials_max_age`.

    Raises:
        ConfigurationError: If it is no positive number, or nobody could keep to it.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance] - of untyped callers
        raise ConfigurationError(f"denials_max_age must be a number of seconds, not {value!r}.")
    if link is None or not checks_denials:
        raise ConfigurationError(
            "denials_max_age needs a client that shares its state, and check_denials: hand the "
            "verifier sessions= with shared_state=."
        )
