"""Output: results to stdout, everything else to stderr; a closed stream is not an error."""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import shutil
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLES: Final = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "red": "\x1b[31m",
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
    "cyan": "\x1b[36m",
}
_RESET: Final = "\x1b[0m"
_CONTROLS: Final = {
    code: f"\\x{code:02x}"
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))
    if code not in b"\t\n"
}
_INVISIBLE: Final = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x200B, 0x2010),  # zero width, or a change of direction
        *range(0x2028, 0x202F),  # line and paragraph separators, changes of direction
        *range(0x2060, 0x2070),
        *range(0xD800, 0xE000),  # surrogates, which no encoding can write
        0xFEFF,  # a byte order mark
    )
}
_IN_A_CELL: Final = {**_CONTROLS, **_INVISIBLE, 0x09: "\\t", 0x0A: "\\n"}
_IN_JSON: Final = {
    **{code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F},  # noqa: PLR2004 - others are
    **_INVISIBLE,
}
_CLEAR_LINE: Final = "\r\x1b[2K"
_WIDTH_UNKNOWN: Final = 80
LAST_WORDS: Final = 0.2
"""Seconds that the end of the program waits for a reader that doesn't read."""
_PIECE: Final[int] = getattr(select, "PIPE_BUF", 512)
"""The most bytes that a pipe is sure to take at once when `select` calls it writable."""
WAITING_AT_MOST: Final = 1000
"""How many lines may be queued before the next one must wait."""
FULL_WAIT: Final = 1.0
"""Seconds that it waits at most: less than the two that a stopped run allows a callback."""


class Stream:
    """A standard stream, which may be closed from the start or at any time."""

    def __init__(self, stream: TextIO | None, descriptor: int) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self.is_open: bool = stream is not None
        self.has_failed: bool = False
        self.is_terminal: bool = stream is not None and stream.isatty()
        self.can_redraw: bool = self.is_terminal and os.environ.get("TERM") != "dumb"
        self.has_colour: bool = self.can_redraw and not os.environ.get("NO_COLOR")
        encoding = (getattr(stream, "encoding", None) or "ascii").lower()
        self.has_unicode: bool = encoding.replace("-", "") == "utf8"
        self.is_direct: bool = False  # bypass Python's buffer, if a signal has interrupted a write
        self._encoding = encoding
        escape_unknown(stream)

    def write(self, text: str) -> None:
        """Write and flush, or do nothing if there is no reader any more."""
        if not self.is_open or self._stream is None:
            return
        if self.is_direct:
            self._write_directly(text)
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.let_go(error)

    def _write_directly(self, text: str) -> None:
        data = text.encode(self._encoding, "backslashreplace")
        try:
            while data and self.is_open:
                if sys.platform != "win32":
                    self.is_open = bool(select.select([], [self._descriptor], [], LAST_WORDS)[1])
                if self.is_open:
                    data = data[os.write(self._descriptor, data[:_PIECE]) :]
        except (OSError, ValueError):
            self.is_open = False

    def let_go(self, error: OSError | ValueError) -> None:
        """Stop writing, and print the reason unless the reader has simply gone."""
        self.is_open = False
        # What is left in the buffer must not raise again when the program exits.
        try:
            if self._stream is not None and self._stream.fileno() == self._descriptor:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._descriptor)
                os.close(nowhere)
        except (OSError, ValueError):
            pass
        if isinstance(error, OSError) and error.errno not in {errno.EPIPE, errno.EBADF}:
            self.has_failed = True
            if self._descriptor == 1:
                Stream(sys.stderr, 2).write(f"clerk-async: stdout: {error.strerror}\n")


class BackgroundLines:
    """Lines that a thread writes to a stream; create it inside a running loop.

    With it, a slow reader of stdout cannot make requests time out.
    """

    def __init__(self, stream: Stream) -> None:
        import asyncio  # noqa: PLC0415 - not for help

        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._change = threading.Condition()
        self._lines: list[str] = []
        self._is_ended = False
        self._is_full = False
        self._room = asyncio.Event()
        self._written = asyncio.Event()
        threading.Thread(target=self._write, daemon=True).start()

    async def put(self, line: str) -> None:
        """Queue a line; if too many are queued, wait a while for the reader."""
        with self._change:
            self._lines.append(line)
            is_full = len(self._lines) > WAITING_AT_MOST
            if is_full:
                self._is_full = True
                self._room.clear()
            self._change.notify()
        if is_full:
            import asyncio  # noqa: PLC0415 - as in __init__

            with suppress(TimeoutError):
                async with asyncio.timeout(FULL_WAIT):
                    await self._room.wait()

    async def close(self) -> None:
        """Wait until all lines are written."""
        with self._change:
            self._is_ended = True
            self._change.notify()
        await self._written.wait()

    def _write(self) -> None:
        while True:
            with self._change:
                while not (self._lines or self._is_ended):
                    self._change.wait()
                lines, self._lines = self._lines, []
                was_full, self._is_full = self._is_full, False
                is_ended = self._is_ended and not lines
            if lines:
                self._stream.write("".join(lines))
            try:
                if was_full:
                    self._loop.call_soon_threadsafe(self._room.set)
                if is_ended:
                    self._loop.call_soon_threadsafe(self._written.set)
            except RuntimeError:  # the loop is closed: the program is ending
                return
            if is_ended:
                return


