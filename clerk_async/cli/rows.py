"""Sessions as rows: in a table for people, and as lines that programs and `revoke` read back.

Whatever a value contains, a row stays one line and a cell stays one cell.
"""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from clerk_async.cli.columns import SESSIONS, USERS
from clerk_async.cli.output import cell, paint, terminal_width
from clerk_async.extras import DRAWING, require
from clerk_async.redaction import json_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clerk_async.cli.output import Output, Stream
    from clerk_async.models import Session

TSV_HEADER: Final = (
    SESSIONS.heading,
    "STATUS",
    USERS.heading,
    "ACTIVE (UTC)",
    "CREATED (UTC)",
    "WHERE",
    "ACTOR",
)
CSV_HEADER: Final = (
    SESSIONS.field,
    "status",
    USERS.field,
    "client_id",
    "actor",
    "last_active_organization_id",
    "last_active_at",
    "created_at",
    "updated_at",
    "expire_at",
    "abandon_at",
    "city",
    "country",
    "ip_address",
    "browser_name",
    "browser_version",
    "device_type",
    "is_mobile",
)
MARK: Final = "*"
"""A mark before the status of a session in which somebody else acts as its user."""
_GAP: Final = "  "
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_FORMULA: Final = ("=", "+", "-", "@")
_LEAST_OF_WHERE: Final = 10
_LEAST_OF_USER: Final = 12
_LEAST_OF_STATUS: Final = 6
_DROPPED: Final = ("CREATED", "WHERE", "USER", "ACTIVE", "STATUS")
"""The order in which a narrow terminal drops columns; the ids always stay, and stay complete."""
_COLOURS: Final = {"active": "green", "pending": "yellow"}
_UNITS: Final = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min"))


def id_line(session: Session) -> str:
    """Return an id in a form that is read back as itself or refused, but never as another id."""
    if _PLAIN_ID.fullmatch(session.id) and session.id.casefold() not in SESSIONS.headers:
        return session.id
    return '"' + cell(session.id).replace('"', '""') + '"'


def tsv_row(session: Session) -> str:
    """Return a session as a line of tab-separated values."""
    return _written(
        (
            session.id,
            session.status.value,
            session.user_id or "-",
            _utc(session.last_active_at),
            _utc(session.created_at),
            _no_formula(where(session)) or "-",
            actor(session) or "-",
        ),
        "\t",
    )


def csv_row(session: Session) -> str:
    """Return a session as a line of CSV, with every field, and times in ISO 8601."""
    return _written([_csv_cell(session, name) for name in CSV_HEADER], ",")


def _csv_cell(session: Session, name: str) -> str | None:
    if name == "actor":
        return actor(session)
    if hasattr(session, name):
        told: str | None = json_of(getattr(session, name))
        return told
    value = getattr(session.latest_activity, name, None)
    # A browser's description of itself must not become a formula in a spreadsheet.
    return str(value).lower() if isinstance(value, bool) else _no_formula(value)


def _written(cells: Sequence[str | None], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="")
    writer.writerow("" if value is None else cell(value) for value in cells)
    return text.getvalue()


def _no_formula(text: str | None) -> str | None:
    return f"'{text}" if text is not None and text.lstrip().startswith(_FORMULA) else text


def table(sessions: Sequence[Session], out: Output, *, now: datetime) -> str:
    """Draw sessions as a table with one line each, even on a narrow terminal."""
    require("cli", DRAWING, needed_for="tables need")
    from rich.cells import cell_len  # noqa: PLC0415 - rich, only when drawing

    columns = {
        "SESSION": [cell(session.id) for session in sessions],
        "STATUS": [_status(session) for session in sessions],
        "USER": [cell(session.user_id or "-") for session in sessions],
        "ACTIVE": [ago(session.last_active_at, now) for session in sessions],
        "CREATED": [ago(session.created_at, now) for session in sessions],
        "WHERE": [cell(where(session)) for session in sessions],
    }
    if len(set(columns["USER"])) == 1:
        del columns["USER"]
    if not any(columns["WHERE"]):
        del columns["WHERE"]
    widths = {name: max(map(cell_len, (name, *cells))) for name, cells in columns.items()}
    _fit(widths, terminal_width())
    shown = list(widths)
    rule = "─" if out.out.has_unicode else "-"
    stream = out.out
    lines = [
        paint(stream, _GAP.join(_fitted(shown, widths, stream)).rstrip(), "bold"),
        rule * min(terminal_width(), len(_GAP) * (len(widths) - 1) + sum(widths.values())),
    ]
    for place, session in enumerate(sessions):
        row = _fitted([columns[name][place] for name in shown], widths, stream)
        style = _COLOURS.get(session.status.value)
        if style is not None and "STATUS" in widths:
            row[shown.index("STATUS")] = paint(stream, row[shown.index("STATUS")], style)
        line = _GAP.join(row).rstrip()
        lines.append(line if session.status.is_live else paint(stream, line, "dim"))
    return "\n".join(lines) + "\n"


def _fit(widths: dict[str, int], room: int) -> None:
    """Narrow or drop columns until a row fits."""
    least = {"STATUS": _LEAST_OF_STATUS, "USER": _LEAST_OF_USER, "WHERE": _LEAST_OF_WHERE}

    def excess() -> int:
        return sum(widths.values()) + len(_GAP) * (len(widths) - 1) - room

    for dropped in _DROPPED:
        bounds = {name: min(width, least.get(name, width)) for name, width in widths.items()}
        for name in ("WHERE", "USER", "STATUS"):
            if name in widths:
                widths[name] = max(bounds[name], widths[name] - max(0, excess()))
        if excess() <= 0:
            return
        widths.pop(dropped, None)


def _fitted(cells: Sequence[str], widths: dict[str, int], stream: Stream) -> list[str]:
    """Cut or pad each cell to the width of its column."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 - as above

    ellipsis = "…" if stream.has_unicode else "~"
    return [
        set_cell_size(text, width)
        if cell_len(text) <= width
        else set_cell_size(text, width - 1) + ellipsis
        for text, width in zip(cells, widths.values(), strict=True)
    ]


def _status(session: Session) -> str:
    return (MARK if session.actor is not None else "") + cell(session.status.value)


def where(session: Session) -> str:
    """Describe the place and device of a session's latest activity."""
    activity = session.latest_activity
    if activity is None:
        return ""
    place = ", ".join(part for part in (activity.city, activity.country) if part)
    device = " on ".join(part for part in (activity.browser_name, activity.device_type) if part)
    return "; ".join(part for part in (place, device, activity.ip_address) if part)


def actor(session: Session) -> str:
    """Return who acts as the session's user, or an empty str."""
    if session.actor is None:
        return ""
    return str(session.actor.get("sub") or "somebody")


def ago(time: datetime | None, now: datetime) -> str:
    """Return how long ago a time was, in one unit: `3 h ago`."""
    if time is None:
        return "-"
    seconds = (now - time).total_seconds()
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name} ago"
    return "now" if seconds > -60 else f"{time:%Y-%m-%d}"  # noqa: PLR2004 - clocks may differ


def _utc(time: datetime | None) -> str:
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
