"""Start a run over ids or over the sessions of users, and return a report or a stream.

The options and the selection validate themselves when they are created, so nothing is sent if an
argument is invalid. A stopped run finishes what is in flight. A cancelled run does too, within two
seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.bulk.run import BulkRun
from clerk_async.bulk.sweep import Sweep
from clerk_async.bulk.work import IdWork

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable

    from clerk_async.bulk.options import RunOptions
    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.bulk.sweep import Selection
    from clerk_async.bulk.verdict import RevocationTarget


async def revoke_many(
    target: RevocationTarget, session_ids: Iterable[str] | AsyncIterable[str], options: RunOptions
) -> RevocationReport:
    """Revoke each of these sessions, and return the report.

    Raises:
        InvalidArgumentError: If the ids are not iterable; nothing was sent.
        JournalError: If the journal can't be used (nothing was sent), or fails during the run.
    """
    return await BulkRun(target, options, IdWork(session_ids)).report()


def revoke_stream(
    target: RevocationTarget, session_ids: Iterable[str] | AsyncIterable[str], options: RunOptions
) -> AsyncGenerator[RevocationOutcome, None]:
    """Revoke each of these sessions, and yield each outcome as it becomes known.

    A slow reader slows the sends down. If the reader stops early, the run stops too: it finishes
    what is in flight and writes those outcomes to the journal.

    Raises:
        InvalidArgumentError: If the ids are not iterable; nothing was sent.
        JournalError: As in `revoke_many`, from the iteration.
    """
    return BulkRun(target, options, IdWork(session_ids)).outcomes()


async def revoke_all(
    target: RevocationTarget, selection: Selection, options: RunOptions
) -> RevocationReport:
    """Revoke the selected live sessions, and return the report.

    Raises:
        JournalError: As in `revoke_many`.
    """
    work = Sweep(target, selection, dry_run=options.dry_run)
    return await BulkRun(target, options, work).report()
