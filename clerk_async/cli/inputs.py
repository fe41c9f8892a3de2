"""Ids from arguments, a file or stdin: one a line, or a column of CSV or JSON lines.

Everything is read as it is needed, so a file of a million ids takes no more memory than one of ten.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import csv
import json
import os
import re
import stat
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, cast

import click

from clerk_async.cli.exits import Refused
from clerk_async.cli.messages import STDIN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from clerk_async.cli.output import Output

CHUNK: Final = 65_536
BATCH: Final = 256
LONGEST_LINE: Final = 1_000_000
COUNTED_AT_MOST: Final = 200_000_000
"""A file above so many bytes isn't counted first: its total stays unknown."""
_QUOTED: Final = re.compile(r'"[^"]+"')

_Batch = list[str] | BaseException | None


class Ids:
    """The ids of one run, to be read once.

    Attributes:
        source: Where they come from, in words.
        total: How many there are, duplicates included; None where only reading would tell.
        is_stdin: Whether they come from stdin, so that nothing else can.
        was_cut_short: Whether reading ended because the run was to stop.
        trouble: Why reading ended before the end: a line that can't be used, of a pipe whose
            lines can't be looked at before.
    """

    def __init__(
        self, ids: Iterable[str], *, source: str, total: int | None, is_stdin: bool = False
    ) -> None:
        self.source = source
        self.total = total
        self.is_stdin = is_stdin
        self.was_cut_short: bool = False
        self.trouble: Refused | None = None
        self._ids = iter(ids)
        self._ahead: deque[str] = deque()

    def has_more_than(self, count: int) -> bool:
        """Read so far ahead that this can be told; nothing is lost."""
        if self.total is not None:
            return self.total > count
        self._ahead.extend(islice(self._ids, count + 1 - len(self._ahead)))
        return len(self._ahead) > count

    def all(self) -> list[str]:
        """Read all ahead, where they are known to be few; nothing is lost."""
        self._ahead.extend(self._ids)
        return list(self._ahead)

    async def read(
        self, asked_to_stop: Callable[[], Coroutine[Any, Any, None]]
    ) -> AsyncIterator[str]:
        """Give the ids one by one; a wait for more ends when a stop is asked for.

        Args:
            asked_to_stop: Waits until the run shall stop.
        """
        while self._ahead:
            yield self._ahead.popleft()
        loop = asyncio.get_running_loop()
        batches: asyncio.Queue[_Batch] = asyncio.Queue(2)
        # A thread, as a read may wait for ever; a daemon, as the program must end all the same.
        threading.Thread(target=_pump, args=(self._ids, batches, loop), daemon=True).start()
        stopped = loop.create_task(asked_to_stop())
        try:
            while True:
                more = loop.create_task(batches.get())
                try:
                    await asyncio.wait({more, stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    more.cancel()
                batch = more.result() if more.done() and not more.cancelled() else None
                if batch is None:
                    self.was_cut_short = not more.done() or more.cancelled()
                    return
                if isinstance(batch, Refused):
                    self.trouble = batch
                    return
                if isinstance(batch, BaseException):
                    raise batch
                for session_id in batch:
                    yield session_id
        finally:
            stopped.cancel()


def _pump(
    ids: Iterator[str], batches: asyncio.Queue[_Batch], loop: asyncio.AbstractEventLoop
) -> None:
    batch: list[str] = []
    try:
        for session_id in ids:
            batch.append(session_id)
            # A batch goes on before a read that may wait: who types ids sees each done at once.
            is_full = len(batch) >= BATCH or not _has_ready(ids)
            if is_full and not _hand_over(batch, batches, loop):
                return
            if is_full:
                batch = []
    except Exception as error:  # noqa: BLE001 - told where the ids are read
        _hand_over(batch, batches, loop)
        _hand_over(error, batches, loop)
    else:
        _hand_over(batch, batches, loop)
        _hand_over(None, batches, loop)


def _hand_over(
    batch: _Batch, batches: asyncio.Queue[_Batch], loop: asyncio.AbstractEventLoop
) -> bool:
    """Wait for room and put a batch in; False once nobody wants any more."""
    putting = batches.put(batch)
    try:
        asyncio.run_coroutine_threadsafe(putting, loop).result()
    except (RuntimeError, concurrent.futures.CancelledError):  # the loop is closed, or about to be
        putting.close()
        return False
    return True


class _Lines(Iterator[str]):
    """Lines of a file descriptor, decoded; knows whether the next is there without a wait."""

    def __init__(self, descriptor: int, source: str) -> None:
        self._descriptor = descriptor
        self._source = source
        self._rest = b""
        self._ready: list[bytes] = []
        self._is_first = True
        self._is_ended = False
        self.number = 0

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def __next__(self) -> str:
        while not self._ready:
            if self._is_ended:
                raise StopIteration
            self._fill()
        line = self._ready.pop()
        self.number += 1
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise Refused(f"line {self.number} of {self._source} is not UTF-8 text") from None

    def _fill(self) -> None:
        # Not through sys.stdin: a daemon thread that waits in its buffer breaks the exit.
        chunk = os.read(self._descriptor, CHUNK)
        if not chunk:
            self._is_ended = True
            if self._rest:
                self._ready = [self._rest]
                self._rest = b""
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Refused(f"{self._source} holds no lines of ids")
        lines.reverse()
        self._ready = [line + b"\n" for line in lines]


class _Parsed(Iterator[str]):
    """Ids out of lines."""

    def __init__(self, lines: _Lines, ids: Iterator[str]) -> None:
        self.lines = lines
        self._ids = ids

    def __next__(self) -> str:
        return next(self._ids)


def _has_ready(ids: Iterator[str]) -> bool:
    return not isinstance(ids, _Parsed) or ids.lines.has_ready


def ids_from(
    arguments: Sequence[str], path: str | None, column: str | None, *, what: str, option: str
) -> Ids:
    """Open what the user named.

    Args:
        arguments: Ids on the command line.
        path: A file; `-` is stdin.
        column: The column of CSV, or the field of JSON lines, that holds the ids.
        what: What the arguments are, in words.
        option: The option that `path` came with.

    Raises:
        click.UsageError: If there are none, or two kinds.
        Refused: If the file can't be read.
    """
    if arguments and path is not None:
        raise click.UsageError(f"give {what} or with {option}, not both")
    if path is None:
        if column is not None:
            raise click.UsageError(f"--column goes with {option}")
        if not arguments:
            raise click.UsageError(f"give {what}, or with {option} FILE (- is stdin)")
        return Ids(arguments, source="the arguments", total=len(arguments))
    if path == STDIN:
        return Ids(
            _parse(_open_stdin(), "stdin", column), source="stdin", total=None, is_stdin=True
        )
    total = None
    descriptor = _open(path)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= COUNTED_AT_MOST:
        total = sum(1 for _ in _parse(descriptor, path, column))
        os.lseek(descriptor, 0, os.SEEK_SET)
    return Ids(_parse(descriptor, path, column), source=path, total=total)


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{path} is a folder")
    except OSError as error:
        raise Refused(f"can't read {path}: {error.strerror}") from None
    return descriptor


def _open_stdin() -> int:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        raise Refused("stdin is closed")
    return 0


def _parse(descriptor: int, source: str, column: str | None) -> _Parsed:
    lines = _Lines(descriptor, source)
    ids = _plain(lines, source) if column is None else _column(lines, source, column)
    return _Parsed(lines, ids)


def _plain(lines: _Lines, source: str) -> Iterator[str]:
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if _QUOTED.fullmatch(text):
            text = text[1:-1]
        # Sent as it is, such a line would be answered "not found", which counts as done.
        if text[0] in "{[\"'" or "," in text or ";" in text or "\t" in text:
            raise Refused(
                f"line {lines.number} of {source} holds more than one id: for CSV or JSON lines, "
                "say with --column NAME where the ids are"
            )
        yield text


def _column(lines: _Lines, source: str, column: str) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            raise Refused(
                f"{source} is a JSON array; what is read are JSON lines, one object a line: "
                "jq -c '.[]' makes them of it"
            )
        if line.lstrip().startswith("{"):
            yield from _json_lines(chain([line], lines), lines, source, column)
        else:
            yield from _csv(chain([line], lines), lines, source, column)
        return


def _json_lines(texts: Iterable[str], lines: _Lines, source: str, column: str) -> Iterator[str]:
    for text in texts:
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise Refused(f"line {lines.number} of {source} is no JSON object")
        value = cast(dict[str, Any], row).get(column)
        if not isinstance(value, str) or not value:
            raise Refused(f"line {lines.number} of {source} has no text in {column!r}")
        yield value


def _csv(texts: Iterator[str], lines: _Lines, source: str, column: str) -> Iterator[str]:
    first = next(texts)
    # Spreadsheets write semicolons where numbers have a decimal comma; our own lists have tabs.
    delimiter = next((mark for mark in ",;\t" if column in _names(first, mark)), ",")
    # Strict, as a quote that never closes would swallow the lines after it without a word.
    rows = csv.reader(chain([first], texts), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows)]
        if column not in header:
            raise Refused(f"{source} has no column {column!r}; it has {', '.join(header)}")
        place = header.index(column)
        for row in rows:
            if not any(row):
                continue
            value = row[place].strip() if place < len(row) else ""
            if not value:
                raise Refused(f"line {lines.number} of {source} has no {column!r}")
            yield value
    except csv.Error as error:
        raise Refused(f"line {lines.number} of {source}: {error}") from None


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]


def read_secret_lines(out: Output, *names: str) -> list[str]:
    """Read so many lines from stdin, each for a `-`; on a terminal say what is waited for.

    Raises:
        Refused: If there are fewer.
    """
    if not names:
        return []
    lines = _Lines(_open_stdin(), "stdin")
    secrets: list[str] = []
    for name in names:
        if os.isatty(0):
            out.note(f"the {name}, in one line:")
        secret = next(lines, "").strip()
        if not secret:
            raise Refused(f"stdin holds no {name}")
        secrets.append(secret)
    return secrets
