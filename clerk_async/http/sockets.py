"""Lets go of connections whose loop can't be awaited any more, without a warning or a leak."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def let_go(transports: list[Any], loop: asyncio.AbstractEventLoop | None) -> None:
    """Close what is behind each transport.

    A loop that goes on, or may, is told of it: it would otherwise refuse, or lose, whatever gets
    the number of one of these sockets next.

    Args:
        transports: Those of the connections; None among them is passed over.
        loop: Theirs; None if it is closed, or is a parent's after a fork: the two share a selector,
            so nothing may go through it, and the child closes its own copies of the sockets.
    """
    if loop is not None and loop.is_running():
        with suppress(RuntimeError):  # it has been closed meanwhile
            loop.call_soon_threadsafe(_abort, transports)
            return
    for transport in transports:
        _close_socket(transport, loop)


def _abort(transports: list[Any]) -> None:
    for transport in transports:
        if transport is not None:
            transport.abort()


def _close_socket(transport: Any, loop: Any) -> None:
    """Close a transport's socket under it, so that nobody waits for it and nothing warns.

    The attributes are asyncio's own; where a loop or a Python has others, its collector closes.
    """
    with suppress(AttributeError):
        inner = transport._ssl_protocol._transport  # noqa: SLF001
        transport._closed = True  # noqa: SLF001
        transport = inner
    with suppress(AttributeError, OSError):
        sock, transport._sock = transport._sock, None  # noqa: SLF001
        if sock is not None:
            with suppress(AttributeError):  # another kind of loop
                if loop is not None:
                    transport._closing = True  # noqa: SLF001
                    loop._remove_reader(sock.fileno())  # noqa: SLF001
                    loop._remove_writer(sock.fileno())  # noqa: SLF001
            sock.close()
