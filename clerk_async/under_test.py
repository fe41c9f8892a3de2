"""What tests do to the programs that use this: they freeze time, and they begin anew.

freezegun stops every clock of `time` and so each event loop: what waits then waits forever, and
frames near the bottom of a thread see the real time where others see the frozen one. So there is
one clock for each purpose: `monotonic`, which nothing stops, for ages, limits and waits, and
`wall_clock`, which follows the test, for what tokens and headers say. (time-machine moves the wall
clock alone, for everybody.)

The pytest plugin resets its fake service for each test. Clients live longer, because apps make them
when they are imported: they register what they remember of the service with `on_reset`, and `reset`
makes them forget it.
"""

from __future__ import annotations

import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_CLOCK: Final = getattr(time, "CLOCK_UPTIME_RAW", getattr(time, "CLOCK_MONOTONIC", None))
monotonic: Callable[[], float] = (
    time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
)
"""Seconds of the clock that event loops go by, even where a test has frozen it for them."""
_SAME_CLOCK: Final = 1.0
"""Seconds that an event loop's clock may differ from `monotonic`: a frozen one differs by far."""


def wall_clock() -> float:
    """Unix time, as a test has frozen it."""
    return time.time()  # looked up at each call: a test may freeze it after an app was made


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop whose waits end though time is frozen: one of our own, not the user's."""
    import asyncio  # noqa: PLC0415 - heavy

    loop = asyncio.new_event_loop()
    if clock_of(loop) is monotonic:
        cast("Any", loop).time = monotonic
    return loop


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock that waits in a loop go by: `monotonic`, unless the loop has its own.

    uvloop has; so have loops whose time a test makes up.
    """
    import asyncio  # noqa: PLC0415 - heavy

    has_own = getattr(type(loop), "time", None) is not asyncio.BaseEventLoop.time
    return loop.time if has_own else monotonic


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """Call nothing any more."""
        ...


class _TwoTimers:
    """A loop's timer, and a thread's for the case that the loop's clock stands still."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> None:
        import threading  # noqa: PLC0415 - only where time is frozen

        self._loop = loop
        self._callback: Callable[[], object] | None = callback
        self._of_the_loop = loop.call_later(seconds, self._ring)
        self._of_a_thread = threading.Timer(seconds, self._wake)
        self._of_a_thread.daemon = True
        self._of_a_thread.start()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        callback = self._callback
        self.cancel()
        if callback is not None:
            callback()

    def cancel(self) -> None:
        self._callback = None
        self._of_the_loop.cancel()
        self._of_a_thread.cancel()


def call_later(
    loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
) -> Timer:
    """Call something in the loop in so many seconds, also where the loop's clock is frozen."""
    if clock_of(loop) is monotonic and abs(loop.time() - monotonic()) > _SAME_CLOCK:
        return _TwoTimers(loop, seconds, callback)
    return loop.call_later(seconds, callback)


async def sleep(seconds: float) -> None:
    """Do what `asyncio.sleep` does, also where the loop's clock is frozen."""
    import asyncio  # noqa: PLC0415 - heavy

    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = call_later(loop, seconds, partial(_settle, over))
    try:
        await over
    finally:
        timer.cancel()


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


class WeakCallback:
    """A bound method that keeps nobody alive.

    `weakref.WeakMethod` is one too, but its callback fails at the end of an interpreter that has
    cleared its modules, and prints so.
    """

    def __init__(self, method: Callable[..., object]) -> None:
        bound: Any = method
        self._owner: weakref.ref[Any] = weakref.ref(bound.__self__)
        self._function: Callable[..., object] = bound.__func__

    def __call__(self, *arguments: object) -> None:
        """Call the method, unless its object is gone."""
        owner = self._owner()
        if owner is not None:
            self._function(owner, *arguments)

    @property
    def is_dead(self) -> bool:
        """Whether the object is gone."""
        return self._owner() is None


_FORGETTING: Final[dict[int, WeakCallback]] = {}


def on_reset(forget: Callable[[], None]) -> None:
    """Have a bound method called by each `reset`, for as long as its object lives."""
    for key in [key for key, each in list(_FORGETTING.items()) if each.is_dead]:
        _FORGETTING.pop(key, None)
    _FORGETTING[id(cast("Any", forget).__self__)] = WeakCallback(forget)


def reset() -> None:
    """Make every client and verifier of this process forget what it remembers of the service."""
    for forget in list(_FORGETTING.values()):
        forget()
