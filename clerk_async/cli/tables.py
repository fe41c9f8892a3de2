"""Tables on a terminal: the one place that draws with rich."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["draw"]


def draw(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, has_colour: bool
) -> str:
    """Draw a table as text; the cells are taken as they are, never as markup."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        # The first column holds ids: to be copied, they must stand in one line.
        table.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    text = io.StringIO()
    console = Console(
        file=text,
        width=width,
        force_terminal=has_colour,
        color_system="standard" if has_colour else None,
        legacy_windows=False,
    )
    console.print(table)
    return text.getvalue()


def _cell(text: str) -> Text:
    style = {"active": "green", "pending": "yellow", "revoked": "red"}.get(text, "")
    return Text(text, style=style)
