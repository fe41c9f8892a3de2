"""An event loop in its own thread: how calls enter it, and how it shuts down.

A thread that waits for a crossing is always released. The loop may end, or a fork may leave it
behind, while a call is queued, running or in a callback; and the calling thread may be interrupted
between any two steps. So either the loop starts a crossing or its caller withdraws it, whichever
claims it first. Only the loop's thread, which no signal interrupts, settles what it has started.
And no thread relies on a step that another caller was about to take.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import contextvars
import sys
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import ClientClosedError, ConfigurationError, ConnectError, WrongLoopError
from clerk_async.http.errand import (
    SLICE,
    Bell,
    Errand,
    Lines,
    LockBell,
    lines_of_this_call,
    new_bell,
    past_here,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

CUT_OFF_GRACE: Final = 1.0
"""Seconds that tasks still running when the loop ends may take to be cancelled."""

_loop_threads: Final[set[int]] = set()


def in_a_loop_thread() -> bool:
    """Whether this thread runs the private loop of any client: it shouldn't wait for another."""
    return _thread.get_ident() in _loop_threads


class Crossing(Generic[T]):
    """One call that a thread makes in the loop and waits for.

    Args:
        function: Called in the loop's thread to make the coroutine. A coroutine that the caller
            made and then failed to hand over would warn that it was never awaited.
        arguments: Positional arguments for the function.
        options: Keyword arguments for the function.
        notify: Called in the loop's thread when the call has ended.
        bell: Rung when the call has ended, for the caller that waits.

    Attributes:
        caller: The thread that waits for it; 0 if that was interrupted.
        is_settled: Whether it has ended, with a result or an error.
        task: What runs it in the loop.
    """

    __slots__ = (
        "_arguments",
        "_bell",
        "_claim",
        "_context",
        "_error",
        "_function",
        "_is_refused",
        "_is_running",
        "_notify",
        "_options",
        "_result",
        "caller",
        "is_settled",
        "lines",
        "task",
    )

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
        notify: Callable[[], object] | None = None,
        bell: Bell | LockBell | None = None,
    ) -> None:
        self.caller: int = _thread.get_ident()
        self.lines: Lines = Lines()
        self.task: asyncio.Task[None] | None = None
        self._function = function
        self._arguments = arguments
        self._options = options or {}
        self._context = contextvars.copy_context()
        self._notify = notify
        self._claim = _thread.allocate_lock()  # acquired once, by the thread that starts or ends it
        self._bell: Bell | LockBell | None = LockBell() if bell is None else bell
        self.is_settled: bool = False
        self._is_running = False
        self._is_refused = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def withdraw(self) -> bool:
        """Take it back, in the caller's thread; return false if the loop has started it."""
        return self._claim.acquire(blocking=False)

    def start(self, loop: asyncio.AbstractEventLoop, under_way: set[Crossing[Any]]) -> None:
        """Start in the caller's context, unless withdrawn; it leaves `under_way` when it ends."""
        if self._claim.acquire(blocking=False):
            self.task = _task_of(self._carry(under_way), loop, self._context)
        else:
            under_way.discard(self)

    async def _carry(self, under_way: set[Crossing[Any]]) -> None:
        """Run the coroutine and wake the caller at once, not one loop iteration later."""
        self._is_running = True
        lines_of_this_call.set(self.lines)
        try:
            if self._is_refused:
                raise asyncio.CancelledError  # noqa: TRY301 - as if cancelled one step later
            self._result = await self._function(*self._arguments, **self._options)
        except BaseException as error:  # noqa: BLE001 - raised unchanged in the caller
            self._error = past_here(error)
        under_way.discard(self)
        self._settle()

    def _settle(self) -> None:
        bell = self._bell  # the caller lets go of it as soon as this is settled
        self.is_settled = True
        if bell is not None:
            bell.ring()
        if self._notify is not None:
            self._notify()

    def refuse(self, error: BaseException) -> None:
        """Release the caller with an error, because the loop won't settle the call."""
        if not self.is_settled:
            self.withdraw()  # so that the loop can't start it any more
            self._error = error
            self._settle()

    def cancel_here(self) -> None:
        """Ask the coroutine to end, in the loop's thread."""
        # A task that is cancelled before its first step would never wake the caller.
        self._is_refused = True
        if self._is_running and self.task is not None:
            self.task.cancel()

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait for the end; return false on a timeout."""
        waited = 0.0
        while not self.is_settled and waited < seconds:
            step = min(SLICE, seconds - waited)
            if self._bell is None or not self._bell.wait(step):
                waited += step  # not by a clock: users' tests may freeze it
        return self.is_settled

    def outcome(self) -> T:
        """Return the coroutine's result, or raise its error."""
        self._bell = None  # it is an open file, and an error that is kept would keep it open
        if self._error is not None:
            error, self._error = self._error, None
            try:
                if isinstance(error, asyncio.CancelledError):
                    raise ClientClosedError("the client was closed during the call") from None
                raise error
            finally:
                del error
        return cast("T", self._result)


