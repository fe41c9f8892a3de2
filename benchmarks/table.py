"""The results as a table for terminals, as Markdown, and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from benchmarks.bars import BarResult
from benchmarks.bounds import Bound
from benchmarks.cases import OURS
from benchmarks.measure import Ratio, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Report",
    "as_markdown",
    "as_text",
    "bars_as_rows",
    "bars_as_text",
    "bounds_as_rows",
    "bounds_as_text",
    "number",
    "times",
]

_T = TypeVar("_T")

_HEAD = (
    "case",
    "client",
    "calls/s",
    "ours is",
    "rounds",
    "by CPU",
    "µs/call",
    "CPU µs",
    "p50 µs",
    "p99 µs",
    "MiB",
)


@attrs.frozen
class Report:
    """All results of a run; the charts and tables need nothing else, and so can use its JSON.

    Attributes:
        machine: The machine, the software versions, and the command.
        results: The result of each client in each case.
        bars: The bars and what was reached.
    """

    machine: dict[str, Any]
    results: list[Result]
    bars: list[BarResult]
    bounds: list[Bound] = attrs.field(factory=list[Bound])

    def as_json(self) -> str:
        """Return everything as JSON, including the figures of each round."""
        return json.dumps(attrs.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `as_json` wrote."""
        raw = json.loads(text)
        return cls(
            raw["machine"],
            [
                _read(Result, each, "ratio", "cpu_ratio", "growth", "cpu_growth")
                for each in raw["results"]
            ],
            [_read(BarResult, each, "reached", "by_cpu") for each in raw["bars"]],
            [Bound(**each) for each in raw.get("bounds", ())],
        )


def _read(kind: type[_T], raw: dict[str, Any], *ratios: str) -> _T:
    for name in ratios:
        raw[name] = Ratio(**raw[name]) if raw.get(name) else None
    for name in {"rates", "cpus"} & raw.keys():
        raw[name] = tuple(raw[name])
    return kind(**raw)


def as_text(results: Sequence[Result]) -> str:
    """Return a table with aligned columns."""
    return "\n".join(_aligned([_HEAD, *_rows(results)], left=2))


def as_markdown(results: Sequence[Result]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(_HEAD)} |", "|---|---|" + "---:|" * (len(_HEAD) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in _rows(results)]
    return "\n".join(lines) + "\n"


def bars_as_rows(bars: Sequence[BarResult]) -> list[tuple[str, ...]]:
    """Return each bar, what was reached by the clock and by CPU time, and whether it is met."""
    return [
        (
            bar.text,
            f"{'≥' if bar.at_least else '≤'} {bar.bar:g}",
            _told(bar.reached),
            "" if bar.by_cpu is None else times(bar.by_cpu.middle),
            "met" if bar.is_met else "missed",
        )
        for bar in bars
    ]


def _told(reached: Ratio) -> str:
    if reached.middle < 0.1:  # seconds, not a ratio
        return number(reached.middle)
    spread = _spread(reached)
    return f"{times(reached.middle)} ({spread})" if spread else times(reached.middle)


def bars_as_text(bars: Sequence[BarResult]) -> str:
    """Return a table of the bars that were judged."""
    head = ("what", "bar", "reached (rounds)", "by CPU", "")
    return "\n".join(_aligned([head, *bars_as_rows(bars)], left=1))


def bounds_as_rows(bounds: Sequence[Bound]) -> list[tuple[str, ...]]:
    """Return each bound, what was measured, and whether it is met."""
    return [(each.what, each.figure, "met" if each.is_met else "missed") for each in bounds]


def bounds_as_text(bounds: Sequence[Bound]) -> str:
    """Show which bounds were kept."""
    return "\n".join(_aligned([("what", "measured", ""), *bounds_as_rows(bounds)], left=3))


def number(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """Return a ratio as text."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _spread(of: Ratio) -> str:
    return "" if of.low == of.high else f"{times(of.low)} to {times(of.high)}"


def _aligned(rows: list[tuple[str, ...]], *, left: int) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return lines


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    last = ""
    for result in results:
        middle = spread = by_cpu = ""
        is_peer = result.client not in {OURS, "bare Python"}  # it does no work
        if is_peer and result.ratio is not None and result.cpu_ratio is not None:
            middle = f"{times(result.ratio.middle)} x"
            spread = _spread(result.ratio)
            by_cpu = f"{times(result.cpu_ratio.middle)} x"
        rows.append(
            (
                result.title if result.title != last else "",
                result.client,
                number(result.rate),
                middle,
                spread,
                by_cpu,
                number(result.time * 1e6),
                number(result.cpu * 1e6),
                "" if result.p50 is None else number(result.p50 * 1e6),
                "" if result.p99 is None else number(result.p99 * 1e6),
                f"{result.peak:.0f}",
            )
        )
        last = result.title
    return rows
