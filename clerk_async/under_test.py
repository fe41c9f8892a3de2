"""Support for programs under test: their tests freeze time and reset state.

freezegun stops all clocks of `time` and thereby each event loop, so waits never end, and frames
near the bottom of a thread see the real time while others see the frozen one. So there is one clock
for each purpose: `monotonic`, which nothing stops, for ages, limits and waits, and `wall_clock`,
which follows the test, for times in tokens and headers. (time-machine moves only the wall clock,
for all callers.)

The pytest plugin resets its fake service for each test. Clients live longer, because apps create
them on import. They register a method with `on_reset`, and `reset` calls it to make them forget
what they remember of the service.
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
"""The clock of event loops, in seconds, even if a test has frozen it for them."""
_SAME_CLOCK: Final = 1.0
"""Seconds by which a loop's clock may differ from `monotonic`; a frozen one differs by far more."""


def wall_clock() -> float:
    """Unix time, frozen if a test has frozen it."""
    return time.time()  # looked up at each call: a test may freeze it after the app was created


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create an event loop for our own use, whose waits end even if time is frozen."""
    import asyncio  # noqa: PLC0415 - heavy

    loop = asyncio.new_event_loop()
    if clock_of(loop) is monotonic:
        cast("Any", loop).time = monotonic
    return loop


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock for waits in a loop: `monotonic`, unless the loop has its own.

    uvloop has its own clock, and so do loops with a simulated clock.
    """
    import asyncio  # noqa: PLC0415 - heavy

    has_own = getattr(type(loop), "time", None) is not asyncio.BaseEventLoop.time
    return loop.time if has_own else monotonic


class Timer(Protocol):
    """The handle that `call_later` returns."""

    def cancel(self) -> None:
        """Cancel the call."""
        ...


class _TwoTimers:
    """A loop's timer, plus a thread's timer in case the loop's clock is frozen."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> None:
        import threading  # noqa: PLC0415 - only if time is frozen

        self._loop = loop
        self._callback: Callable[[], object] | None = callback
        self._of_the_loop = loop.call_later(seconds, self._ring)
        self._of_a_thread = threading.Timer(seconds, self._wake)
        self._of_a_thread.daemon = True
        self._of_a_thread.start()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop has closed meanwhile
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
    """Call `callback` in the loop after some seconds, even if the loop's clock is frozen."""
    if clock_of(loop) is monotonic and abs(loop.time() - monotonic()) > _SAME_CLOCK:
        return _TwoTimers(loop, seconds, callback)
    return loop.call_later(seconds, callback)


async def sleep(seconds: float) -> None:
    """Sleep as `asyncio.sleep` does, even if the loop's clock is frozen."""
    import asyncio  # noqa: PLC0415 - heavy

    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = call_later(loop, seconds, partial(settle, over))
    try:
        await over
    finally:
        timer.cancel()


def settle(waiting: asyncio.Future[Any], result: object = None) -> bool:
    """Set the result of a future; return false if it has one, or was cancelled.

    Trying is the only safe way: between a look at the future and this step, a signal handler may
    cancel it, as asyncio's does on Ctrl-C.
    """
    import asyncio  # noqa: PLC0415 - heavy

    try:
        waiting.set_result(result)
    except asyncio.InvalidStateError:
        return False
    return True


class WeakCallback:
    """A weak reference to a bound method, which doesn't keep the method's object alive.

    The callback of `weakref.WeakMethod` would fail, and print the error, when the interpreter exits
    and has cleared its modules.
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
    """Register a bound method that each `reset` calls, as long as its object lives."""
    for key in [key for key, each in list(_FORGETTING.items()) if each.is_dead]:
        _FORGETTING.pop(key, None)
    _FORGETTING[id(cast("Any", forget).__self__)] = WeakCallback(forget)


def reset() -> None:
    """Make all clients and verifiers of this process forget what they remember of the service."""
    for forget in list(_FORGETTING.values()):
        forget()
