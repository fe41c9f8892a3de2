"""The errors for rejected tokens, and the counters of accepted and rejected ones."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

from clerk_async.errors import KeysUnavailableError, TokenVerificationError
from clerk_async.reasons import TokenVerificationReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clerk_async.errors import ClerkError

logger: logging.Logger = logging.getLogger("clerk_async.tokens")

_SHOWN = 80


def refused(reason: TokenVerificationReason, message: str) -> TokenVerificationError:
    """Return the error for a token that was checked and rejected."""
    return TokenVerificationError(message, reason=reason)


def malformed(message: str) -> TokenVerificationError:
    """Return the error for something that is not a Clerk session token at all."""
    return refused(TokenVerificationReason.TOKEN_INVALID, f"Not a session token: {message}.")


def of_another_kind(message: str) -> TokenVerificationError:
    """Return the error for a genuine token of the wrong kind."""
    return refused(TokenVerificationReason.TOKEN_TYPE_MISMATCH, f"Not a session token: {message}.")


def wrong_algorithm(algorithm: str) -> TokenVerificationError:
    """Return the error for a token whose key is for another algorithm."""
    return refused(
        TokenVerificationReason.TOKEN_INVALID_ALGORITHM,
        f"The token says that it is signed with {cut(algorithm)}, but its key is for another one.",
    )


def unavailable(message: str, cause: ClerkError | None) -> KeysUnavailableError:
    """Return the error for a token that could not be checked."""
    return KeysUnavailableError(
        message, reason=TokenVerificationReason.JWK_FAILED_TO_LOAD, cause=cause
    )


def mismatch(kid: str | None, known: Iterable[str]) -> TokenVerificationError:
    """Return the error for a token whose key is not among the known ones."""
    named = "has no key id" if kid is None else f"was signed with key {cut(kid)}"
    return refused(
        TokenVerificationReason.JWK_KID_MISMATCH,
        f"The token {named}, but the known keys are {cut(', '.join(known))}: it belongs to another "
        "Clerk instance, or its key was retired.",
    )


def cut(value: object) -> str:
    """Return an untrusted value in a form to show: quoted, on one line, and truncated."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Counter:
    """A thread-safe counter without a lock, which a fork or a signal handler could find held.

    `next` on an `itertools.count` is atomic, on free-threaded Python as well.
    """

    def __init__(self) -> None:
        self._count = count()
        self.add: Callable[[], int] = self._count.__next__

    @property
    def value(self) -> int:
        """How often `add` was called."""
        return int(repr(self._count)[len("count(") : -1])  # only its repr shows it without counting


class Tally:
    """How many tokens a verifier has accepted, and how many it has rejected for each reason."""

    def __init__(self) -> None:
        self._accepted = Counter()
        self._refused: dict[str, Counter] = {}
        self.accept: Callable[[], int] = self._accepted.add

    def refuse(self, reason: TokenVerificationReason, message: object) -> None:
        """Count a rejection and log it."""
        counter = self._refused.get(reason)
        if counter is None:
            counter = self._refused.setdefault(reason, Counter())
        counter.add()
        logger.debug("refused: %s: %s", reason, message)

    @property
    def accepted(self) -> int:
        """The number of accepted tokens."""
        return self._accepted.value

    @property
    def refused(self) -> dict[str, int]:
        """The number of rejected tokens, by reason."""
        return {reason: counter.value for reason, counter in list(self._refused.items())}
