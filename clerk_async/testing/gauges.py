"""Counters of connections and requests, and waiting for what they show: no sleeps in tests."""

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
"""Seconds of the clock that loops, limits and waits go by, which runs on where a test freezes time:
what waits for a frozen clock waits forever."""
_AFTERWARDS = 0.005
"""Seconds by which a bell rings late, so that by its deadline's own clock time is up."""


class Gauges:
    """Counts on the server's thread; read and waited for on any other."""

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
        """Count from now on; what is open or in flight stays so."""
        self.total_connections = self.max_open_connections = self.open_connections
        self.max_in_flight = self.in_flight

    def connected(self) -> int:
        """A connection was made; its number."""
        self.total_connections += 1
        self.open_connections += 1
        self.max_open_connections = max(self.max_open_connections, self.open_connections)
        self.tell()
        return self.total_connections

    def disconnected(self) -> None:
        """A connection is gone."""
        self.open_connections -= 1
        self.tell()

    def began(self) -> None:
        """A request has arrived."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def ended(self) -> None:
        """A request is answered, or will never be."""
        self.in_flight -= 1
        self.tell()

    def tell(self) -> None:
        """Wake those who wait: something has changed."""
        if not self._waiting:
            return
        with self._changed:
            self._changed.notify_all()
            for event, loop in self._tasks_waiting.items():
                loop.call_soon_threadsafe(event.set)

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> None:
        """Block until the predicate holds.

        Raises:
            TimeoutError: If it does not within the timeout.
        """
        with self._changed:
            self._waiting += 1
            try:
                if not self._changed.wait_for(lambda: bool(predicate()), timeout):
                    raise self._late(timeout)
            finally:
                self._waiting -= 1

    async def until(self, predicate: Callable[[], object], timeout: float) -> None:  # noqa: ASYNC109
        """Let the running loop go on until the predicate holds.

        Raises:
            TimeoutError: If it does not within the timeout.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        deadline = monotonic() + timeout
        # A thread's timer rings though the loop's clock be frozen.
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
            f"what was waited for did not happen within {timeout} s "
            f"({self.in_flight} requests in flight, {self.held} of them held, "
            f"{self.open_connections} connections open)"
        )
