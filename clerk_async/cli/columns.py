"""Turns lines into ids: one per line, or a column of CSV, or a field of JSON lines.

Anything that could be more than one id is refused rather than sent: the service would respond with
"not found", which counts as done.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from clerk_async.cli.exits import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clerk_async.cli.lines import Lines

DELIMITERS: Final = ",;\t|"
"""Spreadsheets write semicolons if numbers have a decimal comma; our own lists have tabs."""
LONGEST_CELL: Final = 2**31 - 1
_CELL: Final = re.compile(r'"((?:[^"]|"")*)"')
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_NOT_IN_AN_ID: Final = re.compile(r"[\s,;|]")
_OF_A_STRUCTURE: Final = tuple("{[\"'<")


@attrs.frozen
class Wanted:
    """The ids to read, and where they are in the output of `list`.

    Attributes:
        name: Their name in the plural.
        heading: The heading of their column in tables.
        field: Their name in JSON lines and CSV.
        headers: What the first line of a file may be instead of an id, in lower case.
        owner: Whose ids they are.
        prefix: Their prefix.
    """

    name: str
    heading: str
    field: str
    headers: frozenset[str]
    owner: str
    prefix: str


SESSIONS: Final = Wanted(
    "session ids",
    "SESSION",
    "id",
    frozenset({"id", "ids", "session", "sessions", "session id", "session_id", "sessionid", "sid"}),
    "sessions",
    "sess_",
)
USERS: Final = Wanted(
    "users",
    "USER",
    "user_id",
    frozenset({"id", "ids", "user", "users", "user id", "user_id", "userid", "sub"}),
    "users",
    "user_",
)


@attrs.define
class Tally:
    """What was found besides ids.

    Attributes:
        skipped: The number of rows with an empty cell.
        headers: The number of lines taken for a heading.
    """

    skipped: int = 0
    headers: int = 0


def plain_ids(lines: Lines, source: str, wanted: Wanted, tally: Tally) -> Iterator[str]:
    """Read one id per line; in the output of `list`, find the column.

    Raises:
        Refused: If a line can't be one id.
    """
    is_first = True
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if is_first:
            is_first = False
            if text.casefold() in wanted.headers:
                tally.headers += 1
                continue
            column = _own_column(text, wanted)
            if column is not None:
                yield from column_ids(lines, source, column, tally, first=line)
                return
        yield _only_id(text, lines.number, source)


def _own_column(text: str, wanted: Wanted) -> str | None:
    """Return the column's name if this is the first line of a session list as we print it."""
    if text.startswith("{"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        is_session = isinstance(row, dict) and cast(dict[str, Any], row).get("object") == "session"
        return wanted.field if is_session else None
    if text.startswith(f"{SESSIONS.heading}\t"):
        return wanted.heading
    return wanted.field if text.startswith("id,status,user_id,") else None


def _only_id(text: str, number: int, source: str) -> str:
    cell = _CELL.fullmatch(text)
    if cell is not None:
        text = cell[1].replace('""', '"')
    if text.startswith(_OF_A_STRUCTURE) or _NOT_IN_AN_ID.search(text):
        raise Refused(
            f"line {number} of {source} contains more than one id: for CSV or JSON lines, "
            "name the column of the ids with --column NAME"
        )
    return text


def column_ids(
    lines: Lines, source: str, column: str, tally: Tally, *, first: str | None = None
) -> Iterator[str]:
    """Read ids from a column of CSV with a header, or from a field of JSON lines.

    Raises:
        Refused: If there is no such column, or a line can't be read.
    """
    for line in lines if first is None else chain([first], lines):
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            raise Refused(
                f"{source} is a JSON array, but JSON lines are needed, one object per line: "
                "jq -c '.[]' converts it"
            )
        if line.lstrip().startswith("{"):
            yield from _of_json(chain([line], lines), lines, source, column, tally)
        else:
            yield from _of_csv(line, lines, source, column, tally)
        return


def _of_json(
    texts: Iterator[str], lines: Lines, source: str, column: str, tally: Tally
) -> Iterator[str]:
    for text in texts:
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise Refused(
                f"line {lines.number} of {source} is not a JSON object; JSON lines are needed, "
                "one object per line: jq -c . converts the file"
            )
        fields = cast(dict[str, Any], row)
        names = list(fields)
        place = _place(names, column, f"line {lines.number} of {source}")
        value = None if place is None else fields[names[place]]
        if value is None or value == "":
            tally.skipped += 1
            continue
        if not isinstance(value, str):
            raise Refused(f"line {lines.number} of {source} has no text in {column!r}")
        yield value


def _of_csv(first: str, lines: Lines, source: str, column: str, tally: Tally) -> Iterator[str]:
    csv.field_size_limit(LONGEST_CELL)  # lines are limited already; only this program is affected
    separator = _SEPARATOR.fullmatch(first.strip(" \r\n"))
    if separator is None:
        delimiter = _delimiter(first, column)
        texts = chain([first], lines)
    else:
        delimiter = separator[1]
        texts = chain(lines)
    # Strict, because an unclosed quote would otherwise silently swallow the lines after it.
    rows = csv.reader(texts, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, list[str]())]
        place = _place(header, column, source)
        if place is None:
            raise Refused(f"{source} has no column {column!r}; it has {', '.join(header)}")
        for row in rows:
            if any(cell.strip() for cell in row[len(header) :]):
                raise Refused(
                    f"line {lines.number} of {source} has more cells than the header: a cell that "
                    f"contains {delimiter!r} must be in quotation marks"
                )
            value = row[place].strip() if place < len(row) else ""
            if value:
                yield value
            elif any(row):
                tally.skipped += 1
    except csv.Error as error:
        raise Refused(f"line {lines.number} of {source}: {error}") from None


def _place(names: Sequence[str], column: str, source: str) -> int | None:
    """Find a column by its exact name, or else by its name in another case.

    Raises:
        Refused: If several columns have that name.
    """
    for same in (str, str.casefold):
        places = [
            place for place, name in enumerate(names) if same(name.strip()) == same(column.strip())
        ]
        if len(places) > 1:
            raise Refused(f"{source} has {len(places)} columns {column!r}")
        if places:
            return places[0]
    return None


def _delimiter(header: str, column: str) -> str:
    """Find the delimiter that yields a cell with the column's name, else the most cells."""

    def names(mark: str) -> list[str]:
        try:
            cells = next(csv.reader([header], delimiter=mark), list[str]())
            return [name.strip() for name in cells]
        except csv.Error:
            return []

    wanted = column.strip().casefold()
    for mark in DELIMITERS:
        if wanted in (name.casefold() for name in names(mark)):
            return mark
    return max(DELIMITERS, key=lambda mark: len(names(mark)))
