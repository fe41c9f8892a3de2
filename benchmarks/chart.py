"""A bar chart as SVG, without a library; it is readable on light and dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from benchmarks.cases import BARS, CLERK, OURS
from benchmarks.table import number, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Result
    from benchmarks.table import Report

__all__ = ["CHARTED", "as_svg"]

CHARTED: Final = (
    "async-revoke-64",
    "async-revoke-1",
    "sync-revoke",
    "sync-revoke-8",
    "async-list-500",
    "token-first",
    "token-again",
)
_WIDTH: Final = 820
_LABEL: Final = 176
_ROOM: Final = 460
_BAR: Final = 18
_NAMES: Final = {"aiohttp": "bare aiohttp"}
_KINDS: Final = {OURS: "ours", CLERK: "sdk"}
# The chart has its own background, because a page may be dark while the system is light.
_STYLE: Final = (
    ".card{fill:#fff;stroke:#d0d7de}"
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}"
    ".h{font-weight:600;font-size:15px}.t{font-weight:600;font-size:13px}"
    ".b{font-weight:600}.n{fill:#59636e}.e{text-anchor:end}"
    ".ours{fill:#0969da}.sdk{fill:#bc4c00}.other{fill:#afb8c1}"
    ".goal{stroke:#1f2328;stroke-width:2.5}"
    "@media(prefers-color-scheme:dark){"
    ".card{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}.n{fill:#9198a1}"
    ".ours{fill:#4493f8}.sdk{fill:#db6d28}.other{fill:#656c76}.goal{stroke:#f0f6fc}}"
)


def as_svg(report: Report) -> str:
    """Draw calls per second, one group for each case, with the bars that we set ourselves."""
    results = report.results
    title = "Calls per second: longer is better"
    parts = [f'<text class="h" x="20" y="32">{title}</text>', *_legend(54)]
    y = 88
    for name in CHARTED:
        group = [result for result in results if result.case == name]
        if not group:
            continue
        parts.append(f'<text class="t" x="20" y="{y}">{escape(group[0].title)}</text>')
        y += 8
        goals = list(_goals(name, report))
        longest = max(*(result.rate for result in group), *goals, 0.0)
        for result in sorted(group, key=lambda each: -each.rate):
            length = max(1.0, result.rate / longest * _ROOM)
            parts += _row(result, y, length)
            if result.client == OURS and goals:
                x = _LABEL + max(goals) / longest * _ROOM
                parts.append(
                    f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + _BAR}"/>'
                )
            y += _BAR
        y += 30
    machine = report.machine
    for line in (
        '"Ours 2 x": clerk_async makes twice as many calls. Each group has its own scale.',
        f"Medians on {machine['cpu']}, Python {machine['python']}, {machine['date']}.",
    ):
        parts.append(f'<text class="n" x="20" y="{y - 6}">{escape(line)}</text>')
        y += 18
    height = y - 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        f'<rect class="card" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _legend(y: int) -> Iterator[str]:
    x = 20
    for kind, text, width in (
        ("ours", "clerk_async", 100),
        ("sdk", "clerk-backend-api, the official SDK", 238),
        ("other", "others", 66),
    ):
        yield f'<rect class="{kind}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>'
        yield f'<text class="n" x="{x + 18}" y="{y}">{text}</text>'
        x += width
    yield f'<line class="goal" x1="{x + 6}" x2="{x + 6}" y1="{y - 12}" y2="{y + 4}"/>'
    yield f'<text class="n" x="{x + 18}" y="{y}">the bar we set for ourselves</text>'


def _row(result: Result, y: int, length: float) -> Iterator[str]:
    middle = y + _BAR - 5
    bold = " b" if result.client == OURS else ""
    name = escape(_NAMES.get(result.client, result.client))
    yield f'<text class="e{bold}" x="{_LABEL - 8}" y="{middle}">{name}</text>'
    yield (
        f'<rect class="{_KINDS.get(result.client, "other")}" x="{_LABEL}" y="{y}" '
        f'width="{length:.1f}" height="{_BAR - 4}" rx="2"/>'
    )
    told = f"{number(result.rate)}/s"
    if result.client != OURS and result.ratio is not None:
        told += f", ours {times(result.ratio.middle)} x"
    kind = "b" if result.client == OURS else "n"
    yield f'<text class="{kind}" x="{_LABEL + length + 10:.1f}" y="{middle}">{told}</text>'


def _goals(case: str, report: Report) -> Iterator[float]:
    """Yield how many calls per second ours must make to reach each bar of a case.

    The result uses the ratios of the rounds, like the bars, so that a met bar looks met.
    """
    reached = {each.text: each.reached.middle for each in report.bars}
    rates = {result.case: result.rate for result in report.results if result.client == OURS}
    for bar in BARS:
        if bar.case != case or bar.peer is None or bar.text not in reached or bar.figure == "peak":
            continue
        still = bar.factor / reached[bar.text]
        yield rates[case] * (still if bar.at_least else 1 / still)
