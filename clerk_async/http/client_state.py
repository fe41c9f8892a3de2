"""The state that all views of a client share: the wire, the brake, the quota and the peers."""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from clerk_async.errors import ClientClosedError, WrongLoopError
from clerk_async.http.daemon import running_loop, sole_entry
from clerk_async.http.decode import Reader
from clerk_async.http.retry import RetryQuota
from clerk_async.under_test import monotonic, on_reset, sleep, wall_clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.config import LateEndpoint
    from clerk_async.http.settings import WireSettings
    from clerk_async.http.transport import Wire
    from clerk_async.pacing.window import PauseReason


class Peers(Protocol):
    """The other processes that use the key, as calls see them.

    `clerk_async.shared.link` implements this; a client without shared state has no peers.
    """

    def on_pause(self, pause: Callable[[float], None]) -> None:
        """Register a method to call with the seconds of each pause that a peer reports."""
        ...

    def start(self, *, here: bool = False) -> None:
        """Connect to the peers, in this very loop if `here` is true; never waits."""
        ...

    def send_single(self) -> None:
        """Record that a call outside bulk runs is sent."""
        ...

    def end_single(self, status: int | None) -> None:
        """Record how that call ended."""
        ...

    def pause(self, seconds: float, reason: PauseReason) -> None:
        """Tell the peers that the service asked for a pause."""
        ...

    async def aclose(self) -> None:
        """Send the last news, and close within a time limit."""
        ...

    def abandon(self) -> None:
        """Close without sending anything, because the client or its loop is gone."""
        ...


@attrs.frozen(eq=False)
class RunUnderWay:
    """A bulk run, as its client sees it.

    Attributes:
        loop: Its event loop.
        pid: Its process.
        end: Ends it, because the client is closed; called in its loop.
    """

    loop: asyncio.AbstractEventLoop
    pid: int
    end: Callable[[], None]

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs in another event loop of this process."""
        here = asyncio._get_running_loop()  # noqa: SLF001 - documented; None if none runs
        return self.pid == os.getpid() and self.loop is not here and self.loop.is_running()


class ClientState:
    """The state that all views of a client share: the wire, the brake, the quota and the peers.

    Args:
        settings: The settings of its aiohttp sessions.
        endpoint: Provides the key with the first call; None if the settings are complete.
        peers: The other processes that use the key.

    Attributes:
        clock: The clock of deadlines and pauses.
        now: The wall clock.
        sleep: Sleeps for a number of seconds.
        draw: Returns a random number from 0 to 1.
        runs: How to end each bulk run under way, and its loop.
    """

    def __init__(
        self,
        settings: WireSettings,
        endpoint: LateEndpoint | None = None,
        *,
        peers: Peers | None = None,
    ) -> None:
        self.settings: WireSettings = settings
        self.peers: Peers | None = peers
        if peers is not None:
            peers.on_pause(self.pause)
        self.secrets: tuple[str, ...] = ()
        self.reader: Reader = Reader()
        self._endpoint = endpoint
        self.clock: Callable[[], float] = monotonic
        self.now: Callable[[], float] = wall_clock
        self.sleep: Callable[[float], Awaitable[None]] = sleep
        self.draw: Callable[[], float] = random.random
        self.quota: RetryQuota = RetryQuota()
        self.runs: set[RunUnderWay] = set()
        self.paused_until: float = 0.0
        self.is_closed: bool = False
        self._wire: Wire | None = None
        self._opening: dict[int, asyncio.AbstractEventLoop] = {}  # by process id, while it opens
        on_reset(self.forget)
        # aiohttp is heavy: we import it with the first client, not in the loop of the first call.
        import_module("clerk_async.http.transport")

    def forget(self) -> None:
        """Reset the pause and the quota, between two tests."""
        self.paused_until = 0.0
        self.quota = RetryQuota()

    def wire(self) -> Wire:
        """Return the wire of the running loop, created on first use.

        Raises:
            ClientClosedError: If the client was closed.
            ConfigurationError: If there is no secret key.
            WrongLoopError: If the client is in use in another running loop, or no loop runs here.
        """
        loop = running_loop()
        wire = self._wire
        if wire is not None and wire.loop is loop and not wire.is_closing:
            return wire
        if self.is_closed:
            raise ClientClosedError("this client was closed")
        with sole_entry(self._opening) as may_open:
            if not may_open:
                raise _wrong_loop()
            return self._open()

    def _open(self) -> Wire:
        wire = self._wire
        if wire is not None:
            if not wire.is_dead:
                raise _wrong_loop()
            wire.abandon()
            self.quota = RetryQuota()
        from clerk_async.http.transport import open_wire  # noqa: PLC0415 - see __init__

        owner = getattr(self.settings.client_session, "_loop", None)
        if owner is not None and owner is not asyncio.get_running_loop():
            raise WrongLoopError("the given client_session belongs to another event loop")
        if self._endpoint is not None:
            endpoint, self._endpoint = self._endpoint.settled(), None
            self.settings = self.settings.of(endpoint)
            self.secrets = self.reader.secrets = (endpoint.secret_key,)
        self._wire = wire = open_wire(self.settings)
        if self.peers is not None:
            self.peers.start(here=True)
        return wire

    def pause(self, seconds: float) -> None:
        """Send no calls for some seconds, unless a longer pause is already on."""
        self.paused_until = max(self.paused_until, self.clock() + seconds)

    def brake(self) -> float:
        """Return the seconds that all calls must still wait."""
        if not self.paused_until:
            return 0.0
        left = self.paused_until - self.clock()
        if left <= 0:
            self.paused_until = left = 0.0
        return left

    async def aclose(self) -> None:
        """Close permanently; calls in flight and bulk runs raise `ClientClosedError`."""
        loop = running_loop() if self._wire is not None or self.runs else None
        wire = self._wire
        is_here = wire is not None and wire.loop is loop and wire.pid == os.getpid()
        is_elsewhere = wire is not None and not is_here and not wire.is_dead
        if is_elsewhere or any(run.is_elsewhere for run in self.runs):
            raise WrongLoopError("this client is in use in another event loop: close it there")
        self.is_closed = True
        self._wire = None
        self._end_runs(loop)
        try:
            if wire is not None and is_here:
                await wire.aclose()
            elif wire is not None:
                wire.abandon()
        finally:
            if self.peers is not None:
                await self.peers.aclose()

    def _end_runs(self, loop: asyncio.AbstractEventLoop | None) -> None:
        for run in list(self.runs):
            if run.loop is loop:
                run.end()
            elif run.pid == os.getpid():  # its loop is paused, and may run again
                with suppress(RuntimeError):  # it is closed
                    run.loop.call_soon_threadsafe(run.end)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "a client and its parts can't be pickled or copied because they hold a secret key and "
            "open connections: make one in each process"
        )

    def __del__(self) -> None:
        if (peers := getattr(self, "peers", None)) is not None:
            peers.abandon()
        wire = getattr(self, "_wire", None)
        if wire is None or wire.is_closing or self.settings.client_session is not None:
            return
        if wire.pid == os.getpid() and not wire.loop.is_closed():
            warnings.warn(
                "unclosed clerk_async client: use `async with`, or await aclose()",
                ResourceWarning,
                stacklevel=2,
            )
        wire.abandon()


def _wrong_loop() -> WrongLoopError:
    return WrongLoopError(
        "this client is in use in another running event loop: "
        "make a client for each loop, or use SessionsApi from threads"
    )
