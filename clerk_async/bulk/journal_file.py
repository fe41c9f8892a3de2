"""The journal file: its lines, its lock, and reading it; see `clerk_async.bulk.journal`."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import attrs
import msgspec

from clerk_async.bulk.report import RevocationStatus
from clerk_async.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where two concurrent runs go unnoticed
    fcntl = None  # type: ignore[assignment]

RunKind = Literal["revoke_many", "revoke_all"]

_log = logging.getLogger("clerk_async")

VERSION: Final = 1
BREATH: Final = 1000
"""After this many lines, the reader of a journal checks whether it is still wanted."""
_HEADER_START: Final = b'{"clerk_async_journal":'
_DONE: Final = frozenset(status.value for status in RevocationStatus if status.is_done)
_KNOWN: Final = _DONE | {RevocationStatus.FAILED.value}
# O_NONBLOCK because opening a FIFO would block until its other end is open
_FLAGS: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


class _Line(msgspec.Struct):
    id: str | None = None
    status: str | None = None
    clerk_async_journal: int | None = None
    instance: str | None = None
    run: str | None = None


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


def line_for(session_id: str, status: RevocationStatus) -> bytes:
    """Return the line for a session."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")[:-6]
    return b'{"id": %b, "status": "%b", "at": "%bZ"}\n' % (
        _encode(session_id),
        status.value.encode(),
        at.encode(),
    )


class OpeningCancelledError(Exception):
    """The journal is no longer wanted; for internal use only."""


def append(fd: int, line: bytes, path: Path) -> None:
    """Append a line in one write.

    Raises:
        JournalError: If it can't be written completely, or if the file was removed or replaced, so
            that the next run would not find the line.
    """
    try:
        check_place(fd, path)
        written = os.write(fd, line)
    except OSError as error:
        raise trouble("can't be written", path, error) from None
    if written != len(line):
        raise JournalError(f"the journal {path} can't be written: the disk is full")


def check_place(fd: int, path: Path) -> None:
    """Check that an open file is still the one that its path names.

    Raises:
        JournalError: If it was removed or replaced.
        OSError: If the check fails.
    """
    try:
        is_same = os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise JournalError(f"the journal {path} was removed or replaced while it was in use")


def trouble(what: str, path: Path, error: OSError) -> JournalError:
    """Return an error that names the file and the reason."""
    return JournalError(f"the journal {path} {what}: {error.strerror or type(error).__name__}")


def open_file(
    path: Path,
    *,
    accept_other_key: bool,
    instance: str,
    run: RunKind,
    for_writing: bool,
    is_wanted: Callable[[], bool] = lambda: True,
) -> tuple[int, set[str]] | None:
    """Open, lock and read a journal, or create one; return its descriptor and the ids done.

    Without `for_writing`, the descriptor is -1, and the result is None if there is no file.

    Raises:
        JournalError: If it can't be read, written or trusted.
        OpeningCancelledError: If `is_wanted` returned False meanwhile.
    """
    try:
        fd = _open(path, for_writing=for_writing)
    except OSError as error:
        raise trouble("can't be opened", path, error) from None
    if fd is None:
        return None
    try:
        _check_kind(fd, path)
        if for_writing:
            _lock(fd, path)
        check_place(fd, path)
        with open(fd, "rb", closefd=False) as file:
            found = _read(file, path, run, is_wanted)
        if not accept_other_key:
            _check_key(found, instance, path)
        if not for_writing:
            os.close(fd)
            return -1, found.done
        _prepare(fd, path, found)
        if found.instance != instance:
            append(fd, _header(instance, run), path)
            os.fsync(fd)
    except OSError as error:
        os.close(fd)
        raise trouble("can't be used", path, error) from None
    except BaseException:
        os.close(fd)
        raise
    return fd, found.done


def _open(path: Path, *, for_writing: bool) -> int | None:
    access = os.O_RDWR | os.O_APPEND | os.O_CREAT if for_writing else os.O_RDONLY
    try:
        fd = os.open(path, access | _FLAGS, 0o600)
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink may raise before Python 3.13
            raise JournalError(f"the journal {path} is a symbolic link: name the file") from None
        if isinstance(error, FileNotFoundError) and not for_writing and path.parent.is_dir():
            return None
        raise
    return fd


