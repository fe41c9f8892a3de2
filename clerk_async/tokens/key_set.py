"""The key set of one verifier: which keys it has, how old they are, and when to fetch again.

Pure but for a lock: it decides and counts, and others fetch (`Flight`). It belongs to one
verifier, and so do its keys: a cache shared by the process, with bare key ids, once let the
tokens of one instance into another.

What it decides:

- no keys, or keys older than `key_max_age`: fetch, and everybody waits for that one fetch; when
  it fails the next token tries again, as turning users away unasked would be worse;
- keys that near the end of `key_ttl`: fetch in the background, nobody waits;
- keys past `key_ttl` (there was no traffic): fetch, and wait for it, but not for long;
- a fetch failed: go on with the keys there are up to `key_max_age`, and try again now and then;
- an unknown kid: wait for the fetch under way, else fetch, at most once per `kid_cooldown`.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

import attrs

from clerk_async.errors import ClerkError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.keys import (
    KeySetUnreadableError,
    UnusableKey,
    VerificationKey,
    read_key_set,
)
from clerk_async.tokens.refusals import Counter, cut, mismatch, refused, unavailable

if TYPE_CHECKING:
    import asyncio

    from clerk_async.errors import KeysUnavailableError

logger: logging.Logger = logging.getLogger("clerk_async.tokens")

_REFRESH_AT: Final = 0.8
"""The share of `key_ttl` after which keys are refreshed in the background."""
_PATIENCE: Final = 1.0
"""Seconds to wait for fresh keys where the ones at hand would do."""
_FIRST_RETRY: Final = 0.25
"""Seconds until a failed fetch is tried again; doubled each time, up to `kid_cooldown`."""
_MAX_MISSES: Final = 512
"""How many unknown key ids are remembered."""
_MAX_JOINS: Final = 3
"""How many fetches one token waits for at most."""

Keys = Mapping[str, VerificationKey | UnusableKey]


@attrs.frozen
class KeySetStatus:
    """What a health page shows of a verifier's keys.

    Attributes:
        source: Where they come from: `jwt_key`, `sessions` or `issuer`.
        kids: The ids of the keys at hand.
        age: Seconds since they were fetched; None where there are none, or they never age.
        is_stale: Whether they have outlived `key_ttl`, as they do while fetches fail.
        hits: Tokens whose key was at hand.
        fetches: Fetches made, failed ones included.
        failed_fetches: Fetches that failed.
        last_error: Why the last fetch failed; None after one that succeeded.
        cached_tokens: Verified tokens remembered right now.
        accepted: How many tokens and requests were accepted.
        refused: How many were refused, by reason (`TokenVerificationReason`, which is its string);
            requests without a token, and tokens that could not be checked, are among them.
    """

    source: str
    kids: tuple[str, ...]
    age: float | None = None
    is_stale: bool = False
    hits: int = 0
    fetches: int = 0
    failed_fetches: int = 0
    last_error: str | None = None
    cached_tokens: int = 0
    accepted: int = 0
    refused: Mapping[str, int] = attrs.field(factory=dict[str, int], hash=False)


@attrs.define(eq=False)
class Flight:
    """One fetch, that any number of tasks and threads may wait for.

    Attributes:
        landed: Done once the fetch has ended, in whichever way.
        failed: Whether it ended without keys.
        is_slow: Whether somebody has lost patience with it, so that nobody else need wait.
        carrier: The task that carries it out, to tell when its loop has left it behind.
    """

    landed: Future[None] = attrs.field(factory=Future[None])
    failed: bool = False
    is_slow: bool = False
    carrier: asyncio.Task[None] | None = None


@attrs.frozen
class KeysNeeded:
    """What a verification asks of its surroundings: carry out, or wait for, a fetch.

    Attributes:
        flight: The fetch.
        start: Whether it is still to be started, by who receives this.
        patience: Seconds to wait for it; None: until it lands; 0: not at all.
    """

    flight: Flight
    start: bool
    patience: float | None


class FetchedKeys:
    """Keys that are fetched, kept and renewed."""

    def __init__(
        self,
        *,
        source: str,
        key_ttl: float,
        key_max_age: float,
        kid_cooldown: float,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._ttl = key_ttl
        self._refresh_after = key_ttl * _REFRESH_AT
        self._max_age = key_max_age
        self._cooldown = kid_cooldown
        self._clock = clock
        self._keys: Keys = {}
        self._fetched_at: float | None = None
        self._fresh_until = float("-inf")
        self._flight: Flight | None = None
        self._failures_in_a_row = 0
        self._retry_at = float("-inf")
        self._unknown_at = float("-inf")
        self._misses: dict[str, tuple[int, float]] = {}
        self._hits = Counter()
        self._fetches = 0
        self._failed_fetches = 0
        self._last_error: str | None = None
        self._last_cause: ClerkError | None = None
        self._lock = threading.Lock()

    # --- asking ---

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Give the key of this id if there is nothing to do for it first."""
        if kid is None or self._clock() >= self._fresh_until:
            return None
        key = self._keys.get(kid)
        if not isinstance(key, VerificationKey):
            return None
        self._hits.add()
        return key

    def knows(self, kid: str | None) -> bool:
        """Tell whether a key of this id is at hand."""
        return kid in self._keys

    def find(self, kid: str | None) -> Generator[KeysNeeded, None, VerificationKey]:
        """Find the key of this id, with as many fetches as the rules above allow.

        Raises:
            TokenVerificationError: If the instance has no such key, or none that can be used.
            KeysUnavailableError: If the keys can't be had.
        """
        if kid is None:
            raise refused(
                Reason.JWK_KID_MISMATCH, "The token names no key (kid), as each of Clerk's does."
            )
        yield from self._ready()
        asked = False
        for _ in range(_MAX_JOINS):
            key = self._keys.get(kid)
            if isinstance(key, VerificationKey):
                if not asked:
                    self._hits.add()
                return key
            if key is not None:
                raise refused(
                    Reason.JWK_FAILED_TO_RESOLVE,
                    f"The instance's key {cut(kid)} can't be used: {key.why}.",
                )
            needed = self._look_again(kid, may_start=not asked)
            if needed is None:
                break
            asked = asked or needed.start
            yield needed
        if self._failures_in_a_row:
            raise unavailable(
                f"The key {cut(kid)} is unknown here, and whether the instance has it can't be "
                f"told: fetching the keys failed ({self._last_error}).",
                self._last_cause,
            )
        raise mismatch(kid, list(self._keys))

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Make the keys ready, so that the first token need not wait.

        Raises:
            KeysUnavailableError: If the keys can't be had.
        """
        yield from self._ready()

    def _ready(self) -> Generator[KeysNeeded, None, None]:
        """Have keys young enough to be used, and renew them in time."""
        waited: Flight | None = None
        for _ in range(_MAX_JOINS + 1):
            needed = self._renew(waited)
            if needed is None:
                return
            yield needed
            if needed.patience == 0:
                return
            waited = needed.flight
            waited.is_slow = not waited.landed.done()
        raise self._nothing_to_go_by()

    def _renew(self, waited: Flight | None) -> KeysNeeded | None:
        now = self._clock()
        if now < self._fresh_until:
            return None
        with self._lock:
            age = self._age(now)
            flight = self._flight
            if age is None or age >= self._max_age:
                if flight is not None:
                    return KeysNeeded(flight, start=False, patience=None)
                if waited is not None and waited.failed:
                    raise self._nothing_to_go_by()
                return self._take_off(patience=None)
            if age < self._refresh_after:
                return None
            # Past the ttl fresh keys are worth a moment, unless it is known that there are none.
            worth_waiting = (
                age >= self._ttl
                and waited is None
                and not self._failures_in_a_row
                and not (flight is not None and flight.is_slow)
            )
            patience = _PATIENCE if worth_waiting else 0.0
            if flight is not None:
                return KeysNeeded(flight, start=False, patience=patience) if patience else None
            return self._take_off(patience=patience) if now >= self._retry_at else None

    def _nothing_to_go_by(self) -> KeysUnavailableError:
        why = self._last_error or "fetching them was broken off"
        return unavailable(
            f"The keys that session tokens are checked with can't be had ({why}). This says "
            "nothing about the user.",
            self._last_cause,
        )

    def _look_again(self, kid: str, *, may_start: bool) -> KeysNeeded | None:
        with self._lock:
            if self._flight is not None:
                return KeysNeeded(self._flight, start=False, patience=None)
            now = self._clock()
            count, not_before = self._misses.get(kid, (0, float("-inf")))
            if not may_start or now < max(self._unknown_at, not_before):
                return None
            self._unknown_at = now + self._cooldown
            # Who keeps coming with a key that does not exist is looked up ever less often.
            self._misses.pop(kid, None)
            while len(self._misses) >= _MAX_MISSES:
                del self._misses[next(iter(self._misses))]
            wait = min(self._cooldown * 2**count, max(self._ttl, self._cooldown))
            self._misses[kid] = (min(count + 1, 32), now + wait)
            return self._take_off(patience=None)

    def _take_off(self, *, patience: float | None) -> KeysNeeded:
        self._flight = Flight()
        self._fetches += 1
        return KeysNeeded(self._flight, start=True, patience=patience)

    def _age(self, now: float) -> float | None:
        return None if self._fetched_at is None else max(0.0, now - self._fetched_at)

    # --- what came of a fetch ---

    def land(self, flight: Flight, body: bytes) -> None:
        """Take over the answer of a fetch."""
        try:
            keys = read_key_set(body, self._keys)
        except KeySetUnreadableError as error:
            self.fail(flight, error)
            return
        with self._lock:
            if self._flight is not flight:
                return
            now = self._clock()
            self._keys = keys
            self._fetched_at = now
            self._fresh_until = now + self._refresh_after
            self._failures_in_a_row = 0
            self._retry_at = float("-inf")
            self._last_error = self._last_cause = None
            for kid in keys:
                self._misses.pop(kid, None)
            self._flight = None
        _settle(flight)

    def fail(self, flight: Flight, error: BaseException) -> None:
        """Note that a fetch failed: the keys at hand, if any, go on serving."""
        why, cause = type(error).__name__, None  # the text of a stranger may hold anything
        if isinstance(error, KeySetUnreadableError):
            why = str(error)
        elif isinstance(error, ClerkError):
            # A copy, as the traceback of what was raised would keep the whole call alive.
            why, cause = f"{why}: {error}", copy.copy(error)
        with self._lock:
            if self._flight is not flight:
                return
            now = self._clock()
            wait = min(_FIRST_RETRY * 2 ** min(self._failures_in_a_row, 32), self._cooldown)
            self._retry_at = now + wait
            self._failures_in_a_row += 1
            self._failed_fetches += 1
            self._last_error = why
            self._last_cause = cause
            self._flight = None
            age = self._age(now)
        flight.failed = True
        logger.warning(
            "fetching the keys for session tokens failed (%s); %s",
            why,
            "there are none yet" if age is None else f"those at hand are {age:.0f} s old",
        )
        _settle(flight)

    def abandon(self, flight: Flight) -> None:
        """Forget a fetch that nobody carries out any more: the next token starts another."""
        with self._lock:
            if self._flight is flight:
                self._flight = None
        _settle(flight)

    def forget(self) -> None:
        """Begin anew, between two tests: no keys, no failures, nothing known to be unknown."""
        never = float("-inf")
        with self._lock:
            flight, self._flight = self._flight, None
            self._keys, self._fetched_at, self._fresh_until = {}, None, never
            self._failures_in_a_row, self._retry_at, self._unknown_at = 0, never, never
            self._misses.clear()
            self._hits = Counter()
            self._fetches = self._failed_fetches = 0
            self._last_error = self._last_cause = None
        if flight is not None:
            _settle(flight)

    def after_fork(self) -> None:
        """In a forked child: the fetch and the lock were the parent's."""
        self._lock = threading.Lock()
        self._flight = None

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Tell the figures."""
        with self._lock:
            age = self._age(self._clock())
            return KeySetStatus(
                self._source,
                tuple(self._keys),
                age,
                age is not None and age >= self._ttl,
                self._hits.value,
                self._fetches,
                self._failed_fetches,
                self._last_error,
                cached_tokens,
            )


def _settle(flight: Flight) -> None:
    if not flight.landed.done():
        flight.landed.set_result(None)
