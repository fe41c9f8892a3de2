"""The progress of a run: a bar on a terminal, else a plain line from time to time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

import attrs

from clerk_async.bulk.report import RevocationStatus
from clerk_async.cli.output import paint, terminal_width

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationPause, RevocationProgress
    from clerk_async.cli.output import Output

Mode = Literal["none", "bar", "text"]

TEXT_EVERY: Final = 10.0
"""Seconds between two plain lines."""
BAR_MOST: Final = 30
BAR_LEAST: Final = 8
AWAY: Final = frozenset({"unreachable", "failing"})
"""Reasons of pauses in which no request gets a useful response."""
SETTLES_IN: Final = 8.0
"""Seconds in which the time left follows two thirds of a change of pace."""
TOLD_AFTER: Final = 2.0
"""Seconds before the time left is shown, because the start of a run is not representative."""
_OVER: Final = 1.0
_GAP: Final = "  "
_MINUTE: Final = 60
_HOUR: Final = 3600
_WORDS: Final = (
    (RevocationStatus.REVOKED, "revoked", "green"),
    (RevocationStatus.PLANNED, "planned", "cyan"),
    (RevocationStatus.ALREADY_INACTIVE, "already inactive", "dim"),
    (RevocationStatus.NOT_FOUND, "not found", "dim"),
    (RevocationStatus.FAILED, "failed", "red"),
)
_PAUSES: Final = {
    "window": ("waiting for the rate limit, {}", "rate limit, {}"),
    "rate_limited": ("the service said 429, waiting {}", "429, waiting {}"),
    "unavailable": ("the service said 503, waiting {}", "503, waiting {}"),
    "unreachable": ("can't connect, retrying", "can't connect, retrying"),
    "failing": ("the service fails, retrying", "failing, retrying"),
}
"""The text for a pause if there is room, and if there is little."""


@attrs.define
class TimeLeft:
    """Smooths jumping estimates into a time left that runs down evenly."""

    _shown: float | None = attrs.field(default=None, init=False)
    _at: float = attrs.field(default=0.0, init=False)

    def follow(self, estimate: float | None, now: float) -> float | None:
        """Take in an estimate and return what to show; None while there is nothing to show.

        Args:
            estimate: Seconds left by the current estimate; None if there is none.
            now: Seconds since the start.
        """
        passed, self._at = max(0.0, now - self._at), now
        if self._shown is None or self._shown - passed < _OVER:
            self._shown = estimate  # it has run down but the run goes on: restart from the estimate
            return estimate
        self._shown -= passed
        if estimate is not None:
            self._shown += (estimate - self._shown) * (1 - math.exp(-passed / SETTLES_IN))
        return self._shown


class ProgressView:
    """Shows nothing; its subclasses show progress.

    Args:
        out: Where to show it.
        total: How many sessions there are, if the library can't know.
        fastest: The most sessions per second over the whole run (a window's first burst is
            faster); None if that is unknown.
        users: How many users are to be listed first.
    """

    def __init__(
        self,
        out: Output,
        total: int | None = None,
        fastest: float | None = None,
        users: int | None = None,
    ) -> None:
        self._out = out
        self._total = total
        self._users = users
        self._fastest = math.inf if fastest is None else fastest

    def update(self, progress: RevocationProgress) -> None:
        """Show a snapshot; after a run was stopped, the last one before that stays."""
        # What is no longer attempted counts as done, so a bar would run to its end.
        if not progress.counts.get(RevocationStatus.NOT_ATTEMPTED):
            self._show(progress)

    def _show(self, progress: RevocationProgress) -> None:
        pass

    def close(self) -> None:
        """Leave the terminal clean."""

    def _total_of(self, progress: RevocationProgress) -> int | None:
        return self._total if progress.total is None else progress.total

    def _listed(self, progress: RevocationProgress) -> str:
        """Return how many users were listed; an empty str once all are, or the total is known."""
        if not self._users or progress.users >= self._users or progress.total is not None:
            return ""
        return f"{number(progress.users)} of {number(self._users)} users"

    def _eta_of(self, progress: RevocationProgress) -> float | None:
        eta = progress.eta
        if eta is None and self._total is not None and progress.rate > 0:
            eta = max(0, self._total - progress.done) / min(progress.rate, self._fastest)
        if self._users and progress.users and self._listed(progress):
            eta = progress.elapsed * (self._users - progress.users) / progress.users
        if eta and progress.pause is not None:
            eta = max(eta, progress.pause.seconds)
        return eta


class _Bar(ProgressView):
    _time_left: TimeLeft | None = None

    def _show(self, progress: RevocationProgress) -> None:
        err = self._out.err
        total = self._total_of(progress)
        listed = self._listed(progress)
        part = progress.done / total if total else 0.0
        if listed and self._users:
            part = progress.users / self._users
        words = [(listed or _done(progress.done, total), "")]
        room = terminal_width() - 1
        bar_room = max(BAR_LEAST, min(BAR_MOST, room // 4)) if total or listed else 0
        if progress.pause is not None:
            left = room - bar_room - len(words[0][0]) - 2 * len(_GAP)
            words.append((_pause(progress.pause, left), "yellow"))
        line, used = "", 0
        if bar_room and bar_room + sum(len(_GAP) + len(word) for word, _ in words) <= room:
            line = self._bar(min(1.0, part), bar_room)
            used = bar_room
        if progress.rate > 0:
            words.append((f"{progress.rate:.0f}/s", ""))
        eta = None
        if progress.elapsed >= TOLD_AFTER:
            self._time_left = self._time_left or TimeLeft()
            eta = self._time_left.follow(self._eta_of(progress), progress.elapsed)
        words.append((f"{about(eta)} left" if eta else duration(progress.elapsed), ""))
        words += [
            (f"{number(progress.counts[status])} {word}", style)
            for status, word, style in _WORDS
            if progress.counts.get(status)
        ]
        for word, style in words:
            gap = _GAP if used else ""
            if used + len(gap) + len(word) > room:
                break
            used += len(gap) + len(word)
            line += gap + (paint(err, word, style) if style else word)
        self._out.live(line)

    def close(self) -> None:
        self._out.clear_live()

    def _bar(self, part: float, room: int) -> str:
        err = self._out.err
        full = int(part * room)
        done, left = ("━", "─") if err.has_unicode else ("#", "-")
        return paint(err, done * full, "green") + paint(err, left * (room - full), "dim")


class _Lines(ProgressView):
    _told_at = 0.0
    _was_away = False

    def _show(self, progress: RevocationProgress) -> None:
        is_away = progress.pause is not None and progress.pause.reason in AWAY
        is_news = is_away and not self._was_away  # an outage is reported at once
        self._was_away = is_away
        if progress.elapsed - self._told_at < TEXT_EVERY and not is_news:
            return
        self._told_at = progress.elapsed
        parts = [f"{_done(progress.done, self._total_of(progress))} sessions"]
        parts = [listed, *parts] if (listed := self._listed(progress)) else parts
        parts += [
            f"{number(progress.counts[status])} {word}"
            for status, word, _ in _WORDS
            if progress.counts.get(status)
        ]
        parts.append(f"{progress.rate:.0f}/s")
        eta = self._eta_of(progress)
        if eta:
            parts.append(f"about {about(eta)} left")
        if progress.pause is not None:
            parts.append(_pause(progress.pause))
        self._out.note(f"{duration(progress.elapsed)}: {', '.join(parts)}")


def progress_view(
    mode: Mode | None,
    out: Output,
    total: int | None = None,
    fastest: float | None = None,
    users: int | None = None,
) -> ProgressView:
    """Return the requested view; by default a bar if stderr is a terminal, else lines."""
    if out.is_quiet:
        mode = "none"
    if mode is None:
        mode = "bar" if out.err.can_redraw else "text"
    kinds: dict[Mode, type[ProgressView]] = {"none": ProgressView, "bar": _Bar, "text": _Lines}
    return kinds[mode](out, total, fastest, users)


def number(value: int) -> str:
    """Format a number for people: 40,000."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Format a duration for people: `8 s`, `2 min 05 s`, `1 h 20 min`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def about(seconds: float) -> str:
    """Format a duration as an estimate, without false precision."""
    step = 1 if seconds < _MINUTE else 5 if seconds < 10 * _MINUTE else _MINUTE
    return duration(round(seconds / step) * step)


def _done(done: int, total: int | None) -> str:
    return number(done) if total is None else f"{number(done)}/{number(total)}"


def _pause(pause: RevocationPause, room: float = math.inf) -> str:
    seconds = duration(max(1.0, pause.seconds))
    told, short = (text.format(seconds) for text in _PAUSES[pause.reason])
    return told if len(told) <= room else short
