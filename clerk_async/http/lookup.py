"""Looks host names up in daemon threads.

A loop's executor refuses work as soon as the main thread has ended, though other threads may still
be calling.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

__all__ = ["look_up"]


async def look_up(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    """Give what `socket.getaddrinfo` does for a stream, without holding up the loop.

    Raises:
        OSError: If the name is unknown, or can't be one.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def work() -> None:
        addresses: list[Any] = []
        trouble: OSError | None = None
        try:
            addresses = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except (OSError, UnicodeError) as error:
            trouble = error if isinstance(error, OSError) else OSError(None, "not a host name")
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, addresses, trouble)

    def settle(addresses: list[Any], trouble: OSError | None) -> None:
        if found.done():
            return
        if trouble is not None:
            found.set_exception(trouble)
        else:
            found.set_result(addresses)

    try:
        threading.Thread(target=work, name="clerk_async name look-up", daemon=True).start()
    except RuntimeError:  # Python 3.12.0 starts none once the main thread has ended
        work()
    return await found
