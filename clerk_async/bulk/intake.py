"""The input of a run: any iterable, which many workers read one item at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import InvalidArgumentError
from clerk_async.under_test import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DUPLICATES_WINDOW: Final = 50_000
"""How many ids back a duplicate is still recognized and not sent again."""
PARTS: Final = 196
"""Tables of 255 ids on average, which leave room in CPython's dicts for 341."""
REBUILT_AFTER: Final = 40
"""After this many evictions, the next table is rebuilt without the traces of what it has lost.

That is before the traces fill the table, for which CPython would double it.
"""
BREATH: Final = 256
"""After this many items, whichever worker took them, the event loop gets its turn."""

LAST_GRACE: Final = 0.5
"""Seconds after the second cancellation before the run continues without a task."""

T = TypeVar("T")

_log = logging.getLogger("clerk_async")


class Duplicates:
    """Remembers exactly the last `size` ids, and nothing older.

    It uses many small tables, because one large table would need twice its memory while it grows.
    """

    __slots__ = ("_again", "_evicted", "_order", "_seen", "_size")

    def __init__(self, size: int = DUPLICATES_WINDOW) -> None:
        self._size = size
        self._order: deque[str] = deque()
        self._seen: list[dict[str, None]] = [{} for _ in range(PARTS)]
        self._evicted = 0
        # how often an id came again; a count for every id would take twice the memory
        self._again: dict[str, int] = {}

    def saw(self, value: str) -> bool:
        """Return whether a value was among the last ids, and remember it."""
        order, again = self._order, self._again
        seen = self._seen[hash(value) % PARTS]
        is_known = value in seen
        if is_known:
            again[value] = again.get(value, 0) + 1
        else:
            seen[value] = None
        order.append(value)
        if len(order) > self._size:
            oldest = order.popleft()
            if not again or oldest not in again:
                self._seen[hash(oldest) % PARTS].pop(oldest, None)
            elif again[oldest] == 1:
                del again[oldest]
            else:
                again[oldest] -= 1
            self._evicted += 1
            if self._evicted % REBUILT_AFTER == 0:
                part = self._evicted // REBUILT_AFTER % PARTS
                self._seen[part] = dict(self._seen[part])
        return is_known


def check_input(name: str, values: object) -> None:
    """Reject an argument that can't be a series of ids.

    Raises:
        InvalidArgumentError: If it is a single string (its letters would be taken for ids), or
            not iterable.
    """
    if isinstance(values, str | bytes | bytearray):
        raise InvalidArgumentError(f"{name} must be several ids, such as a list, not one string")
    if not isinstance(values, Iterable | AsyncIterable):
        raise InvalidArgumentError(
            f"{name} must be an iterable or async iterable, not {type(values).__name__}"
        )


class Input(Generic[T]):
    """An iterable or async iterable, which many workers read one item at a time.

    Attributes:
        exhausted: Whether it was read to its end.
        size: How many items a collection has; None for any other iterable. Even a stopped run reads
            a collection to its end.
    """

    def __init__(self, values: Iterable[T] | AsyncIterable[T]) -> None:
        self.exhausted: bool = False
        self.size: int | None = None
        self._sync: Iterator[T] | None = None
        self._async: AsyncIterator[T] | None = None
        if isinstance(values, AsyncIterable):
            self._async = aiter(values)
        else:
            self._sync = iter(values)
            self.size = len(values) if isinstance(values, Collection) else None
        self._is_reading = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = 0

    async def read(self) -> tuple[T] | None:
        """Return a one-tuple with the next item; None at the end."""
        if self.exhausted:
            return None
        if self._sync is not None:
            while self._taken >= BREATH:
                if self._taken == BREATH:
                    self._taken += 1
                    asyncio.get_running_loop().call_soon(self._go_on)
                await asyncio.sleep(0)
            self._taken += 1
            for item in self._sync:
                return (item,)
            self.exhausted = True
            return None
        # No asyncio.Lock, because it is fair: once all workers have had to wait for an item, each
        # would always wait for its turn, and each item would take a turn of the event loop.
        while self._is_reading:
            await self._turn()
        self._is_reading = True
        try:
            if self.exhausted or self._async is None:
                return None
            return (await anext(self._async),)
        except StopAsyncIteration:
            self.exhausted = True
            return None
        finally:
            self._is_reading = False
            self._wake_next()

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not self._is_reading:
                self._wake_next()  # it was our turn, and we don't take it
            raise

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if settle(turn):
                return

    def _go_on(self) -> None:
        self._taken = 0


class Patience:
    """Waits for user code that may take long, until the run is stopped.

    Then the user code is cancelled, cancelled again after a grace period, and finally abandoned: a
    clean-up that hangs or a driver that swallows cancellations must not keep a run from ending.

    Args:
        leave: Called with each task that is abandoned.
    """

    def __init__(self, leave: Callable[[asyncio.Task[Any]], object]) -> None:
        self._leave = leave
        self._is_over = False
        self._waiting: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Wait for a result; None as soon as the run is stopped."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._waiting.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            task.uncancel()
            return None
        finally:
            self._waiting.discard(task)

    def end(self, grace: float) -> None:
        """Cancel all tasks that wait: now, after the grace period, and a last time soon after."""
        self._is_over = True
        self._cancel()
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(grace, self._end_again)

    def _end_again(self) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(LAST_GRACE, self._leave_behind)

    def _cancel(self) -> None:
        for task in self._waiting:
            task.cancel()

    def _leave_behind(self) -> None:
        for task in list(self._waiting):
            _log.warning("the input or should_stop ignored its cancellation and was abandoned")
            self._waiting.discard(task)
            leave_behind(task)
            self._leave(task)

    def close(self) -> None:
        """Cancel the timer, because the run is over and nothing waits any more."""
        if self._timer is not None:
            self._timer.cancel()


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Wait no longer for a task that ignores its cancellation."""
    if not task.done():
        with suppress(RuntimeError, ValueError):  # it may honour this
            cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
        task.cancel()
    task.add_done_callback(lambda left: left.cancelled() or left.exception())
