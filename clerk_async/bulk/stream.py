"""Outcomes on their way to one reader; who is too far ahead of him waits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from clerk_async.http.daemon import running_loop, shielded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from clerk_async.bulk.report import RevocationOutcome

AHEAD_AT_MOST: Final = 64
"""So many outcomes may wait for the reader before the sends wait for him."""


class OutcomeStream:
    """A queue between the workers of a run and the reader of its outcomes."""

    def __init__(self) -> None:
        self._outcomes: deque[RevocationOutcome] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._room: deque[asyncio.Future[None]] = deque()
        self._is_ended = False
        self._is_closed = False

    async def put(self, outcome: RevocationOutcome) -> None:
        """Hand one on, and wait while too many are waiting."""
        if self._is_closed:
            return
        self._outcomes.append(outcome)
        _resolve(self._reader)
        if len(self._outcomes) > AHEAD_AT_MOST:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room

    async def get(self) -> RevocationOutcome | None:
        """Give the next; None after the last."""
        while not self._outcomes:
            if self._is_ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        outcome = self._outcomes.popleft()
        if self._room:  # one out, one in: never more wait for room than there are outcomes left
            _resolve(self._room.popleft())
        return outcome

    def end(self, _: object = None) -> None:
        """Let the reader come to an end."""
        self._is_ended = True
        _resolve(self._reader)

    def close(self) -> None:
        """The reader is gone: drop what waits for him, and keep nobody waiting."""
        self._is_closed = True
        self._outcomes.clear()
        while self._room:
            _resolve(self._room.popleft())


def _resolve(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


async def told_by(
    run: Callable[[], Coroutine[Any, Any, object]],
    stream: OutcomeStream,
    abandon: Callable[[], None],
) -> AsyncGenerator[RevocationOutcome, None]:
    """Start a run, and give what it puts into the stream; who goes away early abandons it.

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
    """Wait for a run that was stopped; whoever cancels the wait cuts the run off."""
    cancelled = None
    with shielded():
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
                task.cancel()
    if not task.cancelled():
        task.exception()  # seen: raised before, or of no use to somebody who went away
    if cancelled is not None:
        raise cancelled
