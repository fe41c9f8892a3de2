"""A server that sends more than it was asked for: twice, too early, too short, or unsolicited."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from relays import stop_accepting

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RESET: Final = struct.pack("ii", 1, 0)


def session(session_id: str, *, user_id: str = "user_1", status: str = "active") -> dict[str, Any]:
    """Make a session as the service sends it."""
    times = ("last_active_at", "expire_at", "abandon_at", "updated_at", "created_at")
    return {
        "object": "session",
        "id": session_id,
        "user_id": user_id,
        "client_id": "client_1",
        "status": status,
        "actor": None,
        "last_active_organization_id": None,
        "latest_activity": None,
        "tasks": None,
        **dict.fromkeys(times, 1_760_000_000_000),
    }


def jwt_of(session_id: str) -> str:
    """Make an unsigned JWT that looks like a token of this session."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"sid": session_id, "sub": "user_1"})
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*texts, b"c2lnbmVk"]).decode()


def http(value: object, status: str = "200 OK", *headers: str) -> bytes:
    """Make a response with a JSON value, or with bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Asked:
    """A request as the server read it."""

    def __init__(self, connection: int, head: bytes, body: bytes) -> None:
        self.connection: int = connection
        self.method, target = head.split(b"\r\n")[0].decode().split(" ")[:2]
        self.path: str = urlsplit(target).path.removeprefix("/v1")
        self.query: dict[str, str] = {
            name: values[0] for name, values in parse_qs(urlsplit(target).query).items()
        }
        self.body: dict[str, Any] = json.loads(body) if body else {}
        parts = self.path.split("/")
        self.session_id: str = parts[2] if len(parts) > 2 else ""
        self.tail: str = "/".join(parts[3:])


def right(asked: Asked) -> bytes:
    """Respond as the service would."""
    if asked.path == "/jwks":
        return http({"keys": []})
    if asked.path == "/sessions" and asked.method == "GET":
        user = asked.query.get("user_id", "user_1")
        rows = [session(f"sess_of_{user}", user_id=user)]
        return http({"data": rows, "total_count": 1})
    if asked.path == "/sessions":
        user = asked.body["user_id"]
        return http(session(f"sess_of_{user}", user_id=user))
    if asked.tail == "refresh" and asked.body.get("format") == "cookie":
        cookies = [f"__session={jwt_of(asked.session_id)}; Path=/", "__client_uat=1; Path=/"]
        return http({"object": "cookies", "cookies": cookies})
    if asked.tail.startswith(("tokens", "refresh")):
        return http({"object": "token", "jwt": jwt_of(asked.session_id)})
    return http(session(asked.session_id, status="revoked" if asked.tail == "revoke" else "active"))


class Talkative:
    """A server on loopback, in its own thread and loop; what it sends leaves at once.

    Args:
        answer: Returns the bytes of a response; None sends nothing, and an OSError closes the
            connection.
        context: The TLS context.
        together: It waits for this many requests before it responds to any.

    Attributes:
        asked: The requests that came.
        connections: How many connections were made.
        met: Counts the connections that are ready for use.
    """

    def __init__(
        self,
        answer: Callable[[Asked], bytes | None] = right,
        context: ssl.SSLContext | None = None,
        *,
        together: int = 1,
    ) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.met = threading.Semaphore(0)
        self.port = 0
        self._context = context
        self._together = together
        self._waiting: list[tuple[Asked, asyncio.StreamWriter]] = []
        self._open: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def base_url(self) -> str:
        """The address of the Clerk API."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://localhost:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def say(self, data: bytes) -> None:
        """Send data on every open connection."""
        self._call(lambda writer: writer.write(data))

    def end(self, *, reset: bool = False) -> None:
        """Close every open connection, with a FIN or a RST."""

        def end(writer: asyncio.StreamWriter) -> None:
            if reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

        self._call(end)
        self._call(lambda _: None)  # a transport closes its socket one turn of the loop later

    def _call(self, do: Callable[[asyncio.StreamWriter], None]) -> None:
        async def call() -> None:
            for writer in self._open:
                if not writer.is_closing():
                    do(writer)

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            server = runner.run(self._listen())
            self._ready.set()
            self._loop.run_forever()
            runner.run(stop_accepting(server))
            for writer in self._open:
                writer.transport.abort()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._open.append(writer)
        self.met.release()
        gone = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
                found = _LENGTH.search(head)
                body = await reader.readexactly(int(found[1])) if found else b""
                self._take(Asked(number, head, body), writer)
        writer.transport.abort()

    def _take(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        self._waiting.append((asked, writer))
        if len(self.asked) < self._together:
            return
        waiting, self._waiting = self._waiting, []
        for each, to in waiting:
            answer = self.answer(each)
            if answer is not None:
                to.write(answer)
