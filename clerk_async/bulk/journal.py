r"""The journal of a bulk run: what is done, so that a second run skips it.

The file
--------
UTF-8 text, one JSON object a line, mode 0600, only ever appended to. The first line names the format's
version, the instance (a SHA-256 hash of the secret key, never the key) and the kind of run:

    {"clerk_async_journal": 1, "instance": "9f86d0…", "run": "revoke_many", "at": "2026-03-01T…Z"}

and every further line one session, written when its outcome is known and before anybody is told:

    {"id": "sess_1", "status": "revoked", "at": "2026-03-01T12:00:00.123Z"}

`status` is `revoked`, `already_inactive` or `not_found`, which a later run skips, or `failed`, which it
sends again. Another header further down says from where on another key was used (see
`Journal.accept_other_key`).

What survives what
------------------
Each line is one write(2), so that a killed process (SIGKILL too) loses no line. An fsync(2) follows at
most once a second, outside the event loop, and at the end: a power cut may lose the last second, and
those sessions are then revoked once more, which does no harm. (An fsync per line would cost 20 to
100 times the time of the line itself.)

What is decided
---------------
- A torn last line (no newline at its end, and no JSON) is cut off: its session is sent again.
- A line in the middle that can't be read, or with an unknown status, is skipped with one warning: its
  session is sent again. Empty lines are skipped. An empty file is a new journal.
- A first line that is no header, a header of another version, of another kind of run, or of another
  instance, a symbolic link, anything but a regular file, a file or folder that can't be written, and a
  file that another run holds: `JournalError` before any request, and the file is left as it is.
- A line that can't be written (a full disk, a quota, a lost mount): the run ends, with what is in
  flight finished first, and raises `JournalError`. What was cut short is torn, see above.
- Two runs at once: the second is refused; the lock is flock(2)'s, so it goes when the process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import attrs
import msgspec

from clerk_async.bulk.report import RevocationStatus
from clerk_async.errors import InvalidArgumentError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import fcntl
except (
    ImportError
):  # pragma: no cover - Windows has no flock: there two runs at once aren't noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["Journal", "OpenJournal", "RunKind"]

RunKind = Literal["revoke_many", "revoke_all"]
T = TypeVar("T")

_log = logging.getLogger("clerk_async")

VERSION: Final = 1
SYNC_INTERVAL: Final = 1.0
"""Seconds between two fsyncs."""
_HEADER_START: Final = b'{"clerk_async_journal":'
_DONE: Final = frozenset(status.value for status in RevocationStatus if status.is_done)
_KNOWN: Final = _DONE | {RevocationStatus.FAILED.value}
_OPEN_FLAGS: Final = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@attrs.frozen
class Journal:
    """Where a bulk run notes what is done, and finds what an earlier run has done.

    Attributes:
        path: The file; made if there is none, in a folder that exists.
        accept_other_key: Go on with a journal that was written under another secret key of the same
            instance: say so after a key was rotated.

    Raises:
        InvalidArgumentError: If `path` is no path.

    Example:
        >>> Journal("job.jsonl", accept_other_key=True).path.name
        'job.jsonl'
    """

    path: Path = attrs.field()
    accept_other_key: bool = attrs.field(default=False, kw_only=True)

    def __init__(self, path: str | os.PathLike[str], *, accept_other_key: bool = False) -> None:
        if isinstance(path, bytes) or not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(f"journal must be a path, not {type(path).__name__}")
        text = os.fspath(path)
        if not text or "\0" in text:
            raise InvalidArgumentError("journal is not a usable path")
        self.__attrs_init__(Path(text), accept_other_key=accept_other_key)  # type: ignore[attr-defined]


class _Header(msgspec.Struct):
    clerk_async_journal: int
    instance: str
    run: str


class _Line(msgspec.Struct):
    id: str | None = None
    status: str | None = None
    clerk_async_journal: int | None = None
    instance: str | None = None
    run: str | None = None


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_encode_text = msgspec.json.Encoder().encode


class OpenJournal:
    """A journal in use by one run."""

    def __init__(self, path: Path, fd: int, done: set[str]) -> None:
        self.path = path
        self._fd = fd
        self._earlier = done
        self._now: set[str] = set()
        self._unsynced = False
        self._synced_at = time.monotonic()
        self._syncing: asyncio.Future[None] | None = None

    def was_done_earlier(self, session_id: str) -> bool:
        """Whether an earlier run did it; True once for an id that comes again."""
        if session_id in self._earlier:
            self._earlier.discard(session_id)
            self._now.add(session_id)
            return True
        return False

    def is_done(self, session_id: str) -> bool:
        """Whether this run has already seen it done: a duplicate from far back."""
        return session_id in self._now

    def write(self, session_id: str, status: RevocationStatus) -> None:
        """Append what became of one session.

        Raises:
            JournalError: If the line can't be written whole.
        """
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        line = b'{"id": %b, "status": "%b", "at": "%bZ"}\n' % (
            _encode_text(session_id),
            status.value.encode(),
            at.encode(),
        )
        _append(self._fd, line, self.path)
        if status.is_done:
            self._now.add(session_id)
        self._unsynced = True
        if self._syncing is None and time.monotonic() - self._synced_at >= SYNC_INTERVAL:
            self._sync_aside()

    def _sync_aside(self) -> None:
        loop = asyncio.get_running_loop()
        self._unsynced = False
        try:
            self._syncing = loop.run_in_executor(None, os.fsync, self._fd)
        except RuntimeError:  # the interpreter is ending and starts no thread any more
            self._synced_at = time.monotonic()
            return
        self._syncing.add_done_callback(self._has_synced)

    def _has_synced(self, done: asyncio.Future[None]) -> None:
        self._syncing = None
        self._synced_at = time.monotonic()
        if not done.cancelled() and done.exception() is not None:
            self._unsynced = True  # told by the fsync at the end, if it is to last

    def abandon(self) -> None:
        """Let go of a file that nothing was written to."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def close(self) -> None:
        """Make it safe on the disk and let it go.

        Raises:
            JournalError: If the disk refuses.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])
            if self._unsynced:
                await _in_thread(lambda: os.fsync(fd))
        except OSError as error:
            raise _trouble("could not be made safe on the disk", self.path, error) from None
        finally:
            os.close(fd)


async def open_journal(
    journal: Journal, *, instance: str, run: RunKind, for_writing: bool
) -> OpenJournal | None:
    """Open, lock and read a journal, or begin one; None where a dry run finds none.

    Raises:
        JournalError: If it can't be read, written or trusted; see the module's text.
    """
    opening = asyncio.ensure_future(
        _in_thread(lambda: _open(journal, instance=instance, run=run, for_writing=for_writing))
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_let_go)
        raise


def _let_go(opening: asyncio.Future[OpenJournal | None]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opened = opening.result()
        if opened is not None:
            opened.abandon()


def _open(
    journal: Journal, *, instance: str, run: RunKind, for_writing: bool
) -> OpenJournal | None:
    path = journal.path
    try:
        if for_writing:
            fd = os.open(path, _OPEN_FLAGS | _NO_FOLLOW | os.O_CREAT, 0o600)
        else:
            fd = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    except FileNotFoundError as error:
        if not for_writing and path.parent.is_dir() and not path.is_symlink():
            return None
        raise _trouble("can't be opened", path, error) from None
    except OSError as error:
        if path.is_symlink():
            raise JournalError(f"the journal {path} is a symbolic link: name the file") from None
        raise _trouble("can't be opened", path, error) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise JournalError(f"the journal {path} is not a regular file")
        if for_writing and fcntl is not None:
            _lock(fd, path)
        content = _read_all(fd, path)
        done, keep, other_key = _read(content, journal, instance=instance, run=run)
        if for_writing:
            _begin(
                fd, content, keep, path, b"" if not other_key and keep else _header(instance, run)
            )
        else:
            os.close(fd)
            fd = -1
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise _trouble("can't be used", path, error) from None
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return OpenJournal(path, fd, done)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"the journal {path} is in use by another run") from None
    except OSError as error:  # a file system without locks
        _log.warning("the journal %s can't be locked: %s", path, error.strerror)


def _read_all(fd: int, path: Path) -> bytes:
    size = os.fstat(fd).st_size
    with open(fd, "rb", closefd=False) as file:  # noqa: PTH123 - it is open already
        content = file.read()
    if len(content) < size:
        raise JournalError(f"the journal {path} changed while it was read")
    return content


def _read(
    content: bytes, journal: Journal, *, instance: str, run: RunKind
) -> tuple[set[str], int, bool]:
    """Give the ids that are done, how much of the file to keep, and whether the key is another."""
    path = journal.path
    end = content.rfind(b"\n") + 1
    tail = content[end:]
    lines = content[:end].split(b"\n")
    lines.pop()
    if not lines:
        if not tail or tail.startswith(_HEADER_START) or _HEADER_START.startswith(tail):
            return set(), 0, False  # new, or killed while the header was written
        raise JournalError(f"{path} is not a journal of clerk_async")
    written_by = _check_header(lines[0], path, run)
    done: set[str] = set()
    unreadable = 0
    for raw in lines[1:]:
        if not raw.strip():
            continue
        try:
            line = _decode_line(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
            continue
        if line.clerk_async_journal is not None:
            written_by = _check_header(raw, path, run)
        elif line.id and line.status in _DONE:
            done.add(line.id)
        elif not line.id or line.status not in _KNOWN:
            unreadable += 1
    if tail:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            last = _decode_line(tail)  # whole but for its newline
            if last.id and last.status in _KNOWN:
                end = len(content)
                if last.status in _DONE:
                    done.add(last.id)
    if unreadable:
        _log.warning(
            "the journal %s holds %d lines that can't be read; their sessions are sent again",
            path,
            unreadable,
        )
    if written_by != instance and not journal.accept_other_key:
        raise JournalError(
            f"the journal {path} belongs to another secret key; if the key was rotated and the "
            "instance is the same, pass Journal(path, accept_other_key=True)"
        )
    return done, end, written_by != instance


def _check_header(raw: bytes, path: Path, run: RunKind) -> str:
    try:
        header = _decode_header(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise JournalError(f"{path} is not a journal of clerk_async") from None
    if header.clerk_async_journal != VERSION:
        raise JournalError(
            f"the journal {path} has format {header.clerk_async_journal}; this release knows "
            f"{VERSION}"
        )
    if header.run != run:
        raise JournalError(f"the journal {path} belongs to another kind of run: {header.run!r}")
    return header.instance


def _header(instance: str, run: RunKind) -> bytes:
    return _encode_text(
        {
            "clerk_async_journal": VERSION,
            "instance": instance,
            "run": run,
            "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
    )


def _begin(fd: int, content: bytes, keep: int, path: Path, header: bytes) -> None:
    with contextlib.suppress(PermissionError):  # another owner's file that we may write
        os.fchmod(fd, 0o600)
    if keep < len(content):
        os.ftruncate(fd, keep)
    if keep and not content[:keep].endswith(b"\n"):
        _append(fd, b"\n", path)
    if header:
        _append(fd, header + b"\n", path)
        os.fsync(fd)
        if not keep:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _append(fd: int, line: bytes, path: Path) -> None:
    try:
        written = os.write(fd, line)
    except OSError as error:
        raise _trouble("can't be written", path, error) from None
    if written != len(line):
        raise JournalError(f"the journal {path} can't be written: the disk is full")


def _trouble(what: str, path: Path, error: OSError) -> JournalError:
    return JournalError(f"the journal {path} {what}: {error.strerror or type(error).__name__}")


async def _in_thread(work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    try:
        waiting = loop.run_in_executor(None, work)
    except RuntimeError:  # the interpreter is ending and starts no thread any more
        return work()
    return await waiting
