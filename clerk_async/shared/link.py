"""A client's link to the other processes of its key, as tasks in the client's own event loop.

One task maintains the window of the rate limit (`clerk_async.pacing.key_window`), and two maintain
the feed of denials (`clerk_async.shared.feed`). They start with the first call or the first token
that is verified, and end with the client.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from clerk_async.denials.table import Denials
from clerk_async.http.daemon import sole_entry
from clerk_async.pacing.key_window import SCRIPT, KeyWindow
from clerk_async.pacing.shared_gate import SharedGate
from clerk_async.redaction import redact
from clerk_async.shared.connection import AwayError, RedisConnection, unreadable
from clerk_async.shared.feed import Feed
from clerk_async.shared.state import SharedStatus
from clerk_async.under_test import WeakCallback, monotonic, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from clerk_async.config import RateLimit
    from clerk_async.pacing.window import PauseReason
    from clerk_async.shared.state import SharedState

logger: logging.Logger = logging.getLogger("clerk_async")

CATCH_UP_WITHIN: Final = 5.0
"""Maximum seconds that an app's start waits for the denials of other processes."""
CLOSE_WITHIN: Final = 1.0
"""Seconds for sending the last news when a client is closed."""

_DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
_A_MOMENT: Final = 0.001
_RETRY_AFTER: Final = (0.05, 0.5)
"""Bounds for the seconds between two tries while Redis is away."""


