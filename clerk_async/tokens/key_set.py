"""The key set of one verifier: which keys it has, how old they are, and when to fetch again.

It decides and counts, and others fetch (`Flight`). It belongs to one verifier, and so do its
keys: a cache shared by the process, with bare key ids, once let the tokens of one instance into
another. Any number of threads may ask at once, without a lock that a signal's handler or a forked
child could find taken: by `dict.setdefault` at most one fetch is under way (`_take_off`).

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
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import attrs

from clerk_async.errors import ClerkError, ConfigurationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.keys import (
    KeySetUnreadableError,
    UnusableKey,
    VerificationKey,
    read_key_set,
)
from clerk_async.tokens.refusals import Counter, cut, mismatch, refused, unavailable

if TYPE_CHECKING:
    from clerk_async.errors import KeysUnavailableError
    from clerk_async.http.errand import Errand, Latch

logger: logging.Logger = logging.getLogger("clerk_async.tokens")

_REFRESH_AT: Final = 0.8
"""The share of `key_ttl` after which keys are refreshed in the background."""
_PATIENCE: Final = 1.0
"""Seconds to wait for fresh keys where the ones at hand would do."""
_FIRST_RETRY: Final = 0.25
"""Seconds until a failed fetch is tried again; doubled each time, up to `kid_cooldown`."""
_MAX_MISSES: Final = 512
"""How many unknown key ids are remembered."""
LOOK_AGAIN: Final = 0.5
"""Seconds after which who waits for a fetch looks whether it is still under way."""
_BEGINS_WITHIN: Final = 5.0
"""Seconds that may pass until a fetch that was decided on begins."""
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


class Home(Protocol):
    """An event loop, as far as it matters here."""

    def is_running(self) -> bool:
        """Tell whether it goes on with what was begun in it."""
        ...


class Flight:
    """One fetch, that any number of tasks and threads may wait for.

    Attributes:
        landed: Open once the fetch has ended, in whichever way.
        failed: Whether it ended without keys.
        is_slow: Whether somebody has lost patience with it, so that nobody else need wait.
        home: The event loop that carries it out; None if a thread of its own does.
        since, has_begun: When it was decided on, and whether it is being carried out by now.
    """

    __slots__ = ("_carrier", "failed", "has_begun", "home", "is_slow", "landed", "since")

    def __init__(self, home: Home | None, since: float) -> None:
        from clerk_async.http.errand import Latch  # noqa: PLC0415 - loaded by the first FetchedKeys

        self._carrier: dict[None, Errand[None]] = {}
        self.home: Home | None = home
        self.since: float = since
        self.landed: Latch = Latch()
        self.failed: bool = False
        self.is_slow: bool = False
        self.has_begun: bool = False

    def carried_by(self, errand: Errand[None]) -> Errand[None]:
        """Return what carries it out in a thread: this errand, unless there was one before."""
        return self._carrier.setdefault(None, errand)


class KeysNeeded(NamedTuple):
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
        home: Callable[[], Home | None],
    ) -> None:
        import_module("clerk_async.http.errand")  # not within a loop, which it would hold up
        self._source = source
        self._ttl = key_ttl
        self._refresh_after = key_ttl * _REFRESH_AT
        self._max_age = key_max_age
        self._cooldown = kid_cooldown
        self._clock = clock
        self._home = home
        self._keys: Keys = {}
        self._fetched_at: float | None = None
        self._fresh_until = float("-inf")
        self._current: dict[None, Flight] = {}  # the fetch under way, if there is one
        self._ended = 0  # how many have ended, to see that one has
        self._failures_in_a_row = 0
        self._retry_at = float("-inf")
        self._unknown_at = float("-inf")
        self._misses: dict[str, tuple[int, float]] = {}
        self._hits = Counter()
        self._fetches = Counter()
        self._failed_fetches = Counter()
        self._last_error: str | None = None
        self._last_cause: ClerkError | None = None

    # --- asking ---

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Give the key of this id if there is nothing to do for it first."""
        key = self._keys.get(kid) if kid and self._clock() < self._fresh_until else None
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
            ended = self._ended
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
            needed = self._look_again(kid, ended, may_start=not asked)
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
            waited.is_slow = not waited.landed.is_open
        raise self._nothing_to_go_by()

    def _renew(self, waited: Flight | None) -> KeysNeeded | None:
        ended, now = self._ended, self._clock()
        if now < self._fresh_until:
            return None
        age, flight = self._age(now), self._current.get(None)
        if age is None or age >= self._max_age:
            if flight is None and waited is not None and waited.failed:
                raise self._nothing_to_go_by()
            return self._take_off(ended, patience=None)
        if age < self._refresh_after:
            return None
        # Past the ttl fresh keys are worth a moment, unless it is known that there are none.
        worth_waiting = (
            age >= self._ttl
            and waited is None
            and not self._failures_in_a_row
            and not (flight is not None and flight.is_slow)
        )
        if worth_waiting:
            return self._take_off(ended, patience=_PATIENCE)
        is_time = flight is None and now >= self._retry_at
        return self._take_off(ended, patience=0.0) if is_time else None

    def _nothing_to_go_by(self) -> KeysUnavailableError | ConfigurationError:
        if isinstance(self._last_cause, ConfigurationError):  # such as a client without a key
            return copy.copy(self._last_cause)
        why = self._last_error or "fetching them was broken off"
        return unavailable(
            f"The keys that session tokens are checked with can't be had ({why}). This says "
            "nothing about the user.",
            self._last_cause,
        )

    def _look_again(self, kid: str, ended: int, *, may_start: bool) -> KeysNeeded | None:
        if self._current.get(None) is not None:
            return self._take_off(ended, patience=None)
        now = self._clock()
        count, not_before = self._misses.get(kid, (0, float("-inf")))
        if not may_start or now < max(self._unknown_at, not_before):
            return None
        needed = self._take_off(ended, patience=None)
        if needed.start:
            self._unknown_at = now + self._cooldown
            # Who keeps coming with a key that does not exist is looked up ever less often.
            self._misses.pop(kid, None)
            while len(self._misses) >= _MAX_MISSES:
                with suppress(StopIteration, RuntimeError):  # another thread makes room, too
                    self._misses.pop(next(iter(self._misses)), None)
            wait = min(self._cooldown * 2**count, max(self._ttl, self._cooldown))
            self._misses[kid] = (min(count + 1, 32), now + wait)
        return needed

    def _take_off(self, ended: int, *, patience: float | None) -> KeysNeeded:
        """Decide on a fetch, or join the one under way.

        Args:
            ended: How many had ended when it was found that one is needed. If another one has
                ended since, it may have brought what was missing: look again before one is made.
            patience: Seconds to wait for it; see `KeysNeeded`.
        """
        flight = self._current.get(None)
        if flight is not None:
            return KeysNeeded(flight, start=False, patience=patience)
        ours = Flight(self._home(), self._clock())
        flight = self._current.setdefault(None, ours)
        if flight is ours and self._ended == ended:
            self._fetches.add()
            return KeysNeeded(ours, start=True, patience=patience)
        if flight is ours:
            self._end(ours)
        return KeysNeeded(flight, start=False, patience=patience)

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
        if self._current.get(None) is flight:  # it was not given up meanwhile
            now = self._clock()
            self._keys = keys
            self._fetched_at = now
            self._fresh_until = now + self._refresh_after
            self._failures_in_a_row = 0
            self._retry_at = float("-inf")
            self._last_error = self._last_cause = None
            for kid in keys:
                self._misses.pop(kid, None)
        self._end(flight)

    def fail(self, flight: Flight, error: BaseException) -> None:
        """Note that a fetch failed: the keys at hand, if any, go on serving."""
        why, cause = type(error).__name__, None  # the text of a stranger may hold anything
        if isinstance(error, KeySetUnreadableError):
            why = str(error)
        elif isinstance(error, ClerkError):
            # A copy, as the traceback of what was raised would keep the whole call alive.
            why, cause = f"{why}: {error}", copy.copy(error)
        if self._current.get(None) is flight:
            now = self._clock()
            wait = min(_FIRST_RETRY * 2 ** min(self._failures_in_a_row, 32), self._cooldown)
            self._retry_at = now + wait
            self._failures_in_a_row += 1
            self._failed_fetches.add()
            self._last_error = why
            self._last_cause = cause
            age = self._age(now)
            flight.failed = True
            logger.warning(
                "fetching the keys for session tokens failed (%s); %s",
                why,
                "there are none yet" if age is None else f"those at hand are {age:.0f} s old",
            )
        self._end(flight)

    def abandon_if_stranded(self, flight: Flight) -> bool:
        """Forget a fetch whose event loop has ended, or that an interruption kept from beginning.

        To be asked now and then by who waits for it; tells whether there is no use in waiting.
        """
        begins = flight.has_begun or self._clock() - flight.since < _BEGINS_WITHIN
        if begins and (flight.home is None or flight.home.is_running()):
            return False
        self.abandon(flight)
        return True

    def abandon(self, flight: Flight) -> None:
        """Forget a fetch that nobody carries out; who waits for it looks again."""
        if self._current.get(None) is flight:
            # Event loops that end soon after they have begun would otherwise begin one each.
            self._retry_at = self._clock() + _FIRST_RETRY
        self._end(flight)

    def _end(self, flight: Flight) -> None:
        if self._current.get(None) is flight:
            self._ended += 1
            self._current.pop(None, None)
        flight.landed.open()

    def forget(self) -> None:
        """Begin anew, between two tests: no keys, no failures, nothing known to be unknown."""
        never = float("-inf")
        flight = self._current.get(None)
        if flight is not None:
            self._end(flight)
        self._keys, self._fetched_at, self._fresh_until = {}, None, never
        self._failures_in_a_row, self._retry_at, self._unknown_at = 0, never, never
        self._misses.clear()
        self._hits, self._fetches, self._failed_fetches = Counter(), Counter(), Counter()
        self._last_error = self._last_cause = None

    def after_fork(self) -> None:
        """In a forked child: the fetch was the parent's."""
        self._current.clear()

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Tell the figures."""
        age = self._age(self._clock())
        return KeySetStatus(
            self._source,
            tuple(self._keys),
            age,
            age is not None and age >= self._ttl,
            self._hits.value,
            self._fetches.value,
            self._failed_fetches.value,
            self._last_error,
            cached_tokens,
        )
