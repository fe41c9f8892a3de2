"""When a request of a bulk run may leave: the window, the ramp, and the gate that uses both.

`SendWindow` and `Ramp` are pure: the time is handed in. `KeyPacing` is the gate in front of the
wire, one for a client and a limit, shared by all runs that use them. `RunPacer` is one run's
way through it, and a `Lane` of it what a worker hands to the transport, which calls it so, for every
physical send, repeats included:

    ticket = await pacer.acquire()      # before the pool's slot is taken; may raise SendRefused
    try:
        ...                             # take the pool's slot, wait for the client's brake
        pacer.sent(ticket)              # just before the request leaves
        ...
    finally:
        pacer.answered(ticket, status, retry_after)     # exactly once; status None: no answer
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.config import RateLimit

__all__ = [
    "KeyPacing",
    "Lane",
    "Pacer",
    "Pacings",
    "PauseReason",
    "Ramp",
    "RunPacer",
    "SendRefused",
    "SendWindow",
    "Ticket",
]

PauseReason = Literal["window", "rate_limited", "unavailable"]

START_CONCURRENCY: Final = 16
CONCURRENCY_AFTER_REFUSAL: Final = 4
BACK_OFF: Final = 0.9
"""What is left of the allowance that was refused."""
WINDOWS_TO_RECOVER: Final = 6
"""How many windows without a refusal bring the allowance back to where it was refused."""
UNTOLD_PAUSE: Final = 1.0
"""Seconds to wait on the first 429 that doesn't say how long; doubles with each further one."""
LONGEST_PAUSE: Final = 120.0
"""Seconds; a service that says more is asked again after this."""
TOO_MANY_REQUESTS: Final = 429
SERVICE_UNAVAILABLE: Final = 503
LATENCY_WEIGHT: Final = 0.1
"""What the newest latency counts for in the average."""


class SendRefused(Exception):  # noqa: N818 - no error of its own: the caller turns it into an outcome
    """The run takes no further sends: it was stopped. Nothing was sent.

    The transport raises the last attempt's error where there was one, else lets this through.
    """


class Ticket:
    """The right to send one request."""

    __slots__ = ("era", "is_open", "sent_at")

    def __init__(self, era: int) -> None:
        self.era = era
        self.is_open = True
        self.sent_at = math.nan


class Pacer(Protocol):
    """What the transport calls around each physical send of a paced call."""

    async def acquire(self) -> Ticket:
        """Wait until a request may leave.

        Raises:
            SendRefused: If the run was stopped; nothing may be sent.
        """
        ...

    def sent(self, ticket: Ticket) -> None:
        """Note that the request leaves now; a ticket that never gets here costs nothing."""
        ...

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> None:
        """Note the end of the send: its status, or None for an error or a cancellation."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait before a repeat, or for the client's brake.

        Raises:
            SendRefused: As soon as the run is stopped.
        """
        ...


class SendWindow:
    """Keeps any window of `per` seconds, as the server sees it, at or below a count.

    A request arrives somewhere between its send and its answer, nobody knows where. So it holds its
    place from the send until `per` seconds after the answer: whoever takes that place then arrives
    at least `per` seconds after it, whatever the latency of either was. Memory is bounded by the
    count.
    """

    __slots__ = ("_cooling", "in_flight", "per")

    def __init__(self, per: float) -> None:
        self.per = per
        self.in_flight = 0
        self._cooling: deque[float] = deque()

    def used(self, now: float) -> int:
        """How many places are taken."""
        cooling = self._cooling
        while cooling and cooling[0] <= now:
            cooling.popleft()
        return self.in_flight + len(cooling)

    def free_at(self) -> float:
        """When the next place comes free: inf if only an answer can free one."""
        return self._cooling[0] if self._cooling else math.inf

    def leave(self, now: float, *, has_arrived: bool) -> None:
        """Note that a request is no longer in flight, and whether the server may count it."""
        self.in_flight -= 1
        if has_arrived:
            self._cooling.append(now + self.per)


