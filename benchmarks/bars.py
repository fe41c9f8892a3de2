"""Compares the results with the bars that we set ourselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from benchmarks.cases import BARS, Bar
from benchmarks.measure import Ratio, Result, ratio_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BarResult", "judge"]


@attrs.frozen
class BarResult:
    """A bar and the result, by wall-clock time.

    Attributes:
        text: What is compared.
        bar: The value that must be reached or not exceeded.
        at_least: Whether more is better.
        reached: The median; for a comparison, with its lowest and highest round.
        by_cpu: The same by CPU time, for the record; None for memory.
        is_met: Whether the median by the clock meets the bar.
    """

    text: str
    bar: float
    at_least: bool
    reached: Ratio
    by_cpu: Ratio | None
    is_met: bool


def judge(results: Sequence[Result]) -> list[BarResult]:
    """Judge the bars for which there are figures."""
    by_key = {(result.case, result.client): result for result in results}
    judged: list[BarResult] = []
    for bar in BARS:
        mine = by_key.get((bar.case, bar.client))
        other = by_key.get((bar.peer_case or bar.case, bar.peer or ""))
        if mine is None or (bar.peer is not None and other is None):
            continue
        reached = _reached(bar, mine, other)
        if reached is not None:
            met = reached.middle >= bar.factor if bar.at_least else reached.middle <= bar.factor
            cpu = _by_cpu(bar, mine, other)
            judged.append(BarResult(bar.text, bar.factor, bar.at_least, reached, cpu, met))
    return judged


def _reached(bar: Bar, mine: Result, other: Result | None) -> Ratio | None:
    if bar.figure == "growth":
        return mine.growth
    if bar.figure == "peak":
        peak = mine.peak if other is None else mine.peak / other.peak
        return Ratio(peak, peak, peak)
    times = [1 / rate for rate in mine.rates]
    if other is None:
        return Ratio(mine.time, min(times), max(times))
    if bar.figure == "rate":
        return ratio_of(mine.rates, other.rates)
    return ratio_of(times, [1 / rate for rate in other.rates])


def _by_cpu(bar: Bar, mine: Result, other: Result | None) -> Ratio | None:
    if bar.figure == "growth":
        return mine.cpu_growth
    if bar.figure == "peak" or other is None:
        return None
    if bar.figure == "rate":
        return ratio_of(other.cpus, mine.cpus)
    return ratio_of(mine.cpus, other.cpus)
