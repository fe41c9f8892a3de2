"""Whether the service can be reached at all, asked before thousands of sessions fail one by one."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from clerk_async.errors import ConnectError

PATIENCE: Final = 5.0
"""Seconds for a connection, as in a client's own `Timeouts`."""
TRIES: Final = 3
PAUSE: Final = 0.5
_PORTS: Final = {"http": 80, "https": 443}


async def check_reach(base_url: str) -> None:
    """Make one TCP connection, and send nothing over it; with a proxy in between do nothing.

    Raises:
        ConnectError: If it can't be made.
    """
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    why = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE)
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            why = f"no answer within {PATIENCE:g} s"
        except OSError as error:
            why = str(error.strerror or error)
        else:
            writer.close()
            return
    raise ConnectError(f"can't connect to {host}:{port}: {why}; nothing was sent")
