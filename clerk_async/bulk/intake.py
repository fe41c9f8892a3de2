"""The input of a run: any iterable, read by many workers one item at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from typing import Final, Generic, TypeVar

from clerk_async.errors import InvalidArgumentError

DUPLICATES_WINDOW: Final = 50_000
"""An id is sent once if it comes again within so many ids."""
PARTS: Final = 176
"""Tables of 284 ids on average, which is what CPython's dicts of their size are filled best by."""
BREATH: Final = 256
"""After so many items, whoever took them, the loop gets its turn."""

T = TypeVar("T")


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
        self.size: int | None = len(values) if isinstance(values, Collection) else None
        self._sync: Iterator[T] | None = None
        self._async: AsyncIterator[T] | None = None
        if isinstance(values, AsyncIterable):
            self._async = aiter(values)
        else:
            self._sync = iter(values)
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
