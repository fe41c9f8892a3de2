"""The window of a rate limit: decides when a request of a bulk run may leave.

Pure: callers pass the time in. `clerk_async.pacing.gate` combines it with the ramp.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal

PauseReason = Literal["window", "rate_limited", "unavailable", "unreachable", "failing"]

CLOCK_MARGIN: Final = 0.001
"""Seconds added to each window, because no two clocks run the same."""
GRAIN: Final = 0.001
"""Responses within this fraction of a window count as arriving together, with the last one."""
TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503


def asks_to_wait(status: int, retry_after: float | None) -> bool:
    """Return whether a response asks all users of the key to wait: 429, or 503 with Retry-After."""
    return status == TOO_MANY_REQUESTS or (status == UNAVAILABLE and retry_after is not None)


class SendRefused(Exception):  # noqa: N818 - not an error: the caller turns it into an outcome
    """The run was stopped and allows no more sends. Nothing was sent.

    The transport raises the last attempt's error instead, if there was an earlier attempt.
    """


class Ticket:
    """The right to send one request."""

    __slots__ = ("era", "is_open", "sent_at")

    def __init__(self, era: int) -> None:
        self.era: int = era
        self.is_open: bool = True
        self.sent_at: float = math.nan

    @property
    def was_sent(self) -> bool:
        """Whether the request has left."""
        return not math.isnan(self.sent_at)


class SendWindow:
    """Keeps any window of `per` seconds, as the server sees it, at or below a count.

    A request arrives at some unknown time between its send and its response. So it keeps its place
    from the send until `per` seconds after the response. The request that takes the place next
    arrives at least `per` seconds later, whatever the latency of either was. Memory use is bounded,
    however large the count is.

    A request that never reached the server, because no connection could be made, keeps its place
    too: in an outage, nothing else keeps a run from spending the attempts of all its ids within
    seconds.
    """

    __slots__ = ("_cooling", "_grain", "_held", "in_flight", "per")

    def __init__(self, per: float) -> None:
        self.per: float = per
        self.in_flight: int = 0
        # responses that arrive nearly together share an entry: [free at, since, count]
        self._cooling: deque[list[float]] = deque()
        self._held = 0
        self._grain = per * GRAIN

    def used(self, now: float) -> int:
        """Return how many places are taken."""
        cooling = self._cooling
        while cooling and cooling[0][0] <= now:
            self._held -= int(cooling.popleft()[2])
        return self.in_flight + self._held

    def cooling(self, now: float) -> list[tuple[float, int]]:
        """Return the places taken by answered requests: when they become free, and how many."""
        self.used(now)
        return [(free_at, int(count)) for free_at, _, count in self._cooling]

    def free_at(self) -> float:
        """Return when the next place becomes free; inf if only a response can free one."""
        return self._cooling[0][0] if self._cooling else math.inf

    def leave(self, now: float, *, has_arrived: bool) -> None:
        """Note that a request is no longer in flight, and whether the server may count it."""
        if not self.in_flight:
            return  # its loop is gone, and it was counted when the next loop began
        self.in_flight -= 1
        if not has_arrived:
            return
        self._held += 1
        free_at = now + self.per + CLOCK_MARGIN
        if self._cooling and now - self._cooling[-1][1] < self._grain:
            last = self._cooling[-1]
            last[0] = free_at
            last[2] += 1
        else:
            self._cooling.append([free_at, now, 1])
