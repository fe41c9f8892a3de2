"""Callbacks, iterables and results on their way between the caller's thread and the loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Collection
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs

from clerk_async.errors import ClientClosedError, InvalidArgumentError, WrongLoopError
from clerk_async.under_test import monotonic

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Coroutine,
        Generator,
        Iterable,
        Iterator,
    )

    from clerk_async.bulk.options import RunOptions
    from clerk_async.sync.loop_thread import CallerThread

T = TypeVar("T")

BULK_GRACE: Final = 20.0
"""Seconds that an interrupted bulk run may take to finish what is in flight."""
CHUNK: Final = 256
"""Ids that are fetched from the caller's iterable in one go at the most."""
CHUNK_SECONDS: Final = 0.005
"""How long fetching may go on for; an iterable that waits for its next id delays no other."""


def in_caller_thread(
    caller: CallerThread, name: str, function: Callable[..., T] | None
) -> Callable[..., Coroutine[Any, Any, T]] | None:
    """Make a callback run in the caller's thread.

    Raises:
        InvalidArgumentError: If it can't be called, or is a coroutine function.
    """
    if function is None:
        return None
    if not callable(function):  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidArgumentError(f"{name} must be callable")
    if iscoroutinefunction(function):  # nobody would await it: as an answer, it is always true
        raise InvalidArgumentError(f"{name} must be an ordinary function in the sync client")

    async def hop(*args: Any) -> T:
        return await caller.run(function, *args)

    return hop


def told_in(caller: CallerThread, options: RunOptions) -> RunOptions:
    """Make all callbacks of a bulk run be called in the caller's thread."""
    names = ("should_stop", "on_outcome", "on_progress")
    hopping: dict[str, Any] = {
        name: in_caller_thread(caller, name, getattr(options, name)) for name in names
    }
    return attrs.evolve(options, **hopping)


def crossing(
    caller: CallerThread, name: str, items: Iterable[str]
) -> Iterable[str] | AsyncIterable[str]:
    """Make an iterable be read in the caller's thread, unless it is a plain collection."""
    if isinstance(items, AsyncIterable):
        raise InvalidArgumentError(f"{name} must be an ordinary iterable in the sync client")
    if isinstance(items, Collection | str | bytes) or not hasattr(items, "__iter__"):
        return items
    return _fetched(caller, items)


async def _fetched(caller: CallerThread, items: Iterable[str]) -> AsyncGenerator[str, None]:
    """Fetch from an iterable in the caller's thread, some at a time."""
    iterator = await caller.run(iter, items)
    while True:
        chunk, is_last, error = await caller.run(_take, iterator)
        for item in chunk:
            yield item
        if error is not None:
            raise error
        if is_last:
            return


def _take(iterator: Iterator[str]) -> tuple[list[str], bool, Exception | None]:
    """Take what comes quickly; an error comes after what was taken before it."""
    chunk: list[str] = []
    until = monotonic() + CHUNK_SECONDS
    try:
        for item in iterator:
            chunk.append(item)
            if len(chunk) >= CHUNK or monotonic() >= until:
                return chunk, False, None
    except Exception as error:  # noqa: BLE001 - handed on to where the ids are awaited
        return chunk, True, error
    return chunk, True, None


def iterated(caller: CallerThread, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an async generator from this thread; leaving early ends it properly."""
    try:
        while True:
            item = caller.serve(_next_of(items), BULK_GRACE)
            if item is _END:
                return
            yield cast("T", item)
    finally:
        # An interruption may have left it running, closing the client has ended it already, and
        # where a fork has left it behind, or the collector ends it in the loop's thread, the loop
        # that it belongs to sees to it.
        with contextlib.suppress(RuntimeError, ClientClosedError, WrongLoopError):
            caller.serve(items.aclose(), BULK_GRACE)


_END: Final = object()


async def _next_of(items: AsyncGenerator[T, None]) -> T | object:
    async for item in items:
        return item
    return _END
