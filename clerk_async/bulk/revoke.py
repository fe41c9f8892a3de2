"""Start a run: over a row of ids, or over the sessions of users; as a report, or as a stream.

Whoever calls these has made the values that they take, which check themselves, so that nothing is
sent for arguments that can't be used. A run that stops finishes what is in flight. So does one that
is cancelled, within two seconds.
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
    from clerk_async.bulk.target import RevocationTarget


async def revoke_many(
    target: RevocationTarget,
    session_ids: Iterable[str] | AsyncIterable[str],
    options: RunOptions,
) -> RevocationReport:
    """Revoke each of these sessions, and report.

    Raises:
        InvalidArgumentError: If the ids are no iterable; nothing was sent.
        JournalError: If the journal can't be used; nothing was sent, unless it broke on the way.
    """
    return await BulkRun(target, options, IdWork(session_ids), "revoke_many").report()


def revoke_stream(
    target: RevocationTarget,
    session_ids: Iterable[str] | AsyncIterable[str],
    options: RunOptions,
) -> AsyncGenerator[RevocationOutcome, None]:
    """Revoke each of these sessions, and yield the outcomes as they come to be known.

    A slow reader slows the sends down. A reader who leaves early stops the run: what is in flight
    is finished then, and journaled.

    Raises:
        InvalidArgumentError: If the ids are no iterable; nothing was sent.
        JournalError: As in `revoke_many`, from the iteration.
    """
    return BulkRun(target, options, IdWork(session_ids), "revoke_many").outcomes()


async def revoke_all(
    target: RevocationTarget, selection: Selection, options: RunOptions
) -> RevocationReport:
    """Revoke the live sessions that are meant, and report.

    Raises:
        JournalError: As in `revoke_many`.
    """
    work = Sweep(target, selection, dry_run=options.dry_run)
    return await BulkRun(target, options, work, "revoke_all").report()
