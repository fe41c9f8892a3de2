"""The engine of a bulk run: workers, rounds, stop rules, and the order in which outcomes are told.

A worker takes a job, sends it, and passes its outcome to the journal, then to `on_outcome`, then to
the stream. After a stop, whatever its reason, the run sends nothing more. Requests in flight still
finish and get their outcomes. Only a cancelled run cuts its requests off, after a short grace
period.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from clerk_async.bulk.intake import Patience
from clerk_async.bulk.journal import open_journal
from clerk_async.bulk.ledger import Callbacks, Ledger, Meter
from clerk_async.bulk.lockout import Lockout
from clerk_async.bulk.report import RevocationOutcome, RevocationReport, RevocationStatus
from clerk_async.bulk.rounds import ROUNDS, Deferred, gets_another_round
from clerk_async.bulk.stream import OutcomeStream, told_by
from clerk_async.bulk.verdict import Verdict, cut_off, is_answer, let_go_of_frames, revoke_one
from clerk_async.bulk.work import RunEnded
from clerk_async.errors import ClientClosedError, JournalError
from clerk_async.http.daemon import running_loop, shielded
from clerk_async.http.error_bodies import refuses_key
from clerk_async.http.paging import is_async
from clerk_async.pacing.gate import RunPacer
from clerk_async.pacing.window import SendRefused
from clerk_async.under_test import settle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from clerk_async.bulk.options import RunOptions
    from clerk_async.bulk.report import StopReason
    from clerk_async.bulk.verdict import RevocationTarget
    from clerk_async.bulk.work import Job, Work
    from clerk_async.pacing.gate import Lane

CANCEL_GRACE: Final = 2.0
"""Seconds that a cancelled run waits for requests in flight, and a stopped one for user code."""
TICK: Final = 0.25
"""Seconds between two progress snapshots."""
DEFERRED_AT_MOST: Final = 1000
"""When this many ids wait for another round, it starts before the input ends."""
BREATH: Final = 256

_log = logging.getLogger("clerk_async")


class BulkRun:
    """One run, from its first send to its report.

    Args:
        target: What sends the requests.
        options: The options of the run.
        work: Where the jobs come from.
    """

    def __init__(self, target: RevocationTarget, options: RunOptions, work: Work) -> None:
        self._target = target
        self._options = options
        self._work = work
        limit = options.rate_limit or target.default_rate_limit
        ask = options.should_stop
        may_send = None if ask is None else self._may_send
        self._pacer = RunPacer(target.gates.gate(limit), may_send, asks_first=is_async(ask))
        self._most_workers = min(options.concurrency or target.pool_size, target.pool_size)
        self._callbacks = Callbacks(options.callback_grace)
        self._ledger = Ledger(self._callbacks, options.on_outcome)
        self._lockout = work.lockout = Lockout(target.denials, is_dry=options.dry_run)
        self._deferred = Deferred(target.pause_before_round, self._wake)
        self._workers: set[asyncio.Task[None]] = set()
        self._patience = Patience(self._remove_worker)
        self._idle: list[asyncio.Future[None]] = []
        self._busy = 0
        self._ended: asyncio.Future[None] | None = None
        self._is_stopped = False
        self._is_over = False
        self._is_abandoned = False
        self._stopped_by: StopReason | None = None
        self._trouble: BaseException | None = None
        self._started_at = 0.0
        self._meter = Meter(limit)

    async def report(self) -> RevocationReport:
        """Run to the end, and return the report.

        Raises:
            JournalError: If the journal can't be used.
            ClerkError: If the client was closed, or belongs to another event loop.
            Exception: What the input raised, once everything in flight has finished.
        """
        loop = running_loop()
        self._started_at = loop.time()
        options = self._options
        if options.journal is not None:
            self._ledger.journal = await open_journal(
                options.journal,
                instance=self._target.key_fingerprint,
                run=self._work.kind,
                for_writing=not options.dry_run,
            )
            self._work.journal = self._ledger.journal
        clocks = self._start_clocks()
        try:
            with self._target.until_closed(self._end_by_close):
                await self._work.deny_input()
                await self._send_all()
                await self._tell_rest()
                if self._trouble is None:
                    await self._tell_progress()
        except RunEnded as end:
            self._abort(end)
        except asyncio.CancelledError:
            self.stop(None)
            with shielded():
                await self._wind_up()
            raise
        finally:
            for clock in clocks:
                clock.cancel()
            self._patience.close()
            self._deferred.close()
            self._lockout.end()
            with shielded():
                if (trouble := await self._ledger.close()) is not None:
                    self._abort(trouble)
                await self._pacer.gate.told()  # this run needs no places any more
        if self._trouble is not None:
            raise self._trouble
        return self._ledger.report(
            work=self._work,
            throttled=self._pacer.throttled,
            elapsed=loop.time() - self._started_at,
            stopped_by=self._stopped_by,
        )

    def _start_clocks(self) -> list[asyncio.TimerHandle | asyncio.Task[None]]:
        loop, options = asyncio.get_running_loop(), self._options
        clocks: list[asyncio.TimerHandle | asyncio.Task[None]] = []
        if options.deadline == 0:
            self.stop("deadline")
        elif options.deadline is not None:
            self._deferred.end_in(options.deadline)
            clocks.append(loop.call_later(options.deadline, self.stop, "deadline"))
        if options.on_progress is not None or options.should_stop is not None:
            clocks.append(loop.create_task(self._tick()))
        return clocks

    def outcomes(self) -> AsyncGenerator[RevocationOutcome, None]:
        """Run, and yield the outcomes in the order in which they become known.

        Raises:
            Exception: As `report` does.
        """
        stream = self._ledger.stream = OutcomeStream()
        return told_by(self.report, stream, self._abandon)

    def _abandon(self) -> None:
        self._is_abandoned = True
        self.stop(None)

    def stop(self, reason: StopReason | None) -> None:
        """Send nothing more; the report names the first reason given."""
        self._callbacks.end()
        if self._is_stopped or self._is_over:
            return
        self._is_stopped = True
        self._stopped_by = reason
        self._pacer.stop()
        self._patience.end(CANCEL_GRACE)
        self._wake()

    def _end_by_close(self) -> None:
        if self._is_over:  # all outcomes are known, and a callback may be hanging
            self.stop(None)
        else:
            self._abort(ClientClosedError("the client was closed during the run"))

    # -- workers -------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._add_worker()
        await asyncio.wait([self._ended])
        self._is_over = True

    def _add_worker(self) -> None:
        task = asyncio.get_running_loop().create_task(self._work_on())
        self._workers.add(task)
        task.add_done_callback(self._remove_worker)

    def _remove_worker(self, task: asyncio.Task[None]) -> None:
        is_ours = task in self._workers  # otherwise it was abandoned
        self._workers.discard(task)
        if is_ours and task.cancelled():  # by ourselves, or by an input that raised it
            self._abort(asyncio.CancelledError())
        elif is_ours and task.done() and (error := task.exception()) is not None:
            self._abort(error)
        if not self._workers and self._ended is not None:
            settle(self._ended)

    def _abort(self, error: BaseException) -> None:
        if self._trouble is None:
            self._trouble = error.error if isinstance(error, RunEnded) else error
        self.stop(None)

    async def _work_on(self) -> None:
        if asyncio.current_task() not in self._workers:  # an eager task, which has begun already:
            await asyncio.sleep(0)  # each would start the next within itself, before it is counted
        lane = self._pacer.lane()
        while not self._is_stopped:
            job = await self._next_job()
            if job is None or self._is_over:
                return
            if not self._idle and len(self._workers) < self._most_workers:
                self._add_worker()
            self._busy += 1
            try:
                await self._do(job, lane)
            finally:
                self._busy -= 1
                if self._idle:
                    self._wake()

    async def _next_job(self) -> Job | None:
        deferred = self._deferred
        while not self._is_stopped:
            is_full = bool(deferred) and len(deferred) >= self._most_deferred()
            job = deferred.take() if is_full or self._work.is_read else None
            if job is None and not is_full:
                job = await self._read()
            if job is not None:
                return job
            if not deferred and not self._busy:
                self._wake()
                return None
            deferred.watch()
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(change)
            await change
        return None

    async def _read(self) -> Job | None:
        try:
            return None if self._is_stopped else await self._patience.wait(self._work.take())
        except Exception as error:  # noqa: BLE001 - the input's own: raised once all is finished
            if self._is_stopped:  # its clean-up failed, as when it was cancelled
                _log.warning("the input raised after the run was stopped", exc_info=True)
            else:
                self._abort(error)
            return None

    def _wake(self) -> None:
        idle, self._idle = self._idle, []
        for change in idle:
            settle(change)

    def _most_deferred(self) -> int:
        most = self._options.max_failures
        if most is None:
            return DEFERRED_AT_MOST
        return max(1, min(DEFERRED_AT_MOST, most - self._ledger.failed))

    async def _do(self, job: Job, lane: Lane) -> None:
        if job.is_listing:
            await self._list(job, lane)
            return
        if job.session_id is None or (job.error is not None and not job.rounds):
            await self._tell(job, Verdict(RevocationStatus.FAILED, job.error))
            return
        if self._options.dry_run:
            is_planned = await self._may_send()
            planned = RevocationStatus.PLANNED if is_planned else RevocationStatus.NOT_ATTEMPTED
            await self._tell(job, Verdict(planned))
            return
        lane.sends = 0
        try:
            verdict = await revoke_one(
                self._target,
                job.session_id,
                lane,
                may_have_arrived=job.may_have_arrived,
                is_last_round=job.rounds + 1 >= ROUNDS,
            )
        except asyncio.CancelledError:
            await self._tell(job, cut_off(job, lane.sends))
            raise
        except Exception as error:  # noqa: BLE001 - the client can no longer be used
            self._abort(error)
            await self._tell(job, cut_off(job, lane.sends))
            return
        finally:
            self._lockout.tried(job.session_id, lane.sends)
        await self._settle(job, verdict)

    async def _settle(self, job: Job, verdict: Verdict) -> None:
        """Report the result of a round, unless another round follows."""
        if verdict.status is RevocationStatus.NOT_ATTEMPTED and verdict.error is None:
            verdict.error = job.error
        verdict.attempts += job.attempts
        if (hindrance := verdict.hindrance) is not None:
            if refuses_key(hindrance):
                self.stop("authentication")
            elif gets_another_round(job, hindrance):
                job.error = verdict.error
                job.attempts = verdict.attempts
                job.may_have_arrived = verdict.may_have_arrived
                if not self._is_stopped:
                    self._deferred.add(job)
                    return
                verdict.status = RevocationStatus.NOT_ATTEMPTED
        await self._tell(job, verdict)

    async def _list(self, job: Job, lane: Lane) -> None:
        try:
            await self._work.list_sessions(job, lane)
        except SendRefused:
            return
        except Exception as error:  # noqa: BLE001 - sorted here
            if not is_answer(error):
                self._abort(error)
                return
            let_go_of_frames(error)
            job.error = error
            if refuses_key(error):
                self.stop("authentication")
            elif gets_another_round(job, error):
                if not self._is_stopped:
                    self._deferred.add(job)
                return
            await self._tell(job, Verdict(RevocationStatus.FAILED, error))

    # -- outcomes ------------------------------------------------------------------------------

    async def _tell(self, job: Job, verdict: Verdict) -> None:
        ledger, most = self._ledger, self._options.max_failures
        outcome = ledger.enter(job, verdict)
        if most is not None and ledger.failed and ledger.failed >= most:
            self.stop("max_failures")
        try:
            ledger.note(outcome)
        except JournalError as error:
            self._abort(error)
        self._work.finished(job, is_done=outcome.status.is_done)
        await ledger.tell(outcome)

    async def _tell_rest(self) -> None:
        """Report the sessions that a stopped run didn't get to."""
        await self._tell_deferred()
        if not self._is_stopped or self._is_abandoned or self._trouble is not None:
            return
        while (rest := await self._work.take_rest()) is not None:
            status = RevocationStatus.FAILED if rest.error else RevocationStatus.NOT_ATTEMPTED
            await self._tell(rest, Verdict(status, rest.error))
            if self._ledger.told % BREATH == 0:
                await asyncio.sleep(0)

    # -- stopping and progress -----------------------------------------------------------------

    async def _may_send(self) -> bool:
        ask = self._options.should_stop
        if ask and not self._is_stopped:
            answer = self._callbacks.call("should_stop", ask)
            if await self._patience.wait(answer):
                self.stop("should_stop")
        return not self._is_stopped

    async def _tick(self) -> None:
        """Report the progress, and call `should_stop` while no request is in flight."""
        try:
            while True:
                await self._tell_progress()
                await asyncio.sleep(TICK)
                if not self._pacer.on_wire:
                    await self._may_send()
        except RunEnded as end:
            self._abort(end)

    async def _tell_progress(self) -> None:
        if self._options.on_progress is not None:
            loop = asyncio.get_running_loop()
            progress = self._meter.snapshot(
                now=loop.time(),
                started_at=self._started_at,
                ledger=self._ledger,
                work=self._work,
                pause=None if self._is_stopped else self._pacer.pause(),
            )
            await self._callbacks.call("on_progress", self._options.on_progress, progress)

    # -- the end -------------------------------------------------------------------------------

    async def _wind_up(self) -> None:
        """Let requests in flight finish within the grace period, cut the rest off, report all."""
        if self._ledger.stream is not None:
            self._ledger.stream.close()
        try:
            if self._workers:
                await asyncio.wait(self._workers, timeout=CANCEL_GRACE)
        finally:
            for task in self._workers:
                task.cancel()
            if self._workers and self._ended is not None:
                await asyncio.wait([self._ended])
            self._is_over = True
        await self._tell_deferred()

    async def _tell_deferred(self) -> None:
        """Report the jobs that wait for another round: they count as left, not as failed."""
        while (job := self._deferred.drop()) is not None:
            if not job.is_listing:
                left = Verdict(RevocationStatus.NOT_ATTEMPTED, job.error, job.attempts)
                await self._tell(job, left)
