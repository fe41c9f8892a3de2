"""A private event loop in a thread of its own, and the way across.

The loop starts with the first call and ends with `close`, or by itself when the interpreter exits.
After a fork the child starts afresh: thread and loop of the parent don't exist there, and nothing
of theirs is touched.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import contextvars
import os
import queue
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import ClientClosedError, ConfigurationError, WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["CallerThread", "LoopThread"]

T = TypeVar("T")

GRACE: Final = 2.0
"""Seconds that a call interrupted by Ctrl-C may take to let go."""
EXIT_GRACE: Final = 1.0
"""Seconds that closing at exit may take."""


class _Crossing(Generic[T]):
    """One coroutine on its way through the loop, and the thread that waits for it."""

    __slots__ = (
        "_context",
        "_coroutine",
        "_done",
        "_error",
        "_is_refused",
        "_is_running",
        "_notify",
        "_result",
        "_task",
        "loop",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        notify: Callable[[], object] | None = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._notify = notify
        self._done = threading.Lock()
        self._done.acquire()
        self._is_running = False
        self._is_refused = False
        self._task: asyncio.Task[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin, in the loop's thread and the caller's context."""
        self._task = self.loop.create_task(self._carry(), context=self._context)

    async def _carry(self) -> None:
        """Run the coroutine and wake the caller at once, not a turn of the loop later."""
        self._is_running = True
        if self._is_refused:
            self._coroutine.close()
            self._error = asyncio.CancelledError()
        else:
            try:
                self._result = await self._coroutine
            except BaseException as error:  # noqa: BLE001 - handed to the caller, as it is
                self._error = error
        self._done.release()
        if self._notify is not None:
            self._notify()

    def cancel(self) -> None:
        """Ask the coroutine to end, from any thread."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._cancel_here)

    def _cancel_here(self) -> None:
        # A task that is cancelled before its first step would never get to wake the caller.
        self._is_refused = True
        if self._is_running and self._task is not None:
            self._task.cancel()

    def wait(self, seconds: float = -1) -> bool:
        """Wait for the end; false if it didn't come in time."""
        return self._done.acquire(timeout=seconds)

    def outcome(self) -> T:
        """Give the result, or raise what the coroutine raised."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                if isinstance(error, asyncio.CancelledError):
                    raise ClientClosedError("the client was closed during the call") from None
                raise error
            finally:
                del error
        return cast("T", self._result)


class LoopThread:
    """Runs coroutines for threads that have no event loop; made lazily, used by many at once."""

    def __init__(self, name: str, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        refuse_green_threads()
        self._name = name
        self._on_close = on_close
        self._reset()
        this = weakref.ref(self)

        def after_fork() -> None:
            live = this()
            if live is not None:
                live.forget_parent()

        def at_exit() -> None:
            live = this()
            if live is not None:
                live.close(EXIT_GRACE)

        os.register_at_fork(after_in_child=after_fork)
        self._at_exit = at_exit  # holds no reference: a client that is dropped must be able to go

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._left_behind: object = None
        self._arrivals: collections.deque[_Crossing[Any]] = collections.deque()
        self._is_expecting = False

    def forget_parent(self) -> None:
        """Start afresh in a child process, without touching what belongs to the parent."""
        loop, was_closed = self._loop, self._is_closed
        self._reset()
        self._is_closed = was_closed
        # The parent's selector is shared with us: closing or even finalizing the loop could
        # unregister what the parent waits for. So it's kept, and marked so that it stays quiet.
        self._left_behind = loop
        with contextlib.suppress(AttributeError):
            cast("Any", loop)._closed = True  # noqa: SLF001
        atexit.unregister(self._at_exit)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Give the running loop, started on first use.

        Raises:
            ClientClosedError: If this was closed.
            WrongLoopError: If the caller is the loop's own thread, which would wait for itself.
        """
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return self._start()
        if threading.get_ident() == thread.ident:
            raise WrongLoopError(
                "a SessionsApi can't be called from its own event loop's thread (a trace hook?): "
                "the call would wait for itself"
            )
        return loop

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise ClientClosedError("this client was closed")
            if self._loop is not None:
                return self._loop
            refuse_green_threads()
            loop = asyncio.new_event_loop()
            thread = threading.Thread(
                target=_run_forever, args=(loop,), name=self._name, daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # Python 3.12.0 and .1 start none once the main thread has ended
                loop.close()
                raise ClientClosedError("no thread can be started: the program is ending") from None
            self._thread, self._loop = thread, loop
            atexit.register(self._at_exit)
            return loop

    def call(self, coroutine: Coroutine[Any, Any, T], grace: float = GRACE) -> T:
        """Run a coroutine to its end, and give its result.

        An interruption (Ctrl-C) cancels it, waits up to `grace` seconds for it to let go, and goes
        on as the interruption; a second one leaves at once.
        """
        try:
            crossing = _Crossing(self.loop(), coroutine)
            self.hand_over(crossing)
        except BaseException as error:
            coroutine.close()
            if isinstance(error, RuntimeError):
                raise ClientClosedError("this client was closed") from None
            raise
        try:
            crossing.wait()
        except BaseException:
            crossing.cancel()
            crossing.wait(grace)
            raise
        return crossing.outcome()

    def hand_over(self, crossing: _Crossing[Any]) -> None:
        """Give a crossing to the loop; waking it costs a system call, so once for several.

        Raises:
            RuntimeError: If the loop is closed.
        """
        self._arrivals.append(crossing)
        if self._is_expecting:
            return
        try:
            self._is_expecting = True
            crossing.loop.call_soon_threadsafe(self._receive)
        except BaseException:
            self._is_expecting = False
            raise

    def _receive(self) -> None:
        self._is_expecting = False  # before the look: who comes later must call again
        arrivals = self._arrivals
        while arrivals:
            arrivals.popleft().start()

    def close(self, grace: float = 5.0) -> None:
        """End what runs, close what is open, stop the loop; can be repeated."""
        with self._lock:
            self._is_closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        if threading.get_ident() == thread.ident:
            with self._lock:
                self._is_closed, self._loop = False, loop
            raise WrongLoopError("a SessionsApi can't be closed from its own event loop's thread")
        atexit.unregister(self._at_exit)
        crossing = _Crossing(loop, self._on_close())
        loop.call_soon_threadsafe(crossing.start)
        crossing.wait(grace)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(grace)

    def __del__(self) -> None:
        loop, thread = getattr(self, "_loop", None), getattr(self, "_thread", None)
        if loop is None or thread is None or sys.is_finalizing():
            return
        with contextlib.suppress(Exception):
            if threading.get_ident() != thread.ident:
                self.close(EXIT_GRACE)
                return
            # The collector may run in any thread, and ours can't wait for itself.
            atexit.unregister(self._at_exit)
            loop.create_task(_close_and_stop(self._on_close))


async def _close_and_stop(on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await on_close()
    finally:
        asyncio.get_running_loop().stop()


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def refuse_green_threads() -> None:
    """Say at once that patched threads can't carry an event loop beside them.

    Raises:
        ConfigurationError: If gevent or eventlet has replaced the threads of this process.
    """
    monkey = sys.modules.get("gevent.monkey")
    is_patched = monkey is not None and monkey.is_module_patched("threading")
    if not is_patched and (patcher := sys.modules.get("eventlet.patcher")) is not None:
        is_patched = bool(patcher.is_monkey_patched("thread"))
    if is_patched:
        raise ConfigurationError(
            "SessionsApi needs real threads, and gevent or eventlet has patched them: "
            "patch with thread=False, or use real threads"
        )


class CallerThread:
    """Lets coroutines in the loop run functions in the thread that waits for them."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the caller's thread, and wait for its result."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(cast("T", result))
            elif isinstance(error, StopIteration):
                done.set_exception(RuntimeError("StopIteration left a callback"))
            else:
                done.set_exception(error)

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function(*args)
            except Exception as raised:  # noqa: BLE001 - it is handed on, not swallowed
                error = raised
            except BaseException:
                loop.call_soon_threadsafe(done.cancel)
                raise
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, error)

        self._inbox.put(work)
        return await done

    def serve(self, coroutine: Coroutine[Any, Any, T], grace: float) -> T:
        """Run a coroutine to its end, doing meanwhile what it asks of this thread.

        An interruption cancels it, and goes on once what was in flight has been finished and told;
        a second one, or one that takes longer than `grace` seconds, leaves at once.
        """
        try:
            crossing = _Crossing(self._thread.loop(), coroutine, lambda: self._inbox.put(None))
            self._thread.hand_over(crossing)
        except BaseException:
            coroutine.close()
            raise
        try:
            self._work_until_done(None)
        except BaseException:
            crossing.cancel()
            with contextlib.suppress(queue.Empty):
                self._work_until_done(grace)
            raise
        crossing.wait()
        return crossing.outcome()

    def _work_until_done(self, seconds: float | None) -> None:
        while (work := self._inbox.get(timeout=seconds)) is not None:
            work()