class Link:
    """A client's link to the other processes that use its key.

    Args:
        state: The shared state that they use.
        in_common: Returns the name of the instance there, and the limit that all processes share;
            called with the first call.
        connect: Creates the connection to Redis in the running event loop.

    Attributes:
        denials: The client's list of denials.
        feed: The client's end of the feed.
    """

    def __init__(
        self,
        state: SharedState,
        in_common: Callable[[], tuple[str, RateLimit]],
        *,
        connect: Callable[[SharedState], RedisConnection] = RedisConnection,
    ) -> None:
        self.denials: Denials = Denials(state.keep)
        self.denials.is_watched = True
        self.feed: Feed = Feed(self.denials)
        self._state = state
        self._in_common = in_common
        self._connect = connect
        self._window: KeyWindow | None = None
        self._made: dict[None, KeyWindow] = {}
        self._keys: tuple[str, ...] = ()
        self._on_pause: WeakCallback | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._connection: RedisConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._left_behind: list[Any] = []
        self._wake = asyncio.Event()
        self._has_tried = asyncio.Event()
        self._told: list[asyncio.Future[None]] = []
        self._heard_at = -math.inf
        self._starting: dict[int, asyncio.AbstractEventLoop] = {}  # by process id, while it starts
        self._is_connected = False
        self._is_closed = False
        self._has_been_away = False
        self.feed.on_look = self._look

    @property
    def window(self) -> KeyWindow:
        """The client's part in the window; created on first use.

        Raises:
            ConfigurationError: If the client has no key.
        """
        return self._settle() if self._window is None else self._window

    def _settle(self) -> KeyWindow:
        namespace, limit = self._in_common()
        # the braces are a hash tag: a cluster keeps all keys of an instance on one node
        name = f"clerk_async:{{{self._state.namespace or namespace}}}:"
        stream = f"{name}feed"
        self.feed.name(stream, f"{name}standing")
        self._keys = (
            *(f"{name}{key}" for key in ("window", "places", "members", "leases")),
            stream,
        )
        window = KeyWindow(limit, timeout=self._state.timeout, keep=self._state.keep)
        window.on_due = self._hurry
        self._window = window = self._made.setdefault(None, window)  # threads may race here
        return window

    def gate(self, limit: RateLimit) -> SharedGate:
        """Return a gate for a limit."""
        return SharedGate(limit, self.window, self._tell)

    def on_pause(self, pause: Callable[[float], None]) -> None:
        """Call a method with the seconds of each pause that another process was told of."""
        self._on_pause = WeakCallback(pause)

    # -- life cycle ----------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the tasks run, in this process and in a running event loop."""
        loop = self._loop
        return loop is not None and self._pid == os.getpid() and loop.is_running()

    def start(self, *, here: bool = False) -> None:
        """Start the tasks in the running event loop, unless they run already; never blocks.

        Args:
            here: Whether they must run in this loop. Bulk runs need that; verifiers don't.
        """
        if self._is_closed or self._has_started(here=here):
            return
        with sole_entry(self._starting) as may_start:
            if may_start and not self._has_started(here=here):
                self._start(asyncio.get_running_loop())

    def _has_started(self, *, here: bool) -> bool:
        return self.is_running and not (here and self._loop is not asyncio.get_running_loop())

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        window = self.window
        has_forked = self._pid not in {0, os.getpid()}
        self._leave_behind(is_parents=has_forked)
        self._loop, self._pid = loop, os.getpid()
        if has_forked:
            window.forget()
        window.restart(loop.time())
        self.feed.restart()
        self._wake, self._has_tried = asyncio.Event(), asyncio.Event()
        self._told.clear()
        self._is_connected = False
        self._connection = connection = self._connect(self._state)
        self._tasks = [
            self._task(loop, self._keep_window(connection)),
            self._task(loop, self.feed.send(connection)),
            self._task(loop, self.feed.read(connection)),
        ]

    def _task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        # an empty context: the task must not inherit that of whichever call came first
        task = loop.create_task(work, context=contextvars.Context())
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - a loop may end first
        task.add_done_callback(_tell_of_bug)
        return task

    def _leave_behind(self, *, is_parents: bool) -> None:
        """Drop what belongs to an event loop that can no longer run here."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if not is_parents:  # their loop may still run, now or later
                with suppress(RuntimeError):  # it is closed
                    for task in self._tasks:
                        connection.loop.call_soon_threadsafe(task.cancel)
            connection.abandon(is_parents=is_parents)
            # keep the tasks: if they were collected, they would use their loop
            self._left_behind.append((self._tasks, connection))
        self._tasks = []

    async def joined(self) -> None:
        """Wait until Redis has answered or counts as away; start the tasks if necessary."""
        self.start()
        if not self._is_closed:
            await self._has_tried.wait()

    async def caught_up(self) -> None:
        """Wait until the denials of other processes are known, or Redis counts as away."""

        async def work() -> None:
            await self.joined()
            if self._is_connected:
                await self.feed.current()

        await self._in_its_loop(work, CATCH_UP_WITHIN)

    async def told(self) -> None:
        """Wait until Redis has the denials of this process, or has timed out."""
        await self._in_its_loop(self.feed.sent, 2 * self._state.timeout)

    async def _in_its_loop(
        self, work: Callable[[], Coroutine[Any, Any, None]], seconds: float
    ) -> None:
        """Do work in the loop that runs the tasks, maybe in another thread, within a time limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self.start()
                while not (self.is_running or self._is_closed):  # another loop is starting them
                    await asyncio.sleep(_A_MOMENT)
                    self.start()
                loop = self._loop
                if loop is None or loop is asyncio.get_running_loop():
                    await work()
                    return
                coroutine = work()
                try:
                    done = asyncio.run_coroutine_threadsafe(coroutine, loop)
                except RuntimeError:  # it has ended meanwhile
                    coroutine.close()
                    return
                await asyncio.wrap_future(done)

    def age(self) -> float:
        """Return the seconds since all denials of others were known; inf if they never were."""
        if not self.is_running or not self.feed.is_current:
            return math.inf
        return max(0.0, monotonic() - self.feed.read_at)

    def keep_within(self, seconds: float) -> None:
        """Read often enough that, while Redis answers, `age` stays below this many seconds."""
        self.feed.block = min(self.feed.block, seconds / 3)

    async def aclose(self) -> None:
        """Send the last news, and end within a time limit whatever Redis does."""
        self._is_closed = True
        if not self.is_running or self._loop is not asyncio.get_running_loop():
            self.abandon()
            return
        connection, tasks = self._connection, self._tasks
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WITHIN):
                    await self._say_goodbye(tasks)
        except asyncio.CancelledError:
            self.abandon()
            raise
        for task in tasks:
            task.cancel()
        self._has_tried.set()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WITHIN)
        if connection is not None:
            await connection.close()
        self._connection, self._tasks, self._loop = None, [], None

    async def _say_goodbye(self, tasks: list[asyncio.Task[None]]) -> None:
        if self.window.mode == "new" and not self.feed.is_sent:
            await self._has_tried.wait()
        if self._is_connected:
            await self.feed.sent()
        if self._is_connected:
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
            with suppress(AwayError):
                await self._exchange(is_last=True)

    def abandon(self) -> None:
        """End without telling Redis, because the client or its event loop is gone."""
        self._leave_behind(is_parents=self._pid != os.getpid())
        self._loop = None

    # -- reports from calls --------------------------------------------------------------------

    def send_single(self) -> None:
        """Note that a single call leaves, which belongs to no bulk run."""
        self.window.send_single()

    def end_single(self, status: int | None) -> None:
        """Note how a single call ended."""
        with suppress(RuntimeError):  # the call is collected after its loop was closed
            self.window.end_single(status, asyncio.get_running_loop().time())

    def pause(self, seconds: float, reason: PauseReason) -> None:
        """Tell the others that the service asked to wait this many seconds."""
        self.window.pause(asyncio.get_running_loop().time() + seconds, reason)

    # -- the window ----------------------------------------------------------------------------

    async def _keep_window(self, connection: RedisConnection) -> None:
        loop = connection.loop
        wait = _RETRY_AFTER[0]
        while connection is self._connection:  # until the link moves to another loop
            self._wake.clear()
            due = self.window.due(loop.time())
            if due > loop.time():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                continue
            try:
                await self._exchange()
            except AwayError as error:
                self._note_absence(loop, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _RETRY_AFTER[1])
            else:
                wait = _RETRY_AFTER[0]

    async def _exchange(self, *, is_last: bool = False) -> None:
        """Send the message that is due, and apply its reply.

        Raises:
            AwayError: If there is no reply.
        """
        connection = self._connection
        if connection is None:
            raise AwayError("this client was closed")
        loop, window = connection.loop, self.window
        # A slow Redis, which replies in time only while connecting, must not seem to come and go.
        await connection.connect()
        sent_at = loop.time()
        told, self._told = self._told, []
        try:
            text = window.message(sent_at, is_last=is_last)
            reply = await connection.run_script(SCRIPT, _DIGEST, self._keys, text)
            now = loop.time()
            if window.heard(reply, sent_at, now):
                self.feed.check()
            self._heard_at = now
        except (ValueError, TypeError, LookupError) as error:
            raise unreadable(error) from None
        finally:
            for each in told:
                settle(each)
        if not self._is_connected and window.mode == "together":
            self._has_tried.set()
            if self._has_been_away:
                logger.info("the shared state is back: the limit is shared again")
            self._is_connected, self._has_been_away = True, False
        if window.news.paused_until > now and self._on_pause is not None:
            self._on_pause(window.news.paused_until - now)

    def _note_absence(self, loop: asyncio.AbstractEventLoop, error: AwayError) -> None:
        if self.window.failed(loop.time()):
            self._has_tried.set()
            self._is_connected = False
            if not self._has_been_away:
                self._has_been_away = True
                logger.warning(
                    "the shared state is away (%s): this process continues alone, with its share "
                    "of the limit and the denials that it knows",
                    redact(str(error)),
                )

    def _hurry(self) -> None:
        self._wake.set()

    def _look(self) -> None:
        self.window.hurry()
        self._wake.set()

    async def _tell(self) -> None:
        """Wait until the last places are reported, or Redis has timed out."""
        loop = asyncio.get_running_loop()
        if not self._is_connected or loop is not self._loop:
            return
        told: asyncio.Future[None] = loop.create_future()
        self._told.append(told)
        self._look()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._state.timeout):
                await told

    # -- status --------------------------------------------------------------------------------

    def status(self, paused_for: float) -> SharedStatus:
        """Return what this process knows, without asking Redis."""
        loop, standing = self._loop, self.window.standing
        is_running = loop is not None and self.is_running
        now = loop.time() if loop is not None and is_running else -math.inf
        return SharedStatus(
            connected=self._is_connected and is_running,
            age=now - self._heard_at if is_running and self._heard_at > -math.inf else None,
            processes=standing.processes,
            used=standing.used,
            limit=self.window.limit.count,
            paused_for=paused_for,
            denied=len(self.denials),
        )


def _tell_of_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the shared state failed: %s: %s", type(error).__name__, redact(str(error)))
