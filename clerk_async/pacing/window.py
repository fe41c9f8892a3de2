"""When a request of a bulk run may leave. Pure: time is handed in.

`clerk_async.pacing.gate` puts it, with the ramp, in front of the wire.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal

PauseReason = Literal["window", "rate_limited", "unavailable", "unreachable", "failing"]

CLOCK_MARGIN: Final = 0.001
"""Seconds that a window is taken longer, as no two clocks are the same."""
GRAIN: Final = 0.001
"""The part of a window within which answers are taken for one moment, the last one's."""
TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503


def asks_to_wait(status: int, retry_after: float | None) -> bool:
    """Whether an answer asks everybody who uses the key to wait: 429, and 503 with Retry-After."""
    return status == TOO_MANY_REQUESTS or (status == UNAVAILABLE and retry_after is not None)


class SendRefused(Exception):  # noqa: N818 - no error of its own: the caller turns it into an outcome
    """The run takes no further sends: it was stopped. Nothing was sent.

    The transport raises the last attempt's error where there was one, else lets this through.
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

    A request arrives somewhere between its send and its answer, nobody knows where. So it holds its
    place from the send until `per` seconds after the answer: whoever takes that place then arrives
    at least `per` seconds after it, whatever the latency of either was. Memory is bounded, however
    large the count is.

    What never reached the server, as no connection could be made, holds its place too: in an outage
    nothing else keeps a run from spending the attempts of all its ids within seconds.
    """

    __slots__ = ("_cooling", "_grain", "_held", "in_flight", "per")

    def __init__(self, per: float) -> None:
        self.per: float = per
        self.in_flight: int = 0
        # answers that come nearly at once share an entry: [free at, since, how many]
        self._cooling: deque[list[float]] = deque()
        self._held = 0
        self._grain = per * GRAIN

    def used(self, now: float) -> int:
        """How many places are taken."""
        cooling = self._cooling
        while cooling and cooling[0][0] <= now:
            self._held -= int(cooling.popleft()[2])
        return self.in_flight + self._held

    def cooling(self, now: float) -> list[tuple[float, int]]:
        """The places taken by requests that were answered: when they come free, and how many."""
        self.used(now)
        return [(free_at, int(count)) for free_at, _, count in self._cooling]

    def free_at(self) -> float:
        """When the next place comes free: inf if only an answer can free one."""
        return self._cooling[0][0] if self._cooling else math.inf

    def leave(self, now: float, *, has_arrived: bool) -> None:
        """Note that a request is no longer in flight, and whether the server may count it."""
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