class Output:
    """The output of a command.

    Args:
        is_json: Whether results are JSON lines.
        is_quiet: Whether to omit everything but results and errors.
    """

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.out: Stream = Stream(sys.stdout, 1)
        self.err: Stream = Stream(sys.stderr, 2)
        self._live = ""
        if sys.platform == "win32":  # an old console shows colours only on request
            with suppress(ImportError):
                from colorama import just_fix_windows_console  # noqa: PLC0415 - click's there

                just_fix_windows_console()

    def result(self, text: str = "") -> None:
        """Print a line of the result for people."""
        self._around_live(self.out, text + "\n")

    def record(self, value: Mapping[str, Any]) -> None:
        """Print a JSON line of the result."""
        self._around_live(self.out, json_line(value, self.out))

    def note(self, text: str, *, is_painted: bool = False) -> None:
        """Print a remark on stderr, unless `--quiet`.

        Args:
            text: The remark.
            is_painted: Whether it contains our own colours and no foreign text.
        """
        if not self.is_quiet:
            from clerk_async.redaction import redact  # noqa: PLC0415 - not for help

            text = text if is_painted else harmless(redact(text))
            self._around_live(self.err, text + "\n")

    def debug(self, text: str) -> None:
        """Print details on stderr, for `--verbose`."""
        from clerk_async.redaction import redact  # noqa: PLC0415 - not for help

        self._around_live(self.err, paint(self.err, cell(redact(text)), "dim") + "\n")

    def error(self, text: str) -> None:
        """Print an error on stderr."""
        from clerk_async.redaction import redact  # noqa: PLC0415 - not for help

        prefix = paint(self.err, "clerk-async:", "red")
        self._around_live(self.err, f"{prefix} {harmless(redact(text))}\n")

    def live(self, text: str) -> None:
        """Draw or redraw the live line at the bottom of the terminal."""
        self._live = text
        self.err.write(_CLEAR_LINE + text)

    def clear_live(self) -> None:
        """Remove the live line."""
        if self._live:
            self._live = ""
            self.err.write(_CLEAR_LINE)

    def _around_live(self, stream: Stream, text: str) -> None:
        live = self._live
        if live and stream.is_terminal:
            self.err.write(_CLEAR_LINE)
        stream.write(text)
        if live and stream.is_terminal:
            self.err.write(live)

    def fields(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self.result(f"{self.faint(name.ljust(width))}  {cell(value)}")

    def good(self, text: str) -> str:
        """Colour text for stdout as good news."""
        return paint(self.out, text, "green")

    def bad(self, text: str) -> str:
        """Colour text for stdout as bad news."""
        return paint(self.out, text, "red")

    def strong(self, text: str) -> str:
        """Make text for stdout bold."""
        return paint(self.out, text, "bold")

    def faint(self, text: str) -> str:
        """Make text for stdout dim."""
        return paint(self.out, text, "dim")


def json_line(value: Mapping[str, Any], stream: Stream) -> str:
    """Return a value as a line of JSON, with control and invisible characters escaped."""
    text = json.dumps(value, ensure_ascii=not stream.has_unicode)
    return text.translate(_IN_JSON) + "\n"


def harmless(text: str) -> str:
    """Escape control characters in foreign text, because a terminal would obey them."""
    return text.translate(_CONTROLS)


def cell(text: str) -> str:
    """Return foreign text as one cell of one line, which reads back exactly.

    Characters that could begin another line or cell, blanks around the text (which readers strip),
    and invisible characters are written with a backslash, which no id contains.
    """
    text = text.translate(_IN_A_CELL)
    bare = text.strip()
    if len(bare) == len(text):
        return text
    begin = text.index(bare) if bare else len(text)
    around = (text[:begin], text[begin + len(bare) :])
    before, after = ("".join(f"\\u{ord(blank):04x}" for blank in part) for part in around)
    return before + bare + after


def paint(stream: Stream, text: str, style: str) -> str:
    """Colour text if the stream shows colours."""
    return f"{_STYLES[style]}{text}{_RESET}" if stream.has_colour else text


def escape_unknown(stream: TextIO | None) -> None:
    """Let a stream escape the characters that its encoding lacks, rather than raise an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        with suppress(OSError, ValueError):  # it flushes first; the next write reports errors
            reconfigure(errors="backslashreplace")


def terminal_width() -> int:
    """Return how many characters fit in a line."""
    return shutil.get_terminal_size((_WIDTH_UNKNOWN, 24)).columns


def shell_words(words: Sequence[str]) -> str:
    """Return a command as it is typed in this system's shell."""
    if sys.platform == "win32":
        from subprocess import list2cmdline  # noqa: PLC0415 - only there

        return list2cmdline(words)
    return shlex.join(words)


def shell_variable(name: str, value: str) -> str:
    """Return the line that sets an environment variable in this system's shell."""
    return f'$env:{name} = "{value}"' if sys.platform == "win32" else f"export {name}={value}"
