"""Threads that are started, and waited for, where a signal handler may strike at any moment.

Between any two steps of the main thread a handler may run: it may raise (Ctrl-C), or use a client
itself, and wait there for what the step below it was about to do. So a thread that calls us never
holds a lock while it does, ours or one of `threading`'s; and what it meant to do and did not get
to, whoever waits for it does.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import math
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SLICE: Final = 0.1
"""Seconds after which a waiting thread looks up: Ctrl-C does not wake it on Windows, nor does
`_thread.interrupt_main`, and who was to wake it may have been interrupted."""
_JOIN: Final = 1.0
"""Seconds for a thread whose work is done to be gone."""


class Latch:
    """Opens once, and lets go of all who wait for it."""

    __slots__ = ("_waiting", "is_open")

    def __init__(self) -> None:
        self.is_open: bool = False
        self._waiting: collections.deque[Callable[[], object]] = collections.deque()

    def open(self) -> None:
        """Let go of all who wait, and of all who come."""
        self.is_open = True
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft()()

    def tell(self, callback: Callable[[], object]) -> None:
        """Have something called, in whichever thread, when it opens; at once if it is open."""
        self._waiting.append(callback)
        if self.is_open:  # maybe before the other thread saw who waits
            self.open()

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait until it is open; false if it did not open in time."""
        if self.is_open:
            return True
        mine = _thread.allocate_lock()  # of nobody else's: a handler that waits too has its own
        mine.acquire()
        self._waiting.append(mine.release)
        waited = 0.0
        while not self.is_open and waited < seconds:
            step = min(SLICE, seconds - waited)
            if mine.acquire(timeout=step):
                break
            waited += step  # not by a clock: tests of users freeze theirs
        if not self.is_open:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine.release)
        return self.is_open


class Errand(Generic[T]):
    """Work that is done once, in a daemon thread of its own, for all who wait for it.

    Args:
        name: The thread's.
        work: What to do.
    """

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self._name = name
        self._work: Callable[[], T] | None = work
        self._claim = _thread.allocate_lock()
        self._is_sent = False
        self._thread: threading.Thread | None = None
        self._done = Latch()
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._done.is_open

    @property
    def is_sent(self) -> bool:
        """Whether somebody has started its thread."""
        return self._is_sent

    def send(self, *, or_here: bool = True) -> None:
        """Start the thread, unless that has been done; whoever waits does this before.

        Args:
            or_here: Whether to do the work in this thread where no other can be had, such as at
                the end of the interpreter.

        Raises:
            RuntimeError: If no thread can be had.
        """
        if self._is_sent:
            return
        try:
            # Not Thread.start here: it holds locks that the new thread needs to be of use.
            _thread.start_new_thread(self._enter, ())
        except RuntimeError:
            if not or_here:
                raise
            if self._claim.acquire(blocking=False):
                self._do()
        # Only now: where this thread is interrupted before, another starts one as well, and the
        # first of them to come does the work.
        self._is_sent = True

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait for the end; false if it did not come in time."""
        return self._done.wait(seconds)

    def join(self, seconds: float) -> None:
        """Wait for the end, and for the thread to be gone."""
        if self._done.wait(seconds) and self._thread is not None:
            self._thread.join(_JOIN)

    def result(self) -> T:
        """See to it that it is done, wait, and return what came of it, or raise it."""
        self.send()
        self._done.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def _enter(self) -> None:
        """Give the work to a thread that `threading` knows, so that dumps and debuggers name it."""
        if not self._claim.acquire(blocking=False):
            return
        self._thread = threading.Thread(target=self._do, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # so late in the life of the interpreter there is no other
            self._thread = None
            self._do()

    def _do(self) -> None:
        work, self._work = self._work, None  # which may hold what holds this errand
        try:
            self._result = None if work is None else work()
        except BaseException as error:  # noqa: BLE001 - handed to all who wait
            self._error = error
        finally:
            self._done.open()
