"""What a relay sends besides forwarded responses: duplicates, cut ones, or those of other requests.

It parses the service's responses to know where each ends, and forwards unchanged what it can't
parse. Error responses are never repeated, because nobody could tell that they belong to another
request.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, get_args

import attrs

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Habit = Literal["repeat", "repeat late", "another", "shorten", "bodiless", "408", "half", "greet"]
HABITS: Final[tuple[Habit, ...]] = get_args(Habit)
_BODILESS: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
)
_TIMED_OUT: Final = (
    b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_LENGTH: Final = re.compile(rb"(?i)(\r\ncontent-length: *)(\d+)")
_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_ABOUT: Final = re.compile(rb'/sessions/([^/? ]+)|user_id=([^& ]+)|"user_id":"([^"]+)')
_LIST: Final = b"GET /v1/sessions?"


@attrs.frozen
class Told:
    """A forwarded response: its subject, whether it is a list, and its bytes."""

    about: bytes
    is_list: bool
    data: bytes


class Asked:
    """The requests of one connection that have no response yet."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, bool]] = deque()
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        """Read what the client has sent."""
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, rest = bytes(self._pending).partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            length = int(found[2]) if found else 0
            if len(rest) < length:
                return
            about = _ABOUT.search(head.split(b"\r\n")[0]) or _ABOUT.search(rest[:length])
            name = b"" if about is None else next(filter(None, about.groups()))
            self.waiting.append((name, head.startswith(_LIST)))
            self._pending = bytearray(rest[length:])


@attrs.define
class Talker:
    """Forwards the responses of one connection, and sends additional data.

    Attributes:
        habit: What it does, at about every second response.
        late: The delay of late data in seconds.
        draw: The random numbers.
        told: The responses forwarded on any connection.
        asked: The requests that this connection's client waits for.
    """

    habit: Habit
    late: float
    draw: random.Random
    told: list[Told]
    asked: Asked

    async def greet(self, writer: asyncio.StreamWriter) -> None:
        """Send something before the first request."""
        if self.habit == "greet" and self.draw.random() < 0.5:
            writer.write(self._anothers(b"", lists=False))

    async def pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        close: Callable[[], None],
    ) -> None:
        """Forward until the service has closed, or sends something that can't be parsed."""
        while True:
            try:
                answer = await _read_answer(reader)
            except asyncio.IncompleteReadError as error:
                writer.write(error.partial)
                return
            if answer is None:
                return
            data, is_whole = answer
            if not is_whole or not self.asked.waiting:
                writer.write(data)
                while rest := await reader.read(65536):
                    writer.write(rest)
                return
            about, is_list = self.asked.waiting.popleft()
            is_good = data.startswith(b"HTTP/1.1 200 ")
            if is_good and self.draw.random() < 0.5:
                if await self._say_more(data, about, writer, is_list=is_list):
                    close()
                    return
            else:
                writer.write(data)
            if is_good:
                self.told.append(Told(about, is_list, data))
            await writer.drain()

    async def _say_more(
        self, data: bytes, about: bytes, writer: asyncio.StreamWriter, *, is_list: bool
    ) -> bool:
        """Forward a response with this connection's habit; return whether the connection ends."""
        match self.habit:
            case "repeat":
                writer.write(data * 2)
            case "repeat late" if not is_list:  # a page could pass for the next one
                writer.write(data)
                await asyncio.sleep(self.draw.uniform(0, self.late))
                writer.write(data)
            case "another":
                writer.write(self._anothers(about, lists=True) + data)
            case "shorten":
                writer.write(self._shortened(data))
            case "bodiless":
                writer.write(self.draw.choice(_BODILESS))
                if self.draw.random() < 0.5:
                    await asyncio.sleep(self.draw.uniform(0, self.late))
                writer.write(data)
            case "408":
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(self.draw.uniform(0, self.late))
                if not self.asked.waiting:  # a load balancer closes only idle connections
                    writer.write(_TIMED_OUT)
                    return True
            case "half":
                more = self._anothers(about, lists=False)
                writer.write(data + more[: self.draw.randrange(len(more) + 1)])
            case _:
                writer.write(data)
        return False

    def _anothers(self, about: bytes, *, lists: bool) -> bytes:
        known = [one for one in self.told if one.about != about and (lists or not one.is_list)]
        return self.draw.choice(known).data if known else b""

    def _shortened(self, data: bytes) -> bytes:
        head, mark, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if found is None or len(body) < 2:
            return data
        less = self.draw.randrange(1, len(body))
        short = _LENGTH.sub(rb"\g<1>%d" % less, head, count=1) + mark
        end = self.draw.choice((len(body), less))
        return short + body[:end] + self.draw.choice((b"", data))


async def _read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bool] | None:
    """Read one response, and whether its end is known; return None if the service has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return await reader.read(65536), False
    except asyncio.IncompleteReadError as error:
        return (error.partial, False) if error.partial else None
    found = _LENGTH.search(head)
    try:
        if found is not None:
            return head + await reader.readexactly(int(found[2])), True
        if _CHUNKED.search(head) is None:
            return head, False
        while True:
            line = await reader.readuntil(b"\r\n")
            head += line
            size = int(line.split(b";")[0], 16)
            head += await reader.readexactly(size + 2)
            if not size:
                return head, True
    except asyncio.IncompleteReadError as error:
        raise asyncio.IncompleteReadError(head + error.partial, None) from None