def _check_kind(fd: int, path: Path) -> None:
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise JournalError(f"the journal {path} is not a regular file")
    if hasattr(os, "geteuid") and facts.st_uid != os.geteuid():
        # its owner may have written ids that this run would skip
        raise JournalError(f"the journal {path} belongs to another user")


def _lock(fd: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"the journal {path} is in use by another run") from None
    except OSError as error:  # a file system that doesn't support locks
        _log.warning("the journal %s can't be locked: %s", path, error.strerror)


@attrs.define
class _Found:
    """The content of a file: the last key that wrote it, the ids, and how many bytes are intact."""

    instance: str | None = None
    done: set[str] = attrs.field(factory=set[str])
    whole: int = 0
    lacks_newline: bool = False
    unreadable: int = 0


def _read(file: BinaryIO, path: Path, run: RunKind, is_wanted: Callable[[], bool]) -> _Found:
    found = _Found()
    tail = b""
    for number, raw in enumerate(file):
        if number % BREATH == 0 and not is_wanted():
            raise OpeningCancelledError
        if not raw.endswith(b"\n"):
            tail = raw
            break
        line = _line(raw if found.whole else raw.removeprefix(codecs.BOM_UTF8))
        if not found.whole or (line is not None and line.clerk_async_journal is not None):
            found.instance = _check_header(line, path, run)
        elif line is None or not line.id or line.status not in _KNOWN:
            found.unreadable += bool(raw.strip())
        elif line.status in _DONE:
            found.done.add(line.id)
        found.whole += len(raw)
    _read_tail(found, tail, path)
    if found.unreadable:
        _log.warning(
            "the journal %s has unreadable lines (%d); their sessions are sent again",
            path,
            found.unreadable,
        )
    return found


def _read_tail(found: _Found, tail: bytes, path: Path) -> None:
    if not found.whole:
        # new, or the process was killed while it wrote the header
        if tail.startswith(_HEADER_START) or _HEADER_START.startswith(tail):
            return
        raise JournalError(f"{path} is not a journal of clerk_async")
    last = _line(tail)
    if last is not None and last.id and last.status in _KNOWN:  # complete except for its newline
        found.lacks_newline = True
        found.whole += len(tail)
        if last.status in _DONE:
            found.done.add(last.id)


def _line(raw: bytes) -> _Line | None:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _check_header(line: _Line | None, path: Path, run: RunKind) -> str:
    if line is None or line.clerk_async_journal is None or line.instance is None:
        raise JournalError(f"{path} is not a journal of clerk_async")
    if line.clerk_async_journal != VERSION:
        raise JournalError(
            f"the journal {path} has format {line.clerk_async_journal}; "
            f"this release supports {VERSION}"
        )
    if line.run != run:
        raise JournalError(
            f"the journal {path} belongs to another kind of run: {line.run}, not {run}"
        )
    return line.instance


def _header(instance: str, run: RunKind) -> bytes:
    at = datetime.now(UTC).isoformat(timespec="seconds")[:-6]
    header = {"clerk_async_journal": VERSION, "instance": instance, "run": run, "at": f"{at}Z"}
    return _encode(header) + b"\n"


def _check_key(found: _Found, instance: str, path: Path) -> None:
    if found.instance not in {None, instance}:
        raise JournalError(
            f"the journal {path} belongs to another secret key; if the key was rotated and "
            "the instance is the same, pass Journal(path, accept_other_key=True)"
        )


def _prepare(fd: int, path: Path, found: _Found) -> None:
    """Prepare a file that was read for more lines."""
    if hasattr(os, "fchmod"):  # not on Windows before Python 3.13
        os.fchmod(fd, 0o600)
    if found.whole < os.fstat(fd).st_size:
        os.ftruncate(fd, found.whole)
    if found.lacks_newline:
        append(fd, b"\n", path)
    if found.instance is None:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system supports it
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
