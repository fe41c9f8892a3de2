"""An event loop whose clock a test advances, so that a timeout comes exactly when it is meant to.

A test of a timeout needs no short one, which a busy machine may miss: it gives minutes, waits for
the event after which time shall be over, and leaps.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from clerk_async import AsyncSessionsApi

P = ParamSpec("P")


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can leap ahead."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def leap(self, seconds: float) -> None:
        """Let this time pass at once: what is due by then happens in the next turn."""
        self.ahead += seconds
        self.call_soon(int)  # it may be waiting


def here() -> LeapingLoop:
    """Return the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    return loop


def leap(seconds: float) -> None:
    """Let this time pass at once in the running loop."""
    here().leap(seconds)


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
