"""How callbacks, iterables and results pass between the caller's thread and the loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
from collections.abc import AsyncIterable, Collection
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, cast

import attrs

from clerk_async.errors import ClientClosedError, InvalidArgumentError, WrongLoopError
from clerk_async.http.errand import SLICE
from clerk_async.http.paging import is_async
from clerk_async.sync.private_loop import Crossing, in_a_loop_thread
from clerk_async.under_test import monotonic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator

    from clerk_async.bulk.options import RunOptions
    from clerk_async.sync.loop_thread import LoopThread
    from clerk_async.sync.private_loop import PrivateLoop

P = ParamSpec("P")
T = TypeVar("T")

BULK_GRACE: Final = 20.0
"""Seconds that an interrupted bulk run may take to finish its requests in flight."""
CHUNK: Final = 256
"""The most ids to fetch from the caller's iterable at once."""
CHUNK_SECONDS: Final = 0.005
"""How long to fetch at once, so that ids wait no longer for a slow iterable's next ones."""
LONGEST_WAIT: Final = 0.5
"""The most seconds that ids wait for an iterable that stops in the middle of a chunk."""


class CallerThread:
    """Lets coroutines in the loop run functions in the thread that waits for them."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._private: PrivateLoop | None = None
        # Ctrl-C may come between any two steps: work stays here until it is done, and a lost
        # wake-up does no harm.
        self._inbox: collections.deque[_Work] = collections.deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    async def run(self, function: Callable[..., T], *args: Any) -> T | None:
        """Run a function in the caller's thread and return its result.

        Returns None if the caller was interrupted and no longer runs functions.
        """
        result = self.ask(function, *args)
        return None if result is None else cast("T | None", await result)

    def ask(self, function: Callable[..., object], *args: Any) -> asyncio.Future[Any] | None:
        """Begin what `run` does, without waiting for the result."""
        if self._private is None or self._private.is_ending:
            return None
        work = _Work(self._private, function, args)
        self._inbox.append(work)
        self._wake.put(None)
        return work.done

    def serve(
        self,
        grace: float,
        function: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a coroutine function to its end, and run here the functions that it asks for.

        An interruption cancels the coroutine, waits up to `grace` seconds while it finishes and
        reports the requests in flight, and is then raised; a second interruption is raised at once.

        Raises:
            WrongLoopError: If the work began before a fork and would continue after it.
        """
        private = self._same_loop()
        crossing = Crossing(function, args, kwargs, lambda: self._wake.put(None))
        try:
            private.hand_over(crossing)
            self._work_until_settled(crossing)
        except BaseException:
            if private.call_off(crossing):
                self._work_until_settled(crossing, grace)
            raise
        finally:
            crossing.lines.is_over = True
            crossing.lines.write()
        return crossing.outcome()

    def finish(self, items: AsyncGenerator[Any, None]) -> None:
        """Close an async generator, and wait for it unless that would block another loop."""
        if not in_a_loop_thread():
            self.serve(BULK_GRACE, _finish, items)
        elif self._private is not None:  # the garbage collector, which runs in any thread
            self._private.hand_over(Crossing(_finish, (items,)))

    def _same_loop(self) -> PrivateLoop:
        private = self._thread.private()
        if self._private not in {None, private}:
            raise WrongLoopError(
                "this iterator belongs to the parent process: start a new one after the fork"
            )
        self._private = private
        return private

    def _work_until_settled(self, crossing: Crossing[Any], seconds: float = float("inf")) -> None:
        inbox, waited = self._inbox, 0.0
        while True:
            while inbox:
                inbox[0].do()
                inbox.popleft()
            crossing.lines.write()
            if crossing.is_settled or waited >= seconds:
                return
            try:
                self._wake.get(timeout=SLICE)
            except queue.Empty:
                waited += SLICE  # not by a clock: users' tests may freeze it


