"""The bulk methods of AsyncSessionsApi, with all their options."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from clerk_async.bulk.journal import Journal
from clerk_async.bulk.options import OnOutcome, OnProgress, ShouldStop
from clerk_async.bulk.report import RevocationOutcome, RevocationReport
from clerk_async.config import RateLimit
from clerk_async.models import Session

if TYPE_CHECKING:
    from clerk_async.bulk.verdict import RevocationTarget


class AsyncBulkRevocation:
    """The bulk methods of a client, built on its revoke, get and list calls."""

    async def revoke_many(
        self,
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
        """Revoke many sessions concurrently, as fast as the rate limit allows, and return a report.

        Each id gets one outcome and, if all goes well, takes one request. Memory use doesn't grow
        with the input. A rejected key (401, 403) stops the run; the report says so.

        Args:
            session_ids: Any iterable or async iterable; it may be infinite.
            concurrency: Maximum number of concurrent requests; default: adapted to the latency.
            rate_limit: The limit, used as given; default: the client's, else a share of the key's.
            journal: A file that keeps the outcomes, so that a second run continues where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to revoke nothing and only report what would be revoked.
            max_failures: Stop after this many failures (0 means 1); None means no limit.
            deadline: Seconds after which the run sends nothing more; None means no limit.
            should_stop: Called before each send; a true result stops the run.
            on_outcome: Called with each outcome; may be a coroutine function.
            on_progress: Called with a snapshot a few times a second; may be a coroutine function.

        Raises:
            InvalidArgumentError: If an argument is invalid; nothing was sent.
            JournalError: If the journal can't be used, or can no longer be written.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.run import BulkRun  # noqa: PLC0415 - likewise
        from clerk_async.bulk.work import IdWork  # noqa: PLC0415 - likewise

        options = RunOptions(
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
        return await BulkRun(self._target(), options, IdWork(session_ids)).report()

    def revoke_stream(
        self,
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
        """Revoke many sessions concurrently, and yield each outcome as it becomes known.

        Args:
            session_ids: Any iterable or async iterable; it may be infinite.
            concurrency: Maximum number of concurrent requests; default: adapted to the latency.
            rate_limit: The limit, used as given; default: the client's, else a share of the key's.
            journal: A file that keeps the outcomes, so that a second run continues where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to revoke nothing and only report what would be revoked.
            max_failures: Stop after this many failures (0 means 1); None means no limit.
            deadline: Seconds after which the run sends nothing more; None means no limit.
            should_stop: Called before each send; a true result stops the run.
            on_outcome: Called with each outcome; may be a coroutine function.
            on_progress: Called with a snapshot a few times a second; may be a coroutine function.

        Raises:
            InvalidArgumentError: If an argument is invalid; nothing was sent.
            JournalError: If the journal can't be used, or can no longer be written.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.run import BulkRun  # noqa: PLC0415 - likewise
        from clerk_async.bulk.work import IdWork  # noqa: PLC0415 - likewise

        options = RunOptions(
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
        return BulkRun(self._target(), options, IdWork(session_ids)).outcomes()

    async def revoke_all(
        self,
        *,
        user_id: str | None = None,
        user_ids: Iterable[str] | AsyncIterable[str] | None = None,
        client_id: str | None = None,
        except_session_ids: Iterable[str] = (),
        created_before: datetime | None = None,
        last_active_before: datetime | None = None,
        actor: str | bool | None = None,
        where: Callable[[Session], object] | None = None,
        keep_newest: int | None = None,
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
        """Revoke every live session of a user, of many users or of a client; return a report.

        Active and pending sessions are live. The run lists a user's sessions before it revokes the
        first of them, and lists them again until none is left.

        A session with a status that this version doesn't know is not revoked, and a warning is
        logged: find such sessions with `iterate`, and pass their ids to `revoke_many`.

        Args:
            user_id: Revoke the sessions of this user.
            user_ids: Revoke the sessions of each of these users.
            client_id: Revoke only sessions of this client (browser or device).
            except_session_ids: Spare these sessions.
            created_before: Revoke only sessions created before this aware datetime.
            last_active_before: Revoke only sessions last active before this aware datetime.
            actor: Revoke only sessions whose impersonator has this user id; True means any
                impersonator, False means only sessions without one.
            where: Revoke only sessions for which this function returns true. It is called once for
                each live session that passes the other filters. If it raises, the run ends with
                that error. With `where`, all users are listed before the first session is revoked,
                so an error leaves all sessions live, unless it concerns a session that began later.
            keep_newest: Spare this many of each user's newest sessions, counted among those that
                pass the other filters.
            concurrency: Maximum number of concurrent requests; default: adapted to the latency.
            rate_limit: The limit, used as given; default: the client's, else a share of the key's.
            journal: A file that keeps the outcomes, so that a second run continues where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to revoke nothing and only report what would be revoked.
            max_failures: Stop after this many failures (0 means 1); None means no limit.
            deadline: Seconds after which the run sends nothing more; None means no limit.
            should_stop: Called before each send; a true result stops the run.
            on_outcome: Called with each outcome; may be a coroutine function.
            on_progress: Called with a snapshot a few times a second; may be a coroutine function.

        Raises:
            InvalidArgumentError: If an argument is invalid, or neither a user nor a client is
                given: `revoke_all` never revokes everybody's sessions.
            JournalError: If the journal can't be used, or can no longer be written.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.run import BulkRun  # noqa: PLC0415 - likewise
        from clerk_async.bulk.sweep import Selection, Sweep  # noqa: PLC0415 - likewise

        selection = Selection(
            user_id=user_id,
            user_ids=user_ids,
            client_id=client_id,
            except_session_ids=except_session_ids,
            created_before=created_before,
            last_active_before=last_active_before,
            actor=actor,
            where=where,
            keep_newest=keep_newest,
        )
        options = RunOptions(
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
        target = self._target()
        work = Sweep(target, selection, dry_run=dry_run)
        return await BulkRun(target, options, work).report()

    def _target(self) -> RevocationTarget:
        raise NotImplementedError
