"""Ctrl-C and similar signals: the first stops a run gently, the second ends the program at once.

The signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP (a terminal that goes away), except those that
were ignored when the program started: `nohup` and background jobs of shells rely on that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

# Messages need it, and a signal's handler must import nothing: it may have interrupted that import.
from clerk_async import redaction  # noqa: F401  # pyright: ignore[reportUnusedImport]
from clerk_async.cli.exits import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from clerk_async.cli.output import Output


_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupts:
    """Listens for these signals while entered, in a running loop of the main thread.

    Args:
        out: Where to confirm that a signal was received.
        resume: Prints how to resume later, before the program ends at once.

    Attributes:
        is_asked: Whether the run was asked to stop.
    """

    def __init__(self, out: Output, resume: Callable[[], None] | None = None) -> None:
        self.is_asked: bool = False
        self._out = out
        self._resume = resume
        self._before: dict[signal.Signals, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: asyncio.Event | None = None

    def check(self) -> bool:
        """Return whether to stop, as the `should_stop` of a bulk run."""
        return self.is_asked

    async def wait(self) -> None:
        """Wait for the first signal."""
        if self._asked is not None:
            await self._asked.wait()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            # Not loop.add_signal_handler, because the second must work even if the loop is stuck.
            for name in _NAMES:
                number = getattr(signal, name, None)  # Windows has fewer
                if number is not None and signal.getsignal(number) not in {signal.SIG_IGN, None}:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _: int, __: FrameType | None) -> None:
        # The signal may have interrupted a write, and then the stream accepts no other. So the
        # loop prints the message, or it bypasses the stream's buffer.
        if self.is_asked:
            self._leave_at_once()
        self.is_asked = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has just been closed: the program is ending
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if self._asked is not None:
            self._asked.set()
        self._out.error(
            "stopping once the requests in flight have ended (Ctrl-C again stops at once)"
        )

    def _leave_at_once(self) -> None:
        if self._out.err.is_direct:  # a third time, while nobody reads the last messages
            os._exit(INTERRUPTED)
        self._out.err.is_direct = True
        self._out.clear_live()
        self._out.error(
            "interrupted at once: the requests in flight may or may not have taken effect"
        )
        if self._resume is not None:
            self._resume()
        os._exit(INTERRUPTED)  # the journal already has each outcome
