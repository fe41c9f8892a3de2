"""Cuts attempts off when their time is up, with one timer for all of them.

A timer for each attempt would cost more than all else that we add to a request: nearly every one is
cancelled again. Here an attempt costs an entry in a dictionary, and the loop's timer is armed for
the earliest end alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Alarms:
    """The ends of the attempts under way in one event loop."""

    __slots__ = ("_armed_for", "_ends", "_loop", "_rung", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._rung: set[asyncio.Task[Any]] = set()
        self._armed_for = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, task: asyncio.Task[Any], seconds: float) -> None:
        """Cancel `task` in so many seconds, unless it is cleared before."""
        end = self._loop.time() + seconds
        self._ends[task] = end
        if end < self._armed_for:
            self._arm(end)

    def clear(self, task: asyncio.Task[Any]) -> None:
        """Leave a task alone from now on."""
        self._ends.pop(task, None)
        if self._rung:
            self._rung.discard(task)

    def has_rung(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was us who cancelled a task."""
        return task in self._rung

    def stop(self) -> None:
        """Leave nothing behind in the loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = math.inf

    def _arm(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = end
        self._timer = self._loop.call_at(end, self._ring)

    def _ring(self) -> None:
        now = self._loop.time()
        self._armed_for = math.inf
        self._timer = None
        for task in [task for task, end in self._ends.items() if end <= now]:
            del self._ends[task]
            self._rung.add(task)
            task.cancel()
        if self._ends:
            self._arm(min(self._ends.values()))
