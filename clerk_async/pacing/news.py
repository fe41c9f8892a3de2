"""What a refusal tells one process and applies to all: how long to wait, and how much is left.

The window in Redis keeps the longest pause and the newest level. Messages carry news from this
process, and replies carry news from the others. Pure: callers pass the time in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clerk_async.pacing.ramp import Ramp
    from clerk_async.pacing.window import PauseReason


class News:
    """One process's share of what all processes know about refusals.

    A process doesn't share refusals that it met while it was alone, and forgets them when Redis is
    back, because they may have been caused by the other processes.

    Attributes:
        paused_until: When the last reported pause ends.

    Args:
        ramp: The ramp whose level is read and set.
    """

    def __init__(self, ramp: Ramp) -> None:
        self._ramp = ramp
        self.paused_until: float = -math.inf
        self._pause: tuple[float, PauseReason] | None = None
        self._told_pause: tuple[float, PauseReason] | None = None
        self._told_level = False
        self._verdicts = self._raised = 0
        self._verdicts_together = 0
        self._refusals = 0
        self._heard: tuple[int, int] = (0, -1)

    @property
    def is_urgent(self) -> bool:
        """Whether there is a pause that the others must learn of at once."""
        return self._pause is not None

    @property
    def is_waiting(self) -> bool:
        """Whether there is a level that the others should learn of soon."""
        ramp = self._ramp
        return ramp.verdicts != self._verdicts or ramp.raised != self._raised

    def pause(self, until: float, reason: PauseReason) -> None:
        """Note that the service asked to wait until a time."""
        if self._pause is None or until > self._pause[0]:
            self._pause = (until, reason)

    def told(self, now: float, *, is_alone: bool) -> dict[str, Any]:
        """Return the news for the next message; it is not repeated unless that message fails."""
        ramp, news = self._ramp, dict[str, Any](refusals=self._refusals)
        if self._pause is not None and self._pause[0] > now:
            news["pause"] = math.ceil((self._pause[0] - now) * 1000)
            news["reason"] = self._pause[1]
        level, refused_at = ramp.level
        self._told_level = ramp.verdicts != self._verdicts and not is_alone
        if self._told_level:
            news["level"] = -1 if level == math.inf else int(level)
            news["age"] = int((now - refused_at) * 1000)
        elif ramp.raised != self._raised and not is_alone:
            news["raise"] = ramp.raised - self._raised
        self._verdicts, self._raised = ramp.verdicts, ramp.raised
        self._told_pause, self._pause = self._pause, None
        return news

    def failed(self) -> None:
        """Repeat the news, because the message may not have arrived."""
        if self._told_pause is not None:
            self.pause(*self._told_pause)
        if self._told_level:
            self._verdicts = -1

    def forgotten(self) -> None:
        """Report what this process knows, because Redis has lost its data."""
        self._refusals, self._heard = 0, (0, -1)
        self._verdicts = self._ramp.verdicts if self._ramp.level[0] == math.inf else -1

    def came_back(self, now: float) -> None:
        """Forget refusals from the time without Redis."""
        if self._ramp.verdicts != self._verdicts_together:
            self._ramp.follow(math.inf, now, now, is_new=False)

    def heard(self, reply: dict[str, Any], now: float) -> None:
        """Apply the news in a reply."""
        self._told_pause = None
        refusals, level = found = int(reply["refusals"]), int(reply["level"])
        is_new = refusals != self._refusals and not self._told_level
        if is_new or (found != self._heard and level >= 0):
            refused_at = now - int(reply["age"]) / 1000
            self._ramp.follow(math.inf if level < 0 else level, refused_at, now, is_new=is_new)
        self._refusals, self._heard = refusals, found
        self._verdicts_together = self._ramp.verdicts
        if reply["pause"]:
            reason: PauseReason = (
                "unavailable" if reply["reason"] == "unavailable" else "rate_limited"
            )
            self.paused_until = now + int(reply["pause"]) / 1000
            self._ramp.pause(self.paused_until, reason)
