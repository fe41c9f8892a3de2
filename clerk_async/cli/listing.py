"""What `list`, `get` and `create` show: sessions as tables for people, and as JSON lines."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from clerk_async.cli.client import make_client
from clerk_async.cli.exits import DONE, FAILED
from clerk_async.cli.progress import number
from clerk_async.models import SESSION_FIELDS, SessionActivity, SessionStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.cli.app import Settings
    from clerk_async.cli.output import Output
    from clerk_async.models import Session, SessionPage, UnreadableItem

_COLUMNS: Final = ("SESSION", "STATUS", "USER", "ACTIVE (UTC)", "CREATED (UTC)", "WHERE")
_TABLE_ROWS: Final = 500
"""A longer list is drawn in several tables, so that it takes no more memory than one."""


async def list_page(settings: Settings, arguments: Mapping[str, Any]) -> int:
    """Show one page, and give the exit code."""
    async with make_client(settings) as sessions:
        page: SessionPage = await sessions.list(**arguments)
    out = settings.out
    _show(out, list(page.data))
    for item in page.unreadable:
        _tell_unreadable(out, item)
    shown = len(page.data) + len(page.unreadable)
    if page.total_count is not None and shown < page.total_count:
        out.note(f"{number(shown)} of {number(page.total_count)} sessions; --all lists all")
    elif not shown:
        out.note("no sessions")
    return FAILED if page.unreadable else DONE


async def list_all(settings: Settings, filters: Mapping[str, Any]) -> int:
    """Show all pages, and give the exit code."""
    out = settings.out
    rows: list[Session] = []
    count = unreadable = 0

    def note(item: UnreadableItem) -> None:
        nonlocal unreadable
        unreadable += 1
        _tell_unreadable(out, item)

    async with make_client(settings) as sessions:
        async for session in sessions.iterate(**filters, on_unreadable=note):
            rows.append(session)
            count += 1
            if len(rows) == _TABLE_ROWS:
                _show(out, rows, is_first=count == len(rows))
                rows = []
    if rows:
        _show(out, rows, is_first=count == len(rows))
    out.note(f"{number(count)} sessions" if count else "no sessions")
    return FAILED if unreadable else DONE


def session_record(session: Session) -> dict[str, Any]:
    """Make the JSON line of a session: every field that it has, times in ISO 8601."""
    record: dict[str, Any] = {}
    for name in SESSION_FIELDS:
        value: object = getattr(session, name)
        if isinstance(value, datetime):
            value = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        elif isinstance(value, SessionStatus):
            value = value.value
        elif isinstance(value, SessionActivity):
            value = attrs.asdict(value)
        elif name == "tasks" and session.tasks is not None:
            value = [attrs.asdict(task) for task in session.tasks]
        record[name] = value
    return record


def _show(out: Output, sessions: list[Session], *, is_first: bool = True) -> None:
    if out.is_json:
        for session in sessions:
            out.record(session_record(session))
    elif out.is_quiet:
        for session in sessions:
            out.result(session.id)
    elif sessions:
        users = {session.user_id for session in sessions}
        places = {_where(session) for session in sessions}
        left_out = ["USER"] if len(users) == 1 else []
        left_out += [] if places - {""} else ["WHERE"]
        rows = [_row(session) for session in sessions]
        out.table(_COLUMNS, rows, has_header=is_first, left_out=left_out)


def _row(session: Session) -> tuple[str, ...]:
    return (
        session.id,
        session.status.value,
        session.user_id or "-",
        _time(session.last_active_at),
        _time(session.created_at),
        _where(session) or "-",
    )


def show_one(out: Output, session: Session) -> None:
    """Print one session."""
    if out.is_json:
        out.record(session_record(session))
        return
    if out.is_quiet:
        out.result(session.id)
        return
    rows = [
        ("session", session.id),
        ("status", session.status.value),
        ("user", session.user_id or "-"),
        ("client", session.client_id or "-"),
        ("organization", session.last_active_organization_id or "-"),
        ("created", _time(session.created_at)),
        ("last active", _time(session.last_active_at)),
        ("expires", _time(session.expire_at)),
        ("abandoned on", _time(session.abandon_at)),
        ("where", _where(session) or "-"),
    ]
    if session.actor is not None:
        rows.append(("impersonated by", str(session.actor.get("sub", "somebody"))))
    if session.tasks:
        rows.append(("tasks left", ", ".join(task.key for task in session.tasks)))
    out.fields(rows)


def _where(session: Session) -> str:
    activity = session.latest_activity
    if activity is None:
        return ""
    place = ", ".join(part for part in (activity.city, activity.country) if part)
    device = " on ".join(part for part in (activity.browser_name, activity.device_type) if part)
    return "; ".join(part for part in (place, device, activity.ip_address) if part)


def _time(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M")


def _tell_unreadable(out: Output, item: UnreadableItem) -> None:
    out.error(f"entry {item.index} of the list is no session: {item.error}")
