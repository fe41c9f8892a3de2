"""The output of `list`, `get` and `create`: how much of a list, in which form; or one session."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import attrs

from clerk_async.cli import rows
from clerk_async.cli.client import make_client
from clerk_async.cli.columns import SESSIONS, USERS
from clerk_async.cli.exits import DONE, FAILED, KEY_REFUSED, exit_code_of
from clerk_async.cli.lookalikes import hint
from clerk_async.cli.messages import error_text
from clerk_async.cli.output import cell
from clerk_async.cli.progress import number
from clerk_async.errors import ClerkError, NotFoundError
from clerk_async.models import SessionStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clerk_async.cli.app import Settings
    from clerk_async.cli.filters import Filters
    from clerk_async.cli.output import Output
    from clerk_async.models import Session, SessionPage, UnreadableItem

Form = Literal["table", "tsv", "json", "csv", "ids"]

_TABLE_ROWS: Final = 500
"""A longer list is drawn as several tables, so that memory use stays bounded."""
_GETS_AT_ONCE: Final = 10
_TIMES: Final = "%Y-%m-%d %H:%M"


@attrs.frozen
class Query:
    """Which sessions to list.

    Attributes:
        user_id: Only sessions of this user.
        client_id: Only sessions of this client.
        status: Only sessions with this status.
        limit: The most sessions to list.
        offset: How many sessions to skip.
        is_all: Whether to list all sessions even on a terminal.
        filters: Which of the sessions that the service lists to select.
        form: The output format; None for the default of the output stream.
    """

    user_id: str | None
    client_id: str | None
    status: str | None
    limit: int | None
    offset: int | None
    is_all: bool
    filters: Filters
    form: Literal["table", "json", "csv", "ids"] | None


async def list_sessions(settings: Settings, query: Query) -> int:
    """List sessions, and return the exit code.

    On a terminal, one page is enough, with a note about the rest; a program gets all sessions.
    """
    out = settings.out
    printer = _Printer(out, _form_of(out, query.form))
    # The service can't filter by pending, or by any of our filters.
    is_filtered = bool(query.filters) or query.status == SessionStatus.PENDING
    is_page = query.limit is not None or query.offset is not None
    if not is_page and printer.form == "table" and query.form is None:
        is_page = not query.is_all
    if is_page and not is_filtered:
        return await _list_page(settings, query, printer)
    return await _list_all(settings, query, printer)


def _form_of(out: Output, asked: Literal["table", "json", "csv", "ids"] | None) -> Form:
    if asked is None and out.is_json:
        return "json"
    if asked is None and out.is_quiet:
        return "ids"
    if asked is None or asked == "table":
        return "table" if out.out.is_terminal else "tsv"
    return asked


async def _list_page(settings: Settings, query: Query, printer: _Printer) -> int:
    async with make_client(settings) as sessions:
        page: SessionPage = await sessions.list(
            user_id=query.user_id,
            client_id=query.client_id,
            status=query.status,
            limit=query.limit,
            offset=query.offset,
        )
    for session in page.data:
        printer.put(session)
    printer.close()
    for item in page.unreadable:
        printer.put_unreadable(item)
    shown = len(page.data) + len(page.unreadable)
    before = query.offset or 0
    if page.total_count is not None and before + shown < page.total_count:
        all_of_them = number(page.total_count)
        settings.out.note(f"{number(shown)} of {all_of_them} sessions; --all lists them all")
    elif not shown:
        settings.out.note(_no_sessions(query))
    return FAILED if page.unreadable else DONE


async def _list_all(settings: Settings, query: Query, printer: _Printer) -> int:
    is_pending = query.status == SessionStatus.PENDING
    to_skip = query.offset or 0
    async with make_client(settings) as sessions:
        walk = sessions.iterate(
            user_id=query.user_id,
            client_id=query.client_id,
            status=None if is_pending else query.status,
            on_unreadable=printer.put_unreadable,
        )
        async for session in walk:
            if is_pending and session.status != SessionStatus.PENDING:
                continue
            if not query.filters.has(session):
                continue
            if to_skip:
                to_skip -= 1
                continue
            printer.put(session)
            if printer.count == query.limit:
                await walk.aclose()
                break
    printer.close()
    count = printer.count
    settings.out.note(
        f"{number(count)} session{'s' * (count != 1)}" if count else _no_sessions(query)
    )
    return FAILED if printer.unreadable else DONE


def _no_sessions(query: Query) -> str:
    return "no sessions" + ("" if query.user_id is None else hint(query.user_id, USERS))


@attrs.define
class _Printer:
    """Prints sessions one by one, or in batches for a table."""

    out: Output
    form: Form
    count: int = 0
    unreadable: int = 0
    has_marks: bool = False
    _rows: list[Session] = attrs.field(factory=list["Session"])

    def put(self, session: Session) -> None:
        """Print a session, now or with the next batch."""
        if self.form == "table":
            self._rows.append(session)
            self.has_marks |= session.actor is not None
            if len(self._rows) == _TABLE_ROWS:
                self._draw()
        elif self.form == "json":
            self.out.record(session.to_dict())
        elif self.form == "ids":
            self.out.result(rows.id_line(session))
        else:
            header, row = _LINES[self.form]
            if not self.count:
                self.out.result(header)
            self.out.result(row(session))
        self.count += 1

    def put_unreadable(self, item: UnreadableItem) -> None:
        """Report an entry that can't be shown."""
        self.unreadable += 1
        self.out.error(f"entry {item.index} of the list isn't a session: {item.error}")

    def close(self) -> None:
        """Print what is left."""
        if self._rows:
            self._draw()
        if self.form in _LINES and not self.count:
            self.out.result(_LINES[self.form][0])  # so that reading it back finds the column
        if self.has_marks:
            self.out.note(
                f"{rows.MARK} impersonated: somebody else acts as the user (see `get ID`)"
            )

    def _draw(self) -> None:
        self.out.out.write(rows.table(self._rows, self.out, now=datetime.now(UTC)))
        self._rows.clear()


