"""The ramp: how many requests of a bulk run are concurrent, and how much of the limit they use.

Pure: callers pass the time in.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from clerk_async.pacing.window import TOO_MANY_REQUESTS, PauseReason, Ticket

START_CONCURRENCY: Final = 16
CONCURRENCY_AFTER_REFUSAL: Final = 4
BACK_OFF: Final = 0.9
"""The fraction of the refused level that stays allowed."""
WINDOWS_TO_RECOVER: Final = 8
"""How many windows without a refusal bring the allowance back to the refused level."""
LEAST_SHARE: Final = 0.05
"""The fraction of the limit that may always be used, whatever is refused."""
UNTOLD_PAUSE: Final = 0.1
"""Seconds to wait after a 429 without a time; doubles until a request gets through."""
LONGEST_PAUSE: Final = 120.0
"""Seconds; if the service asks for a longer wait, the run tries again after this. A policy's
`max_retry_after` may be shorter: it limits how long a call waits, and a run has its own deadline.
"""
LATENCY_WEIGHT: Final = 0.1
"""The weight of the newest latency in the average."""


@attrs.define
class _Suspicion:
    """A refusal that may not have been caused by the limit, and the state before it."""

    sent_at: float
    level: float
    refused_at: float
    concurrency: float
    votes: int = 0
    """Responses to requests sent later: 1 for each let through, -1 for each refused."""


class Ramp:
    """The concurrency and the allowance of a run: both grow while no request is refused.

    Concurrency starts at 16 and grows by one with each response, which doubles it per round trip,
    up to what the limit can use at the measured latency. A 429 means that another client (a
    neighbour) uses the key too. Concurrency then restarts at 4, and the allowance drops to nine
    tenths of what the server let through. It climbs back slowly, stays near the old level for a
    while, and then grows faster (the curve of TCP CUBIC, RFC 9438). So a neighbour that stays costs
    few refusals, and the run notices when it leaves.

    A 429 in the first window of a run says less, because an earlier run may have filled that
    window: a dry run, or a run that was interrupted. Then the allowance drops half as far.

    A full window refuses everything that comes later. So if most of the requests sent later got
    through, or if the 429 gave no time, the run only slows down for a moment and keeps its
    allowance.
    """

    __slots__ = (
        "_began_at",
        "_ceiling",
        "_count",
        "_latency",
        "_per",
        "_refused_at",
        "_refused_level",
        "_suspicion",
        "_taken_at",
        "_untold",
        "concurrency",
        "era",
        "next_at",
        "pause_reason",
        "paused_until",
        "raised",
        "runners",
        "verdicts",
    )

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._latency = 0.0
        self._began_at = -math.inf
        self._taken_at = -math.inf
        self._ceiling = float(max(START_CONCURRENCY, count // 3))
        self._refused_level = math.inf
        self._refused_at = 0.0
        self._suspicion: _Suspicion | None = None
        self._untold = UNTOLD_PAUSE
        self.concurrency: float = START_CONCURRENCY
        self.era: int = 0
        self.next_at: float = 0.0
        self.paused_until: float = 0.0
        self.pause_reason: PauseReason = "window"
        self.runners: int = 1
        self.verdicts: int = 0
        self.raised: int = 0

    def allowance(self, now: float) -> float:
        """Return how much of the limit may be used now."""
        if self._refused_level >= self._count:
            return self._count
        age = max(0.0, now - self._refused_at) / self._per
        curve = (age / WINDOWS_TO_RECOVER - 1.0) ** 3
        allowed = self._refused_level * (1.0 + (1.0 - BACK_OFF) * curve)
        if allowed >= self._count:
            self._refused_level = math.inf  # the neighbour is gone
            return self._count
        return max(1.0, self._count * LEAST_SHARE, allowed)

    def take(self, now: float) -> None:
        """Note a send; next to a neighbour, sends are spaced, because bursts would collide."""
        silent_since = (
            max(self._taken_at, self.paused_until) if self._taken_at > -math.inf else -math.inf
        )
        if now - silent_since > self._per:
            self._began_at = now  # a new first window: our earlier requests have left the last one
        self._taken_at = now
        if self._suspicion is not None:
            self._judge(self._suspicion)
        if self._refused_level < self._count:
            apart = self.runners * self._per / self.allowance(now)
            self.next_at = max(now, self.next_at) + apart

    def _judge(self, suspicion: _Suspicion) -> None:
        self._suspicion = None
        if suspicion.votes > 0:
            self._refused_level = suspicion.level
            self._refused_at = suspicion.refused_at
            self.verdicts += 1
            self._slow_down(suspicion.concurrency / 2)

    def _slow_down(self, concurrency: float) -> None:
        self.concurrency = max(CONCURRENCY_AFTER_REFUSAL, concurrency)
        self._ceiling = self._most_at_once()

    def let_through(self, ticket: Ticket, latency: float) -> None:
        """Note a response other than a refusal."""
        if self._latency:
            self._latency += LATENCY_WEIGHT * (latency - self._latency)
        else:
            self._latency = latency
        if ticket.era != self.era:
            self._count_vote(ticket, 1)
            if self._refused_level < math.inf:
                self._refused_level += 1  # in flight at the refusal, and let through
                self.raised += 1
            return
        self._untold = UNTOLD_PAUSE
        if self.concurrency < self._ceiling:
            self.concurrency += 1
        else:
            self._ceiling = self._most_at_once()

    def _count_vote(self, ticket: Ticket, vote: int) -> None:
        suspicion = self._suspicion
        if suspicion is not None and ticket.sent_at >= suspicion.sent_at:
            suspicion.votes += vote

    def _most_at_once(self) -> float:
        """Return twice what fills the window at this latency; more without a neighbour."""
        used = min(self._count, self._refused_level)
        steady = 2 * self._latency * used / self._per
        if used < self._count:
            return max(CONCURRENCY_AFTER_REFUSAL, steady)
        return max(START_CONCURRENCY, self._count / 3, steady)

    def refused(
        self, ticket: Ticket, now: float, used: int, status: int, retry_after: float | None
    ) -> None:
        """Note a 429, or a 503 with Retry-After, and the places in use at that moment."""
        is_first = ticket.era == self.era
        is_repeated = self._untold > UNTOLD_PAUSE
        if retry_after:
            wait = min(max(0.0, retry_after), LONGEST_PAUSE)
        else:
            wait = self._untold
            if is_first:
                self._untold = min(2 * self._untold, max(UNTOLD_PAUSE, self._per))
        self.pause(now + wait, "rate_limited" if status == TOO_MANY_REQUESTS else "unavailable")
        if not is_first:
            self._count_vote(ticket, -1)
            return
        self.era += 1
        if status != TOO_MANY_REQUESTS or not (retry_after or is_repeated):
            self._slow_down(self.concurrency / 2)
            return
        self._suspicion = _Suspicion(
            ticket.sent_at, self._refused_level, self._refused_at, self.concurrency
        )
        is_early = now - self._began_at < self._per
        self._refused_level = (used + self._count) / 2 if is_early else float(used)
        self._refused_at = self.paused_until
        self.verdicts += 1
        self._slow_down(CONCURRENCY_AFTER_REFUSAL)

    def pause(self, until: float, reason: PauseReason) -> None:
        """Let nothing out until a time, unless a longer pause is already in effect."""
        if until > self.paused_until:
            self.paused_until = until
            self.pause_reason = reason

    @property
    def level(self) -> tuple[float, float]:
        """What a refusal left of the limit (inf: all of it), and when it starts to grow again."""
        return self._refused_level, self._refused_at

    def follow(self, level: float, refused_at: float, now: float, *, is_new: bool) -> None:
        """Adopt a level that another process found.

        Args:
            level: The part of the limit that a refusal left; inf means all of it.
            refused_at: When it starts to grow again.
            now: The current time.
            is_new: Whether there was a refusal since the last call, so that concurrency restarts.
        """
        self._refused_level, self._refused_at = level, refused_at
        if is_new:
            self._suspicion = None
            if self.allowance(now) < self._count:
                self.era += 1
                self._slow_down(CONCURRENCY_AFTER_REFUSAL)
