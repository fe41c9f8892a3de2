"""The journal of a bulk run: it records what is done, so that a second run skips it.

The file
--------
UTF-8 text, one JSON object per line, mode 0600, append-only. The first line names the format
version, the instance (a SHA-256 hash of the secret key, never the key) and the kind of run
(`revoke_stream` counts as `revoke_many`):

    {"clerk_async_journal":1,"instance":"…","run":"revoke_many","at":"2026-03-01T12:00:00Z"}

Each other line is one session, written when its outcome is known and before it is reported:

    {"id": "sess_1", "status": "revoked", "at": "2026-03-01T12:00:00.123Z"}

A later run skips sessions with the status `revoked`, `already_inactive` or `not_found`, and sends
those with `failed` again. A second header marks where another key took over (see
`Journal.accept_other_key`). Malformed ids and sessions that were not attempted are not written.

Durability
----------
Each line is one write(2), so a killed process (even by SIGKILL) loses no line. An fsync(2) follows
at most once a second, outside the event loop, and at the end. A power cut may lose the last second;
the next run then revokes those sessions again, which does no harm. Measured on ext4: 3.4 µs per
line, or 180 µs with an fsync for each; 40,000 lines (4 MB) are read in 25 ms.

Special cases
-------------
- A torn last line (without a newline, and not JSON) is cut off, and its session is sent again.
- A line in the middle that is unreadable or has an unknown status is skipped with one warning, and
  its session is sent again. Empty lines are skipped. An empty file is a new journal. Windows line
  ends and a byte order mark, which an editor may have added, change nothing.
- The run raises `JournalError` before any request, and leaves the file as it is, if the first line
  is not a header, or is the header of another version, kind of run or instance; and if the path is
  a symbolic link, is not a regular file, can't be written, belongs to another user, or is in use by
  another run.
- If a line can't be written (a full disk, a quota, a lost mount), the run finishes what is in
  flight, ends, and raises `JournalError`. A line that was cut short counts as torn.
- If the file is removed or replaced during a run, the run ends with `JournalError` too.
- Of two concurrent runs, the second is rejected, except on Windows. The lock is flock(2)'s, so it
  ends with the process.
- A dry run reads the journal, if there is one, and writes nothing.

A run also keeps the ids that it has done in memory, about 150 bytes each, so that it recognizes a
duplicate from far back in the input.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from clerk_async.bulk.journal_file import (
    OpeningCancelledError,
    append,
    check_place,
    line_for,
    open_file,
    trouble,
)
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.daemon import in_thread, shielded
from clerk_async.under_test import monotonic

if TYPE_CHECKING:
    from clerk_async.bulk.journal_file import RunKind
    from clerk_async.bulk.report import RevocationStatus

SYNC_INTERVAL: Final = 1.0
"""Minimum seconds between two fsyncs."""
LET_GO_GRACE: Final = 2.0
"""Seconds that a cancelled run waits for its journal to be closed."""
THREAD: Final = "clerk_async journal"


def _to_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"journal must be a path, not {type(path).__name__}")
    text = os.fspath(path)
    try:
        is_usable = isinstance(text, str) and text and "\0" not in text and os.fsencode(text)  # pyright: ignore[reportUnnecessaryIsInstance]
    except UnicodeEncodeError:
        is_usable = False
    if not is_usable:
        raise InvalidArgumentError("journal is not a usable path")
    return Path(text)


@attrs.frozen
class Journal:
    """The file in which a bulk run records what is done, and finds what earlier runs did.

    Attributes:
        path: The file; created if it doesn't exist, but its folder must exist.
        accept_other_key: Continue a journal that was written under another secret key of the same
            instance. Set this after a key rotation.

    Raises:
        InvalidArgumentError: If `path` is not a path.

    Example:
        >>> Journal("job.jsonl", accept_other_key=True).path.name
        'job.jsonl'
    """

    path: Path = attrs.field(converter=_to_path)
    accept_other_key: bool = attrs.field(default=False, kw_only=True)


class OpenJournal:
    """A journal in use by one run.

    Args:
        path: The file.
        fd: The file, open and locked; -1 if nothing may be written.
        done: The ids that earlier runs did.
    """

    def __init__(self, path: Path, fd: int, done: set[str]) -> None:
        self._path = path
        self._fd = fd
        self._earlier = done
        self._now: set[str] = set()
        self._is_synced = True
        self._synced_at = monotonic()
        self._syncing: asyncio.Future[None] | None = None
        _open.add(self)

    def was_done_earlier(self, session_id: str) -> bool:
        """Return whether an earlier run did this session; True only once for each id."""
        if session_id not in self._earlier:
            return False
        self._earlier.discard(session_id)
        self._now.add(session_id)
        return True

    def is_done(self, session_id: str) -> bool:
        """Return whether this run has seen the session done, so that this is a duplicate."""
        return session_id in self._now

    def write(self, session_id: str, status: RevocationStatus) -> None:
        """Append the outcome of one session.

        Raises:
            JournalError: If the line can't be written completely.
        """
        if self._fd < 0:
            return
        append(self._fd, line_for(session_id, status), self._path)
        if status.is_done:
            self._now.add(session_id)
        self._is_synced = False
        if self._syncing is None and monotonic() - self._synced_at >= SYNC_INTERVAL:
            self._sync_aside()

    def _sync_aside(self) -> None:
        self._is_synced = True
        fd = self._fd
        self._syncing = in_thread(THREAD, lambda: os.fsync(fd))
        self._syncing.add_done_callback(self._has_synced)

    def _has_synced(self, syncing: asyncio.Future[None]) -> None:
        self._syncing = None
        self._synced_at = monotonic()
        if syncing.cancelled() or syncing.exception() is not None:
            self._is_synced = False  # if the error lasts, the fsync at the end reports it

    def abandon(self) -> None:
        """Close a file that can't be written, or was never used, without an fsync."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._syncing is not None:  # the fsync still uses the file
            self._syncing.add_done_callback(lambda _: os.close(fd))
        else:
            os.close(fd)

    def leave_to_parent(self) -> None:
        """Close the copy in a forked child, which would hold the lock after the run has ended."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _make_safe(self, fd: int) -> None:
        if not self._is_synced:
            os.fsync(fd)
        check_place(fd, self._path)

    async def close(self) -> None:
        """Sync the file to disk and close it.

        Raises:
            JournalError: If the fsync fails, or the file was removed or replaced.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])
            await in_thread(THREAD, lambda: self._make_safe(fd))
        except OSError as error:
            raise trouble("could not be synced to disk", self._path, error) from None
        finally:
            os.close(fd)


