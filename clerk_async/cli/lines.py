"""Result lines written by a thread, so that a slow reader of stdout makes no request time out."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from clerk_async.cli.output import Stream

WAITING_AT_MOST: Final = 1000
"""So many lines may wait; then whoever has another waits himself."""


class BackgroundLines:
    """Lines on their way to a stream; made inside a running loop."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._change = threading.Condition()
        self._lines: list[str] = []
        self._is_ended = False
        self._is_full = False
        self._room = asyncio.Event()
        self._written = asyncio.Event()
        threading.Thread(target=self._write, daemon=True).start()

    async def put(self, line: str) -> None:
        """Hand on a line; wait while too many are waiting."""
        with self._change:
            self._lines.append(line)
            is_full = len(self._lines) > WAITING_AT_MOST
            if is_full:
                self._is_full = True
                self._room.clear()
            self._change.notify()
        if is_full:
            await self._room.wait()

    async def close(self) -> None:
        """Wait until all is written."""
        with self._change:
            self._is_ended = True
            self._change.notify()
        await self._written.wait()

    def _write(self) -> None:
        while True:
            with self._change:
                while not (self._lines or self._is_ended):
                    self._change.wait()
                lines, self._lines = self._lines, []
                was_full, self._is_full = self._is_full, False
                is_ended = self._is_ended and not lines
            if lines:
                self._stream.write("".join(lines))
            try:
                if was_full:
                    self._loop.call_soon_threadsafe(self._room.set)
                if is_ended:
                    self._loop.call_soon_threadsafe(self._written.set)
            except RuntimeError:  # the loop is closed: the program ends
                return
            if is_ended:
                return