class _Work:
    """One function call to make in the caller's thread."""

    def __init__(
        self, private: PrivateLoop, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._private = private
        self._function = function
        self._args = args
        self._has_begun = False

    def do(self) -> None:
        """Call the function; an error, except Ctrl-C, is raised in the loop."""
        result: Any = None
        error: BaseException | None = None
        try:
            # If it has begun before, it was interrupted and no caller waits for its result. No
            # caller waits either if the loop has ended or a fork has left it behind.
            if not self._has_begun and not self._private.is_over:
                self._has_begun = True
                result = self._function(*self._args)
        except StopIteration:
            error = RuntimeError("a callback raised StopIteration")
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - raised in the loop
            error = raised
        self._private.call_soon(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


def in_caller_thread(
    caller: CallerThread, name: str, function: Callable[..., T] | None
) -> Callable[..., Coroutine[Any, Any, T]] | None:
    """Wrap a callback so that it runs in the caller's thread.

    Raises:
        InvalidArgumentError: If it isn't callable, or is a coroutine function.
    """
    if function is None:
        return None
    if not callable(function):  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidArgumentError(f"{name} must be callable")
    if is_async(function):  # its coroutine would never be awaited, and is always true
        raise InvalidArgumentError(f"{name} must be an ordinary function in the sync client")

    async def hop(*args: Any) -> T:
        return cast("T", await caller.run(function, *args))

    return hop


def told_in(caller: CallerThread, options: RunOptions) -> RunOptions:
    """Wrap all callbacks of a bulk run so that they run in the caller's thread.

    The run waits for them even after a stop, because its caller could not go on any sooner.
    """
    names = ("should_stop", "on_outcome", "on_progress")
    hopping: dict[str, Any] = {
        name: in_caller_thread(caller, name, getattr(options, name)) for name in names
    }
    return attrs.evolve(options, callback_grace=None, **hopping)


def read_in_caller_thread(
    caller: CallerThread, name: str, items: Iterable[str]
) -> Iterable[str] | AsyncIterable[str]:
    """Wrap an iterable to be read in the caller's thread; a plain collection stays as it is."""
    if isinstance(items, AsyncIterable):
        raise InvalidArgumentError(f"{name} must be an ordinary iterable in the sync client")
    if isinstance(items, Collection | str | bytes) or not hasattr(items, "__iter__"):
        return items
    return _Fetched(caller, items)


class _Fetched:
    """Fetches from an iterable in the caller's thread, in chunks.

    It is not an async generator, because a run that ends early would leave that unclosed.
    """

    def __init__(self, caller: CallerThread, items: Iterable[str]) -> None:
        self._caller = caller
        self._items = items
        self._iterator: Iterator[str] | None = None
        self._chunk: collections.deque[str] = collections.deque()
        self._taking: asyncio.Future[Any] | None = None
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._iterator is None:
            self._iterator = await self._caller.run(iter, self._items)
        seconds = CHUNK_SECONDS
        while not self._chunk:
            if self._taking is not None and self._taking.done():
                self._end_taking(self._taking.result())
            elif self._is_over:
                raise StopAsyncIteration
            elif self._taking is not None:
                await asyncio.wait([self._taking], timeout=seconds)
                seconds = min(2 * seconds, LONGEST_WAIT)
            else:
                self._taking = self._caller.ask(_take, self._iterator, self._chunk)
                if self._taking is None:
                    raise asyncio.CancelledError
        return self._chunk.popleft()

    def _end_taking(self, taken: tuple[bool, Exception | None] | None) -> None:
        self._taking = None
        if taken is None:  # the caller was interrupted, so the run is cancelled too
            raise asyncio.CancelledError
        self._is_over, error = taken
        if error is not None:
            raise error


def _take(
    iterator: Iterator[str] | None, chunk: collections.deque[str]
) -> tuple[bool, Exception | None] | None:
    """Add the items that arrive quickly; return whether they are the last, and the error after."""
    if iterator is None:
        return None
    until = monotonic() + CHUNK_SECONDS
    try:
        for item in iterator:
            chunk.append(item)
            if len(chunk) >= CHUNK or monotonic() >= until:
                return False, None
    except Exception as error:  # noqa: BLE001 - raised where the ids are awaited
        return True, error
    return True, None


def iterated(
    caller: CallerThread,
    items: AsyncGenerator[T, None],
    is_meant: Callable[[T], bool] = lambda _: True,
) -> Generator[T, None, None]:
    """Iterate from this thread over the selected items; leaving early closes the generator."""
    try:
        while True:
            item = caller.serve(BULK_GRACE, _next_of, items)
            if item is _END:
                return
            if is_meant(cast("T", item)):
                yield cast("T", item)
    finally:
        # An interruption may have left it running, closing the client may have ended it already,
        # and after a fork the loop that it belongs to closes it in the parent.
        with contextlib.suppress(RuntimeError, ClientClosedError, WrongLoopError):
            caller.finish(items)


_END: Final = object()


async def _next_of(items: AsyncGenerator[T, None]) -> T | object:
    async for item in items:
        return item
    return _END


async def _finish(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
