"""What a run knows of its outcomes, and who is told of each: journal, callback, reader."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from clerk_async.bulk.report import RevocationOutcome, RevocationReport, RevocationStatus
from clerk_async.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.bulk.journal import OpenJournal
    from clerk_async.bulk.options import OnOutcome
    from clerk_async.bulk.report import StopReason
    from clerk_async.bulk.stream import OutcomeStream
    from clerk_async.bulk.verdict import Verdict
    from clerk_async.bulk.work import Job

_log = logging.getLogger("clerk_async")


class Callbacks:
    """Calls what the user gave us: plain functions at once, coroutine functions one at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._has_logged: set[str] = set()

    async def call(self, name: str, callback: Callable[..., Any], *values: Any) -> Any:
        """Call and give the answer; None where it raises, which is logged once for each name."""
        try:
            answer = callback(*values)
            if inspect.isawaitable(answer):
                answer = await self._in_turn(answer)
        except Exception:  # noqa: BLE001 - a callback's trouble is not the run's
            if name not in self._has_logged:
                self._has_logged.add(name)
                _log.exception("%s raised; the run goes on, and this is logged once", name)
            return None
        return answer

    async def _in_turn(self, answer: Awaitable[Any]) -> Any:
        try:
            async with self._turn:
                return await answer
        finally:
            if inspect.iscoroutine(answer):
                answer.close()  # where its turn never came; else it is over


class Ledger:
    """Counts outcomes, keeps the failures, and tells everybody, always in the same order.

    Attributes:
        counts: How many outcomes have each status.
        told: How many outcomes there are.
        journal: Where they are noted, if anywhere.
        stream: Who reads them one by one, if anybody does.
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
        """How many have failed."""
        return self.counts[RevocationStatus.FAILED]

    def enter(self, job: Job, verdict: Verdict) -> RevocationOutcome:
        """Make an outcome and count it."""
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
        if status is RevocationStatus.FAILED and self.stream is None:  # whose reader has them all
            self._failures.append((job.index, outcome))
        return outcome

    def note(self, outcome: RevocationOutcome) -> None:
        """Write an outcome into the journal; one that no request was sent for isn't.

        Raises:
            JournalError: If it can't be written; the journal is let go of then.
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

    async def tell(self, outcome: RevocationOutcome) -> None:
        """Tell the callback, then the reader, who may keep us waiting."""
        if self._on_outcome is not None:
            await self._callbacks.call("on_outcome", self._on_outcome, outcome)
        if self.stream is not None:
            await self.stream.put(outcome)

    def report(
        self,
        *,
        resumed: int,
        throttled: int,
        elapsed: float,
        stopped_by: StopReason | None,
        exhausted: bool,
    ) -> RevocationReport:
        """Make the report."""
        self._failures.sort(key=lambda entry: entry[0])
        counts = {status.value: count for status, count in self.counts.items()}
        return RevocationReport(
            total=self.told + resumed,
            **counts,
            resumed=resumed,
            failures=tuple(outcome for _, outcome in self._failures),
            throttled=throttled,
            elapsed=elapsed,
            stopped_by=stopped_by,
            exhausted=exhausted,
        )
