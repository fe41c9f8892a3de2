"""Counts a run's outcomes, passes each of them on, and measures the progress."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from clerk_async.bulk.intake import LAST_GRACE, leave_behind
from clerk_async.bulk.report import (
    RevocationOutcome,
    RevocationPause,
    RevocationProgress,
    RevocationReport,
    RevocationStatus,
)
from clerk_async.bulk.work import RunEnded
from clerk_async.errors import JournalError
from clerk_async.under_test import call_later, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.bulk.journal import OpenJournal
    from clerk_async.bulk.options import OnOutcome
    from clerk_async.bulk.report import StopReason
    from clerk_async.bulk.stream import OutcomeStream
    from clerk_async.bulk.verdict import Verdict
    from clerk_async.bulk.work import Job, Work
    from clerk_async.config import RateLimit
    from clerk_async.pacing.window import PauseReason
    from clerk_async.under_test import Timer

_log = logging.getLogger("clerk_async")

_NOT_BEGUN: Final = inspect.CORO_CREATED
_HUNG: Final = object()
_LEFT: Final = (
    "%s did not return within %g s after the run was stopped; it was cancelled, and is not called "
    "any more"
)
RATE_OVER: Final = 10.0
"""Seconds over which the rate is measured."""
SAMPLES: Final = 200


class Callbacks:
    """Calls the user's callbacks: plain functions at once, coroutine functions one at a time.

    Each coroutine runs in a task of its own, so that a stopped run need not wait for one that
    hangs.

    Args:
        grace: Seconds that a coroutine may take after the end; None means any time.
    """

    def __init__(self, grace: float | None) -> None:
        self._turn = asyncio.Lock()
        self._grace = grace
        self._is_ended = False
        self._over: asyncio.Future[Any] | None = None
        self._timer: Timer | None = None
        self._hung: set[str] = set()
        self._has_logged: set[str] = set()

    def end(self) -> None:
        """Wait no longer than the grace period for a coroutine, from now or from its beginning."""
        if not self._is_ended:
            self._is_ended = True
            self._set_timer()

    async def call(self, name: str, callback: Callable[..., Any], *values: Any) -> Any:
        """Call it and return its result; None if it raises, which is logged once for each name.

        One that hung after the end is not called any more.

        Raises:
            RunEnded: If it raised KeyboardInterrupt or SystemExit, which end the program.
        """
        if name in self._hung:
            return None
        try:
            answer = callback(*values)
            if inspect.isawaitable(answer):
                answer = await self._in_turn(name, answer)
        except (KeyboardInterrupt, SystemExit) as error:  # the program ends, and so does the run
            raise RunEnded(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._log(name)  # the callback awaited something that was cancelled
            return None
        except Exception:  # noqa: BLE001 - a callback's error must not end the run
            self._log(name)
            return None
        return answer

    def _log(self, name: str) -> None:
        if name not in self._has_logged:
            self._has_logged.add(name)
            _log.exception("%s raised; the run continues, and this is logged only once", name)

    async def _in_turn(self, name: str, answer: Awaitable[Any]) -> Any:
        try:
            async with self._turn:
                return None if name in self._hung else await self._wait_for(name, answer)
        finally:
            if inspect.iscoroutine(answer) and inspect.getcoroutinestate(answer) == _NOT_BEGUN:
                answer.close()  # its turn never came

    async def _wait_for(self, name: str, answer: Awaitable[Any]) -> Any:
        loop = asyncio.get_running_loop()
        self._over = over = loop.create_future()
        task = loop.create_task(_carry(answer, over))
        self._set_timer()
        try:
            result = await over
            if result is _HUNG:
                self._hung.add(name)
                _log.warning(_LEFT, name, self._grace)
        finally:
            self._over = None
            if self._timer is not None:
                self._timer.cancel()
            if not task.done():
                task.cancel()
                try:
                    await asyncio.wait([task], timeout=LAST_GRACE)
                finally:
                    leave_behind(task)
        return None if result is _HUNG else result

    def _set_timer(self) -> None:
        if self._is_ended and self._grace is not None and self._over is not None:
            give_up = partial(settle, self._over, _HUNG)
            self._timer = call_later(asyncio.get_running_loop(), self._grace, give_up)


async def _carry(answer: Awaitable[Any], over: asyncio.Future[Any]) -> None:
    """Await a coroutine, and settle `over` with its result or error."""
    try:
        settle(over, await answer)
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        is_interruption = isinstance(error, KeyboardInterrupt | SystemExit)
        with suppress(asyncio.InvalidStateError):
            over.set_exception(RunEnded(error) if is_interruption else error)


class Ledger:
    """Counts outcomes, keeps the failures, and passes each outcome on, always in the same order.

    Attributes:
        counts: How many outcomes have each status.
        told: How many outcomes there are.
        journal: The journal, if there is one.
        stream: The stream that a reader iterates over, if there is one.
    """

    def __init__(self, callbacks: Callbacks, on_outcome: OnOutcome | None) -> None:
        self._callbacks = callbacks
        self._on_outcome = on_outcome
        self._failures: list[tuple[int, RevocationOutcome]] = []
        self.counts: dict[RevocationStatus, int] = dict.fromkeys(RevocationStatus, 0)
        self.told: int = 0
        self.journal: OpenJournal | None = None
        self.stream: OutcomeStream | None = None

    @property
    def failed(self) -> int:
        """How many sessions have failed."""
        return self.counts[RevocationStatus.FAILED]

    def enter(self, job: Job, verdict: Verdict) -> RevocationOutcome:
        """Create an outcome and count it."""
        status = verdict.status
        outcome = RevocationOutcome(
            job.session_id,
            status,
            verdict.error,
            verdict.attempts,
            verdict.session,
            None if job.owner is None else job.owner.user_id,
        )
        self.counts[status] += 1
        self.told += 1
        if status is RevocationStatus.FAILED and self.stream is None:  # the reader gets all
            self._failures.append((job.index, outcome))
        return outcome

    def note(self, outcome: RevocationOutcome) -> None:
        """Write an outcome to the journal if the session is done, or failed after a request.

        Raises:
            JournalError: If it can't be written; the journal is closed.
        """
        journal, status = self.journal, outcome.status
        if journal is None or outcome.session_id is None:
            return
        if not status.is_done and not (status is RevocationStatus.FAILED and outcome.attempts):
            return
        try:
            journal.write(outcome.session_id, status)
        except JournalError:
            self.journal = None
            journal.abandon()
            raise

    async def close(self) -> JournalError | None:
        """Sync the journal to disk and close it; return the error if that fails."""
        journal, self.journal = self.journal, None
        if journal is None:
            return None
        try:
            await journal.close()
        except JournalError as error:
            _log.warning("%s", error)  # a cancelled run can't raise it
            return error
        return None

    async def tell(self, outcome: RevocationOutcome) -> None:
        """Pass the outcome to the callback, then to the reader, which may block."""
        if self._on_outcome is not None:
            await self._callbacks.call("on_outcome", self._on_outcome, outcome)
        if self.stream is not None:
            await self.stream.put(outcome)

    def report(
        self, *, work: Work, throttled: int, elapsed: float, stopped_by: StopReason | None
    ) -> RevocationReport:
        """Return the report."""
        self._failures.sort(key=lambda entry: entry[0])
        counts = {status.value: count for status, count in self.counts.items()}
        return RevocationReport(
            total=self.told + work.resumed,
            **counts,
            resumed=work.resumed,
            users=work.users,
            users_without_sessions=work.users_without_sessions,
            failures=tuple(outcome for _, outcome in self._failures),
            throttled=throttled,
            elapsed=elapsed,
            stopped_by=stopped_by,
            exhausted=work.exhausted,
        )


class Meter:
    """Takes snapshots of a run."""

    def __init__(self, limit: RateLimit) -> None:
        self._look_back = max(RATE_OVER, limit.per)
        self._fastest = limit.count / limit.per
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def snapshot(
        self,
        *,
        now: float,
        started_at: float,
        ledger: Ledger,
        work: Work,
        pause: tuple[float, PauseReason] | None,
    ) -> RevocationProgress:
        """Return a snapshot; its rate covers the time since the snapshots of the last seconds."""
        samples = self._samples
        if not samples:
            samples.append((started_at, 0))
        while len(samples) > 1 and samples[1][0] <= now - self._look_back:
            samples.popleft()
        since, before = samples[0]
        tried = ledger.told - ledger.counts[RevocationStatus.NOT_ATTEMPTED]
        rate = (tried - before) / (now - since) if now > since else 0.0
        samples.append((now, tried))
        done = ledger.told + work.resumed
        total = work.total
        eta = None
        if total is not None:
            left = max(0, total - done)
            # a burst at the start of a window is faster than the whole run can be
            steady = min(rate, self._fastest)
            eta = 0.0 if not left else (left / steady if steady > 0 else None)
        return RevocationProgress(
            done=done,
            total=total,
            counts=dict(ledger.counts),
            resumed=work.resumed,
            rate=rate,
            eta=eta,
            pause=None if pause is None else RevocationPause(seconds=pause[0], reason=pause[1]),
            elapsed=now - started_at,
            users=work.users,
        )
