"""The end of a bulk run: numbers that add up, and an exit code that never reports false success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import attrs

from clerk_async.bulk.report import RevocationStatus
from clerk_async.cli.bulk_run import EACH_AT_MOST, BulkRun
from clerk_async.cli.columns import SESSIONS
from clerk_async.cli.exits import (
    DONE,
    FAILED,
    INTERRUPTED,
    OUT_OF_REACH,
    USAGE,
    exit_code_of_report,
    is_out_of_reach,
)
from clerk_async.cli.outcomes import WORDS, tell_outcomes, tell_waiting
from clerk_async.cli.output import paint
from clerk_async.cli.progress import duration, number
from clerk_async.errors import BadRequestError, NotFoundError, ResponseDecodeError
from clerk_async.http.error_bodies import refuses_key

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.output import Output

_STOPS: Final = {
    "authentication": "the service refused the secret key",
    "max_failures": "too many failures",
    "deadline": "the deadline passed",
    "should_stop": "interrupted",
}
_OUT_OF_REACH: Final = "the service was unreachable for too long, so the run gave up"


@attrs.frozen
class Ending:
    """The end of a run.

    Attributes:
        run: What the run reported while it was in progress.
        report: The library's report.
        ids: The source of the ids; None if there were none to read.
        is_dry: Whether it was a dry run.
    """

    run: BulkRun
    report: RevocationReport
    ids: Ids | None
    is_dry: bool

    @classmethod
    def of(cls, run: BulkRun, report: RevocationReport, ids: Ids | None, *, is_dry: bool) -> Self:
        """Create the ending; if reading the input ended early, the report is not exhausted."""
        if ids is not None and (ids.trouble is not None or ids.was_cut_short):
            report = attrs.evolve(report, exhausted=False)
        return cls(run, report, ids, is_dry)

    @property
    def is_stopped(self) -> bool:
        """Whether the run ended early."""
        return self.report.stopped_by is not None or self.has_rest

    @property
    def has_rest(self) -> bool:
        """Whether some of the input was never read."""
        ids = self.ids
        return ids is not None and (ids.trouble is not None or ids.was_cut_short)

    @property
    def waiting(self) -> list[RevocationOutcome]:
        """Failures of a stopped run that are not final: the next run tries these sessions again."""
        if not self.is_stopped:
            return []
        return [one for one in self.report.failures if _is_passing(one)]

    @property
    def failures(self) -> list[RevocationOutcome]:
        """Final failures."""
        if not self.is_stopped:
            return list(self.report.failures)
        return [one for one in self.report.failures if not _is_passing(one)]

    @property
    def done(self) -> int:
        """The number of sessions that can't be used any more, or that a dry run has planned."""
        report = self.report
        return (
            report.revoked
            + report.already_inactive
            + report.not_found
            + report.resumed
            + report.planned
        )

    @property
    def all(self) -> int:
        """The number of all known sessions."""
        return max(self.report.total, self.run.total or 0)

    @property
    def is_whole(self) -> bool:
        """Whether all sessions are known."""
        return self.run.total is not None or (self.report.exhausted and not self.has_rest)

    @property
    def left(self) -> int:
        """The number of known sessions that are left for the next run."""
        return self.all - self.done - len(self.failures)

    @property
    def warnings(self) -> list[str]:
        """Signs that the wrong ids were given."""
        report = self.report
        warnings = [] if self.run.lookalikes is None else self.run.lookalikes.warnings
        if report.users and report.users == report.users_without_sessions and not report.total:
            whose, ids = "none of these users has", "users"
            if self.ids is None:
                whose, ids = "this client has not", "a client"
            warnings.append(
                f"{whose} a session of any status: are these ids of {ids} from the instance of "
                "this key?"
            )
        others = report.revoked or report.already_inactive or report.failed or report.resumed
        if report.not_found and not others:
            warnings.append(
                "not one was found: are these ids of sessions from the instance of this key?"
            )
        return warnings

    @property
    def code(self) -> int:
        """The exit code."""
        report, ids = self.report, self.ids
        is_interrupted = self.run.interrupts.is_asked
        has_trouble = ids is not None and ids.trouble is not None
        code = exit_code_of_report(report)
        if has_trouble and code == FAILED:
            code = USAGE
        if report.stopped_by == "should_stop" or (is_interrupted and not report.ok):
            code = INTERRUPTED if is_interrupted else OUT_OF_REACH
        elif is_interrupted and ids is not None and ids.was_cut_short:
            code = INTERRUPTED
        return FAILED if code == DONE and self.warnings else code

    @property
    def is_to_resume(self) -> bool:
        """Whether another run would make progress."""
        if self.is_dry:
            return False
        is_passing = any(is_out_of_reach(outcome.error) for outcome in self.report.failures)
        return self.is_stopped or self.code == INTERRUPTED or is_passing

    def tell(self) -> None:
        """Print the results, then the totals."""
        out = self.run.out
        code, warnings = self.code, self.warnings
        if out.is_json:
            record = {**self.report.to_dict(), "done": self.done, "left": self.left}
            record |= {"exit_code": code, "warnings": warnings}
            if self.ids is not None:
                record["skipped"] = self.ids.tally.skipped
            out.record(record)
        else:
            each = self.run.first if self.all <= EACH_AT_MOST else []
            tell_outcomes(out, each, self.failures, self.waiting)
            self._tell_counts(out, code)
            tell_waiting(out, [*self.waiting, *self.run.tried])
        for warning in warnings:
            out.error(warning)
        if self.ids is not None and self.ids.trouble is not None:
            out.error(self.ids.trouble.format_message())

    def _tell_counts(self, out: Output, code: int) -> None:
        report = self.report
        counts = [
            f"{number(getattr(report, status.value))} {word}"
            for status, word in WORDS.items()
            if getattr(report, status.value) and (status in _SETTLED or not self.is_stopped)
        ]
        if report.resumed:
            counts.append(f"{number(report.resumed)} done by an earlier run")
        took = f"in {duration(report.elapsed)}"
        parts = ", ".join(counts)
        if not self.is_stopped:
            mark, style = ("Done:", "green") if code == DONE else ("Not done:", "red")
            if self.is_dry:  # it has done nothing, so nothing is green
                mark, style = "Dry run:", "cyan" if code == DONE else "red"
            told = f"{paint(out.err, mark, style)} {parts or 'no sessions'}, {took}"
        else:
            why = _OUT_OF_REACH if self.run.has_given_up else _STOPS.get(report.stopped_by or "")
            told = f"{paint(out.err, 'Stopped:', 'red')} {self._numbers()}, {took}"
            told += f" ({parts})" if len(counts) > 1 else ""
            told += f": {why}" if why else ""
        if report.throttled:
            told += f"; {number(report.throttled)} requests got a 429 and were retried"
        out.note(told, is_painted=True)
        if 0 < report.users_without_sessions < report.users:
            none, users = number(report.users_without_sessions), number(report.users)
            out.note(f"{none} of {users} users have no session of any status")
        if self.ids is not None and self.ids.tally.skipped:
            skipped = self.ids.tally.skipped
            out.note(
                f"{number(skipped)} {'row has' if skipped == 1 else 'rows have'} an empty cell"
            )

    def _numbers(self) -> str:
        """Return how far a stopped run came; done, left and failed add up to the total."""
        word = "planned" if self.is_dry else "done"
        failed = len(self.failures)
        parts = [f"{number(failed)} failed"] if failed else []
        if self.is_whole:
            done = f"{number(self.done)} of {number(self.all)} {word}"
            return ", ".join([done, f"{number(self.left)} left", *parts])
        rest = "not all users were listed"
        if self.ids is None or self.ids.wanted is SESSIONS:
            rest = "the rest was not read"
        left = [f"{number(self.left)} of those read are left"] if self.left else []
        return ", ".join([f"{number(self.done)} {word}", *left, *parts, rest])


_SETTLED: Final = frozenset(RevocationStatus) - {
    RevocationStatus.FAILED,
    RevocationStatus.NOT_ATTEMPTED,
}


def _is_passing(outcome: RevocationOutcome) -> bool:
    """Return whether a stopped run left this undecided, so that the next run may succeed."""
    error = outcome.error
    # after these a session is looked at, unless the run was stopped before that
    is_unseen = outcome.session is None and isinstance(
        error, BadRequestError | NotFoundError | ResponseDecodeError
    )
    return is_out_of_reach(error) or refuses_key(error) or is_unseen
