"""A simulation of processes that share a window: virtual time, and a Redis that can fail.

The processes run the library's own gates, windows and links. Redis is the model of its script with
simulated latency. It can be frozen, and then runs later what it was sent, or be killed and come
back with an empty memory.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
from bulk_stage import Client, Service, revoke_many
from window_model import WindowModel

from clerk_async import SharedState
from clerk_async.pacing.gate import Gates
from clerk_async.shared.connection import AwayError
from clerk_async.shared.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async import RateLimit
    from clerk_async.bulk.report import RevocationReport

TIMEOUT = 0.25


@attrs.define(eq=False)
class Redis:
    """A Redis that holds one window.

    Attributes:
        latency: Draws the seconds of a message or of its reply.
        most: The highest number of places that were ever taken.
    """

    latency: Callable[[], float] = lambda: 0.0005
    model: WindowModel = attrs.field(factory=WindowModel)
    is_down: bool = False
    thawed: asyncio.Event | None = None
    stuck: deque[tuple[str, asyncio.Future[str]]] = attrs.field(
        factory=deque[tuple[str, asyncio.Future[str]]]
    )

    def clock(self) -> int:
        """Return its time, in milliseconds."""
        return 1_800_000_000_000 + int(asyncio.get_running_loop().time() * 1000)

    def run(self, text: str) -> str:
        """Run a message."""
        return json.dumps(self.model.run(json.loads(text), self.clock()))

    def freeze(self) -> None:
        """Stop replying, without losing messages."""
        self.thawed = asyncio.Event()

    def thaw(self) -> None:
        """Run the messages sent meanwhile, in the order of their arrival."""
        assert self.thawed is not None
        self.thawed.set()
        self.thawed = None
        for text, reply in self.stuck:
            found = self.run(text)
            if not reply.done():
                reply.set_result(found)
        self.stuck.clear()

    def kill(self) -> None:
        """Forget everything, and refuse connections."""
        self.is_down = True
        self.model = WindowModel()

    def restart(self) -> None:
        """Come back, with an empty memory."""
        self.is_down = False


class Connection:
    """The connection of a link to Redis, for messages of the window only."""

    def __init__(self, redis: Redis) -> None:
        self.loop = asyncio.get_running_loop()
        self._redis = redis

    async def run_script(self, *words: Any) -> str:
        """Run a message; its last element is what it asks of the script."""
        redis, text = self._redis, words[-1]
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.sleep(redis.latency())
                if redis.is_down:
                    raise AwayError("refused")
                if redis.thawed is None:
                    reply = redis.run(text.decode())
                else:
                    answer: asyncio.Future[str] = self.loop.create_future()
                    redis.stuck.append((text.decode(), answer))
                    reply = await answer
                await asyncio.sleep(redis.latency())
                if redis.is_down:
                    raise AwayError("reset")
                return reply
        except TimeoutError:
            raise AwayError("late") from None

    async def connect(self) -> None:
        """Do nothing: there is always a connection."""

    async def command(self, *_: object, **__: object) -> Any:
        """Wait forever, because the feed is not simulated."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Do nothing: no connection is open."""

    def abandon(self, *, is_parents: bool = False) -> None:
        """Do nothing: no connection is open."""


class Process:
    """A process with one client, which revokes the sessions that it is given."""

    def __init__(self, redis: Redis, service: Service, limit: RateLimit) -> None:
        state = SharedState("redis://stage", timeout=TIMEOUT)

        def connect(_: SharedState) -> Any:
            return Connection(redis)

        self.link = Link(state, lambda: ("stage", limit), connect=connect)
        self.service = service
        self.client = Client(service, limit=limit)
        self.client.gates = Gates(make=self.link.gate)

    async def work(self, ids: list[str], **options: Any) -> RevocationReport:
        """Revoke sessions, from joining the window to leaving it."""
        self.link.start()
        try:
            return await revoke_many(self.client, ids, **options)
        finally:
            await self.link.aclose()

    async def call_now_and_then(self, apart: float, until: float) -> None:
        """Make single calls, as a product does."""
        self.link.start()
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            self.link.send_single()
            await asyncio.sleep(self.service.there())
            told = self.service.hit()
            await asyncio.sleep(self.service.back())
            self.link.end_single(200 if told is None else 429)
            await asyncio.sleep(apart)
        await self.link.aclose()

    def kill(self) -> None:
        """Send and do nothing more, as after SIGKILL; its run waits forever."""
        self.link.abandon()


def draw(low: float, high: float, seed: int) -> Callable[[], float]:
    """Return a function that draws seconds evenly between two bounds."""
    source = random.Random(seed)
    return lambda: source.uniform(low, high)
