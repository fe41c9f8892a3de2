"""Outcomes on their way to one reader; workers too far ahead of the reader wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from clerk_async.http.daemon import running_loop, shielded
from clerk_async.under_test import settle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from clerk_async.bulk.report import RevocationOutcome

AHEAD_AT_MOST: Final = 64
"""How many outcomes may wait for the reader before the workers wait too."""


class OutcomeStream:
    """A queue between the workers of a run and the reader of its outcomes."""

    def __init__(self) -> None:
        self._outcomes: deque[RevocationOutcome] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._room: deque[asyncio.Future[None]] = deque()
        self._is_ended = False
        self._is_closed = False

    async def put(self, outcome: RevocationOutcome) -> None:
        """Pass an outcome on, and wait while too many are queued."""
        if self._is_closed:
            return
        self._outcomes.append(outcome)
        _resolve(self._reader)
        if len(self._outcomes) > AHEAD_AT_MOST:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room

    async def get(self) -> RevocationOutcome | None:
        """Return the next outcome; None after the last."""
        while not self._outcomes:
            if self._is_ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        outcome = self._outcomes.popleft()
        if self._room:  # one out, one in: no more workers wait than outcomes are left
            _resolve(self._room.popleft())
        return outcome

    def end(self, _: object = None) -> None:
        """End the stream once the reader has read the rest."""
        self._is_ended = True
        _resolve(self._reader)

    def close(self) -> None:
        """Drop what is queued, because the reader is gone, and release the workers that wait."""
        self._is_closed = True
        self._outcomes.clear()
        while self._room:
            _resolve(self._room.popleft())


def _resolve(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None:
        settle(waiting)


async def told_by(
    run: Callable[[], Coroutine[Any, Any, object]],
    stream: OutcomeStream,
    abandon: Callable[[], None],
) -> AsyncGenerator[RevocationOutcome, None]:
    """Start a run, and yield what it puts into the stream; a reader who stops early ends the run.

    Raises:
        Exception: What the run raises.
    """
    task = running_loop().create_task(run())
    task.add_done_callback(stream.end)
    try:
        while (outcome := await stream.get()) is not None:
            yield outcome
        await task
    except asyncio.CancelledError:
        task.cancel()
        raise
    finally:
        abandon()
        stream.close()
        await _see_off(task)


async def _see_off(task: asyncio.Task[object]) -> None:
    """Wait for a stopped run to end; if the wait is cancelled, cancel the run too."""
    cancelled = None
    with shielded():
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
                task.cancel()
    if not task.cancelled():
        task.exception()  # marks it as retrieved: it was raised already, or its reader is gone
    if cancelled is not None:
        raise cancelled