async def open_journal(
    journal: Journal, *, instance: str, run: RunKind, for_writing: bool
) -> OpenJournal | None:
    """Open, lock and read a journal, or create one; return None if a dry run finds none.

    Raises:
        JournalError: If it can't be read, written or trusted; see the module's docstring.
    """
    opening = _Opening()

    def work() -> None:
        try:
            path = journal.path.absolute()  # a program may change its working directory meanwhile
            opened = open_file(
                path,
                accept_other_key=journal.accept_other_key,
                instance=instance,
                run=run,
                for_writing=for_writing,
                is_wanted=lambda: opening.is_wanted,
            )
        except OSError as error:
            raise trouble("can't be used", journal.path, error) from None
        except OpeningCancelledError:
            return
        if opened is not None:
            opening.bring(OpenJournal(path, *opened))

    done = in_thread(THREAD, work)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        opening.give_up()
        with shielded():
            await asyncio.wait([done], timeout=LET_GO_GRACE)
        raise
    except BaseException:
        opening.give_up()
        raise
    return opening.opened


class _Opening:
    """A journal on its way from the thread that opens it to a run that may be gone by then.

    The thread closes it if the run is gone already. The run closes it if the run goes later, even
    if the run's event loop is closed without another turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_wanted: bool = True
        self.opened: OpenJournal | None = None

    def bring(self, opened: OpenJournal) -> None:
        with self._lock:
            if self.is_wanted:
                self.opened = opened
                return
        opened.abandon()

    def give_up(self) -> None:
        with self._lock:
            self.is_wanted = False
            opened, self.opened = self.opened, None
        if opened is not None:
            opened.abandon()


_open: Final[weakref.WeakSet[OpenJournal]] = weakref.WeakSet()


def _in_child() -> None:
    for journal in list(_open):
        journal.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
