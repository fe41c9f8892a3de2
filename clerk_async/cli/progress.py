"""How far a run is: a bar on a terminal, else a plain line now and then."""

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
"""Pauses in which nothing gets a useful answer."""
SETTLES_IN: Final = 8.0
"""Seconds in which the time left follows a change of pace by two thirds."""
TOLD_AFTER: Final = 2.0
"""Seconds before the time left is told: what a run does first says little."""
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
"""What is said of a pause where there is room, and where there is little."""


@attrs.define
class TimeLeft:
    """Makes a time left that runs down evenly of estimates that jump."""

    _shown: float | None = attrs.field(default=None, init=False)
    _at: float = attrs.field(default=0.0, init=False)

    def follow(self, estimate: float | None, now: float) -> float | None:
        """Take an estimate in, and return what to show; None while there is nothing to tell.

        Args:
            estimate: Seconds left, as they look at this moment; None if nothing can be told.
            now: Seconds since the start.
        """
        passed, self._at = max(0.0, now - self._at), now
        if self._shown is None or self._shown - passed < _OVER:
            self._shown = estimate  # it has run down, and the run goes on: what it says now counts
            return estimate
        self._shown -= passed
        if estimate is not None:
            self._shown += (estimate - self._shown) * (1 - math.exp(-passed / SETTLES_IN))
        return self._shown


class ProgressView:
    """Shows nothing; the others show something.

    Args:
        out: Where to show it.
        total: How many sessions there are, where the library can't know.
        fastest: Sessions per second, at the most, over the whole run: a window's first burst is
            faster. None where there is no telling.
        users: How many users there are to be listed first.
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
        """Show a snapshot; of a run that was stopped the last one before that stays."""
        # What is not attempted any more counts as done: a bar would run to its end.
        if not progress.counts.get(RevocationStatus.NOT_ATTEMPTED):
            self._show(progress)

    def _show(self, progress: RevocationProgress) -> None:
        pass

    def close(self) -> None:
        """Leave the terminal clean."""

    def _total_of(self, progress: RevocationProgress) -> int | None:
        return self._total if progress.total is None else progress.total

    def _listed(self, progress: RevocationProgress) -> str:
        """Say how many users were listed, while some are not: how many sessions there are, too."""
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
        is_news = is_away and not self._was_away  # an outage is told at once
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
    """Make what was asked for; by default a bar where stderr is a terminal, else lines."""
    if out.is_quiet:
        mode = "none"
    if mode is None:
        mode = "bar" if out.err.can_redraw else "text"
    kinds: dict[Mode, type[ProgressView]] = {"none": ProgressView, "bar": _Bar, "text": _Lines}
    return kinds[mode](out, total, fastest, users)


def number(value: int) -> str:
    """Write a number as people read it: 40,000."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Write a time as people read it: `8 s`, `2 min 05 s`, `1 h 20 min`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def about(seconds: float) -> str:
    """Write a time as an estimate: no more exact than it can be."""
    step = 1 if seconds < _MINUTE else 5 if seconds < 10 * _MINUTE else _MINUTE
    return duration(round(seconds / step) * step)


def _done(done: int, total: int | None) -> str:
    return number(done) if total is None else f"{number(done)}/{number(total)}"


def _pause(pause: RevocationPause, room: float = math.inf) -> str:
    seconds = duration(max(1.0, pause.seconds))
    told, short = (text.format(seconds) for text in _PAUSES[pause.reason])
    return told if len(told) <= room else short
