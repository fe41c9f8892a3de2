"""The input of a run: any iterable, read by many workers one item at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DUPLICATES_WINDOW: Final = 50_000
"""An id is sent once if it comes again within so many ids."""
PARTS: Final = 176
"""Tables of 284 ids on average, which is what CPython's dicts of their size are filled best by."""
BREATH: Final = 256
"""After so many items, whoever took them, the loop gets its turn."""

LAST_GRACE: Final = 0.5
"""Seconds that who was cancelled for the second time has before the run goes on without them."""

T = TypeVar("T")

_log = logging.getLogger("clerk_async")


class Duplicates:
    """Knows the last so many ids exactly, and nothing older.

    Many small tables in place of a large one, which would need room for itself twice as it grows.
    """

    __slots__ = ("_again", "_order", "_seen", "_size")

    def __init__(self, size: int = DUPLICATES_WINDOW) -> None:
        self._size = size
        self._order: deque[str] = deque()
        self._seen: tuple[dict[str, None], ...] = tuple({} for _ in range(PARTS))
        # how often more than once; a count for every id would take twice the memory
        self._again: dict[str, int] = {}

    def saw(self, value: str) -> bool:
        """Whether it was among the last ids; it is from now on."""
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
        return is_known


def check_input(name: str, values: object) -> None:
    """Refuse what can't be a row of ids.

    Raises:
        InvalidArgumentError: If it is a single string (its letters would be taken for ids), or
            can't be iterated over.
    """
    if isinstance(values, str | bytes | bytearray):
        raise InvalidArgumentError(f"{name} must be several ids, such as a list, not one string")
    if not isinstance(values, Iterable | AsyncIterable):
        raise InvalidArgumentError(
            f"{name} must be an iterable or async iterable, not {type(values).__name__}"
        )


class Input(Generic[T]):
    """An iterable or async iterable, read by many workers one item at a time.

    Attributes:
        exhausted: Whether it was read to its end.
        size: How many items there are, if a collection says so; such a one is read to its end
            even by a run that was stopped.
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
        """Return the next item in a tuple of one; None at the end."""
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
        # No asyncio.Lock: it is fair, so that once all workers have had to wait for an item, each
        # would wait for its turn ever after, and every item take a turn of the loop.
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
            if not turn.done():
                turn.set_result(None)
                return

    def _go_on(self) -> None:
        self._taken = 0


class Patience:
    """Waits for code of the user's that may take long, until the run is stopped.

    Then it is cancelled, after a grace once more, and in the end left behind: a clean-up that hangs
    or a driver that swallows cancellations must not keep a run from its end.

    Args:
        leave: Called with each task that is left behind.
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
        """Cancel whoever waits: now, after the grace, and for the last time soon after that."""
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
            _log.warning("the input, or should_stop, swallows cancellations: it is left behind")
            with suppress(RuntimeError, ValueError):  # what takes no cancellation may take this
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
            self._waiting.discard(task)
            task.add_done_callback(_look_away)
            task.cancel()
            self._leave(task)

    def close(self) -> None:
        """The run is over: nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()


def _look_away(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
