"""The progress bar and the progress lines: what they say of a run, and how they fit."""

from __future__ import annotations

import io
import itertools
import re
from typing import TYPE_CHECKING

import pytest

from clerk_async.bulk.report import RevocationPause, RevocationProgress, RevocationStatus
from clerk_async.cli.output import Output
from clerk_async.cli.progress import TimeLeft, about, duration, number, progress_view

if TYPE_CHECKING:
    from clerk_async.cli.progress import Mode


class Screen(io.StringIO):
    """A stderr that claims to be a terminal, or not to be one."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def isatty(self) -> bool:
        return self._is_terminal


def snapshot(
    done: int = 500,
    *,
    total: int | None = 2000,
    elapsed: float = 10.0,
    pause: RevocationPause | None = None,
    not_attempted: int = 0,
    users: int = 0,
) -> RevocationProgress:
    """Make a snapshot of a run at fifty a second."""
    return RevocationProgress(
        done=done + not_attempted,
        total=total,
        counts={
            RevocationStatus.REVOKED: done - 3,
            RevocationStatus.FAILED: 3,
            RevocationStatus.NOT_ATTEMPTED: not_attempted,
        },
        resumed=0,
        rate=50.0,
        eta=None if total is None else (total - done) / 50,
        pause=pause,
        elapsed=elapsed,
        users=users,
    )


def show(
    monkeypatch: pytest.MonkeyPatch,
    *snapshots: RevocationProgress,
    mode: Mode | None = None,
    is_terminal: bool = True,
    width: int = 120,
    total: int | None = None,
    fastest: float | None = None,
    users: int | None = None,
) -> str:
    """Return what is drawn for snapshots."""
    screen = Screen(is_terminal=is_terminal)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    view = progress_view(mode, Output(), total, fastest, users)
    for one in snapshots:
        view.update(one)
    drawn = screen.getvalue()
    view.close()
    assert screen.getvalue().endswith("\r\x1b[2K") or not is_terminal or mode == "none"
    return re.sub(r"\x1b\[[0-9;]*m", "", drawn)


def test_a_bar_shows_counts_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """All on one line."""
    drawn = show(monkeypatch, snapshot())
    assert "500/2,000  50/s  30 s left  497 revoked  3 failed" in drawn
    assert drawn.count("━") * 3 == pytest.approx(drawn.count("─"), abs=3)


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_bar_never_breaks_the_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Facts that don't fit are left out, the least important first."""
    pause = RevocationPause(seconds=7.4, reason="rate_limited")
    line = show(monkeypatch, snapshot(pause=pause), width=width).rpartition("\x1b[2K")[2]
    assert 0 < len(line) < width


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stopped_run_does_not_fill_the_bar(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """Counting skipped sessions as done would look like success."""
    shots = [snapshot(elapsed=20), snapshot(not_attempted=1500, elapsed=40)]
    drawn = show(monkeypatch, *shots, is_terminal=is_terminal)
    assert "500/2,000" in drawn
    assert "2,000/2,000" not in drawn


def test_without_a_total_the_elapsed_time_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bar is drawn for an unknown total."""
    drawn = show(monkeypatch, snapshot(total=None))
    assert "500  50/s  10 s  497 revoked" in drawn
    assert "━" not in drawn


def test_a_total_that_the_command_knows_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a file were counted before."""
    assert "500/1,000  50/s  10 s left" in show(monkeypatch, snapshot(total=None), total=1000)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("window", "waiting for the rate limit, 7 s"),
        ("rate_limited", "the service said 429, waiting 7 s"),
        ("unavailable", "the service said 503, waiting 7 s"),
        ("unreachable", "can't connect, retrying"),
        ("failing", "the service fails, retrying"),
    ],
)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pause_shows_its_reason(
    monkeypatch: pytest.MonkeyPatch, reason: str, told: str, *, is_terminal: bool
) -> None:
    """Without a reason it looks broken."""
    pause = RevocationPause(seconds=7.4, reason=reason)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert told in show(monkeypatch, snapshot(pause=pause), is_terminal=is_terminal, width=160)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("window", "rate limit, 7 s"),
        ("rate_limited", "429"),
        ("unavailable", "503"),
        ("unreachable", "can't connect, retrying"),
        ("failing", "fail"),
    ],
)
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_pause_is_shown_however_narrow_the_terminal_is(
    monkeypatch: pytest.MonkeyPatch, reason: str, told: str, width: int
) -> None:
    """The bar makes room for it."""
    pause = RevocationPause(seconds=7.4, reason=reason)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    line = show(monkeypatch, snapshot(pause=pause), width=width).rpartition("\x1b[2K")[2]
    assert told in line
    assert len(line) < width