_LINES: Final = {
    "tsv": ("\t".join(rows.TSV_HEADER), rows.tsv_row),
    "csv": (",".join(rows.CSV_HEADER), rows.csv_row),
}


async def get_sessions(settings: Settings, session_ids: Sequence[str]) -> int:
    """Print sessions in the order of their ids, and return the exit code.

    If a session can't be fetched, that is printed on stderr, and the others are printed; a rejected
    key ends the command.

    Raises:
        ClerkError: If it was the only session, or the key was rejected.
    """
    out = settings.out
    turn = asyncio.Semaphore(_GETS_AT_ONCE)
    errors: list[ClerkError] = []
    async with make_client(settings) as sessions:

        async def get(session_id: str) -> Session | ClerkError:
            async with turn:
                try:
                    return await sessions.get(session_id)
                except ClerkError as error:
                    return error

        getting = [asyncio.ensure_future(get(session_id)) for session_id in session_ids]
        try:
            for place, (session_id, one) in enumerate(zip(session_ids, getting, strict=True)):
                got = await one
                if isinstance(got, ClerkError):
                    if isinstance(got, NotFoundError) and (advice := hint(session_id, SESSIONS)):
                        got.add_note(advice.strip(" ()"))
                    if len(session_ids) == 1 or exit_code_of(got) == KEY_REFUSED:
                        raise got
                    errors.append(got)
                    out.error(f"{cell(session_id)}: {error_text(got)}")
                    continue
                if place and not (out.is_json or out.is_quiet):
                    out.result()
                show_one(out, got)
        finally:
            for one in getting:
                one.cancel()
            await asyncio.gather(*getting, return_exceptions=True)
    if not errors:
        return DONE
    codes = {exit_code_of(error) for error in errors}
    return codes.pop() if len(codes) == 1 and len(errors) == len(session_ids) else FAILED


def show_one(out: Output, session: Session) -> None:
    """Print one session."""
    if out.is_json:
        out.record(session.to_dict())
        return
    if out.is_quiet:
        out.result(rows.id_line(session))
        return
    now = datetime.now(UTC)
    fields = [
        ("session", session.id),
        ("status", session.status.value),
        ("user", session.user_id or "-"),
        ("client", session.client_id or "-"),
        ("organization", session.last_active_organization_id or "-"),
        ("created", _time(session.created_at, now)),
        ("last active", _time(session.last_active_at, now)),
        ("expires", _time(session.expire_at, None)),
        ("abandoned on", _time(session.abandon_at, None)),
        ("where", rows.where(session) or "-"),
    ]
    if session.actor is not None:
        fields.append(("impersonated by", rows.actor(session)))
    if session.tasks:
        fields.append(("tasks left", ", ".join(task.key for task in session.tasks)))
    out.fields(fields)


def _time(time: datetime | None, now: datetime | None) -> str:
    if time is None:
        return "-"
    told = f"{time.strftime(_TIMES)} UTC"
    return told if now is None else f"{told} ({rows.ago(time, now)})"
