"""An event loop in a thread of its own: how calls cross into it, and how it ends.

Whoever waits for a crossing is let go whatever happens: the loop may end, or be left behind by a
fork, while a call is on its way in, under way, or in a callback; and the thread that calls may be
interrupted between any two steps. So each crossing is begun by the loop or withdrawn by its caller,
whichever claims it first; only the loop's thread, which no signal reaches, settles what it has
begun; and nobody relies on a step that another caller was about to take.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import ClientClosedError, ConnectError, WrongLoopError
from clerk_async.http.errand import Errand, Latch
from clerk_async.under_test import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

CUT_OFF_GRACE: Final = 1.0
"""Seconds that what still runs when the loop ends has for being cancelled."""

_loop_threads: Final[set[int]] = set()


def in_a_loop_thread() -> bool:
    """Whether this thread runs a private loop, of whichever client: it should wait for no other."""
    return _thread.get_ident() in _loop_threads


class Crossing(Generic[T]):
    """One call on its way through the loop, and the thread that waits for it.

    Args:
        function: Makes the coroutine, in the loop's thread: one that was made by the caller, and
            then not handed over, would complain of never having been awaited.
        arguments: For the function.
        options: For the function, by name.
        notify: Called in the loop's thread when the call has ended.
    """

    __slots__ = (
        "_arguments",
        "_claim",
        "_context",
        "_done",
        "_error",
        "_function",
        "_is_refused",
        "_is_running",
        "_notify",
        "_options",
        "_result",
        "caller",
        "task",
    )

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
        notify: Callable[[], object] | None = None,
    ) -> None:
        self.caller: int = _thread.get_ident()
        self.task: asyncio.Task[None] | None = None
        self._function = function
        self._arguments = arguments
        self._options = options or {}
        self._context = contextvars.copy_context()
        self._notify = notify
        self._claim = _thread.allocate_lock()  # taken once, by who decides what becomes of it
        self._done = Latch()
        self._is_running = False
        self._is_refused = False
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._done.is_open

    def withdraw(self) -> bool:
        """Take it back, in the caller's thread; false if the loop has taken it up."""
        return self._claim.acquire(blocking=False)

    def start(self, loop: asyncio.AbstractEventLoop, under_way: set[Crossing[Any]]) -> None:
        """Begin in the caller's context, unless it was withdrawn; leaves the set when it ends."""
        if self._claim.acquire(blocking=False):
            self.task = loop.create_task(self._carry(under_way), context=self._context)
        else:
            under_way.discard(self)

    async def _carry(self, under_way: set[Crossing[Any]]) -> None:
        """Run the coroutine and wake the caller at once, not a turn of the loop later."""
        self._is_running = True
        try:
            if self._is_refused:
                raise asyncio.CancelledError  # noqa: TRY301 - as if it had come a step later
            self._result = await self._function(*self._arguments, **self._options)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, as it is
            self._error = error
        under_way.discard(self)
        self._settle()

    def _settle(self) -> None:
        self._done.open()
        if self._notify is not None:
            self._notify()

    def refuse(self, error: BaseException) -> None:
        """Let the caller go, as nobody will answer any more."""
        if not self.is_settled:
            self.withdraw()  # so that nobody begins it any more
            self._error = error
            self._settle()

    def cancel_here(self) -> None:
        """Ask the coroutine to end, in the loop's thread."""
        # A task that is cancelled before its first step would never get to wake the caller.
        self._is_refused = True
        if self._is_running and self.task is not None:
            self.task.cancel()

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait for the end; false if it didn't come in time."""
        return self._done.wait(seconds)

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
    """A loop that starts when it is first needed; its thread holds nothing of its client's.

    Args:
        name: Its thread's.
        on_close: What to await before it ends.
    """

    def __init__(self, name: str, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.ident: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_closing: bool = False
        self.is_ending: bool = False
        self.is_over: bool = False
        self._name = name
        self._on_close = on_close
        self._grace = 0.0
        self._arrivals: collections.deque[Crossing[Any]] = collections.deque()
        self._under_way: set[Crossing[Any]] = set()
        self._turn = 0
        self._woken_in = -1
        self._closing: asyncio.Task[None] | None = None
        self._thread = Errand(name, self._run)

    def hand_over(self, crossing: Crossing[Any]) -> None:
        """Give a crossing to the loop; waking it costs a system call, so once for several.

        Raises:
            ClientClosedError: If the loop has ended or is to end, or its thread can't be started.
        """
        if self.is_closing:
            raise ClientClosedError("this client was closed")
        self._arrivals.append(crossing)
        turn, loop = self._turn, self.loop
        if loop is None:
            self._start()
        elif self._woken_in != turn:
            try:
                loop.call_soon_threadsafe(self._receive)
                # Only now, and only for the turn that was seen before: whoever finds it can be sure
                # that the loop was woken, and has not looked since.
                self._woken_in = turn
            except RuntimeError:  # closed: `_refuse_all` comes, or has come and set `is_over`
                pass
        if self.is_over:
            raise ClientClosedError("this client was closed")

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have something done in the loop's thread; nothing if the loop has ended."""
        loop = self.loop
        if loop is not None and not self.is_over:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(function, *arguments)

    def call_off(self, crossing: Crossing[Any]) -> bool:
        """Take a crossing back, or ask it to end; true if it may still be waited for."""
        crossing.caller = 0
        if crossing.withdraw() or crossing.is_settled:
            return False
        self.call_soon(crossing.cancel_here)
        return True

    def end(self, grace: float) -> None:
        """Close, let what is under way see it and end, and stop; from any thread.

        Waits for it, but neither in a loop's own thread nor while a call of this thread is under
        way: it may be in a callback of that call, which needs this thread in order to end.
        """
        self._grace = self._grace or grace
        self.is_closing = True
        self.call_soon(self._begin_to_end)
        me = _thread.get_ident()
        calls = (*self._arrivals.copy(), *self._under_way.copy())
        if self._thread.is_sent and not (
            in_a_loop_thread() or any(each.caller == me for each in calls)
        ):
            self._thread.join(grace + 2 * CUT_OFF_GRACE)

    def leave_behind(self) -> None:
        """In a forked child: say so to who is in a call, and touch nothing else."""
        # The parent's selector is shared with us: closing or even finalizing the loop could
        # unregister what the parent waits for. So it's marked, and stays quiet.
        self.is_over = True
        with contextlib.suppress(AttributeError):
            cast("Any", self.loop)._closed = True  # noqa: SLF001
        error = WrongLoopError("this call goes on in the parent process, not in a fork")
        self._refuse_all(error)

    # --- in the caller's thread ---

    def _start(self) -> None:
        try:
            self._thread.send(or_here=False)
        except RuntimeError as error:  # too many, or on Python 3.12 the main one has ended
            raise ClientClosedError(f"the client can't start its thread: {error}") from None

    # --- in the loop's thread ---

    def _run(self) -> None:
        self.ident = _thread.get_ident()
        try:
            loop = new_event_loop()
        except Exception as error:  # noqa: BLE001 - no descriptors left, or a policy of the user's
            self._thread = Errand(self._name, self._run)  # whoever comes from now on tries again
            why = getattr(error, "strerror", None) or type(error).__name__
            self._refuse_all(ConnectError(f"the client can't start its event loop: {why}"))
            return
        _loop_threads.add(self.ident)
        try:
            self.loop = loop
            loop.call_soon(self._receive)
            if self.is_closing:  # who closed may have found no loop yet
                self._begin_to_end()
            loop.run_forever()
            self.is_ending = True
            loop.run_until_complete(_cut_off())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            _loop_threads.discard(self.ident)
            self.is_over = True  # before the look: who comes later sees it, and waits for nobody
            self._refuse_all(asyncio.CancelledError())

    def _receive(self) -> None:
        self._turn += 1  # before the look: who comes later must wake the loop again
        arrivals = self._arrivals
        while arrivals:
            crossing = arrivals[0]
            self._under_way.add(crossing)  # before it leaves the others: `end` looks for it
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await self._on_close()
                    if rest := [each.task for each in self._under_way if each.task is not None]:
                        await asyncio.wait(rest)
        finally:
            cast("Any", self.loop).stop()


async def _cut_off() -> None:
    """Cancel what still runs, such as a bulk run whose callback doesn't come back."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CUT_OFF_GRACE)
