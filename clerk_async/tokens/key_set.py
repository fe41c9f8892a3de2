"""The key set of one verifier: its keys, their age, and when to fetch them again.

It makes the decisions and keeps the counts; the verifier fetches (`Flight`). Each verifier has its
own key set: in a process-wide cache, keyed by key id alone, one instance's keys would let in
another's tokens. Threads share it without a lock, which a signal handler or a forked child could
find held; `dict.setdefault` ensures that at most one fetch is in flight (`_take_off`).

The rules:

- No keys, or keys older than `key_max_age`: fetch, and all callers wait for that fetch. If it
  fails, the next token tries again, because rejecting users without asking would be worse.
- Keys near the end of `key_ttl`: fetch in the background; callers don't wait.
- Keys past `key_ttl` (there was no traffic): fetch and wait briefly.
- The last fetch failed: use the current keys up to `key_max_age`, and retry from time to time.
- An unknown kid: wait for the fetch in flight, else fetch, at most once per `kid_cooldown`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from clerk_async.errors import ClerkError, ConfigurationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.keys import (
    KeySetUnreadableError,
    UnusableKey,
    VerificationKey,
    read_key_set,
)
from clerk_async.tokens.refusals import Counter, cut, logger, mismatch, refused, unavailable

if TYPE_CHECKING:
    import asyncio

    from clerk_async.errors import KeysUnavailableError
    from clerk_async.http.errand import Errand, Latch

_REFRESH_AT: Final = 0.8
"""The share of `key_ttl` after which keys are refreshed in the background."""
_PATIENCE: Final = 1.0
"""Seconds to wait for fresh keys if the current ones may still be used."""
_FIRST_RETRY: Final = 0.25
"""Seconds until the first retry of a failed fetch; doubled each time, up to `kid_cooldown`."""
_MAX_MISSES: Final = 512
"""How many unknown key ids are remembered."""
LOOK_AGAIN: Final = 0.5
"""Seconds between two checks, by a waiting caller, that the fetch is still in flight."""
_BEGINS_WITHIN: Final = 5.0
"""Seconds within which a fetch must start after it was decided on."""
_MAX_JOINS: Final = 3
"""The most fetches that one token waits for."""

Keys = Mapping[str, VerificationKey | UnusableKey]


@attrs.frozen
class KeySetStatus:
    """A verifier's keys and counters, for a health page.

    Attributes:
        source: Where the keys come from: `jwt_key`, `sessions` or `issuer`.
        kids: The ids of the current keys.
        age: Seconds since the keys were fetched; None if there are none, or if they never age.
        is_stale: Whether the keys are older than `key_ttl`, as happens while fetches fail.
        hits: The number of tokens whose key was in the set, so that none was fetched for them.
        fetches: The number of fetches, including failed ones.
        failed_fetches: The number of failed fetches.
        last_error: Why the last fetch failed; None if it succeeded.
        cached_tokens: The number of verified tokens in the cache.
        accepted: The number of tokens and requests accepted.
        refused: The number refused, by reason (`TokenVerificationReason`, a str); this includes
            requests without a token and tokens that could not be checked.
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


class Flight:
    """One fetch, which any number of tasks and threads may wait for.

    Attributes:
        landed: A latch that opens once the fetch has ended, with or without success.
        failed: Whether the fetch ended without keys.
        is_slow: Whether a caller has given up waiting, so that others need not wait either.
        home: The event loop that runs the fetch; None if a separate thread does.
        since, has_begun: When the fetch was decided on, and whether it has started.
    """

    __slots__ = ("_carrier", "failed", "has_begun", "home", "is_slow", "landed", "since")

    def __init__(self, home: asyncio.AbstractEventLoop | None, since: float) -> None:
        from clerk_async.http.errand import Latch  # noqa: PLC0415 - loaded by the first FetchedKeys

        self._carrier: dict[None, Errand[None]] = {}
        self.home: asyncio.AbstractEventLoop | None = home
        self.since: float = since
        self.landed: Latch = Latch()
        self.failed: bool = False
        self.is_slow: bool = False
        self.has_begun: bool = False

    def carried_by(self, errand: Errand[None]) -> Errand[None]:
        """Return the errand that runs the fetch in a thread: this one, unless there is another."""
        return self._carrier.setdefault(None, errand)


class KeysNeeded(NamedTuple):
    """A verification's request to start a fetch or to wait for one.

    Attributes:
        flight: The fetch.
        start: Whether the receiver must start the fetch.
        patience: Seconds to wait for the fetch; None: until it ends; 0: not at all.
    """

    flight: Flight
    start: bool
    patience: float | None


