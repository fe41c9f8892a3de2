"""The thread behind a sync client: made lazily, used by many at once, left behind by a fork.

The loop starts with the first call and ends with `close`, or by itself when the interpreter exits.
After a fork the child starts afresh: thread and loop of the parent don't exist there, and nothing
of theirs is touched.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import os
import queue
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from clerk_async.errors import ClientClosedError, ConfigurationError, WrongLoopError
from clerk_async.sync.private_loop import Crossing, PrivateLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

GRACE: Final = 2.0
"""Seconds that a call interrupted by Ctrl-C may take to let go."""
CLOSE_GRACE: Final = 5.0
"""Seconds that closing may take, a callback that is running included."""
EXIT_GRACE: Final = 1.0
"""Seconds that closing at exit may take."""


class LoopThread:
    """Runs coroutines for threads that have no event loop."""

    def __init__(self, name: str, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        refuse_green_threads()
        self._name = name
        self._on_close = on_close
        self._lock = threading.Lock()
        self._private: PrivateLoop | None = None
        self._left_behind: list[PrivateLoop] = []
        self._is_closed = False
        _alive[id(self)] = weakref.ref(self)

    def forget_parent(self) -> None:
        """Start afresh in a child process, without touching what belongs to the parent."""
        self._lock = threading.Lock()  # the other may be held for ever
        private, self._private = self._private, None
        if private is not None:
            self._left_behind.append(private)
            private.leave_behind()

    def private(self) -> PrivateLoop:
        """Give the running loop, started on first use.

        Raises:
            ClientClosedError: If this was closed.
            WrongLoopError: If the caller is the loop's own thread, which would wait for itself.
        """
        private = self._ours()
        if private is None:
            return self._start()
        if threading.get_ident() == private.thread.ident:
            raise WrongLoopError(
                "a SessionsApi can't be called from its own event loop's thread (a trace hook?): "
                "the call would wait for itself"
            )
        return private

    def _ours(self) -> PrivateLoop | None:
        private = self._private
        if private is not None and private.pid != os.getpid():
            self.forget_parent()  # a fork that Python isn't told of, such as uWSGI's
            return None
        return private

    def _start(self) -> PrivateLoop:
        with self._lock:
            if self._is_closed:
                raise ClientClosedError("this client was closed")
            if self._private is None:
                refuse_green_threads()
                self._private = PrivateLoop(self._name)
            return self._private

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and give its result.

        An interruption (Ctrl-C) cancels it, waits up to `GRACE` seconds for it to let go, and goes
        on as the interruption; a second one leaves at once.
        """
        try:
            private = self.private()
        except BaseException:
            coroutine.close()
            raise
        crossing = Crossing(coroutine)
        try:
            private.hand_over(crossing)
            crossing.wait()
        except BaseException:
            private.call_off(crossing)
            crossing.wait(GRACE)
            raise
        return crossing.outcome()

    def close(self, grace: float = CLOSE_GRACE) -> None:
        """End what runs, close what is open, stop the loop; can be repeated.

        Raises:
            WrongLoopError: If the caller is the loop's own thread.
        """
        private = self._ours()
        if private is not None and threading.get_ident() == private.thread.ident:
            raise WrongLoopError("a SessionsApi can't be closed from its own event loop's thread")
        with self._lock:
            self._is_closed = True
            private, self._private = self._private, None
        if private is not None:
            private.end(self._on_close, grace)

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        _alive.pop(id(self), None)
        if getattr(self, "_private", None) is None:
            return
        with contextlib.suppress(Exception):
            private = self._ours()
            if private is not None:  # the collector may run in any thread, the loop's own included
                private.end(self._on_close, EXIT_GRACE)


_alive: Final[dict[int, weakref.ref[LoopThread]]] = {}
"""For the process's two hooks. They are set once, when this is imported: so that clients leave none
behind, and that atexit handlers registered later, which run before ours, can still make calls."""


def _in_child() -> None:
    for each in list(_alive.values()):
        live = each()
        if live is not None:
            live.forget_parent()


def _at_exit() -> None:
    for each in list(_alive.values()):
        live = each()
        if live is not None:
            live.close(EXIT_GRACE)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)


def refuse_green_threads() -> None:
    """Say at once that patched threads can't carry an event loop beside them.

    Raises:
        ConfigurationError: If gevent or eventlet has replaced the threads of this process, or what
            an event loop waits with.
    """
    remedy = None
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and any(map(monkey.is_module_patched, _NOT_TO_BE_PATCHED)):
        remedy = "patch_all(thread=False, select=False, queue=False)"
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        remedy = "monkey_patch(thread=False)"
    if remedy is not None:
        raise ConfigurationError(
            "SessionsApi needs real threads, and gevent or eventlet has patched them: "
            f"use {remedy}, or real threads"
        )


_NOT_TO_BE_PATCHED: Final = ("threading", "selectors", "queue")


class CallerThread:
    """Lets coroutines in the loop run functions in the thread that waits for them."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._private: PrivateLoop | None = None
        # Ctrl-C may come between any two steps: work stays here until it is done, and a wake-up
        # that is lost costs nothing.
        self._inbox: collections.deque[Callable[[], None]] = collections.deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the caller's thread, and wait for its result."""
        if self._private is None or self._private.is_ending:
            raise asyncio.CancelledError
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

        has_begun = False

        def work() -> None:
            nonlocal has_begun
            # begun before, and interrupted; or nobody wants to know any more, as the loop is closed
            # or was left behind by a fork
            if has_begun or loop.is_closed():
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(done.cancel)
                return
            has_begun = True
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function(*args)
            except Exception as raised:  # noqa: BLE001 - it is handed on, not swallowed
                error = raised
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(done.cancel)
                raise
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, error)

        self._inbox.append(work)
        self._wake.put(None)
        return await done

    def serve(self, coroutine: Coroutine[Any, Any, T], grace: float) -> T:
        """Run a coroutine to its end, doing meanwhile what it asks of this thread.

        An interruption cancels it, and goes on once what was in flight has been finished and told;
        a second one, or one that takes longer than `grace` seconds, leaves at once.

        Raises:
            WrongLoopError: If what was begun before a fork is to go on after it.
        """
        try:
            private = self._same_loop()
        except BaseException:
            coroutine.close()
            raise
        crossing = Crossing(coroutine, lambda: self._wake.put(None))
        try:
            private.hand_over(crossing)
            self._work_until_settled(crossing, None)
        except BaseException:
            private.call_off(crossing)
            with contextlib.suppress(queue.Empty):
                self._work_until_settled(crossing, grace)
            raise
        crossing.wait()
        return crossing.outcome()

    def _same_loop(self) -> PrivateLoop:
        private = self._thread.private()
        if self._private not in {None, private}:
            raise WrongLoopError(
                "this iterator belongs to the parent process: begin another after the fork"
            )
        self._private = private
        return private

    def _work_until_settled(self, crossing: Crossing[Any], seconds: float | None) -> None:
        inbox = self._inbox
        while True:
            while inbox:
                inbox[0]()
                inbox.popleft()
            if crossing.is_settled:
                return
            self._wake.get(timeout=seconds)
