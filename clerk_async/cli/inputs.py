"""Ids from arguments, a file or stdin, read as the run needs them.

A file with a million ids takes no more memory than one with ten.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from clerk_async.bulk.intake import Duplicates
from clerk_async.cli.columns import SESSIONS, USERS, Tally, Wanted, column_ids, plain_ids
from clerk_async.cli.exits import Refused
from clerk_async.cli.lines import Lines, open_file, open_stdin
from clerk_async.cli.lookalikes import Lookalikes
from clerk_async.cli.messages import STDIN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from clerk_async.cli.output import Output

BATCH: Final = 256
COUNTED_AT_MOST: Final = 200_000_000
"""A file with more bytes than this isn't counted first, so its total stays unknown."""
_WANTED: Final = {"--from": SESSIONS, "--users-from": USERS}

_Batch = list[str] | BaseException | None


class Reread(Collection[str]):
    """The ids of a file, counted; each iteration reads them again.

    Args:
        read: Reads them.
        size: How many there are, including duplicates.
    """

    def __init__(self, read: Callable[[], Iterator[str]], size: int) -> None:
        self._read = read
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return self._read()

    def __contains__(self, value: object) -> bool:
        return any(one == value for one in self)


class Ids:
    """The ids of one run, to be read once.

    Attributes:
        source: Where they come from, in words.
        wanted: Whether they are ids of sessions or of users.
        total: How many there are, without the duplicates that a run recognizes; None if they must
            be read to know.
        is_stdin: Whether they come from stdin, so that nothing else can.
        tally: What was read besides ids.
        lookalikes: What the counted ids look like.
        whole: All ids, to be read any number of times; None if that is impossible.
        was_cut_short: Whether reading ended because the run was asked to stop.
        trouble: Why reading ended early: a malformed line of a pipe, whose lines can't be checked
            in advance.
    """

    def __init__(
        self,
        ids: Iterable[str],
        *,
        source: str,
        total: int | None,
        wanted: Wanted = SESSIONS,
        tally: Tally | None = None,
        is_stdin: bool = False,
        lookalikes: Lookalikes | None = None,
        whole: Reread | None = None,
    ) -> None:
        self.source = source
        self.wanted = wanted
        self.total = total
        self.is_stdin = is_stdin
        self.tally: Tally = Tally() if tally is None else tally
        self.lookalikes: Lookalikes = Lookalikes(wanted) if lookalikes is None else lookalikes
        self.was_cut_short: bool = False
        self.trouble: Refused | None = None
        self._ids = iter(ids)
        self.whole = whole
        self._ahead: deque[str] = deque()

    @property
    def count(self) -> str:
        """How many there are, in words, as far as that is known."""
        if self.total is None:
            return f"more than {len(self._ahead) - 1}"
        return f"{self.total:,}"

    def has_more_than(self, count: int) -> bool:
        """Read as far ahead as needed to answer this; nothing is lost."""
        if self.total is not None:
            return self.total > count
        self._ahead.extend(islice(self._ids, count + 1 - len(self._ahead)))
        return len(self._ahead) > count

    def check_not_empty(self) -> None:
        """Wait for the first id.

        Raises:
            Refused: If there is none, because an empty run would look like success.
        """
        if self.has_more_than(0):
            return
        empty = self.tally.skipped
        why = (
            f": {empty:,} {'row has' if empty == 1 else 'rows have'} an empty cell" if empty else ""
        )
        raise Refused(f"{self.source} contains no {self.wanted.name}{why}")

    def left_after(self, done: Collection[str]) -> int | None:
        """Count the ids that an earlier run has not done; None if they must be read to know."""
        if self.total is None or not done:
            return self.total
        if self.whole is None:
            return None
        left = (one for one in self.whole if one not in done)
        return _count(left, Lookalikes(self.wanted))[0]

    def all(self) -> list[str]:
        """Read all ids ahead, if they are known to be few; nothing is lost."""
        self._ahead.extend(self._ids)
        return list(self._ahead)

    def _met(self, one: str) -> str:
        if self.total is None:  # otherwise they were all checked before
            self.lookalikes.note(one)
        return one

    async def read(
        self, asked_to_stop: Callable[[], Coroutine[Any, Any, None]]
    ) -> AsyncIterator[str]:
        """Yield the ids one by one; waiting for more ends when the run is asked to stop.

        Args:
            asked_to_stop: Waits until the run is asked to stop.
        """
        while self._ahead:
            yield self._met(self._ahead.popleft())
        loop = asyncio.get_running_loop()
        batches: asyncio.Queue[_Batch] = asyncio.Queue(2)
        # A thread, because a read may wait for long; a daemon, so that the program can exit.
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
                    yield self._met(session_id)
        finally:
            stopped.cancel()


