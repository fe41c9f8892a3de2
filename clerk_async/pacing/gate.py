"""The gate that a bulk run's requests pass one by one before they are sent.

A client has one `Gate` for each limit, which all its runs with that limit share. Each run goes
through it with a `RunPacer`, and each worker passes a `Lane` of it to the transport.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from clerk_async.pacing.ramp import Ramp
from clerk_async.pacing.window import (
    TOO_MANY_REQUESTS,
    SendRefused,
    SendWindow,
    Ticket,
    asks_to_wait,
)
from clerk_async.under_test import call_later, clock_of, on_reset, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.config import RateLimit
    from clerk_async.pacing.window import PauseReason
    from clerk_async.under_test import Timer

MISSES: Final = 3
"""This many in a row without a useful response are no accident of one request."""
FIRST_SERVER_ERROR: Final = 500


class Gate:
    """The gate of one client for one limit; its runs share it, first come, first served."""

    def __init__(self, limit: RateLimit, *, clock: Callable[[], float] | None = None) -> None:
        self.limit = limit
        self._clock = clock
        self._now: Callable[[], float] = clock or (lambda: 0.0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._window = SendWindow(limit.per)
        self._ramp = Ramp(limit.count, limit.per)
        self._waiting: deque[tuple[asyncio.Future[Ticket], RunPacer]] = deque()
        self._timer: Timer | None = None

    async def acquire(self, run: RunPacer) -> Ticket:
        """Wait until a request of this run may leave.

        Raises:
            SendRefused: If the run is stopped in the meantime.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        if not self._waiting:
            now = self._now()
            if self._delay(now) <= 0:
                return self._grant(now)
        place: asyncio.Future[Ticket] = loop.create_future()
        self._waiting.append((place, run))
        self._let_out()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.answered(place.result(), None, None)
            raise

    def sent(self, ticket: Ticket) -> None:
        """Note that the request leaves now."""
        ticket.sent_at = self._now()

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> int:
        """Note the end of a send; return the number of refusals: 1 for a 429, else 0."""
        if not ticket.is_open:
            return 0
        ticket.is_open = False
        now = self._now()
        ramp = self._ramp
        self._leave(now, has_arrived=ticket.was_sent and status != TOO_MANY_REQUESTS)
        if status is not None and asks_to_wait(status, retry_after):
            used = self._answered_lately(now)
            ramp.refused(ticket, now, used, status, retry_after)
        elif ticket.was_sent and status is not None:
            ramp.let_through(ticket, now - ticket.sent_at)
        if self._waiting:
            self._let_out()
        return status == TOO_MANY_REQUESTS

    def turn_away(self, run: RunPacer) -> None:
        """End the waits of one run with `SendRefused`."""
        for place, owner in self._waiting:
            if owner is run:
                with suppress(asyncio.InvalidStateError):
                    place.set_exception(SendRefused)
        self._waiting = deque(entry for entry in self._waiting if not entry[0].done())

    def used(self) -> int:
        """Return how many places of the window are taken."""
        return self._window.used(self._now()) if self._loop else 0

    async def told(self) -> None:
        """Wait until all processes that share the window know its use; here, none share it."""

    def pause(self) -> tuple[float, PauseReason] | None:
        """Return the seconds until a request may leave, and why it must wait; None if it may."""
        now = self._now() if self._loop else 0.0
        if now < self._ramp.paused_until:
            return self._ramp.paused_until - now, self._ramp.pause_reason
        if self._waiting and not self._in_flight():
            delay = self._delay(now)
            if 0 < delay < math.inf:
                return delay, "window"
        return None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # requests in flight in a loop that is gone may have arrived: they keep their places
        self._loop = loop
        self._now = self._clock or clock_of(loop)
        self._waiting.clear()
        self._timer = None
        now = self._now()
        while self._window.in_flight:
            self._window.leave(now, has_arrived=True)

    def _delay(self, now: float) -> float:
        """Return the seconds until the next request may leave; inf if it needs a response first."""
        ramp = self._ramp
        if now < ramp.paused_until:
            return ramp.paused_until - now
        if self._in_flight() + 1 > ramp.concurrency:
            return math.inf
        if now < ramp.next_at:
            return ramp.next_at - now
        return self._delay_of_window(now)

    def _grant(self, now: float) -> Ticket:
        self._ramp.take(now)
        self._take()
        return Ticket(self._ramp.era)

    # -- the window, of this process alone -----------------------------------------------------

    def _in_flight(self) -> int:
        return self._window.in_flight

    def _answered_lately(self, now: float) -> int:
        return self._window.used(now) - self._window.in_flight

    def _delay_of_window(self, now: float) -> float:
        if self._window.used(now) + 1 <= self._ramp.allowance(now):
            return 0.0
        return self._window.free_at() - now

    def _take(self) -> None:
        self._window.in_flight += 1

    def _leave(self, now: float, *, has_arrived: bool) -> None:
        self._window.leave(now, has_arrived=has_arrived)

    def _is_here(self) -> bool:
        """Whether the running loop is that of the waiting requests, whose loop may be gone."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _let_out(self) -> None:
        if not self._is_here():
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        while self._waiting:
            delay = self._delay(now)
            if delay > 0:
                if delay < math.inf and self._loop is not None:
                    self._timer = call_later(self._loop, delay, self._let_out)
                return
            place, _ = self._waiting.popleft()
            if not place.done():
                ticket = self._grant(now)
                if not settle(place, ticket):
                    self.answered(ticket, None, None)


class Gates:
    """The gates of one client, one per limit in use, so that concurrent runs share a window."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] | None = None,
        make: Callable[[RateLimit], Gate] | None = None,
    ) -> None:
        self._make: Callable[[RateLimit], Gate] = make or partial(Gate, clock=clock)
        self._gates: dict[RateLimit, Gate] = {}
        on_reset(self.forget)

    def forget(self) -> None:
        """Start afresh between two tests, with empty windows and no refusals."""
        self._gates.clear()

    def gate(self, limit: RateLimit) -> Gate:
        """Return the gate for a limit, always the same one for the same limit."""
        gate = self._gates.get(limit)
        if gate is None:  # several threads of a sync client may get here at the same time
            gate = self._gates.setdefault(limit, self._make(limit))
        return gate


