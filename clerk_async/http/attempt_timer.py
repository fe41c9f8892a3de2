"""Cancels attempts that time out, with one timer for all of them.

A timer per attempt would cost more than everything else that we add to a request, and nearly all of
them would be cancelled unused. Here an attempt costs an entry in a dictionary, and one timer of the
loop is set for the earliest timeout.

Limits belong to the attempt, not to its task: an aiohttp hook runs in the middle of an attempt, and
may itself make a call there.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from clerk_async.under_test import call_later, clock_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clerk_async.under_test import Timer

_ON_TIME: Final = 0.02
"""Seconds by which a timer may be late in an event loop that is not blocked."""
_LONGEST_GRACE: Final = 0.1


class Attempt:
    """One attempt in flight.

    Attributes:
        task: The task that makes it.
        outer: The attempt of the same task that this one is nested in, or None.
        end: When it times out, by the loop's clock; infinity means never.
        has_rung: Whether it timed out and its task was cancelled.
        is_overdue: Whether its end was postponed because the loop was blocked.
        is_connecting: Whether it is still connecting, so that nothing can have been sent.
    """

    task: asyncio.Task[Any]
    outer: Attempt | None
    end: float
    has_rung: bool = False
    is_overdue: bool = False
    is_connecting: bool = False


class AttemptTimer:
    """The attempts in flight in one event loop."""

    __slots__ = ("_armed_for", "_innermost", "_loop", "_now", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = clock_of(loop)
        self._innermost: dict[asyncio.Task[Any], Attempt] = {}
        self._armed_for = math.inf
        self._timer: Timer | None = None

    def begin(self, task: asyncio.Task[Any], seconds: float | None) -> Attempt:
        """Begin an attempt, and cancel its task after some seconds unless it ends before."""
        attempt = Attempt()
        attempt.task = task
        attempt.outer = self._innermost.get(task)
        attempt.end = end = math.inf if seconds is None else self._now() + seconds
        self._innermost[task] = attempt
        if end < self._armed_for:
            self._arm(end)
        return attempt

    def finish(self, attempt: Attempt) -> None:
        """End an attempt: only an outer attempt can still cancel its task."""
        if attempt.outer is None:
            del self._innermost[attempt.task]
        else:
            self._innermost[attempt.task] = attempt.outer

    def current(self) -> Attempt | None:
        """Return the innermost attempt of the running task."""
        task = asyncio.current_task(self._loop)
        return None if task is None else self._innermost.get(task)

    def stop(self) -> None:
        """Cancel the loop's timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = math.inf

    def _arm(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = end
        self._timer = call_later(self._loop, end - self._now(), self._ring)

    def _ring(self) -> None:
        """Cancel the attempts whose time is over.

        After it was blocked, an event loop handles its timers before the responses that arrived
        meanwhile. So an attempt that is found late gets that long again, once, for its response.
        """
        now = self._now()
        self._armed_for = math.inf
        self._timer = None
        earliest = math.inf
        for attempt in self._waiting():
            late = now - attempt.end
            if late > _ON_TIME and not attempt.is_overdue:
                attempt.is_overdue = True
                attempt.end = now + min(late, _LONGEST_GRACE)
            if attempt.end <= now:
                attempt.has_rung = True
                attempt.task.cancel()
            else:
                earliest = min(earliest, attempt.end)
        if earliest < math.inf:
            self._arm(earliest)

    def _waiting(self) -> Iterator[Attempt]:
        for innermost in self._innermost.values():
            attempt: Attempt | None = innermost
            while attempt is not None:
                if not attempt.has_rung:
                    yield attempt
                attempt = attempt.outer