def _pump(
    ids: Iterator[str], batches: asyncio.Queue[_Batch], loop: asyncio.AbstractEventLoop
) -> None:
    batch: list[str] = []
    try:
        for session_id in ids:
            batch.append(session_id)
            # Pass a batch on before a read that may wait, so that typed ids are done at once.
            is_full = len(batch) >= BATCH or not _has_ready(ids)
            if is_full and not _hand_over(batch, batches, loop):
                return
            if is_full:
                batch = []
    except Exception as error:  # noqa: BLE001 - raised where the ids are read
        _hand_over(batch, batches, loop)
        _hand_over(error, batches, loop)
    else:
        _hand_over(batch, batches, loop)
        _hand_over(None, batches, loop)


def _hand_over(
    batch: _Batch, batches: asyncio.Queue[_Batch], loop: asyncio.AbstractEventLoop
) -> bool:
    """Wait for room and add a batch; return False if it is no longer wanted."""
    putting = batches.put(batch)
    try:
        asyncio.run_coroutine_threadsafe(putting, loop).result()
    except (RuntimeError, concurrent.futures.CancelledError):  # the loop is closed, or about to be
        putting.close()
        return False
    return True


class _Parsed(Iterator[str]):
    """Ids parsed from lines."""

    def __init__(self, lines: Lines, ids: Iterator[str]) -> None:
        self.lines = lines
        self._ids = ids

    def __next__(self) -> str:
        return next(self._ids)


def _has_ready(ids: Iterator[str]) -> bool:
    return not isinstance(ids, _Parsed) or ids.lines.has_ready


def ids_from(
    arguments: Sequence[str], path: str | None, column: str | None, *, what: str, option: str
) -> Ids:
    """Open the ids that the user named.

    Args:
        arguments: Ids on the command line.
        path: A file; `-` is stdin.
        column: The column of CSV, or the field of JSON lines, with the ids.
        what: What the arguments are, in words.
        option: The option that `path` came with, `--from` or `--users-from`.

    Raises:
        click.UsageError: If there are no ids, or two sources.
        Refused: If the file can't be read.
    """
    wanted = _WANTED[option]
    lookalikes = Lookalikes(wanted)
    if arguments and path is not None:
        raise click.UsageError(f"pass {what} or with {option}, not both")
    if path is None:
        if column is not None:
            raise click.UsageError(f"--column needs {option}")
        if not arguments:
            raise click.UsageError(f"pass {what}, or with {option} FILE (- is stdin)")
        return Ids(
            arguments,
            source="the arguments",
            total=_count(iter(arguments), lookalikes)[0],
            wanted=wanted,
            lookalikes=lookalikes,
            whole=Reread(lambda: iter(arguments), len(arguments)),
        )
    tally = Tally()
    if path == STDIN:
        ids = _parse(open_stdin(), "stdin", column, wanted, tally)
        return Ids(ids, source="stdin", total=None, wanted=wanted, tally=tally, is_stdin=True)
    descriptor = open_file(path)

    def read() -> Iterator[str]:
        second = open_file(path)
        try:
            yield from _parse(second, path, column, wanted, Tally())
        finally:
            os.close(second)

    total, whole = None, None
    status = os.fstat(descriptor)
    is_counted = stat.S_ISREG(status.st_mode) and status.st_size <= COUNTED_AT_MOST
    if is_counted:
        total, size = _count(_parse(descriptor, path, column, wanted, tally), lookalikes)
        whole = Reread(read, size)
        os.lseek(descriptor, 0, os.SEEK_SET)
    return Ids(
        _parse(descriptor, path, column, wanted, Tally() if is_counted else tally),
        source=path,
        total=total,
        wanted=wanted,
        tally=tally,
        lookalikes=lookalikes,
        whole=whole,
    )


def _count(ids: Iterator[str], lookalikes: Lookalikes) -> tuple[int, int]:
    """Count the ids, first without the duplicates that a run recognizes, then with them."""
    duplicates = Duplicates()
    count = size = 0
    for one in ids:
        size += 1
        if not duplicates.saw(one):
            count += 1
            lookalikes.note(one)
    return count, size


def _parse(
    descriptor: int, source: str, column: str | None, wanted: Wanted, tally: Tally
) -> _Parsed:
    lines = Lines(descriptor, source, is_lenient=column is not None)
    if column is None:
        return _Parsed(lines, plain_ids(lines, source, wanted, tally))
    return _Parsed(lines, column_ids(lines, source, column, tally))


def read_secret_lines(out: Output, *names: str) -> list[str]:
    """Read one line of stdin for each name; on a terminal, prompt for it.

    Raises:
        Refused: If there are fewer lines.
    """
    if not names:
        return []
    lines = Lines(open_stdin(), "stdin")
    secrets: list[str] = []
    for name in names:
        if os.isatty(0):
            out.note(f"Type the {name}, on one line:")
        secret = next(lines, "").strip()
        if not secret:
            raise Refused(f"stdin contains no {name}")
        secrets.append(secret)
    return secrets