def _task_of(
    coroutine: Coroutine[Any, Any, None],
    loop: asyncio.AbstractEventLoop,
    context: contextvars.Context,
) -> asyncio.Task[None]:
    """Make a task; from Python 3.12 on, it runs to its first wait at once."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)
    return loop.create_task(coroutine, context=context)


class PrivateLoop:
    """A loop that starts when first needed; its thread keeps no reference to the client.

    Args:
        name: The thread's name.
        make: Makes the loop, in its thread.
        on_close: Awaited before the loop ends.

    Attributes:
        bells: Those that no caller waits for now. A late ring for an earlier call does no harm.
            Nothing closes a bell that a call may still ring: that could write to another file.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], asyncio.AbstractEventLoop],
        on_close: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.ident: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_closing: bool = False
        self.is_ending: bool = False
        self.is_over: bool = False
        self._name = name
        self._make = make
        self._on_close = on_close
        self._grace = 0.0
        self._arrivals: collections.deque[Crossing[Any]] = collections.deque()
        self._under_way: set[Crossing[Any]] = set()
        self.bells: collections.deque[Bell] = collections.deque()
        self._doorbell: Bell | None = None
        self._turn = 0
        self._woken_in = -1
        self._closing: asyncio.Task[None] | None = None
        self._thread = Errand(name, self._run)

    def hand_over(self, crossing: Crossing[Any]) -> None:
        """Hand a crossing to the loop. Several share one wake-up, which costs a system call.

        Raises:
            ConfigurationError: If this interpreter allows no threads.
            ClientClosedError: If the loop has ended or is closing, or its thread can't be started.
        """
        if self.is_closing:
            raise ClientClosedError("this client was closed")
        self._arrivals.append(crossing)
        turn, loop, doorbell = self._turn, self.loop, self._doorbell
        if loop is None:
            self._start()
        elif self._woken_in != turn:
            try:
                if doorbell is None:
                    loop.call_soon_threadsafe(self._receive)
                else:  # one system call less, and no handle
                    doorbell.ring()
                # Only now, and only for the turn read before: a thread that reads this value can
                # rely on the loop having been woken and not having looked since.
                self._woken_in = turn
            except RuntimeError:  # closed: `_refuse_all` will run, or has run and set `is_over`
                pass
        if self.is_over:
            raise ClientClosedError("this client was closed")

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop's thread; do nothing if the loop has ended."""
        loop = self.loop
        if loop is not None and not self.is_over:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(function, *arguments)

    def call_off(self, crossing: Crossing[Any]) -> bool:
        """Take a crossing back, or ask it to end; return true if the caller should wait for it."""
        crossing.caller = 0
        if crossing.withdraw() or crossing.is_settled:
            return False
        self.call_soon(crossing.cancel_here)
        return True

    def end(self, grace: float) -> None:
        """Close, let running calls see it and end, then stop the loop; from any thread.

        Waits for the end, but not in a loop's own thread, nor while a call of this thread runs: we
        may be in a callback of that call, which needs this thread to end.
        """
        self._grace = self._grace or grace
        self.is_closing = True
        self.bells.clear()
        self.call_soon(self._begin_to_end)
        me = _thread.get_ident()
        calls = (*self._arrivals.copy(), *self._under_way.copy())
        if self._thread.is_sent and not (
            in_a_loop_thread() or any(each.caller == me for each in calls)
        ):
            self._thread.join(grace + 2 * CUT_OFF_GRACE)

    def leave_behind(self) -> None:
        """In a forked child: raise an error in calls under way, and touch nothing else."""
        # The child shares the parent's selector: closing or even finalizing the loop could
        # unregister what the parent waits for. So we only mark it, which also avoids a warning.
        self.is_over = True
        self._doorbell = None  # the parent's loop would hear it
        with contextlib.suppress(AttributeError):
            cast("Any", self.loop)._closed = True  # noqa: SLF001
        error = WrongLoopError("this call continues in the parent process, not in the fork")
        self._refuse_all(error)

    # --- in the caller's thread ---

    def _start(self) -> None:
        try:
            self._thread.send(or_here=False)
        except RuntimeError as error:  # too many threads, or on 3.12 the main thread has ended
            if "subinterpreter" in str(error):  # an isolated one on Python 3.11
                raise ConfigurationError(f"the client can't start its thread: {error}") from None
            raise ClientClosedError(f"the client can't start its thread: {error}") from None

    # --- in the loop's thread ---

    def _run(self) -> None:
        self.ident = _thread.get_ident()
        _loop_threads.add(self.ident)
        try:
            loop = self._make()
        except Exception as error:  # noqa: BLE001 - no descriptors left, or the user's loop policy
            _loop_threads.discard(self.ident)
            self._thread = Errand(self._name, self._run)  # the next call tries again
            why = getattr(error, "strerror", None) or type(error).__name__
            self._refuse_all(ConnectError(f"the client can't start its event loop: {why}"))
            return
        try:
            self._hang_doorbell(loop)
            self.loop = loop
            loop.call_soon(self._receive)
            if self.is_closing:  # `end` may have found no loop yet
                self._begin_to_end()
            loop.run_forever()
            self.is_ending = True
            if self._closing is None:  # a hook of the user has stopped the loop
                loop.run_until_complete(self._close())
            loop.run_until_complete(_cut_off())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self._doorbell = None
            loop.close()
            _loop_threads.discard(self.ident)
            self.is_over = True  # before we look: later callers see it and don't wait
            self._refuse_all(asyncio.CancelledError())

    def _hang_doorbell(self, loop: asyncio.AbstractEventLoop) -> None:
        bell = new_bell()
        if isinstance(bell, Bell):
            with contextlib.suppress(NotImplementedError):  # a loop of the user's own kind
                loop.add_reader(bell, self._answer, bell)
                self._doorbell = bell

    def _answer(self, bell: Bell) -> None:
        bell.hush()
        self._receive()

    def _receive(self) -> None:
        self._turn += 1  # before we look: later callers must wake the loop again
        arrivals = self._arrivals
        while arrivals:
            crossing = arrivals[0]
            self._under_way.add(crossing)  # before it leaves the arrivals: `end` looks for it
            arrivals.popleft()
            if self.is_ending:
                self._under_way.discard(crossing)
                crossing.refuse(asyncio.CancelledError())
            elif self.loop is not None:
                crossing.start(self.loop, self._under_way)

    def _refuse_all(self, error: BaseException) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._arrivals.popleft().refuse(error)
        for crossing in self._under_way.copy():
            crossing.refuse(error)

    def _begin_to_end(self) -> None:
        if self._closing is None and self.loop is not None:
            self._closing = self.loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            await self._close()
        finally:
            cast("Any", self.loop).stop()

    async def _close(self) -> None:
        """Close the client, and wait for its calls to end, within the grace period."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace or CUT_OFF_GRACE):
                await self._on_close()
                if rest := [each.task for each in self._under_way if each.task is not None]:
                    await asyncio.wait(rest)


async def _cut_off() -> None:
    """Cancel the tasks that still run, such as a bulk run whose callback doesn't return."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CUT_OFF_GRACE)
