"""Looks host names up without holding up the loop."""

from __future__ import annotations

import socket
from typing import Any

from clerk_async.http.daemon import in_thread


async def look_up(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    """Give what `socket.getaddrinfo` does for a stream.

    Raises:
        OSError: If the name is unknown, or can't be one.
    """

    def work() -> list[Any]:
        try:
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except UnicodeError:
            raise OSError(None, "not a host name") from None

    return await in_thread("clerk_async name look-up", work)
