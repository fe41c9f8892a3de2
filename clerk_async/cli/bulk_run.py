"""A bulk run on the command line: its outcomes, progress, Ctrl-C, and its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self, TypedDict

import attrs

from clerk_async.bulk.report import RevocationReport, RevocationStatus
from clerk_async.cli.columns import SESSIONS
from clerk_async.cli.exits import is_out_of_reach
from clerk_async.cli.interrupts import Interrupts
from clerk_async.cli.output import BackgroundLines, cell, json_line
from clerk_async.cli.progress import AWAY, progress_view
from clerk_async.errors import JournalError
from clerk_async.http.error_bodies import refuses_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.bulk.report import RevocationOutcome, RevocationProgress
    from clerk_async.cli.lookalikes import Lookalikes
    from clerk_async.cli.output import Output
    from clerk_async.cli.progress import Mode, ProgressView

EACH_AT_MOST: Final = 25
"""A run of up to this many sessions shows each of them; a larger one only those that failed."""
GIVE_UP_AFTER: Final = 100
"""This many failures in a row without reaching the service end a run: the network is down."""
PATIENCE: Final = 60.0
"""This many seconds without a useful response also end a run."""

TRIED_AT_MOST: Final = 10_000
"""The most sessions left by a stopped run for which it reports why they were not done."""
_UNSEEN: Final = frozenset({RevocationStatus.NOT_FOUND, RevocationStatus.PLANNED})
"""Statuses that an id may have although the service does not know it."""


class Hooks(TypedDict):
    """The hooks through which the library's bulk run informs the command line."""

    on_outcome: Callable[[RevocationOutcome], Awaitable[None]]
    on_progress: Callable[[RevocationProgress], None]
    should_stop: Callable[[], bool]


@attrs.define
class BulkRun:
    """Reports on one run while it is in progress; enter it around the call that runs it.

    Attributes:
        out: Where to print.
        total: How many sessions there are, if the library can't know.
        progress: The value of `--progress`.
        resume: Prints how to resume later.
        fastest: The most sessions per second.
        max_failures: How many failures stop the run; None for any number.
        users: How many users there are, if their sessions are to be listed.
        lookalikes: Counts ids that were not found and look like something else; None to skip that.
        interrupts: Ctrl-C and similar signals.
        count: How many outcomes there have been.
        first: The outcomes, if the run is small enough to show them all.
        tried: Outcomes of sessions that a stopped run had tried and would have retried.
        report: What the call returned; None until it has.
        trouble: The journal's error, if it ended the run.
    """

    out: Output
    total: int | None
    progress: Mode | None
    resume: Callable[[], None]
    fastest: float
    max_failures: int | None = None
    users: int | None = None
    lookalikes: Lookalikes | None = None
    interrupts: Interrupts = attrs.field(init=False)
    count: int = attrs.field(default=0, init=False)
    first: list[RevocationOutcome] = attrs.field(factory=list["RevocationOutcome"], init=False)
    tried: list[RevocationOutcome] = attrs.field(factory=list["RevocationOutcome"], init=False)
    report: RevocationReport | None = attrs.field(default=None, init=False)
    trouble: JournalError | None = attrs.field(default=None, init=False)
    _view: ProgressView = attrs.field(init=False)
    _failed: int = attrs.field(default=0, init=False)
    _is_over: bool = attrs.field(default=False, init=False)
    _unreached: int = attrs.field(default=0, init=False)
    _away_since: float | None = attrs.field(default=None, init=False)
    _is_too_long: bool = attrs.field(default=False, init=False)
    _lines: BackgroundLines | None = attrs.field(default=None, init=False)
    _stack: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __attrs_post_init__(self) -> None:
        self.interrupts = Interrupts(self.out, self.resume)
        self._view = progress_view(self.progress, self.out, self.total, self.fastest, self.users)

    @property
    def hooks(self) -> Hooks:
        """The hooks to pass to the call."""
        return {
            "on_outcome": self._note,
            "on_progress": self._follow,
            "should_stop": self._should_stop,
        }

    @property
    def has_given_up(self) -> bool:
        """Whether the run was ended because the service was out of reach for so long."""
        return self._unreached >= GIVE_UP_AFTER or self._is_too_long

    async def __aenter__(self) -> Self:
        if self.out.is_json and not self.out.out.is_terminal:
            self._lines = BackgroundLines(self.out.out)
        self._stack.enter_context(self.interrupts)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> bool:
        with self._stack:
            self._view.close()
            if self._lines is not None:
                await self._lines.close()
        if isinstance(error, JournalError) and self.count:  # otherwise nothing has begun
            self.trouble = error
            return True
        return False

    def _should_stop(self) -> bool:
        return self.interrupts.is_asked or self.has_given_up

    def _follow(self, progress: RevocationProgress) -> None:
        if not (self._is_over or self._should_stop()):  # after that, what is left counts as done
            self._view.update(progress)
        if progress.pause is None or progress.pause.reason not in AWAY:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = progress.elapsed
        elif progress.elapsed - self._away_since > PATIENCE:
            self._is_too_long = True

    async def _note(self, outcome: RevocationOutcome) -> None:
        self.count += 1
        found = self.lookalikes
        if found is not None and found.wanted is SESSIONS and outcome.status in _UNSEEN:
            found.note(outcome.session_id or "")
        is_tried = outcome.status is RevocationStatus.NOT_ATTEMPTED and outcome.error is not None
        if is_tried and len(self.tried) < TRIED_AT_MOST:
            self.tried.append(outcome)
        if outcome.status is RevocationStatus.FAILED:
            self._failed += 1
            self._is_over |= refuses_key(outcome.error) or self._failed == self.max_failures
        if outcome.status is RevocationStatus.FAILED and is_out_of_reach(outcome.error):
            self._unreached += 1
        elif outcome.attempts and not self.has_given_up:
            self._unreached = 0
        out = self.out
        if self._lines is not None:
            await self._lines.put(json_line(outcome.to_dict(), out.out))
        elif out.is_json:
            out.record(outcome.to_dict())
        elif outcome.status is RevocationStatus.PLANNED:
            owner = f"\t{cell(outcome.user_id)}" if outcome.user_id and not out.is_quiet else ""
            out.result(cell(outcome.session_id or "") + owner)
        elif self.count <= EACH_AT_MOST:
            self.first.append(outcome)
        else:
            self.first.clear()