class Ramp:
    """How many at once, and what part of the limit: both grow while nothing is refused.

    Concurrency starts at 16 and grows by one with each answer, which doubles it per round trip, up
    to what the limit can use at the latency seen. A 429 means that someone else uses the key too:
    concurrency starts again from 4, and the allowance falls to nine tenths of what the server let
    through, then climbs back slowly, lingers there, and goes on faster (the curve of TCP CUBIC,
    RFC 9438), so that a neighbour who stays costs few refusals, and one who leaves is noticed.
    """

    __slots__ = (
        "_ceiling",
        "_count",
        "_latency",
        "_per",
        "_refused_at",
        "_refused_level",
        "_untold",
        "concurrency",
        "era",
        "pause_reason",
        "paused_until",
    )

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._latency = 0.0
        self._ceiling = float(max(START_CONCURRENCY, count // 3))
        self._refused_level = math.inf
        self._refused_at = 0.0
        self._untold = UNTOLD_PAUSE
        self.concurrency: float = START_CONCURRENCY
        self.era = 0
        self.paused_until = 0.0
        self.pause_reason: PauseReason = "window"

    def allowance(self, now: float) -> float:
        """How much of the limit may be used now."""
        level = self._refused_level
        if level >= self._count:
            return self._count
        age = max(0.0, now - self._refused_at) / self._per
        curve = (age / WINDOWS_TO_RECOVER - 1.0) ** 3
        return min(self._count, max(1.0, level * (1.0 + (1.0 - BACK_OFF) * curve)))

    def let_through(self, ticket: Ticket, latency: float) -> None:
        """Note an answer that was no refusal."""
        if self._latency:
            self._latency += LATENCY_WEIGHT * (latency - self._latency)
        else:
            self._latency = latency
        if ticket.era != self.era:
            if self._refused_level < math.inf:
                self._refused_level += 1  # it was in flight at the refusal, and got through
            return
        self._untold = UNTOLD_PAUSE
        if self.concurrency < self._ceiling:
            self.concurrency += 1
        else:
            rate = self._count / self._per
            self._ceiling = max(START_CONCURRENCY, self._count / 3, 2 * rate * self._latency)

    def refused(
        self, ticket: Ticket, now: float, used: int, status: int, retry_after: float | None
    ) -> None:
        """Note a 429, or a 503 that says when to come back, and the places used at that moment."""
        if retry_after is None:
            wait = self._untold
            if ticket.era == self.era:
                self._untold = min(2 * self._untold, max(UNTOLD_PAUSE, self._per))
        else:
            wait = min(max(0.0, retry_after), LONGEST_PAUSE)
        if now + wait > self.paused_until:
            self.paused_until = now + wait
            self.pause_reason = "rate_limited" if status == TOO_MANY_REQUESTS else "unavailable"
        if ticket.era != self.era:
            return
        self.era += 1
        self.concurrency = CONCURRENCY_AFTER_REFUSAL
        if status == TOO_MANY_REQUESTS:
            self._refused_level = float(used)
            self._refused_at = self.paused_until


class KeyPacing:
    """The gate of one client for one limit, shared by its runs: first come, first served."""

    def __init__(self, limit: RateLimit, *, clock: Callable[[], float] | None = None) -> None:
        self.limit = limit
        self._clock = clock
        self._now: Callable[[], float] = clock or _no_clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._window = SendWindow(limit.per)
        self._ramp = Ramp(limit.count, limit.per)
        self._waiting: deque[tuple[asyncio.Future[Ticket], RunPacer]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, run: RunPacer) -> Ticket:
        """Wait for a place; see `Pacer.acquire`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        if not self._waiting:
            now = self._now()
            if self._delay(now) <= 0:
                return self._grant()
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
        """See `Pacer.sent`."""
        ticket.sent_at = self._now()

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> int:
        """See `Pacer.answered`."""
        if not ticket.is_open:
            return 0
        ticket.is_open = False
        now = self._now()
        window, ramp = self._window, self._ramp
        was_sent = ticket.sent_at == ticket.sent_at  # not a NaN
        is_refusal = status == TOO_MANY_REQUESTS
        window.leave(now, has_arrived=was_sent and not is_refusal)
        if is_refusal or (status == SERVICE_UNAVAILABLE and retry_after is not None):
            used = window.used(now) - window.in_flight
            ramp.refused(ticket, now, used, status or TOO_MANY_REQUESTS, retry_after)
        elif was_sent and status is not None:
            ramp.let_through(ticket, now - ticket.sent_at)
        if self._waiting:
            self._let_out()
        return is_refusal

    def turn_away(self, run: RunPacer) -> None:
        """End the waits of one run with `SendRefused`."""
        for place, owner in self._waiting:
            if owner is run and not place.done():
                place.set_exception(SendRefused)
        self._waiting = deque(entry for entry in self._waiting if not entry[0].done())

    def pause(self) -> tuple[float, PauseReason] | None:
        """Give the seconds until something may leave, and why it may not now; None if it may."""
        now = self._now() if self._loop else 0.0
        if now < self._ramp.paused_until:
            return self._ramp.paused_until - now, self._ramp.pause_reason
        if self._waiting and not self._window.in_flight:
            delay = self._delay(now)
            if 0 < delay < math.inf:
                return delay, "window"
        return None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # what was in flight in a loop that is gone may have arrived: it keeps its place for `per`
        self._loop = loop
        self._now = self._clock or loop.time
        self._waiting.clear()
        self._timer = None
        now = self._now()
        while self._window.in_flight:
            self._window.leave(now, has_arrived=True)

    def _delay(self, now: float) -> float:
        """Seconds until the next request may leave; inf if an answer has to come first."""
        ramp, window = self._ramp, self._window
        if now < ramp.paused_until:
            return ramp.paused_until - now
        if window.in_flight + 1 > ramp.concurrency:
            return math.inf
        if window.used(now) + 1 <= ramp.allowance(now):
            return 0.0
        return window.free_at() - now

    def _grant(self) -> Ticket:
        self._window.in_flight += 1
        return Ticket(self._ramp.era)

    def _let_out(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        while self._waiting:
            delay = self._delay(now)
            if delay > 0:
                if delay < math.inf and self._loop is not None:
                    self._timer = self._loop.call_later(delay, self._let_out)
                return
            place, _ = self._waiting.popleft()
            if not place.done():
                place.set_result(self._grant())


class Pacings:
    """The gates of one client, one for each limit in use, so that runs at once share a window."""

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._gates: dict[RateLimit, KeyPacing] = {}

    def gate(self, limit: RateLimit) -> KeyPacing:
        """Give the gate for a limit; the same limit gives the same gate."""
        gate = self._gates.get(limit)
        if gate is None:
            gate = self._gates[limit] = KeyPacing(limit, clock=self._clock)
        return gate


class RunPacer:
    """One run's way through the gate: it can be stopped, and counts what was refused.

    Args:
        gate: The window to pass.
        may_send: Asked just before each send; False stops the run.
    """

    def __init__(
        self, gate: KeyPacing, may_send: Callable[[], Awaitable[bool] | bool] | None = None
    ) -> None:
        self.gate = gate
        self.may_send = may_send
        self.throttled = 0
        self.is_stopped = False
        self.pauses: set[asyncio.Future[None]] = set()

    def lane(self) -> Lane:
        """Give the pacer of one worker."""
        return Lane(self)

    def stop(self) -> None:
        """Let nothing more out: ends every wait with `SendRefused`."""
        if self.is_stopped:
            return
        self.is_stopped = True
        self.gate.turn_away(self)
        for over in self.pauses:
            if not over.done():
                over.set_exception(SendRefused)


class Lane:
    """The `Pacer` of one worker, which sends one request at a time.

    Attributes:
        sends: How many requests have left; the worker sets it back to 0.
    """

    __slots__ = ("_gate", "_run", "sends")

    def __init__(self, run: RunPacer) -> None:
        self._run = run
        self._gate = run.gate
        self.sends = 0

    async def acquire(self) -> Ticket:
        """See `Pacer.acquire`."""
        run = self._run
        if run.is_stopped:
            raise SendRefused
        ticket = await self._gate.acquire(run)
        may_send = run.may_send
        if may_send is None and not run.is_stopped:
            return ticket
        try:
            is_allowed = not run.is_stopped and may_send is not None and may_send()
            if is_allowed is not True and not isinstance(is_allowed, bool):
                is_allowed = await is_allowed
            if not is_allowed or run.is_stopped:
                raise SendRefused
        except BaseException:
            self._gate.answered(ticket, None, None)
            raise
        return ticket

    def sent(self, ticket: Ticket) -> None:
        """See `Pacer.sent`."""
        self.sends += 1
        self._gate.sent(ticket)

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> None:
        """See `Pacer.answered`."""
        self._run.throttled += self._gate.answered(ticket, status, retry_after)

    async def pause(self, seconds: float) -> None:
        """See `Pacer.pause`."""
        run = self._run
        if run.is_stopped:
            raise SendRefused
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _end, over)
        run.pauses.add(over)
        try:
            await over
        finally:
            timer.cancel()
            run.pauses.discard(over)


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _no_clock() -> float:
    return 0.0
