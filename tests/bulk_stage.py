"""A simulation for bulk runs: virtual time, a service with a real rate limit, and a client."""

from __future__ import annotations

import asyncio
import random
import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from clerk_async.bulk.options import RunOptions
from clerk_async.bulk.run import BulkRun
from clerk_async.bulk.verdict import RevocationTarget
from clerk_async.bulk.work import IdWork
from clerk_async.config import RateLimit
from clerk_async.denials.table import Denials
from clerk_async.errors import RateLimitedError
from clerk_async.models import ApiResponse, Session, SessionPage, SessionStatus
from clerk_async.pacing.gate import Gates
from clerk_async.pacing.window import SendRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from clerk_async import RevocationReport
    from clerk_async.errors import ClerkError
    from clerk_async.pacing.gate import Lane
    from clerk_async.pacing.window import Ticket
    from clerk_async.testing.settings import SlidingWindow

T = TypeVar("T")

UNLIMITED = RateLimit(1_000_000_000, per=1.0)


class _Selector(selectors.DefaultSelector):
    """Skips idle time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "every task waits for something that never happens"
            self.now += max(0.0, timeout)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, for tests without I/O."""

    def __init__(self) -> None:
        self._made_up = _Selector()
        super().__init__(self._made_up)

    def time(self) -> float:
        return self._made_up.now


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, and check that it leaves no task."""
    loop = SimulatedLoop()
    loop.set_debug(False)  # recording a stack for each of 100,000 callbacks takes minutes
    try:
        result = loop.run_until_complete(main)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, left
        return result
    finally:
        loop.close()


@attrs.define(eq=False)
class Service:
    """The service: sessions, a sliding window, and latency in both directions.

    Attributes:
        window: The rate limit of the service; None for no limit.
        there: Draws the seconds from sending a request to its arrival.
        back: Draws the seconds from the arrival to the response.
        arrivals: When each request arrived.
        revocations: The sessions that were revoked, in order.
        refused: How many requests got a 429.
    """

    window: SlidingWindow | None = None
    there: Callable[[], float] = lambda: 0.0
    back: Callable[[], float] = lambda: 0.0
    arrivals: list[float] = attrs.field(factory=list[float])
    revocations: list[str] = attrs.field(factory=list[str])
    refused: int = 0

    def hit(self) -> int | None:
        """Count one arrival; return the Retry-After if it is rejected."""
        now = asyncio.get_running_loop().time()
        self.arrivals.append(now)
        told = None if self.window is None else self.window.admit(now)
        self.refused += told is not None
        return told


class Client(RevocationTarget):
    """A `RevocationTarget` in front of a `Service`, without HTTP and without retries."""

    key_fingerprint = "f1" * 32

    def __init__(
        self,
        service: Service,
        *,
        limit: RateLimit = UNLIMITED,
        pool_size: int = 100,
        attempts: int = 3,
    ) -> None:
        self.service = service
        self.default_rate_limit = limit
        self.pool_size = pool_size
        self.gates = Gates()
        self.denials = Denials()
        self.attempts = attempts
        self.in_flight = 0
        self.most_in_flight = 0

    @contextmanager
    def until_closed(self, end_run: Callable[[], None]) -> Generator[None, None, None]:
        del end_run  # nothing closes it
        yield

    def pause_before_round(self) -> float:
        return 1.0

    async def revoke(self, session_id: str, lane: Lane) -> ApiResponse[Session]:
        last: ClerkError | None = None
        for sent in range(1, self.attempts + 1):
            try:
                ticket = await lane.acquire()
            except SendRefused:
                raise last or SendRefused from None
            lane.sent(ticket)
            told = await self._trip(ticket, lane)
            if told is None:
                self.service.revocations.append(session_id)
                session = Session(id=session_id, status=SessionStatus.REVOKED)
                return ApiResponse(data=session, status=200, headers={}, attempts=sent)
            last = RateLimitedError("429", status=429, retry_after=told, attempts=sent)
            if sent < self.attempts:
                try:
                    await lane.pause(told)
                except SendRefused:
                    raise last from None
        raise last or AssertionError

    async def _trip(self, ticket: Ticket, lane: Lane) -> int | None:
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        status = told = None
        try:
            await asyncio.sleep(self.service.there())
            told = self.service.hit()
            await asyncio.sleep(self.service.back())
            status = 200 if told is None else 429
        finally:
            self.in_flight -= 1
            lane.answered(ticket, status, told)
        return told

    async def get(self, session_id: str, lane: Lane) -> Session:
        raise NotImplementedError

    async def list_page(self, lane: Lane, **_: Any) -> SessionPage:
        raise NotImplementedError


async def revoke_many(client: Client, session_ids: Any, **options: Any) -> RevocationReport:
    """Revoke sessions through the bulk engine alone."""
    return await BulkRun(client, RunOptions(**options), IdWork(session_ids)).report()


def latency(low: float, high: float, seed: int) -> Callable[[], float]:
    """Return a function that draws seconds evenly between two bounds."""
    draw = random.Random(seed)
    return lambda: draw.uniform(low, high)


def most_in_any_window(arrivals: list[float], per: float) -> int:
    """Return the number of arrivals in the fullest window (t - per, t]."""
    times = sorted(arrivals)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - per:
            first += 1
        most = max(most, last - first + 1)
    return most
