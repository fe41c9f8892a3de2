"""The journal of a run: its default place, and what it says is done."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from clerk_async.bulk.journal import Journal
from clerk_async.bulk.journal_file import open_file
from clerk_async.cli.app import program_name
from clerk_async.cli.filters import Filters, with_fixed_times
from clerk_async.cli.output import shell_words
from clerk_async.errors import JournalError
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from clerk_async.bulk.journal_file import RunKind
    from clerk_async.bulk.report import RevocationReport
    from clerk_async.cli.app import Settings
    from clerk_async.cli.output import Output


_LEAST_FREE: Final = 64 * 1024
"""Bytes that a disk must have free: a journal that can't be written would end its run."""


def state_folder() -> Path:
    """Return the folder of this user's journals.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():  # the specification says to ignore relative paths
        return named / "clerk-async"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "clerk-async"
    return Path.home() / ".local" / "state" / "clerk-async"


def new_journal(out: Output, kind: RunKind) -> Journal | None:
    """Return a new journal for this run; None, with a message, if there is no place for one.

    Its name contains the time, so that next week's run of the same command skips nobody.
    """
    try:
        folder = state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        why = getattr(error, "strerror", None) or str(error)
        out.error(
            f"no journal is kept, because its folder can't be used ({why}): an interrupted run "
            "would start from the beginning; --journal FILE names another place"
        )
        return None
    name = f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    names = chain([f"{name}.jsonl"], (f"{name}-{number}.jsonl" for number in count(2)))
    return Journal(next(path for one in names if not (path := folder / one).exists()))


def _check_folder(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if shutil.disk_usage(folder).free < _LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def done_by(journal: Journal, *, instance: str, run: RunKind, dry_run: bool) -> set[str]:
    """Check a journal before anything is sent, and return the ids that it says are done.

    Raises:
        JournalError: If it can't be used.
    """
    path = journal.path
    if not dry_run and not os.path.lexists(path):  # Path's own methods raise without permission
        folder = path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            why = "is not a writable folder" if os.path.exists(folder) else "doesn't exist"  # noqa: PTH110
            raise JournalError(f"the journal {path} can't be created: {folder} {why}")
        return set()
    opened = open_file(
        path,
        accept_other_key=journal.accept_other_key,
        instance=instance,
        run=run,
        for_writing=not dry_run,
    )
    if opened is None:
        return set()
    descriptor, done = opened
    if descriptor >= 0:
        os.close(descriptor)
    return done


def remove_small(out: Output, journal: Journal, report: RevocationReport, *, most: int) -> None:
    """Remove the journal that we named if all of a run of at most `most` sessions is done."""
    if report.ok and report.total <= most:
        with suppress(OSError):
            journal.path.unlink()
    else:
        out.note(f"journal: {journal.path}")


@attrs.frozen
class Resume:
    """How to resume an interrupted run.

    Attributes:
        settings: The global options, and all arguments.
        journal: The run's journal, or None.
        is_chosen: Whether the user named the journal, so that the command already contains it.
        filters: Which sessions are selected.
        is_stdin: Whether the ids come from stdin.
    """

    settings: Settings
    journal: Journal | None
    is_chosen: bool
    filters: Filters
    is_stdin: bool

    def tell(self) -> None:
        """Print the command that resumes."""
        arguments = with_fixed_times(self.settings.arguments, self.filters)
        if self.journal is not None and not self.is_chosen:
            end = arguments.index("--") if "--" in arguments else len(arguments)
            arguments[end:end] = ["--journal", str(self.journal.path)]
        if self.journal is not None:
            how = "To resume where this run stopped, run"
        else:
            how = (
                "To continue, run this again (without a journal, finished sessions are sent once "
                "more, which does no harm)"
            )
        if self.is_stdin:
            how += ", with the same ids on stdin"
        if any(word.startswith("/dev/fd/") for word in arguments):
            how += ", with the same input in place of /dev/fd/…"
        again = redact(shell_words([*program_name().split(), *arguments]))
        self.settings.out.error(f"{how}:\n  {again}")
