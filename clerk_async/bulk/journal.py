"""The journal of a bulk run: what is done, so that a second run skips it.

The file
--------
UTF-8 text, one JSON object a line, mode 0600, only ever appended to. The first line names the
format's version, the instance (a SHA-256 hash of the secret key, never the key) and the kind of run
(`revoke_stream` is a `revoke_many`):

    {"clerk_async_journal":1,"instance":"…","run":"revoke_many","at":"2026-03-01T12:00:00Z"}

and every further line one session, written when its outcome is known and before anybody is told:

    {"id": "sess_1", "status": "revoked", "at": "2026-03-01T12:00:00.123Z"}

`status` is `revoked`, `already_inactive` or `not_found`, which a later run skips, or `failed`,
which it sends again. Another header further down says from where on another key was used (see
`Journal.accept_other_key`). Malformed ids and sessions that were not attempted are not written.

What survives what
------------------
Each line is one write(2), so a killed process (SIGKILL too) loses no line. An fsync(2) follows at
most once a second, outside the event loop, and at the end: a power cut may lose the last second,
and those sessions are then revoked once more, which does no harm. Measured on ext4: 3.4 µs a line
so, 180 µs with an fsync for each; 40,000 lines (4 MB) are read in 25 ms.

What is decided
---------------
- A torn last line (no newline at its end, and no JSON) is cut off: its session is sent again.
- A line in the middle that can't be read, or with an unknown status, is skipped with one warning:
  its session is sent again. Empty lines are skipped. An empty file is a new journal.
- A first line that is no header, a header of another version, of another kind of run, or of another
  instance, a symbolic link, anything but a regular file, a file or folder that can't be written,
  a file of another user, and a file that another run holds: `JournalError` before any request,
  the file left as it is.
- A file that is removed or replaced while a run uses it: `JournalError`, as for a full disk.
- A line that can't be written (a full disk, a quota, a lost mount): the run ends, with what is in
  flight finished first, and raises `JournalError`. What was cut short is torn, see above.
- Two runs at once: the second is refused; the lock is flock(2)'s, so it goes when the process does.
- A dry run reads the journal, if there is one, and writes nothing.

What a run has done stays in memory too, about 150 bytes an id, to know an id that comes again from
far back in the input.
"""

from __future__ import annotations

import asyncio
import os
import threading
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
"""Seconds between two fsyncs."""
LET_GO_GRACE: Final = 2.0
"""Seconds that a run which is cancelled waits for its journal to be let go of."""
THREAD: Final = "clerk_async journal"


def _to_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"journal must be a path, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError("journal is not a usable path")
    return Path(text)


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

    path: Path = attrs.field(converter=_to_path)
    accept_other_key: bool = attrs.field(default=False, kw_only=True)


class OpenJournal:
    """A journal in use by one run.

    Args:
        path: The file.
        fd: The file, open and locked; -1 where nothing may be written.
        done: The ids that earlier runs have done.
    """

    def __init__(self, path: Path, fd: int, done: set[str]) -> None:
        self._path = path
        self._fd = fd
        self._earlier = done
        self._now: set[str] = set()
        self._is_synced = True
        self._synced_at = monotonic()
        self._syncing: asyncio.Future[None] | None = None

    def was_done_earlier(self, session_id: str) -> bool:
        """Whether an earlier run did it; True once for an id that comes again."""
        if session_id not in self._earlier:
            return False
        self._earlier.discard(session_id)
        self._now.add(session_id)
        return True

    def is_done(self, session_id: str) -> bool:
        """Whether this run has already seen it done: a duplicate from far back."""
        return session_id in self._now

    def write(self, session_id: str, status: RevocationStatus) -> None:
        """Append what became of one session.

        Raises:
            JournalError: If the line can't be written whole.
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
            self._is_synced = False  # the one at the end tells, if the trouble lasts

    def abandon(self) -> None:
        """Let go of a file that can't be written, or was never used."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._syncing is not None:  # it still holds the file
            self._syncing.add_done_callback(lambda _: os.close(fd))
        else:
            os.close(fd)

    def _make_safe(self, fd: int) -> None:
        if not self._is_synced:
            os.fsync(fd)
        check_place(fd, self._path)

    async def close(self) -> None:
        """Make it safe on the disk and let it go.

        Raises:
            JournalError: If the disk refuses, or the file was removed or replaced.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])
            await in_thread(THREAD, lambda: self._make_safe(fd))
        except OSError as error:
            raise trouble("could not be made safe on the disk", self._path, error) from None
        finally:
            os.close(fd)


async def open_journal(
    journal: Journal, *, instance: str, run: RunKind, for_writing: bool
) -> OpenJournal | None:
    """Open, lock and read a journal, or begin one; None where a dry run finds none.

    Raises:
        JournalError: If it can't be read, written or trusted; see the module's text.
    """
    opening = _Opening()

    def work() -> None:
        try:
            path = journal.path.absolute()  # a program may change its folder meanwhile
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

    Whoever comes last closes it: the thread if the run is gone, the run if it goes later, also
    where its loop is closed without another turn.
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
