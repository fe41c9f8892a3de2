"""Threads that can be started and waited for although a signal handler may run at any moment.

A handler may run between any two steps of the main thread. It may raise (Ctrl-C), or use a client
itself, and wait there for the step that it interrupted. So a thread that calls us never holds a
lock meanwhile, neither ours nor one of `threading`'s. If it is interrupted before it has started
the work, the thread that waits for the work starts it.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import contextvars
import functools
import logging
import math
import os
import select
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SLICE: Final = 0.1
"""How often, in seconds, a waiting thread checks again: neither Ctrl-C on Windows nor
`_thread.interrupt_main` wakes it, and the thread that should wake it may have been interrupted."""
_JOIN: Final = 1.0
"""Seconds that a thread may take to exit after its work is done."""

_awaited: Final[set[int]] = set()
"""The threads of errands, for which other threads may wait."""


def past_here(error: BaseException) -> BaseException:
    """Take the frame that has caught an error out of its traceback, and return the error.

    It still runs while another thread, which the error is for, empties the frames it went through.
    """
    here = error.__traceback__
    return error.with_traceback(None if here is None else here.tb_next)


class Latch:
    """Opens once, and releases all threads that wait for it."""

    __slots__ = ("_waiting", "is_open")

    def __init__(self) -> None:
        self.is_open: bool = False
        self._waiting: collections.deque[Callable[[], object]] = collections.deque()

    def open(self) -> None:
        """Open it, and call all waiting callbacks."""
        self.is_open = True
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft()()

    def tell(self, callback: Callable[[], object]) -> None:
        """Call `callback` in any thread when it opens; at once if it is open."""
        self._waiting.append(callback)
        if self.is_open:  # maybe it opened before the other thread saw this callback
            self.open()

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait until it is open; return false on a timeout."""
        if self.is_open:
            return True
        mine = _thread.allocate_lock()  # one per waiter: a signal handler that waits has its own
        mine.acquire()
        self._waiting.append(mine.release)
        waited = 0.0
        while not self.is_open and waited < seconds:
            step = min(SLICE, seconds - waited)
            if mine.acquire(timeout=step):
                break
            waited += step  # not by a clock: users' tests may freeze it
        if not self.is_open:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine.release)
        return self.is_open


class Bell:
    """Wakes a waiting thread, which must expect to be woken for no reason.

    A lock is released by a thread that goes on running Python code, so the woken thread would have
    to wait again, for the interpreter's lock. This system call releases that lock first.

    Attributes:
        ring: Wakes the thread that waits, or the next one to wait.

    Raises:
        OSError: If no file descriptor is left.
        AttributeError: If this system is not Linux.
    """

    _number = -1

    def __init__(self) -> None:
        self._number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        # no method, because each call rings twice
        self.ring: Callable[[], object] = functools.partial(os.eventfd_write, self._number, 1)

    def fileno(self) -> int:
        """The file descriptor, which can be read from while it rings: for event loops."""
        return self._number

    def hush(self) -> None:
        """Stop ringing."""
        with contextlib.suppress(BlockingIOError):  # a forked process that has it too was faster
            os.eventfd_read(self._number)

    def wait(self, seconds: float) -> bool:
        """Wait until it rings; return false on a timeout."""
        if not self._poll.poll(seconds * 1000):
            return False
        with contextlib.suppress(BlockingIOError):  # as in `hush`, which would be one more call
            os.eventfd_read(self._number)
        return True

    def __del__(self, close: Callable[[int], object] = os.close) -> None:
        self.ring = int  # nothing: its call may be garbage too, and end later
        if self._number >= 0:
            close(self._number)


