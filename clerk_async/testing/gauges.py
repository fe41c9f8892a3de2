"""Counters of connections and requests, and waiting for their values, so tests need no sleeps."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime")
    else time.monotonic
)
"""The clock of loops, limits and waits, in seconds. It keeps running when a test freezes time,
because a wait on a frozen clock never ends."""
_AFTERWARDS = 0.005
"""Seconds by which the timer fires late, so that the deadline has passed by its own clock."""


class Gauges:
    """Counters that the server's thread updates; other threads read them and wait for them."""

    def __init__(self) -> None:
        self.open_connections: int = 0
        self.max_open_connections: int = 0
        self.total_connections: int = 0
        self.in_flight: int = 0
        self.max_in_flight: int = 0
        self.held = 0
        self._changed = threading.Condition()
        self._tasks_waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._waiting = 0

    def begin(self) -> None:
        """Restart the counts; open connections and requests in flight still count."""
        self.total_connections = self.max_open_connections = self.open_connections
        self.max_in_flight = self.in_flight

    def connected(self) -> int:
        """Count a new connection and return its number."""
        self.total_connections += 1
        self.open_connections += 1
        self.max_open_connections = max(self.max_open_connections, self.open_connections)
        self.tell()
        return self.total_connections

    def disconnected(self) -> None:
        """Count a closed connection."""
        self.open_connections -= 1
        self.tell()

    def began(self) -> None:
        """Count a request that has arrived."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def ended(self) -> None:
        """Count a request that was answered, or never will be."""
        self.in_flight -= 1
        self.tell()

    def tell(self) -> None:
        """Wake all waiting tasks and threads, because something has changed."""
        if not self._waiting:
            return
        with self._changed:
            self._changed.notify_all()
            for event, loop in self._tasks_waiting.items():
                loop.call_soon_threadsafe(event.set)

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> None:
        """Block until the predicate is true.

        Raises:
            TimeoutError: If it is not true within the timeout.
        """
        with self._changed:
            self._waiting += 1
            try:
                if not self._changed.wait_for(lambda: bool(predicate()), timeout):
                    raise self._late(timeout)
            finally:
                self._waiting -= 1

    async def until(self, predicate: Callable[[], object], timeout: float) -> None:  # noqa: ASYNC109
        """Wait, without blocking the running loop, until the predicate is true.

        Raises:
            TimeoutError: If it is not true within the timeout.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        deadline = monotonic() + timeout
        # A thread's timer fires even if the loop's clock is frozen.
        bell = threading.Timer(timeout + _AFTERWARDS, self.tell)
        bell.daemon = True
        with self._changed:
            self._waiting += 1
            self._tasks_waiting[changed] = loop
        try:
            bell.start()
            while not predicate():
                if monotonic() >= deadline:
                    raise self._late(timeout)
                await changed.wait()
                changed.clear()
        finally:
            bell.cancel()
            with self._changed:
                self._waiting -= 1
                del self._tasks_waiting[changed]

    def _late(self, timeout: float) -> TimeoutError:
        return TimeoutError(
            f"the condition was not met within {timeout} s "
            f"({self.in_flight} requests in flight, {self.held} of them held, "
            f"{self.open_connections} connections open)"
        )
