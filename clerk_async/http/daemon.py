"""Slow work, such as a name look-up, in a daemon thread of its own.

A loop's executor refuses work as soon as the main thread has ended, though other threads may still
be calling, and keeps its threads until the loop is closed.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - `socket.getaddrinfo` would, in its thread
import socket
import sys
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clerk_async.config import is_localhost
from clerk_async.errors import WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that we are called in.

    Raises:
        WrongLoopError: If it is not asyncio's, or there is none.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongLoopError(
            "asyncio only: the async clients and verifiers need a running asyncio event loop, and "
            "there is none here. Under trio or curio, use the sync ones in a worker thread."
        ) from None


def shielded() -> AbstractContextManager[object]:
    """Keep out the cancellation by an anyio scope, which comes again at each await.

    Where nobody has loaded anyio's backend there is no such scope, and it is not loaded for this:
    at the end of a run no descriptor may be left to import with.
    """
    if "anyio._backends._asyncio" not in sys.modules:
        return nullcontext()
    import anyio  # noqa: PLC0415 - it is loaded

    return anyio.CancelScope(shield=True)


def in_thread(name: str, work: Callable[[], T]) -> asyncio.Future[T]:
    """Start work that would hold up the loop; the future has its result, or what it raised."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():  # cancelled: nobody waits for it any more
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
        except Exception as raised:  # noqa: BLE001 - handed to who waits
            error = raised
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # Python 3.12.0 starts none once the main thread has ended
        run()
    return done


async def look_up(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    """Return what `socket.getaddrinfo` does for a stream.

    Raises:
        OSError: If the name is unknown, or can't be one.
    """
    if is_localhost(host):
        host = "localhost"  # nobody else is asked where `api.localhost` is

    def work() -> list[Any]:
        try:
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except UnicodeError:
            raise OSError(None, "not a host name") from None

    return await in_thread("clerk_async name look-up", work)
