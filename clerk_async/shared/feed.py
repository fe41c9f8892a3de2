"""The feed of denials between processes: one Redis stream for each instance and namespace.

A process reads the stream from where it stopped, so a lost connection loses nothing. A new process
reads it from the start before its denials count as current. A process adds its own changes, and
adds them again until it has read them back. Entries may come in any order and more than once,
because each change has its own time (see `clerk_async.denials.table`).

Sign-in cut-offs must last, but the stream is trimmed, so `standing.lua` keeps them in a hash beside
the stream. When Redis has lost its data, each process waits a moment, reads what others have added
by then, and adds the changes that the stream lacks.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
import math
import random
import secrets
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from clerk_async.denials.changes import EVERYONE, Change, shifted
from clerk_async.denials.table import Denials
from clerk_async.shared.connection import AwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clerk_async.denials.changes import Subject
    from clerk_async.shared.connection import RedisConnection

SCRIPT: Final = files("clerk_async.shared").joinpath("standing.lua").read_text(encoding="utf-8")
_DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

logger: logging.Logger = logging.getLogger("clerk_async")

IDS_PER_ENTRY: Final = 200
ENTRIES_PER_READ: Final = 100
BLOCK: Final = 1.0
"""Seconds that Redis waits for an entry before it replies that there is none."""
RESEND_AFTER: Final = 1.0
"""Seconds after which a process adds an entry again if it has not read it back."""
CHECK_EVERY: Final = 5.0
"""Seconds between two checks that Redis still has its data."""
REFILL_AFTER: Final = (0.5, 1.5)
"""Bounds for the seconds that a process waits for others before it refills an empty stream."""
RETRY_AFTER: Final = (0.05, 0.5)
"""Bounds for the seconds between two tries while Redis is away."""
FUTURE: Final = 60.0
"""Seconds that a change may be ahead of its entry; a change further ahead is rejected."""

_START: Final = "0-0"
_SCANNED: Final = 500
_BREATH: Final = 20
_LONGEST_ID: Final = 255
_MILLI: Final = 1000


@attrs.define(eq=False)
class _Entry:
    """Changes that are added together, and when that was last tried; -inf means never."""

    changes: tuple[Change, ...]
    sent_at: float = -math.inf


class Feed:
    """One process's end of the feed.

    Args:
        denials: The list of denials; changes read from the stream go there, and its own changes are
            added to the stream.

    Attributes:
        is_current: Whether the stream has been read to its end in this event loop.
        read_at: When the stream was last read to its end, in the event loop's time.
        block: Seconds that Redis waits for an entry before it replies that there is none.
        on_look: Called when an entry asks to check the window, because a process was told to pause.
    """

    def __init__(self, denials: Denials) -> None:
        self._denials = denials
        self._stream = self._standing = ""
        self.on_look: Callable[[], object] = _do_nothing
        self.block: float = BLOCK
        self._decoder = msgspec.json.Decoder(tuple[Change, ...])
        self._position = self._anchor = _START
        self._has_logged = False
        self._number = 0
        self._has_time = False
        self._waiting: collections.deque[Change] = collections.deque()
        self._pending: dict[int, _Entry] = {}
        denials.on_act = self._add
        self.restart()

    def name(self, stream: str, standing: str) -> None:
        """Set the Redis keys of the stream and of the hash with the cut-offs."""
        self._stream, self._standing = stream, standing

    def restart(self) -> None:
        """Start in another event loop or process: keep what was read, and send what is pending."""
        self._origin = secrets.token_hex(8)
        self._loop: asyncio.AbstractEventLoop | None = asyncio._get_running_loop()  # noqa: SLF001
        self.is_current: bool = False
        self._knows_time = False
        self.read_at: float = -math.inf
        self._became_current = asyncio.Event()
        self._wake = asyncio.Event()
        self._has_sent = asyncio.Event()
        self._checked_at = -math.inf
        self._there: Denials | None = None
        self._refill_at = math.inf
        for entry in self._pending.values():
            entry.sent_at = -math.inf

    async def current(self) -> None:
        """Wait until the stream has been read to its end."""
        await self._became_current.wait()

    @property
    def is_sent(self) -> bool:
        """Whether Redis has all changes of this process."""
        return not self._waiting and all(each.sent_at >= 0 for each in self._pending.values())

    async def sent(self) -> None:
        """Wait until Redis has all changes of this process."""
        while not self.is_sent:
            self._has_sent.clear()
            await self._has_sent.wait()

    def check(self) -> None:
        """Make the next read check whether Redis still has its data."""
        self._checked_at = -math.inf

    # -- adding --------------------------------------------------------------------------------

    def _add(self, change: Change) -> None:
        if len(change.ids) <= IDS_PER_ENTRY:
            self._waiting.append(change)
        else:
            for first in range(0, len(change.ids), IDS_PER_ENTRY):
                ids = change.ids[first : first + IDS_PER_ENTRY]
                self._waiting.append(attrs.evolve(change, ids=ids))
        loop = self._loop
        if loop is asyncio._get_running_loop():  # noqa: SLF001 - documented; None if none runs
            self._wake.set()
        elif loop is not None:  # another thread's, or closed: then the next one sends it
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake.set)

    async def send(self, connection: RedisConnection) -> None:
        """Add the changes of this process to the stream, as long as the task runs."""
        loop = asyncio.get_running_loop()
        wait = RETRY_AFTER[0]
        while True:
            self._wake.clear()
            try:
                if self._knows_time:  # else changes would carry an unsynchronized time
                    self._bundle()
                    await self._refill(loop.time())
                    for number in self._due(loop.time()):
                        entry = self._pending.get(number)  # may have been read back meanwhile
                        if entry is not None:
                            await self._send(connection, number, entry)
                        wait = RETRY_AFTER[0]
            except AwayError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_AFTER[1])
                continue
            if not any(each.sent_at < 0 for each in self._pending.values()):
                self._has_sent.set()
            if not (self._waiting and self._knows_time):
                with suppress(TimeoutError):
                    async with asyncio.timeout(RESEND_AFTER if self._pending else None):
                        await self._wake.wait()

    def _bundle(self) -> None:
        """Combine waiting changes into entries."""
        waiting = self._waiting
        while waiting:
            changes, count = [waiting.popleft()], 0
            count = len(changes[0].ids)
            while waiting and count + len(waiting[0].ids) <= IDS_PER_ENTRY:
                changes.append(waiting.popleft())
                count += max(1, len(changes[-1].ids))
            self._number += 1
            self._pending[self._number] = _Entry(tuple(changes))

    def _due(self, now: float) -> list[int]:
        """Return the numbers of entries not yet added, or overdue to be read back."""
        return [
            number
            for number, entry in self._pending.items()
            if entry.sent_at < 0 or min(now, self.read_at) - entry.sent_at > RESEND_AFTER
        ]

    async def _send(self, connection: RedisConnection, number: int, entry: _Entry) -> None:
        for change in entry.changes:
            if change.of != "session" and (change.before is not None or change.is_allowed):
                who = change.ids[0] if change.ids else EVERYONE
                before = "" if change.before is None else repr(change.before)
                await connection.run_script(
                    SCRIPT, _DIGEST, (self._standing,), who, change.at, before
                )
        keep = int(self._denials.keep * _MILLI)
        oldest = max(0, self._denials.time() // _MILLI - keep)
        text = msgspec.json.encode(entry.changes)
        await connection.command(
            *("XADD", self._stream, "MINID", "~", oldest, "*"),
            *("from", self._origin, "number", number, "all", text),
        )
        entry.sent_at = asyncio.get_running_loop().time()
        await connection.command("PEXPIRE", self._stream, 2 * keep + 60 * _MILLI)

    # -- reading -------------------------------------------------------------------------------

    async def read(self, connection: RedisConnection) -> None:
        """Read the stream, as long as the task runs."""
        wait = RETRY_AFTER[0]
        while True:
            try:
                await self._read_on(connection)
            except (AwayError, ValueError, TypeError, LookupError):  # or it can't be read
                self.check()
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_AFTER[1])
            else:
                wait = RETRY_AFTER[0]

    async def _read_on(self, connection: RedisConnection) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._checked_at > CHECK_EVERY:
            await self._check(connection, loop)
        milliseconds = max(1, int(self.block * _MILLI))
        block: tuple[str | int, ...] = ("BLOCK", milliseconds) if self.is_current else ()
        reply = await connection.command(
            *("XREAD", "COUNT", ENTRIES_PER_READ, *block, "STREAMS", self._stream, self._position),
            wait=self.block if block else 0.0,
        )
        entries = list(_entries(reply))
        for entry_id, fields in entries:
            self._position = entry_id
            self._receive(entry_id, fields)
        if len(entries) < ENTRIES_PER_READ:
            self.read_at = loop.time()
            if self._anchor == _START:
                self._anchor = self._position
            if not self.is_current:
                self.is_current = True
                self._became_current.set()
        self._wake_sender()

    async def _check(self, connection: RedisConnection, loop: asyncio.AbstractEventLoop) -> None:
        """Check that the stream is still the one that was read; if not, read it from the start."""
        seconds, micro = await connection.command("TIME")
        now = int(seconds) * 1_000_000 + int(micro)
        if shift := self._denials.set_time(now, is_first=not self._has_time):
            self._waiting = collections.deque(shifted(each, shift) for each in self._waiting)
        self._has_time = self._knows_time = True
        self._wake.set()
        stands = int(await connection.command("HLEN", self._standing))
        has_lost = stands < self._denials.standing or await self._has_lost(connection)
        if stands and (has_lost or self._position == _START):
            await self._read_standing(connection)
        if has_lost:
            self._position = self._anchor = _START
            self._there = Denials(self._denials.keep)
            self._refill_at = loop.time() + random.uniform(*REFILL_AFTER)  # noqa: S311
            loop.call_at(self._refill_at, self._wake.set)
        self._checked_at = loop.time()

    async def _read_standing(self, connection: RedisConnection) -> None:
        cursor: Any = 0
        while True:
            found = await connection.command("HSCAN", self._standing, cursor, "COUNT", _SCANNED)
            cursor, fields = found
            for who, text in _pairs(fields).items():
                for change in _standing(who, _text(text)):
                    self._apply(change)
            if int(cursor) == 0:
                return

    async def _has_lost(self, connection: RedisConnection) -> bool:
        """Tell whether an entry is gone that was read last, or last before the check before.

        Others may have added some since Redis lost what it had, and they may have been read.
        """
        for entry_id in {self._position, self._anchor} - {_START}:
            if not await connection.command("XRANGE", self._stream, entry_id, entry_id):
                return True
        self._anchor = self._position
        return False

    def _receive(self, entry_id: str, fields: dict[str, str | bytes]) -> None:
        if "look" in fields:
            if self.is_current:
                self.on_look()
            return
        latest = max(_order(entry_id)[0] * _MILLI, self._denials.time()) + FUTURE * 1e6
        for change in self._decoded(fields.get("all", b""), latest):
            self._apply(change)
        if _text(fields.get("from", "")) == self._origin:
            self._pending.pop(int(_text(fields["number"])), None)

    def _apply(self, change: Change) -> None:
        self._denials.apply(change)
        if self._there is not None:
            self._there.apply(change)

    def _decoded(self, text: str | bytes, latest: float) -> tuple[Change, ...]:
        try:
            changes = self._decoder.decode(text)
            if all(_is_sound(change, latest) for change in changes):
                return changes
        except (msgspec.MsgspecError, UnicodeError):
            pass
        if not self._has_logged:
            self._has_logged = True
            logger.warning(
                "an entry of the shared feed is unreadable and was dropped; "
                "this warning is logged only once"
            )
        return ()

    # -- after a loss --------------------------------------------------------------------------

    def _wake_sender(self) -> None:
        if self._pending:
            self._wake.set()

    async def _refill(self, now: float) -> None:
        """Add what this process knows and the stream lacks, once others have had their chance."""
        there = self._there
        if there is None or now < self._refill_at or not self.is_current:
            return
        for count, change in enumerate(self._denials.changes(not_in=there)):
            self._waiting.append(change)
            if count % _BREATH == 0:
                await asyncio.sleep(0)
        self._there = None
        self._bundle()


def _standing(who: str, text: str) -> Iterator[Change]:
    """Yield the changes in a field of the hash: the last `allow`, and the cut-offs since."""
    of: Subject = "everyone" if who == EVERYONE else "user"
    ids = () if who == EVERYONE else (who,)
    words = text.split(" ")
    with suppress(ValueError):
        yield Change(int(words[0]), of, ids, is_allowed=True)
        for word in words[1:]:
            at, _, before = word.partition(":")
            yield Change(int(at), of, ids, before=float(before))


def _is_sound(change: Change, latest: float) -> bool:
    return (
        0 <= change.at <= latest
        and len(change.ids) <= IDS_PER_ENTRY
        and all(0 < len(each) <= _LONGEST_ID for each in change.ids)
        and (change.of != "user" or len(change.ids) == 1)
    )


def _entries(reply: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entries of one stream, in whichever shape redis-py returns them."""
    streams: list[Any] = list(reply.values()) if hasattr(reply, "values") else reply or []
    for stream in streams:
        found: Any = stream if hasattr(reply, "values") else stream[1]
        rows: list[Any] = found[0] if found and isinstance(found[0], list) else found
        for entry_id, fields in rows:
            if fields:
                yield _text(entry_id), _pairs(fields)


def _pairs(found: Any) -> dict[str, Any]:
    """Return a mapping from a reply that redis-py may leave as a flat list."""
    pairs: Any = found if hasattr(found, "items") else dict(zip(*[iter(found)] * 2, strict=False))
    return {_text(name): value for name, value in pairs.items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def _do_nothing() -> None:
    pass
