"""A clock for bounds on a busy machine: it does not count the time that nobody had."""

from __future__ import annotations

import threading
import time
from typing import Final, Self

LOOK_EVERY: Final = 0.005
STALL: Final = 0.05
"""Seconds without a look after which the machine, or this program, was not running."""


class RunningTime:
    """Seconds without those for which the machine stalled.

    A thread looks at the time every few milliseconds, and subtracts what it misses.
    """

    def __init__(self) -> None:
        self._last = time.monotonic(), 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def __call__(self) -> float:
        """Return the seconds so far."""
        now, lost = self._now()
        return now - lost

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY):
            self._last = self._now()

    def _now(self) -> tuple[float, float]:
        seen, lost = self._last
        now = time.monotonic()
        return now, lost + (now - seen if now - seen > STALL else 0.0)
