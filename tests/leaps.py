"""An event loop whose clock a test advances, so that a timeout comes exactly when it is meant to.

A test of a timeout needs no short one, which a busy machine may miss: it gives minutes, waits for
the event after which time shall be over, and leaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from clerk_async import AsyncSessionsApi

P = ParamSpec("P")


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can leap ahead."""

    ahead = 0.0
    stopped_at: float | None = None

    def time(self) -> float:
        return super().time() + self.ahead if self.stopped_at is None else self.stopped_at

    def leap(self, seconds: float) -> None:
        """Let this time pass at once: what is due by then happens in the next turn."""
        self.ahead += seconds
        self.call_soon(int)  # it may be waiting


def here() -> LeapingLoop:
    """Return the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    return loop


async def turns(count: int = 20) -> None:
    """Let the running loop turn, without letting time pass."""
    for _ in range(count):
        await asyncio.sleep(0)


def leap(seconds: float) -> None:
    """Let this time pass at once in the running loop."""
    here().leap(seconds)


@contextlib.contextmanager
def time_stands_still() -> Generator[None]:
    """Stop the running loop's clock: what ends within the block has waited for no timer."""
    loop = here()
    loop.stopped_at = loop.time()
    try:
        yield
    finally:
        loop.stopped_at = None


def follow(client: AsyncSessionsApi) -> None:
    """Let the deadlines and pauses of a client follow the running loop's clock."""
    client._shared.clock = here().time


def leaping(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an async test in such a loop."""

    @functools.wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=LeapingLoop) as runner:
            runner.run(test(*args, **options))

    return run
