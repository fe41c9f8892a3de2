"""The results as a table for terminals, as Markdown for the README, and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.cases import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import BarResult, Result

__all__ = ["as_json", "as_markdown", "as_text", "bars_as_text"]

_HEAD = (
    "case",
    "client",
    "calls/s",
    "ours is",
    "by CPU",
    "µs/call",
    "CPU µs",
    "p50 µs",
    "p99 µs",
    "MiB",
)


def as_text(results: Sequence[Result]) -> str:
    """Make a table of fixed width."""
    rows = [_HEAD, *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def as_markdown(results: Sequence[Result]) -> str:
    """Make a Markdown table."""
    lines = [f"| {' | '.join(_HEAD)} |", "|---|---|" + "---:|" * (len(_HEAD) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in _rows(results)]
    return "\n".join(lines)


def bars_as_text(bars: Sequence[BarResult]) -> str:
    """Tell which bars were reached."""
    width = max((len(bar.text) for bar in bars), default=0)
    return "\n".join(
        f"{'met   ' if bar.is_met else 'MISSED'}  {bar.text.ljust(width)}  "
        f"{bar.reached:8.3f}  (bar: {'≥' if bar.at_least else '≤'} {bar.bar:g})"
        for bar in bars
    )


def as_json(machine: dict[str, Any], results: Sequence[Result], bars: Sequence[BarResult]) -> str:
    """Encode everything, the rounds' single figures included."""
    return json.dumps(
        {
            "machine": machine,
            "results": [attrs.asdict(result) for result in results],
            "bars": [attrs.asdict(bar) for bar in bars],
        },
        indent=1,
    )


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    last = ""
    for result in results:
        ratio = cpu_ratio = ""
        if result.client != OURS and result.ratio is not None and result.cpu_ratio is not None:
            ratio, cpu_ratio = f"{result.ratio:.2f} x", f"{result.cpu_ratio:.2f} x"
        rows.append(
            (
                result.title if result.title != last else "",
                result.client,
                _number(result.rate),
                ratio,
                cpu_ratio,
                _number(result.time * 1e6),
                _number(result.cpu * 1e6),
                "" if result.p50 is None else _number(result.p50 * 1e6),
                "" if result.p99 is None else _number(result.p99 * 1e6),
                f"{result.peak:.0f}",
            )
        )
        last = result.title
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
