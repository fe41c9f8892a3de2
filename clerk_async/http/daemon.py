"""What event loops and threads need: which loop runs, who comes first, and slow work elsewhere.

Slow work, such as a DNS lookup, runs in a separate daemon thread.

A loop's executor rejects work once the main thread has ended, although other threads may still make
calls. It also keeps its threads until the loop is closed.
"""

from __future__ import annotations

import asyncio

# Now, because `socket.getaddrinfo` would import it in its thread.
import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]
import os
import socket
import sys
import threading
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clerk_async.config import is_localhost
from clerk_async.errors import WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        WrongLoopError: If no asyncio loop is running.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongLoopError(
            "asyncio only: the async clients and verifiers need a running asyncio event loop, but "
            "there is none here. Under trio or curio, use the sync ones in a worker thread."
        ) from None


@contextmanager
def sole_entry(entered: dict[int, asyncio.AbstractEventLoop]) -> Generator[bool]:
    """Yield whether the running loop may do what only one loop of this process may do at a time.

    Args:
        entered: By process id, the loop that does it now. A loop that has ended in the middle of
            it, because it was interrupted, keeps nobody out.
    """
    loop, pid = asyncio.get_running_loop(), os.getpid()
    owner = entered.setdefault(pid, loop)  # atomic: loops of other threads may be here
    if owner is not loop and owner.is_running():
        yield False
        return
    try:
        yield True
    finally:
        entered.pop(pid, None)


def shielded() -> AbstractContextManager[object]:
    """Return a context that shields from an anyio scope, which cancels again at each await.

    If anyio's backend isn't loaded, there is no anyio scope. We don't load it here, because at the
    end of a run there may be no file descriptor left for an import.
    """
    if "anyio._backends._asyncio" not in sys.modules:
        return nullcontext()
    import anyio  # noqa: PLC0415 - already loaded

    return anyio.CancelScope(shield=True)


def in_thread(name: str, work: Callable[[], T]) -> asyncio.Future[T]:
    """Start work that would block the loop; return a future for its result or error."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():  # cancelled: no task waits for it any more
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001 - raised by the future
            error = raised
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # Python 3.12.0 starts no thread once the main thread has ended
        run()
    return done


async def look_up(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    """Return what `socket.getaddrinfo` returns for a stream.

    Raises:
        OSError: If the name is unknown or invalid.
    """
    if is_localhost(host):
        host = "localhost"  # so that no DNS server is asked for `api.localhost`

    def work() -> list[Any]:
        try:
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except UnicodeError:
            raise OSError(None, "not a host name") from None

    return await in_thread("clerk_async name look-up", work)