def test_the_time_left_is_never_shorter_than_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of work after a wait of eight are ten seconds."""
    pause = RevocationPause(seconds=8.0, reason="window")
    assert "8 s left" in show(monkeypatch, snapshot(done=1950, pause=pause))


def test_the_time_left_does_not_jump() -> None:
    """A paced run alternates bursts and waits, but the displayed time runs down evenly."""
    left = TimeLeft()
    shown: list[float] = []
    for tick in range(400):
        now = tick / 4
        true = 120.0 - now
        estimate = true * (1.6 if tick // 8 % 2 else 0.5)
        told = left.follow(estimate, now)
        assert told is not None
        shown.append(told)
    steps = [abs(before - after) for before, after in itertools.pairwise(shown)]
    assert max(steps) < 6
    assert all(abs(told - (120.0 - tick / 4)) < 70 for tick, told in enumerate(shown))


def test_the_time_left_follows_a_lasting_change() -> None:
    """It also runs down when no new estimate is possible."""
    left = TimeLeft()
    assert left.follow(None, 0.0) is None
    assert left.follow(100.0, 1.0) == 100.0
    assert left.follow(None, 11.0) == 90.0
    told: float | None = None
    for second in range(12, 60):
        told = left.follow(500.0 - second, float(second))
    assert told == pytest.approx(441.0, abs=5)


def test_a_time_left_that_has_run_down_is_discarded() -> None:
    """The run continues: a new estimate replaces it, and without one nothing is shown."""
    left = TimeLeft()
    assert left.follow(5.0, 1.0) == 5.0
    assert left.follow(None, 5.5) is None
    assert left.follow(80.0, 6.0) == 80.0


def test_an_initial_burst_does_not_predict_an_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is faster than the rate limit overall."""
    drawn = show(monkeypatch, snapshot(total=None), total=1300, fastest=8.0)
    assert "1 min 40 s left" in drawn
    assert "left" not in show(monkeypatch, snapshot(elapsed=1.0))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (59.4, "59 s"), (62, "1 min 00 s"), (598, "10 min 00 s"), (3629, "1 h 00 min")],
)
def test_an_estimate_is_rounded_to_its_accuracy(seconds: float, told: str) -> None:
    """The last digits would only flicker."""
    assert about(seconds) == told


def test_lines_are_printed_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends before prints none."""
    shots = [snapshot(elapsed=elapsed / 4) for elapsed in range(1, 100)]
    drawn = show(monkeypatch, *shots, is_terminal=False)
    assert [line.partition(":")[0] for line in drawn.splitlines()] == ["10 s", "20 s"]
    assert "500/2,000 sessions, 497 revoked, 3 failed, 50/s, about 30 s left" in drawn


def test_an_outage_prints_a_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later lines, including those of the next outage, come at the usual pace."""
    away = RevocationPause(seconds=0.0, reason="unreachable")
    shots = [
        snapshot(elapsed=tick / 4, pause=away if tick in {*range(5, 9), 20} else None)
        for tick in range(1, 24)
    ]
    drawn = show(monkeypatch, *shots, is_terminal=False)
    assert [line.partition(":")[0] for line in drawn.splitlines()] == ["1 s", "5 s"]
    assert drawn.count("can't connect, retrying") == 2


@pytest.mark.parametrize("is_terminal", [True, False])
def test_while_users_are_listed_their_number_is_shown(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """The number of sessions is known only afterwards."""
    shots = [snapshot(total=None, users=213), snapshot(total=None, users=213, elapsed=20)]
    drawn = show(monkeypatch, *shots, users=701, is_terminal=is_terminal)
    assert "213 of 701 users" in drawn
    assert "46 s left" in drawn or "about 45 s left" in drawn or "23 s left" in drawn
    listed = show(monkeypatch, snapshot(users=701), users=701, is_terminal=is_terminal)
    assert "users" not in listed


def test_progress_none_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--quiet` does the same."""
    assert show(monkeypatch, snapshot(elapsed=60), mode="none") == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (4801, "1 h 20 min"),
    ],
)
def test_durations_are_readable(seconds: float, told: str) -> None:
    """No decimals, no days."""
    assert duration(seconds) == told
    assert number(40_000) == "40,000"
