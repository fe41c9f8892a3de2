"""The bulk revocations of SessionsApi; iterables and callbacks stay in the caller's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.sync.caller_thread import (
    BULK_GRACE,
    CallerThread,
    iterated,
    read_in_caller_thread,
    told_in,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable
    from datetime import datetime

    from clerk_async.bulk.journal import Journal
    from clerk_async.bulk.report import RevocationOutcome, RevocationProgress, RevocationReport
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.config import RateLimit
    from clerk_async.models import Session
    from clerk_async.sync.loop_thread import LoopThread


class BulkRevocation:
    """What a client gets from being able to revoke, get and list."""

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
        """Revoke many sessions at once, as fast as the rate limit allows, and report.

        One outcome for each id, one request for each in the good case, memory that does not grow
        with the input. A refused key (401, 403) stops the run; the report says so.

        Iterables and callbacks run in the caller's thread. Ctrl-C finishes what is in flight first.

        Args:
            session_ids: Any iterable; it may be endless.
            concurrency: Requests at once at the most; default: found out from the latency.
            rate_limit: Taken as it is; default: the client's, else four fifths of the key's limit.
            journal: A file to keep the outcomes in, so that a second run goes on where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to send no revocation, and only say what would be done.
            max_failures: Stop when so many sessions have failed (0: as 1); None means no limit.
            deadline: Seconds after which nothing more is sent; None means no limit.
            should_stop: Asked before each send; true stops the run.
            on_outcome: Told of each outcome, in the caller's thread.
            on_progress: Told now and then how far the run is, likewise.

        Raises:
            InvalidArgumentError: If an argument can't be used; nothing was sent.
            JournalError: If the journal can't be used, or can't be written any more.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_many  # noqa: PLC0415 - likewise

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
        return caller.serve(BULK_GRACE, revoke_many, self._target(), ids, told_in(caller, options))

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
        """Revoke many sessions at once, and iterate over the outcomes as they come.

        Iterables and callbacks run in the caller's thread. Ctrl-C finishes what is in flight first.

        Args:
            session_ids: Any iterable; it may be endless.
            concurrency: Requests at once at the most; default: found out from the latency.
            rate_limit: Taken as it is; default: the client's, else four fifths of the key's limit.
            journal: A file to keep the outcomes in, so that a second run goes on where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to send no revocation, and only say what would be done.
            max_failures: Stop when so many sessions have failed (0: as 1); None means no limit.
            deadline: Seconds after which nothing more is sent; None means no limit.
            should_stop: Asked before each send; true stops the run.
            on_outcome: Told of each outcome, in the caller's thread.
            on_progress: Told now and then how far the run is, likewise.

        Raises:
            InvalidArgumentError: If an argument can't be used; nothing was sent.
            JournalError: If the journal can't be used, or can't be written any more.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_stream  # noqa: PLC0415 - likewise

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
        outcomes = revoke_stream(self._target(), ids, told_in(caller, options))
        return iterated(caller, outcomes)

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
        """Revoke every live session of a user, of many users or of a client, and report.

        Live are active and pending sessions. They are collected before the first is revoked, and
        listed again until none is left.

        Iterables and callbacks run in the caller's thread. Ctrl-C finishes what is in flight first.

        Args:
            user_id: Those of this user.
            user_ids: Those of each of these users.
            client_id: Those of this client.
            except_session_ids: Spare these.
            created_before: Only those created before this aware datetime.
            last_active_before: Only those last active before it.
            actor: Only those impersonated by this user id; True for by anybody, False for by none.
            where: Only those of which this function is true, asked once for each live session that
                the other filters mean. What it raises ends the run with that error. All users are
                listed before the first session is revoked then, so nothing was revoked yet, unless
                it raises for a session that began meanwhile.
            keep_newest: Spare so many of each user's newest sessions, of those that are meant.
            concurrency: Requests at once at the most; default: found out from the latency.
            rate_limit: Taken as it is; default: the client's, else four fifths of the key's limit.
            journal: A file to keep the outcomes in, so that a second run goes on where this one
                ended; a path, or a `Journal`.
            dry_run: Whether to send no revocation, and only say what would be done.
            max_failures: Stop when so many sessions have failed (0: as 1); None means no limit.
            deadline: Seconds after which nothing more is sent; None means no limit.
            should_stop: Asked before each send; true stops the run.
            on_outcome: Told of each outcome, in the caller's thread.
            on_progress: Told now and then how far the run is, likewise.

        Raises:
            InvalidArgumentError: If an argument can't be used, or neither user nor client is given:
                it never means everybody.
            JournalError: If the journal can't be used, or can't be written any more.
        """
        from clerk_async.bulk.options import RunOptions  # noqa: PLC0415 - on first use
        from clerk_async.bulk.revoke import revoke_all  # noqa: PLC0415 - likewise
        from clerk_async.bulk.sweep import Selection  # noqa: PLC0415 - likewise

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
        return caller.serve(
            BULK_GRACE, revoke_all, self._target(), selection, told_in(caller, options)
        )

    def _target(self) -> RevocationTarget:
        raise NotImplementedError
