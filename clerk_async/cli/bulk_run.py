"""A bulk run on the command line: outcomes as they come, progress, Ctrl-C and the summary."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from clerk_async.bulk.report import RevocationStatus
from clerk_async.cli.app import program_name
from clerk_async.cli.exits import (
    FAILED,
    INTERRUPTED,
    OUT_OF_REACH,
    USAGE,
    exit_code_of_report,
    is_out_of_reach,
)
from clerk_async.cli.interrupts import Interrupts
from clerk_async.cli.outcomes import json_line, outcome_record, summary_record, tell_summary
from clerk_async.cli.output import BackgroundLines, harmless
from clerk_async.cli.progress import progress_view
from clerk_async.errors import JournalError
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.output import Output
    from clerk_async.cli.progress import Mode

EACH_AT_MOST: Final = 25
"""People see each session of a run up to this size; of a larger one those that failed."""
GIVE_UP_AFTER: Final = 100
"""So many failures in a row for want of the service end a run: the network is gone."""


class Start(Protocol):
    """Starts the run itself, with what the command line has to know of it."""

    def __call__(self, interrupts: Interrupts, **hooks: Any) -> Awaitable[RevocationReport]:
        """Run to the end."""
        ...


@attrs.define
class BulkRun:
    """One run.

    Attributes:
        out: Where to print.
        arguments: What was typed, to tell how to resume.
        journal: The file that `--journal` names.
        total: How many sessions there are, where the library can't know.
        progress: What `--progress` says.
        is_dry: Whether nothing is to be revoked.
        ids: Where the ids come from; None where there are none to read.
    """

    out: Output
    arguments: Sequence[str]
    journal: str | None
    total: int | None
    progress: Mode | None
    is_dry: bool
    ids: Ids | None
    _first: list[RevocationOutcome] = attrs.field(factory=list["RevocationOutcome"], init=False)
    _count: int = attrs.field(default=0, init=False)
    _unreached: int = attrs.field(default=0, init=False)
    _lines: BackgroundLines | None = attrs.field(default=None, init=False)

    async def run(self, start: Start) -> int:
        """Run, tell everything, and give the exit code.

        Raises:
            JournalError: If the journal can't be used, before anything was sent.
            Refused: If the first line can't be used; of a later one the end of the run tells.
            ClerkError: If an argument or a setting is wrong.
        """
        out = self.out
        view = progress_view(self.progress, out, self.total)
        if out.is_json and not out.out.is_terminal:
            self._lines = BackgroundLines(out.out)
        with Interrupts(out, self._tell_resume) as interrupts:
            try:
                report = await start(
                    interrupts,
                    on_outcome=self._note,
                    on_progress=view.update,
                    should_stop=lambda: interrupts.is_asked or self._has_given_up,
                )
            except JournalError as error:
                if not self._count:
                    raise
                view.close()
                out.error(f"{error}; the run ended there")
                self._tell_resume()
                return FAILED
            finally:
                view.close()
                if self._lines is not None:
                    await self._lines.close()
            if not self._count and self.ids is not None and self.ids.trouble is not None:
                raise self.ids.trouble
            return self._tell_end(report, is_interrupted=interrupts.is_asked)

    @property
    def _has_given_up(self) -> bool:
        return self._unreached >= GIVE_UP_AFTER

    async def _note(self, outcome: RevocationOutcome) -> None:
        self._count += 1
        if outcome.status is RevocationStatus.FAILED and is_out_of_reach(outcome.error):
            self._unreached += 1
        elif outcome.attempts and not self._has_given_up:
            self._unreached = 0
        out = self.out
        if self._lines is not None:
            await self._lines.put(json_line(outcome_record(outcome)))
        elif out.is_json:
            out.record(outcome_record(outcome))
        elif outcome.status is RevocationStatus.PLANNED:
            owner = f"\t{outcome.user_id}" if outcome.user_id and not out.is_quiet else ""
            out.result(harmless(f"{outcome.session_id}{owner}"))
        elif self._count <= EACH_AT_MOST:
            self._first.append(outcome)
        else:
            self._first.clear()

    def _tell_end(self, report: RevocationReport, *, is_interrupted: bool) -> int:
        trouble = None if self.ids is None else self.ids.trouble
        if trouble is not None:
            report = attrs.evolve(report, exhausted=False)
        code = exit_code_of_report(report)
        if trouble is not None and code == FAILED:
            code = USAGE
        if report.stopped_by == "should_stop" or (is_interrupted and not report.ok):
            code = INTERRUPTED if is_interrupted else OUT_OF_REACH
        elif is_interrupted and self.ids is not None and self.ids.was_cut_short:
            code = INTERRUPTED
        if self.out.is_json:
            self.out.record({**summary_record(report), "exit_code": code})
        tell_summary(self.out, report, self._first)
        if trouble is not None:
            self.out.error(trouble.format_message())
        if report.not_found and not (
            report.revoked or report.already_inactive or report.failed or report.resumed
        ):
            self.out.error(
                "not one was found: are these ids of sessions, and of the instance of this key?"
            )
        if self._has_given_up and not is_interrupted:
            self.out.error(
                f"the last {GIVE_UP_AFTER} sessions could not reach the service: gave up early"
            )
        is_early = report.stopped_by is not None or not report.exhausted
        is_passing = any(is_out_of_reach(outcome.error) for outcome in report.failures)
        if (code == INTERRUPTED or is_early or is_passing) and not self.is_dry:
            self._tell_resume()
        return code

    def _tell_resume(self) -> None:
        again = redact(shlex.join([*program_name().split(), *self.arguments]))
        if self.journal is not None:
            how = "To go on where this run ended, run it again"
        else:
            how = (
                "To go on, run it again (without a --journal, sessions that are done are sent "
                "once more, which does no harm)"
            )
        if self.ids is not None and self.ids.is_stdin:
            how += ", with the same ids on stdin"
        self.out.error(f"{how}:\n  {again}")
