"""The gate of a process that shares its window with others; it has the same methods as `Gate`.

Runs, lanes and the ramp don't notice the difference. Places come from `KeyWindow`, several at a
time: the next message asks for as many as requests wait here, and its reply lets them out. While
Redis is away, places come from this process's share of the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.pacing.gate import Gate
from clerk_async.pacing.key_window import Claim

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from clerk_async.config import RateLimit
    from clerk_async.pacing.key_window import KeyWindow
    from clerk_async.pacing.window import Ticket


class SharedGate(Gate):
    """The gate of one client for one limit, inside the window of its key.

    A limit with the same length as the key's window is a cap for all processes. A limit with
    another length applies in this process only, on top of the key's window.
    """

    def __init__(
        self, limit: RateLimit, keys: KeyWindow, tell: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(limit)
        self._keys = keys
        self._tell = tell
        self._ramp = keys.ramp
        self._has_own_window = limit.per != keys.limit.per
        self._claim = Claim(limit, self._wanted, self._let_out)

    async def told(self) -> None:
        """Wait until the others know of the last places, or Redis has timed out."""
        await self._tell()

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> int:
        """Note the end of a send, as `Gate` does, and let requests of other gates out."""
        refusals = super().answered(ticket, status, retry_after)
        self._keys.let_out_alone()
        return refusals

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._start(loop)
        self._keys.register(self._claim)

    def _in_flight(self) -> int:
        return self._keys.in_flight

    def _answered_lately(self, now: float) -> int:  # noqa: ARG002 - the window uses its own time
        return self._keys.answered_lately()

    def _delay_of_window(self, now: float) -> float:
        own = self._window
        if self._has_own_window and own.used(now) + 1 > self.limit.count:
            return own.free_at() - now
        return self._keys.delay(self._claim, now)

    def _take(self) -> None:
        self._keys.take(self._claim)
        if self._has_own_window:
            self._window.in_flight += 1

    def _leave(self, now: float, *, has_arrived: bool) -> None:
        self._keys.leave(self._claim, now, has_arrived=has_arrived)
        if self._has_own_window:
            self._window.leave(now, has_arrived=has_arrived)

    def _let_out(self) -> None:
        super()._let_out()
        if self._wanted(self._now()) > self._claim.in_hand:
            self._keys.on_due()

    def _wanted(self, now: float) -> int:
        """Return how many places this gate could use now, or soon if it shares with a neighbour."""
        ramp = self._ramp
        if not self._waiting or now < ramp.paused_until or not self._is_here():
            return 0
        most = min(len(self._waiting), int(ramp.concurrency) - self._keys.in_flight)
        if self._has_own_window:
            most = min(most, self.limit.count - self._window.used(now))
        if ramp.allowance(now) < self._keys.limit.count:
            most = min(most, 1)  # next to a neighbour, one by one
        return max(0, most)
