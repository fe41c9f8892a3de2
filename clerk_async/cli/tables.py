"""Tables on a terminal: the one place that draws with rich."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST: Final = 10
"""No column is narrower: a date, and most words, stay whole."""
_GAP: Final = 3


def draw(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, has_colour: bool
) -> str:
    """Draw a table as text; the cells are taken as they are, never as markup."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    narrowest = 0
    for place, column in enumerate(columns):
        is_id = place == 0  # to be copied, ids must stand in one line
        longest = max((len(row[place]) for row in rows), default=0)
        least = longest if is_id else min(longest, _LEAST)
        table.add_column(column, overflow="fold", no_wrap=is_id, min_width=least)
        narrowest += least + (0 if is_id else _GAP)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    text = io.StringIO()
    console = Console(
        file=text,
        # In a narrower terminal rich would leave out whole columns; so its lines wrap there.
        width=max(width, narrowest),
        force_terminal=has_colour,
        color_system="standard" if has_colour else None,
        legacy_windows=False,
    )
    console.print(table)
    return text.getvalue()


def _cell(text: str) -> Text:
    style = {"active": "green", "pending": "yellow", "revoked": "red"}.get(text, "")
    return Text(text, style=style)
