"""The bulk methods of SessionsApi; iterables and callbacks run in the caller's thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from clerk_async.bulk.journal import Journal
from clerk_async.bulk.report import RevocationOutcome, RevocationProgress, RevocationReport
from clerk_async.config import RateLimit
from clerk_async.models import Session
from clerk_async.sync.caller_thread import (
    BULK_GRACE,
    CallerThread,
    iterated,
    read_in_caller_thread,
    told_in,
)

if TYPE_CHECKING:
    from clerk_async.bulk.verdict import RevocationTarget
    from clerk_async.sync.loop_thread import LoopThread


class BulkRevocation:
    """The bulk methods of a client, built on its revoke, get and list calls."""

    if TYPE_CHECKING:  # so that users' tools can resolve the type hints of a client
        _thread: LoopThread

    def revoke_many(
        self,
        session_ids: Iterable[str],
        *,
        concurrency: int | None = None,
        rate_limit: RateLimit | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dry_run: bool = False,
        max_failures: int | None = None,
        deadline: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> RevocationReport:
        """Revoke many sessions concurrently, as fast as the rate limit allows, and return a report.

        Each id gets one outcome and, if all goes well, takes one request. Memory use doesn't grow
        with the input. A rejected key (401, 403) stops the run; the report says so.

        Iterables and callbacks run in the caller's thread. Ctrl-C waits for requests in flight.

        Args:
            session_ids: Any iterable; it may be infinite.
            concurrency: Maximum number of concurrent requests; default: adapted to the latency.
            rate_limit: The limit, used as given; default: the client's, else a share of the key's.
            journal: A file that keeps the outcomes, so that a second run continues where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to revoke nothing and only report what would be revoked.
            max_failures: Stop after this many failures (0 means 1); None means no limit.
            deadline: Seconds after which the run sends nothing more; None means no limit.
            should_stop: Called before each send; a true result stops the run.
            on_outcome: Called with each outcome, in the caller's thread.
            on_progress: Called with a snapshot a few times a second, in the caller's thread.

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
        caller = CallerThread(self._thread)
        ids = read_in_caller_thread(caller, "session_ids", session_ids)
        run = BulkRun(self._target(), told_in(caller, options), IdWork(ids))
        return caller.serve(BULK_GRACE, run.report)

    def revoke_stream(
        self,
        session_ids: Iterable[str],
        *,
        concurrency: int | None = None,
        rate_limit: RateLimit | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dry_run: bool = False,
        max_failures: int | None = None,
        deadline: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> Generator[RevocationOutcome, None, None]:
        """Revoke many sessions concurrently, and yield each outcome as it becomes known.

        Iterables and callbacks run in the caller's thread. Ctrl-C waits for requests in flight.

        Args:
            session_ids: Any iterable; it may be infinite.
            concurrency: Maximum number of concurrent requests; default: adapted to the latency.
            rate_limit: The limit, used as given; default: the client's, else a share of the key's.
            journal: A file that keeps the outcomes, so that a second run continues where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to revoke nothing and only report what would be revoked.
            max_failures: Stop after this many failures (0 means 1); None means no limit.
            deadline: Seconds after which the run sends nothing more; None means no limit.
            should_stop: Called before each send; a true result stops the run.
            on_outcome: Called with each outcome, in the caller's thread.
            on_progress: Called with a snapshot a few times a second, in the caller's thread.

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
        caller = CallerThread(self._thread)
        ids = read_in_caller_thread(caller, "session_ids", session_ids)
        run = BulkRun(self._target(), told_in(caller, options), IdWork(ids))
        return iterated(caller, run.outcomes())

    def revoke_all(
        self,
        *,
        user_id: str | None = None,
        user_ids: Iterable[str] | None = None,
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
        should_stop: Callable[[], bool] | None = None,
        on_outcome: Callable[[RevocationOutcome], object] | None = None,
        on_progress: Callable[[RevocationProgress], object] | None = None,
    ) -> RevocationReport:
        """Revoke every live session of a user, of many users or of a client; return a report.

        Active and pending sessions are live. The run lists a user's sessions before it revokes the
        first of them, and lists them again until none is left.

        A session with a status that this version doesn't know is not revoked, and a warning is
        logged: find such sessions with `iterate`, and pass their ids to `revoke_many`.

        Iterables and callbacks run in the caller's thread. Ctrl-C waits for requests in flight.

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
            on_outcome: Called with each outcome, in the caller's thread.
            on_progress: Called with a snapshot a few times a second, in the caller's thread.

        Raises:
            InvalidArgumentError: If an argument is invalid, or neither a user nor a client is
                given: `revoke_all` never revokes everybody's sessions.
            JournalError: If the journal can't be used, or can no longer be written.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.run import BulkRun  # noqa: PLC0415 - likewise
        from clerk_async.bulk.sweep import Selection, Sweep  # noqa: PLC0415 - likewise

        caller = CallerThread(self._thread)
        selection = Selection(
            user_id=user_id,
            user_ids=None
            if user_ids is None
            else read_in_caller_thread(caller, "user_ids", user_ids),
            client_id=client_id,
            except_session_ids=except_session_ids,
            created_before=created_before,
            last_active_before=last_active_before,
            actor=actor,
            where=where,
            keep_newest=keep_newest,
            run_where=caller.run,
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
        run = BulkRun(target, told_in(caller, options), work)
        return caller.serve(BULK_GRACE, run.report)

    def _target(self) -> RevocationTarget:
        raise NotImplementedError
