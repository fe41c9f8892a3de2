"""Revoke many sessions: a row of ids, or all of some users; as a report, or outcome by outcome.

All three check their arguments when they are called, before anything is sent, and share these:

- `concurrency`: Requests at once at the most; None lets the run find out, up to the pool's size.
- `rate_limit`: Taken as it is; None means the client's own, or four fifths of the key's limit.
- `journal`: A path or a `Journal`: what it says is done is skipped, and what gets done is added.
- `dry_run`: Send no revocation and write nothing; sessions that would be revoked are `planned`.
- `max_failures`: Stop when so many sessions have failed; 0 and 1 both mean at the first.
- `deadline`: Stop after so many seconds.
- `should_stop`: Asked before each send (in a dry run before each that would be), and now and then
  while nothing is on its way; True stops the run.
- `on_outcome`, `on_progress`: Called with each outcome, and with a snapshot a few times a second.
  They may be coroutine functions. One that raises is logged once; the run goes on.

A run that stops finishes what is in flight. So does one that is cancelled, within two seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import datetime
from typing import TYPE_CHECKING

from clerk_async.bulk.intake import IdIntake, check_input
from clerk_async.bulk.options import check_options
from clerk_async.bulk.run import BulkRun
from clerk_async.bulk.sweep import Selection, Sweep
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import check_session_id, path_segment

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Iterable

    from clerk_async.bulk.journal import Journal
    from clerk_async.bulk.options import OnOutcome, OnProgress, ShouldStop
    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.config import RateLimit


async def revoke_many(
    target: RevocationTarget,
    session_ids: Iterable[str] | AsyncIterable[str],
    *,
    concurrency: int | None = None,
    rate_limit: RateLimit | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    dry_run: bool = False,
    max_failures: int | None = None,
    deadline: float | None = None,
    should_stop: ShouldStop | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: OnProgress | None = None,
) -> RevocationReport:
    """Revoke each of these sessions, and report.

    Raises:
        InvalidArgumentError: If an argument can't be used; nothing was sent.
        JournalError: If the journal can't be used; nothing was sent, unless it broke on the way.
    """
    run = _run_of_ids(
        target,
        session_ids,
        concurrency=concurrency,
        rate_limit=rate_limit,
        journal=journal,
        dry_run=dry_run,
        max_failures=max_failures,
        deadline=deadline,
        should_stop=should_stop,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )
    return await run.report()


def revoke_stream(
    target: RevocationTarget,
    session_ids: Iterable[str] | AsyncIterable[str],
    *,
    concurrency: int | None = None,
    rate_limit: RateLimit | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    dry_run: bool = False,
    max_failures: int | None = None,
    deadline: float | None = None,
    should_stop: ShouldStop | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: OnProgress | None = None,
) -> AsyncGenerator[RevocationOutcome, None]:
    """Revoke each of these sessions, and give the outcomes as they come to be known.

    A reader who takes his time slows the sends down. One who goes away early stops the run: what is
    in flight is finished then, and journaled.

    Raises:
        InvalidArgumentError: If an argument can't be used; nothing was sent.
        JournalError: As in `revoke_many`, from the iteration.
    """
    run = _run_of_ids(
        target,
        session_ids,
        concurrency=concurrency,
        rate_limit=rate_limit,
        journal=journal,
        dry_run=dry_run,
        max_failures=max_failures,
        deadline=deadline,
        should_stop=should_stop,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )
    return run.outcomes()


async def revoke_all(
    target: RevocationTarget,
    *,
    user_id: str | None = None,
    user_ids: Iterable[str] | AsyncIterable[str] | None = None,
    client_id: str | None = None,
    except_session_ids: Iterable[str] = (),
    created_before: datetime | None = None,
    last_active_before: datetime | None = None,
    actor: str | bool | None = None,
    concurrency: int | None = None,
    rate_limit: RateLimit | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    dry_run: bool = False,
    max_failures: int | None = None,
    deadline: float | None = None,
    should_stop: ShouldStop | None = None,
    on_outcome: OnOutcome | None = None,
    on_progress: OnProgress | None = None,
) -> RevocationReport:
    """Revoke the live sessions, active and pending, of one or many users, and report.

    Args:
        target: What sends.
        user_id: The user.
        user_ids: The users; read as the run goes on.
        client_id: Only sessions of this client (browser or device); alone, of whatever user.
        except_session_ids: Sessions to leave alone, such as one's own.
        created_before: Only sessions created before this aware datetime.
        last_active_before: Only sessions last active before this aware datetime.
        actor: Only sessions in which this user (his id) impersonates another; True: in which
            anybody does; False: in which nobody does.
        concurrency: See above, as for all that follow.
        rate_limit: See above.
        journal: See above.
        dry_run: See above.
        max_failures: See above.
        deadline: See above.
        should_stop: See above.
        on_outcome: See above.
        on_progress: See above.

    Raises:
        InvalidArgumentError: If an argument can't be used, or neither a user nor a client is given;
            nothing was sent.
        JournalError: As in `revoke_many`.
    """
    options = check_options(
        concurrency=concurrency,
        rate_limit=rate_limit,
        journal=journal,
        dry_run=dry_run,
        max_failures=max_failures,
        deadline=deadline,
        should_stop=should_stop,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )
    if user_id is None and user_ids is None and client_id is None:
        raise InvalidArgumentError("pass user_id, user_ids or client_id: it never means everybody")
    if user_id is not None and user_ids is not None:
        raise InvalidArgumentError("pass user_id or user_ids, not both")
    if user_id is not None:
        path_segment("user_id", user_id)
        user_ids = [user_id]
    if user_ids is not None:
        check_input("user_ids", user_ids)
    if client_id is not None:
        path_segment("client_id", client_id)
    selection = Selection(
        _check_exceptions(except_session_ids),
        _check_time("created_before", created_before),
        _check_time("last_active_before", last_active_before),
        _check_actor(actor),
    )
    work = Sweep(target, user_ids, client_id, selection, dry_run=dry_run)
    return await BulkRun(target, options, work, "revoke_all").report()


def _run_of_ids(
    target: RevocationTarget,
    session_ids: Iterable[str] | AsyncIterable[str],
    *,
    concurrency: int | None,
    rate_limit: RateLimit | None,
    journal: str | os.PathLike[str] | Journal | None,
    dry_run: bool,
    max_failures: int | None,
    deadline: float | None,
    should_stop: ShouldStop | None,
    on_outcome: OnOutcome | None,
    on_progress: OnProgress | None,
) -> BulkRun:
    options = check_options(
        concurrency=concurrency,
        rate_limit=rate_limit,
        journal=journal,
        dry_run=dry_run,
        max_failures=max_failures,
        deadline=deadline,
        should_stop=should_stop,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )
    check_input("session_ids", session_ids)
    return BulkRun(target, options, IdIntake(session_ids), "revoke_many")


def _check_exceptions(session_ids: Iterable[str]) -> frozenset[str]:
    check_input("except_session_ids", session_ids)
    if isinstance(session_ids, AsyncIterable):
        raise InvalidArgumentError("except_session_ids must be a plain iterable of ids")
    exceptions = list(session_ids)
    for session_id in exceptions:
        check_session_id(session_id)  # one that can't be right would protect nothing
    return frozenset(exceptions)


def _check_time(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidArgumentError(f"{name} must be an aware datetime: give it a time zone")
    return value


def _check_actor(value: object) -> str | bool | None:
    if value is None or isinstance(value, bool):
        return value
    path_segment("actor", value)
    return str(value)
