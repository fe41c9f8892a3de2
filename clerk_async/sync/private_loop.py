"""An event loop in a thread of its own: how calls cross into it, and how it ends.

Whoever waits for a crossing is let go whatever happens: the loop may end, or be left behind by a
fork, while a call is on its way in, under way, or in a callback.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import ClientClosedError, WrongLoopError
from clerk_async.under_test import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

CUT_OFF_GRACE: Final = 1.0
"""Seconds that what still runs when the loop ends has for being cancelled."""


class Crossing(Generic[T]):
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
        "caller",
        "is_settled",
        "task",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], notify: Callable[[], object] | None = None
    ) -> None:
        self.caller: int = threading.get_ident()
        self.task: asyncio.Task[None] | None = None
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._notify = notify
        self._done = threading.Lock()
        self._done.acquire()
        self._is_running = False
        self._is_refused = False
        self.is_settled: bool = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def start(self, loop: asyncio.AbstractEventLoop, under_way: set[Crossing[Any]]) -> None:
        """Begin, in the loop's thread and the caller's context; among those under way meanwhile."""
        under_way.add(self)
        self.task = loop.create_task(self._carry(under_way), context=self._context)

    async def _carry(self, under_way: set[Crossing[Any]]) -> None:
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
        under_way.discard(self)
        self._settle()

    def _settle(self) -> None:
        self.is_settled = True
        self._done.release()
        if self._notify is not None:
            self._notify()

    def refuse(self, error: BaseException) -> None:
        """Let the caller go, as nobody will answer any more."""
        if self.is_settled:
            return
        if not self._is_running:
            self._coroutine.close()
        self._error = error
        self._settle()

    def cancel_here(self) -> None:
        """Ask the coroutine to end, in the loop's thread."""
        # A task that is cancelled before its first step would never get to wake the caller.
        self._is_refused = True
        if self._is_running and self.task is not None:
            self.task.cancel()

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


class PrivateLoop:
    """A running loop; its thread holds it, and it holds nothing of its client's."""

    def __init__(self, name: str) -> None:
        self.pid: int = os.getpid()
        self.is_ending: bool = False
        self.loop: asyncio.AbstractEventLoop = new_event_loop()
        self._arrivals: collections.deque[Crossing[Any]] = collections.deque()
        self._is_expecting = False
        self._under_way: set[Crossing[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self.thread: threading.Thread = threading.Thread(
            target=self._run_forever, name=name, daemon=True
        )
        try:
            self.thread.start()
        except RuntimeError as error:  # too many, or on Python 3.12 the main one has ended
            self.loop.close()
            raise ClientClosedError(f"the client can't start its thread: {error}") from None

    def hand_over(self, crossing: Crossing[Any]) -> None:
        """Give a crossing to the loop; waking it costs a system call, so once for several.

        Raises:
            ClientClosedError: If the loop has ended.
        """
        self._arrivals.append(crossing)
        if self._is_expecting:
            return
        try:
            self._is_expecting = True
            self.loop.call_soon_threadsafe(self._receive)
        except RuntimeError:
            self._refuse_arrivals()
            raise ClientClosedError("this client was closed") from None
        except BaseException:
            self._is_expecting = False
            raise

    def call_off(self, crossing: Crossing[Any]) -> None:
        """Ask a coroutine to end, whether or not it has arrived; its caller goes away."""
        crossing.caller = 0
        with contextlib.suppress(ValueError):
            self._arrivals.remove(crossing)
            crossing.refuse(asyncio.CancelledError())
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(crossing.cancel_here)

    def _receive(self) -> None:
        self._is_expecting = False  # before the look: who comes later must call again
        arrivals = self._arrivals
        if self.is_ending:
            self._refuse_arrivals()
        while arrivals:
            arrivals.popleft().start(self.loop, self._under_way)

    def _refuse_arrivals(self) -> None:
        self._is_expecting = False  # before the look: who comes later finds the loop closed
        with contextlib.suppress(IndexError):
            while True:
                self._arrivals.popleft().refuse(asyncio.CancelledError())

    def end(self, on_close: Callable[[], Coroutine[Any, Any, None]], grace: float) -> None:
        """Close, let what is under way see it and end, and stop; from any thread.

        Waits for it, but neither in the loop's own thread nor in a callback of a call that is under
        way: that call ends first, and needs this thread for it.
        """
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self._begin_to_end, on_close, grace)
        me = threading.get_ident()
        if me != self.thread.ident and all(each.caller != me for each in list(self._under_way)):
            self.thread.join(grace + 2 * CUT_OFF_GRACE)

    def _begin_to_end(
        self, on_close: Callable[[], Coroutine[Any, Any, None]], grace: float
    ) -> None:
        self._closing = self.loop.create_task(self._end(on_close, grace))

    async def _end(self, on_close: Callable[[], Coroutine[Any, Any, None]], grace: float) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await on_close()
                    if rest := [each.task for each in self._under_way if each.task is not None]:
                        await asyncio.wait(rest)
        finally:
            self.loop.stop()

    def _run_forever(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            self.is_ending = True
            loop.run_until_complete(_cut_off())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            self._refuse_arrivals()
            self._refuse_rest(asyncio.CancelledError())

    def _refuse_rest(self, error: BaseException) -> None:
        for crossing in list(self._under_way):
            crossing.refuse(error)

    def leave_behind(self) -> None:
        """In a forked child: say so to who is in a callback of a call, and touch nothing else."""
        # The parent's selector is shared with us: closing or even finalizing the loop could
        # unregister what the parent waits for. So it's marked, and stays quiet.
        with contextlib.suppress(AttributeError):
            cast("Any", self.loop)._closed = True  # noqa: SLF001
        self._refuse_rest(WrongLoopError("this call goes on in the parent process, not in a fork"))


async def _cut_off() -> None:
    """Cancel what still runs, such as a bulk run whose callback doesn't come back."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CUT_OFF_GRACE)