class FetchedKeys:
    """Keys that are fetched, cached and renewed."""

    def __init__(
        self,
        *,
        source: str,
        key_ttl: float,
        key_max_age: float,
        kid_cooldown: float,
        clock: Callable[[], float],
        home: Callable[[], asyncio.AbstractEventLoop | None],
    ) -> None:
        import_module("clerk_async.http.errand")  # now, because later it would block the event loop
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
        self._current: dict[None, Flight] = {}  # the fetch in flight, if any
        self._ended = 0  # how many fetches have ended, to notice that one has
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
        """Return the key with this id if it can be used without a fetch, else None."""
        key = self._keys.get(kid) if kid and self._clock() < self._fresh_until else None
        if not isinstance(key, VerificationKey):
            return None
        self._hits.add()
        return key

    def knows(self, kid: str | None) -> bool:
        """Return whether a key with this id is in the set."""
        return kid in self._keys

    def find(self, kid: str | None) -> Generator[KeysNeeded, None, VerificationKey]:
        """Find the key with this id, with as many fetches as the rules above allow.

        Raises:
            TokenVerificationError: If the instance has no key with this id, or can't use it.
            KeysUnavailableError: If the keys can't be fetched.
        """
        if kid is None:
            raise refused(
                Reason.JWK_KID_MISMATCH, "The token has no key id (kid), unlike all Clerk tokens."
            )
        yield from self.prepare()
        asked, joins = False, 0
        while True:
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
            needed = None
            if joins < _MAX_JOINS:  # after the last one, the key may be there
                needed = self._look_again(kid, ended, may_start=not asked)
            if needed is None:
                if self._ended == ended:
                    break
                continue  # a fetch has ended in the meantime, and may have brought the key
            asked = asked or needed.start
            joins += not needed.flight.landed.is_open  # one that has just ended costs no wait
            yield needed
        if self._failures_in_a_row:
            raise unavailable(
                f"The key {cut(kid)} is unknown, and it may or may not be one of the instance's: "
                f"fetching the keys failed ({self._last_error}).",
                self._last_cause,
            )
        raise mismatch(kid, list(self._keys))

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Ensure that the keys are recent enough to be used, and renew them in time.

        Raises:
            KeysUnavailableError: If the keys can't be fetched.
        """
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
        if flight is not None and self.abandon_if_stranded(flight):
            flight = None
        if age is None or age >= self._max_age:
            if waited is not None and waited.failed:  # don't wait for one failure after another
                raise self._nothing_to_go_by()
            return self._take_off(ended, patience=None)
        if age < self._refresh_after:
            return None
        # Past the ttl, fresh keys are worth a short wait, unless fetches are failing or slow.
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
        why = self._last_error or "fetching them was interrupted"
        return unavailable(
            f"The keys for verifying session tokens are unavailable ({why}). This says "
            "nothing about the user.",
            self._last_cause,
        )

    def _look_again(self, kid: str, ended: int, *, may_start: bool) -> KeysNeeded | None:
        now = self._clock()
        count, not_before = self._misses.get(kid, (0, float("-inf")))
        may_start = may_start and now >= max(self._unknown_at, not_before)
        if self._current.get(None) is not None:  # last: who sets those times has begun a fetch
            return self._take_off(ended, patience=None)
        if not may_start:
            return None
        needed = self._take_off(ended, patience=None)
        if needed.start:
            self._unknown_at = now + self._cooldown
            # A key id that keeps turning out unknown is looked up less and less often.
            self._misses.pop(kid, None)
            while len(self._misses) >= _MAX_MISSES:
                with suppress(StopIteration, RuntimeError):  # another thread makes room, too
                    self._misses.pop(next(iter(self._misses)), None)
            wait = min(self._cooldown * 2**count, max(self._ttl, self._cooldown))
            self._misses[kid] = (min(count + 1, 32), now + wait)
        return needed

    def _take_off(self, ended: int, *, patience: float | None) -> KeysNeeded:
        """Start a fetch, or join the one in flight.

        Args:
            ended: How many fetches had ended when the caller saw that it needs one. If another has
                ended since, it may have brought the missing key: the caller must look again first.
            patience: Seconds to wait for the fetch; see `KeysNeeded`.
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

    # --- the result of a fetch ---

    def land(self, flight: Flight, body: bytes) -> None:
        """Use the response of a fetch."""
        try:
            keys = read_key_set(body, self._keys)
        except KeySetUnreadableError as error:
            self.fail(flight, error)
            return
        if self._current.get(None) is flight:  # it was not abandoned in the meantime
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
        """Record that a fetch failed; the current keys, if any, remain in use."""
        why, cause = type(error).__name__, None  # a foreign error's text may contain anything
        if isinstance(error, KeySetUnreadableError):
            why = str(error)
        elif isinstance(error, ClerkError):
            # A copy, because the original's traceback would keep the whole call alive.
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
                "there are none yet" if age is None else f"the current ones are {age:.0f} s old",
            )
        self._end(flight)

    def abandon_if_stranded(self, flight: Flight) -> bool:
        """Abandon a fetch whose event loop has stopped, or that an interruption kept from starting.

        Waiting callers call this from time to time. Returns whether the fetch was abandoned.
        """
        begins = flight.has_begun or self._clock() - flight.since < _BEGINS_WITHIN
        if begins and (flight.home is None or flight.home.is_running()):
            return False
        self.abandon(flight)
        return True

    def abandon(self, flight: Flight) -> None:
        """Give up a fetch that nothing runs any more; callers that wait for it look again."""
        if self._current.get(None) is flight:
            # Otherwise each of a series of short-lived event loops would start a fetch.
            self._retry_at = self._clock() + _FIRST_RETRY
        self._end(flight)

    def _end(self, flight: Flight) -> None:
        if self._current.get(None) is flight:
            self._ended += 1
            self._current.pop(None, None)
        flight.landed.open()

    def forget(self) -> None:
        """Forget all keys, failures, unknown key ids and counts, between two tests."""
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
        """Forget the fetch in flight in a forked child, because the parent runs it."""
        self._current.clear()

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Return the keys' status."""
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