class RunPacer:
    """One run's way through the gate: it can be stopped, and counts what was refused.

    Attributes:
        throttled: How many requests got a 429.
        on_wire: How many have left and have no response yet.
        misses: How many in a row got no response, or a 5xx.

    Args:
        gate: The gate to pass.
        may_send: Called just before each send; False refuses it.
        asks_first: Whether to call `may_send` before a place is taken, because it may take long: it
            may even need a place in the same window.
    """

    def __init__(
        self,
        gate: Gate,
        may_send: Callable[[], Awaitable[bool]] | None = None,
        *,
        asks_first: bool = False,
    ) -> None:
        self.gate = gate
        self.may_send = may_send
        self.asks_first = asks_first
        self.throttled = 0
        self.on_wire: int = 0
        self.misses: int = 0
        self._last_status: int | None = None
        self.is_stopped: bool = False
        self.pauses: set[asyncio.Future[None]] = set()

    def lane(self) -> Lane:
        """Return a lane for one worker."""
        return Lane(self)

    def stop(self) -> None:
        """Let nothing more out, and end every wait with `SendRefused`."""
        if self.is_stopped:
            return
        self.is_stopped = True
        self.gate.turn_away(self)
        for over in self.pauses:
            with suppress(asyncio.InvalidStateError):
                over.set_exception(SendRefused)

    def note(self, status: int | None) -> None:
        """Note the status of a request that has left; None if no response came."""
        self._last_status = status
        if status is None or status >= FIRST_SERVER_ERROR:
            self.misses += 1
        else:
            self.misses = 0

    def pause(self) -> tuple[float, PauseReason] | None:
        """Return the seconds until a request may leave, and why requests wait or fail.

        An unreachable service takes precedence over the window, which is not the cause then.
        """
        pause = self.gate.pause()
        if self.misses < MISSES or (pause is not None and pause[1] != "window"):
            return pause
        return 0.0, "unreachable" if self._last_status is None else "failing"


class Lane:
    """One worker's way through the gate, for one request at a time.

    The transport uses it around every physical send, retries included:

        ticket = await lane.acquire()   # before it takes a pool slot; may raise SendRefused
        try:
            ...                         # take the pool slot, wait for the client's brake
            lane.sent(ticket)           # just before the request leaves
            ...
        finally:
            lane.answered(ticket, status, retry_after)      # exactly once; status None: no response

    Attributes:
        sends: How many requests have left; the worker sets it back to 0.
    """

    __slots__ = ("_gate", "_run", "sends")

    def __init__(self, run: RunPacer) -> None:
        self._run = run
        self._gate = run.gate
        self.sends: int = 0

    async def acquire(self) -> Ticket:
        """Wait until a request may leave.

        Raises:
            SendRefused: If the run was stopped, so that nothing may be sent.
        """
        run = self._run
        if run.is_stopped:
            raise SendRefused
        if run.asks_first and run.may_send is not None and not await run.may_send():
            raise SendRefused
        ticket = await self._gate.acquire(run)
        if run.is_stopped:
            self._gate.answered(ticket, None, None)
            raise SendRefused
        if run.may_send is None or run.asks_first:
            return ticket
        is_allowed = False
        try:
            is_allowed = await run.may_send() and not run.is_stopped
        finally:
            if not is_allowed:
                self._gate.answered(ticket, None, None)
        if not is_allowed:
            raise SendRefused
        return ticket

    def sent(self, ticket: Ticket) -> None:
        """Note that the request leaves now; a ticket that never gets here costs nothing."""
        self.sends += 1
        self._run.on_wire += 1
        self._gate.sent(ticket)

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> None:
        """Note the end of the send: its status, or None for an error or a cancellation."""
        run = self._run
        run.on_wire -= ticket.was_sent
        if ticket.was_sent:
            run.note(status)
        run.throttled += self._gate.answered(ticket, status, retry_after)

    async def pause(self, seconds: float) -> None:
        """Wait before a retry, or for the client's brake.

        Raises:
            SendRefused: As soon as the run is stopped.
        """
        run = self._run
        if run.is_stopped:
            raise SendRefused
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = call_later(loop, seconds, partial(settle, over))
        run.pauses.add(over)
        try:
            await over
        finally:
            timer.cancel()
            run.pauses.discard(over)
