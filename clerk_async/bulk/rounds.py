"""Which jobs get another round, and when it begins.

A round makes as many attempts as the client's retry policy allows. All of them may fall into one
short outage, so the next round begins after a pause. Other sessions don't wait for it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final

from clerk_async.errors import RateLimitedError
from clerk_async.http.retry import is_passing
from clerk_async.under_test import call_later, clock_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.bulk.work import Job
    from clerk_async.errors import ClerkError
    from clerk_async.under_test import Timer

ROUNDS: Final = 2
"""Rounds for an id that fails for a passing reason; each has all attempts of the retry policy."""
ROUNDS_WHEN_REFUSED: Final = 10
"""The same if the last response was a 429, which says nothing about the session."""


def gets_another_round(job: Job, error: ClerkError) -> bool:
    """Count a round that has failed; return whether the job gets another one."""
    job.rounds += 1
    most = ROUNDS_WHEN_REFUSED if isinstance(error, RateLimitedError) else ROUNDS
    return job.rounds < most and is_passing(error)


class Deferred:
    """The jobs that wait for another round, first come, first served.

    Args:
        pause: Returns the least number of seconds that a job waits.
        wake: Called when a job is due while workers wait for one.
    """

    def __init__(self, pause: Callable[[], float], wake: Callable[[], None]) -> None:
        self._ends_at = math.inf
        self._pause = pause
        self._wake = wake
        self._jobs: deque[tuple[float, Job]] = deque()
        self._alarm: Timer | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def end_in(self, seconds: float) -> None:
        """Note when the run's deadline passes."""
        self._ends_at = _now() + seconds

    def add(self, job: Job) -> None:
        """Let a job wait, unless the deadline would come first and cost it its round."""
        now = _now()
        due = now + self._pause()
        self._jobs.append((due if due < self._ends_at else now, job))

    def take(self) -> Job | None:
        """Return the first job if its pause is over."""
        return self.drop() if self._jobs and self._jobs[0][0] <= _now() else None

    def drop(self) -> Job | None:
        """Return the first job, whether its pause is over or not; None if there is none."""
        return self._jobs.popleft()[1] if self._jobs else None

    def watch(self) -> None:
        """Wake the workers when the first job is due."""
        if self._jobs and self._alarm is None:
            seconds = max(0.0, self._jobs[0][0] - _now())
            self._alarm = call_later(asyncio.get_running_loop(), seconds, self._ring)

    def close(self) -> None:
        """Wake nobody any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self) -> None:
        self._alarm = None
        self._wake()


def _now() -> float:
    return clock_of(asyncio.get_running_loop())()