class LockBell:
    """A bell that is a lock, and rings only once."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread that waits, or the next one to wait."""
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it rings; return false on a timeout."""
        return self._lock.acquire(timeout=seconds)


def new_bell() -> Bell | LockBell:
    """Return a `Bell` if this system can make one, else a `LockBell`."""
    try:
        return Bell()
    except (AttributeError, OSError):
        return LockBell()


class Errand(Generic[T]):
    """Work that is done once, in its own daemon thread, for all threads that wait for it.

    Args:
        name: The thread's name.
        work: The function to call.
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
        """Whether the work has ended, with a result or an error."""
        return self._done.is_open

    @property
    def is_sent(self) -> bool:
        """Whether its thread has been started."""
        return self._is_sent

    def send(self, *, or_here: bool = True) -> None:
        """Start the thread if it isn't started; call this before you wait.

        Args:
            or_here: Whether to do the work in this thread if no other can be started, for example
                when the interpreter exits.

        Raises:
            RuntimeError: If no thread can be started and `or_here` is false.
        """
        if self._is_sent:
            return
        try:
            # Not Thread.start: it holds locks that the new thread needs.
            _thread.start_new_thread(self._enter, ())
        except RuntimeError:
            if not or_here:
                raise
            if self._claim.acquire(blocking=False):
                self._do()
        # Only now: if this thread is interrupted before, another one starts a thread as well, and
        # the first of these does the work.
        self._is_sent = True

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait for the end; return false on a timeout."""
        return self._done.wait(seconds)

    def join(self, seconds: float) -> None:
        """Wait for the end of the work and of its thread."""
        if self._done.wait(seconds) and self._thread is not None:
            self._thread.join(_JOIN)

    def result(self) -> T:
        """Start the work if need be, wait, and return its result or raise its error."""
        self.send()
        self._done.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def _enter(self) -> None:
        """Do the work in a thread that `threading` knows, so that dumps and debuggers name it."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._thread = threading.Thread(target=self._do, name=self._name, daemon=True)
            self._thread.start()
        except RuntimeError:  # the interpreter exits, or it allows no daemon threads
            self._thread = None
            self._do()

    def _do(self) -> None:
        work, self._work = self._work, None  # it may refer to an object that refers to this errand
        me = _thread.get_ident()
        _awaited.add(me)
        try:
            self._result = None if work is None else work()
        except BaseException as error:  # noqa: BLE001 - raised in all threads that wait
            self._error = past_here(error)
        finally:
            _awaited.discard(me)
            self._done.open()


class Lines(collections.deque[logging.LogRecord]):
    """The log records of one call, on their way to its caller's thread.

    A thread for which others wait must wait for no lock of logging or of a log handler: a signal
    may strike the main thread while it holds that lock, and the signal's handler may wait for this
    thread.
    """

    is_over = False
    """Whether the caller reads no more: later records are written in a thread of their own."""

    def add(self, record: logging.LogRecord) -> None:
        """Keep a record for the caller's thread."""
        self.append(record)
        if self.is_over:
            Errand("clerk_async log", self._write_apart).send(or_here=False)

    def write(self) -> None:
        """Hand what has come so far to the log handlers, in this thread."""
        while self:
            with contextlib.suppress(IndexError):  # another thread was faster
                record = self.popleft()
                logging.getLogger(record.name).handle(record)

    def _write_apart(self) -> None:
        _awaited.discard(_thread.get_ident())  # no thread waits for this one
        self.write()


lines_of_this_call: Final[contextvars.ContextVar[Lines | None]] = contextvars.ContextVar(
    "lines_of_this_call", default=None
)


def _is_to_be_written_here(record: logging.LogRecord) -> bool:
    if _thread.get_ident() not in _awaited:
        return True
    lines = lines_of_this_call.get()
    if lines is None:  # of nobody's call
        lines = Lines()
        lines.is_over = True
    with contextlib.suppress(RuntimeError):  # the interpreter exits: no thread can start
        lines.add(record)
    return False


def _is_enabled_for(logger: logging.Logger, level: int) -> bool:
    """Do what `Logger.isEnabledFor` does, without its cache, which waits for logging's own lock."""
    return not logger.disabled and logger.manager.disable < level >= logger.getEffectiveLevel()


for _name in ("clerk_async", "clerk_async.tokens", "asyncio"):  # all that log in such a thread
    _logger = logging.getLogger(_name)
    _logger.addFilter(_is_to_be_written_here)
    vars(_logger)["isEnabledFor"] = functools.partial(_is_enabled_for, _logger)


def _in_child() -> None:
    _awaited.intersection_update({_thread.get_ident()})  # the others don't exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
