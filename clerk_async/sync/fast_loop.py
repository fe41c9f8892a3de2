"""The event loop of a sync client: uvloop's if the extra `speed` is installed, else asyncio's.

libuv, which is below uvloop, starts threads for its own name lookups. A forked child doesn't have
these threads, and at its exit libuv waits for them and crashes. So lookups are ours here, on the
paths of aiohttp and of redis-py, and libuv never starts a thread.

In asyncio's debug mode, uvloop keeps the stack of every callback's caller. It does so at unsafe
moments too, and can crash the interpreter (https://github.com/MagicStack/uvloop/issues/715). So the
loop is asyncio's there.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from clerk_async.http.daemon import in_thread
from clerk_async.under_test import new_event_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

NO_UVLOOP_VARIABLE: Final = "CLERK_ASYNC_NO_UVLOOP"
"""Set to anything but an empty string, it keeps sync clients on asyncio's loop."""

_OLDEST: Final = (0, 23)
"""Older versions of uvloop close the socket of a cancelled connection twice: the second time, its
descriptor may be that of another connection."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a function that makes event loops.

    It imports uvloop if need be. Call it in a thread of the user, because an import in the loop's
    thread can wait for one that a signal has interrupted.
    """
    if os.environ.get(NO_UVLOOP_VARIABLE) or _is_debugging() or _is_free_threaded():
        return new_event_loop
    try:
        return _uvloop_class()
    except Exception:  # noqa: BLE001 - missing, broken, old, or another interpreter's
        return new_event_loop


def _is_debugging() -> bool:
    """Whether new loops run in debug mode, by the rule of asyncio."""
    is_asked = not sys.flags.ignore_environment and os.environ.get("PYTHONASYNCIODEBUG")
    return sys.flags.dev_mode or bool(is_asked)


def _is_free_threaded() -> bool:
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


@cache
def _uvloop_class() -> type[asyncio.AbstractEventLoop]:
    import uvloop  # noqa: PLC0415 - from the extra `speed`

    if tuple(map(int, vars(uvloop)["__version__"].split(".")[:2])) < _OLDEST:
        raise ImportError("uvloop is too old")

    class UvLoop(uvloop.Loop):
        """A loop that never uses libuv's own threads."""

        async def getaddrinfo(  # pyright: ignore[reportIncompatibleMethodOverride]
            self,
            host: Any,
            port: Any,
            *,
            family: int = 0,
            type: int = 0,  # noqa: A002 - asyncio's name
            proto: int = 0,
            flags: int = 0,
        ) -> list[Any]:
            """Look a name up in a thread of ours, and an IP address at once."""
            look_up = partial(socket.getaddrinfo, host, port, family, type, proto)
            try:
                return look_up(flags | socket.AI_NUMERICHOST)
            except socket.gaierror:
                return await in_thread("clerk_async name look-up", partial(look_up, flags))

        async def create_connection(
            self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
        ) -> Any:
            """Connect to a host by our own lookup; uvloop's would be libuv's."""
            if host is None:
                return await super().create_connection(protocol_factory, **options)
            found = await self.getaddrinfo(
                host,
                port,
                type=socket.SOCK_STREAM,
                **{key: options.pop(key, 0) for key in ("family", "proto", "flags")},
            )
            sock = await _connected(self, found)
            if options.get("ssl"):
                options.setdefault("server_hostname", host)
            return await super().create_connection(protocol_factory, sock=sock, **options)

    return UvLoop


async def _connected(loop: asyncio.AbstractEventLoop, addresses: list[Any]) -> socket.socket:
    """Return a socket that is connected to the first address that accepts it."""
    refused: list[OSError] = []
    for family, kind, proto, _, address in addresses:
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(0)
            await loop.sock_connect(sock, address)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            refused.append(error)
        else:
            return sock
    raise refused[0]
