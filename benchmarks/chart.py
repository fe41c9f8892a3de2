"""A bar chart as SVG, written by hand: it needs no library and reads on light and dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Result

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
_WIDTH: Final = 760
_LABEL: Final = 170
_ROOM: Final = 470
_BAR: Final = 16
_COLOURS: Final = {
    "clerk_async": "#2f81f7",
    "clerk-backend-api": "#d9822b",
}
_OTHER: Final = "#8b949e"
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}"
    ".t{font-weight:600;font-size:13px}.n{fill:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9da7b1}}"
)


def as_svg(results: Sequence[Result], note: str) -> str:
    """Draw calls per second, one group a case; each group has a scale of its own.

    Args:
        results: Those of `CHARTED` are drawn, in that order.
        note: The line below: machine and command.
    """
    parts: list[str] = []
    y = 24
    for name in CHARTED:
        group = [result for result in results if result.case == name]
        if not group:
            continue
        best = max(result.rate for result in group)
        parts.append(f'<text class="t" x="8" y="{y}">{escape(group[0].title)}</text>')
        y += 8
        for result in sorted(group, key=lambda each: -each.rate):
            length = max(1.0, result.rate / best * _ROOM)
            colour = _COLOURS.get(result.client, _OTHER)
            middle = y + _BAR - 4
            parts.append(
                f'<text x="{_LABEL - 6}" y="{middle}" text-anchor="end">'
                f"{escape(result.client)}</text>"
                f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR - 3}" rx="2" '
                f'fill="{colour}"/>'
                f'<text class="n" x="{_LABEL + length + 6:.1f}" y="{middle}">'
                f"{result.rate:,.0f}/s</text>"
            )
            y += _BAR
        y += 28
    parts.append(f'<text class="n" x="8" y="{y - 6}">{escape(note)}</text>')
    title = "Calls per second, by client; longer is better"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 8}" '
        f'viewBox="0 0 {_WIDTH} {y + 8}" role="img" aria-label="{title}">'
        f"<title>{title}</title><style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )
