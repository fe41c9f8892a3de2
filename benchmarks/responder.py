"""The fallback server if nginx is not installed: fixed bytes from a bare asyncio protocol.

It parses only what it must: the request line, Content-Length and the end of the request.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import cast

from benchmarks.payloads import ID, SESSION, TOKEN, session_list, session_page

__all__ = ["main"]

_FAULT = b'{"errors":[{"message":"busy","long_message":"busy","code":"service_unavailable"}]}'


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _session(line: bytes) -> bytes:
    """Return the requested session, because our client compares the id."""
    return _answer(SESSION.replace(ID, line.split(b"/sessions/")[1].partition(b"/")[0]))


_TOKEN = _answer(TOKEN)
_BUSY = _answer(_FAULT, b"503 Service Unavailable")
_LISTS = {size: _answer(session_list(size)) for size in (1, 10, 500)}
_PAGES = {size: _answer(session_page(size)) for size in (1, 10, 500)}
_random = random.Random(1)


def _reply_to(line: bytes) -> bytes:
    if line.startswith(b"GET"):
        for size, reply in (_PAGES if b"paginated=true" in line else _LISTS).items():
            if b"limit=%d&" % size in line or b"limit=%d " % size in line:
                return reply
        return _session(line)
    if b"/faulty/" in line and _random.random() < 0.1:
        return _BUSY
    return _TOKEN if b"/tokens" in line else _session(line)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        pending = self._pending + data
        replies: list[bytes] = []
        while (end := pending.find(b"\r\n\r\n")) >= 0:
            head = pending[:end]
            length = 0
            at = head.lower().find(b"\r\ncontent-length:")
            if at >= 0:
                length = int(head[at + 17 :].split(b"\r\n", 1)[0])
            if len(pending) < end + 4 + length:
                break
            replies.append(_reply_to(head[: head.find(b"\r\n")]))
            pending = pending[end + 4 + length :]
        self._pending = pending
        if replies and self._transport is not None:
            self._transport.write(b"".join(replies))


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Serve on the port given as the only argument, until killed."""
    port = int(sys.argv[1])
    try:
        import uvloop  # noqa: PLC0415 - used if installed
    except ImportError:
        asyncio.run(_serve(port))
    else:
        uvloop.run(_serve(port))


if __name__ == "__main__":
    main()
