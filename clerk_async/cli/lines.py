"""Turns the bytes of a file or pipe into lines of text, with any encoding and line ends."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Iterator
from typing import Final

from clerk_async.cli.exits import Refused

CHUNK: Final = 65_536
LONGEST_LINE: Final = 64 * 1024 * 1024
"""In bytes, so that a file without line ends is not read into memory as a whole."""
_ENOUGH_TO_TELL: Final = 4
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # starts like the next one
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ZIP: Final = b"PK\x03\x04"


class Lines(Iterator[str]):
    """Lines of a file descriptor, with their ends; knows if the next one is available at once.

    Args:
        descriptor: What to read from.
        source: The name of the source in messages.
        is_lenient: Whether to read a line that is not UTF-8 as Latin-1: a spreadsheet may have
            names in an older encoding next to ids, which are ASCII in all of them.

    Attributes:
        number: How many lines have been read.
    """

    def __init__(self, descriptor: int, source: str, *, is_lenient: bool = False) -> None:
        self._descriptor = descriptor
        self._source = source
        self._is_lenient = is_lenient
        self._head = b""
        self._is_begun = False
        self._decoder: codecs.IncrementalDecoder | None = None
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._ready: list[bytes] = []
        self._is_ended = False
        self.number: int = 0

    @property
    def has_ready(self) -> bool:
        """Whether the next line is available without waiting."""
        return bool(self._ready)

    def __next__(self) -> str:
        while not self._ready:
            if self._is_ended:
                raise StopIteration
            self._fill()
        line = self._ready.pop()
        self.number += 1
        if b"\0" in line:
            raise Refused(
                f"line {self.number} of {self._source} contains NUL characters: it isn't text, or "
                "is in an unknown encoding; save it as UTF-8"
            )
        try:
            return line.decode()
        except UnicodeDecodeError:
            if self._is_lenient:
                return line.decode("latin-1")
            raise Refused(f"line {self.number} of {self._source} is not UTF-8 text") from None

    def _fill(self) -> None:
        # Not through sys.stdin: a daemon thread that waits in its buffer breaks the exit.
        chunk = os.read(self._descriptor, CHUNK)
        self._is_ended = not chunk
        if not self._is_begun:
            chunk = self._head = self._head + chunk
            if not self._is_ended and len(chunk) < _ENOUGH_TO_TELL and b"\n" not in chunk:
                return
            chunk = self._begin(chunk)
        if self._decoder is not None:
            try:
                chunk = self._decoder.decode(chunk, self._is_ended).encode()
            except UnicodeError:
                raise Refused(f"{self._source} is not valid UTF-16 or UTF-32 text") from None
        self._split(chunk)

    def _begin(self, head: bytes) -> bytes:
        """Detect the encoding, and return the bytes after the byte order mark."""
        self._is_begun = True
        if head.startswith(_ZIP):
            raise Refused(
                f"{self._source} is a spreadsheet or another zip file: save the sheet as CSV"
            )
        mark, encoding = next(
            (row for row in _BYTE_ORDER_MARKS if head.startswith(row[0])), (b"", _guess(head))
        )
        if encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(encoding)()
        return head[len(mark) :]

    def _split(self, chunk: bytes) -> None:
        """Split at line ends: LF, CR and CRLF; the LF of a final CR may still be to come."""
        has_end = b"\n" in chunk or b"\r" in chunk
        if not (has_end or self._is_ended or (self._rest and self._rest[-1].endswith(b"\r"))):
            self._keep(chunk)
            return
        lines = b"".join([*self._rest, chunk]).splitlines(keepends=True)
        self._rest, self._rest_size = [], 0
        if lines and not self._is_ended and not lines[-1].endswith(b"\n"):
            self._keep(lines.pop())
        lines.reverse()
        self._ready = lines

    def _keep(self, part: bytes) -> None:
        self._rest_size += len(part)
        if self._rest_size > LONGEST_LINE:
            raise Refused(f"{self._source} contains no lines of ids")
        if part:
            self._rest.append(part)


def _guess(head: bytes) -> str:
    """Guess the encoding without a byte order mark, given that ids, headers and JSON are ASCII."""
    zeros = [byte == 0 for byte in head[:_ENOUGH_TO_TELL]]
    if len(zeros) == _ENOUGH_TO_TELL:
        if zeros == [False, True, True, True]:
            return "utf-32-le"
        if zeros == [True, True, True, False]:
            return "utf-32-be"
    if zeros[:2] == [False, True]:
        return "utf-16-le"
    if zeros[:2] == [True, False]:
        return "utf-16-be"
    return "utf-8"


def open_file(path: str) -> int:
    """Open anything but a folder for reading.

    Raises:
        Refused: If it can't be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{path} is a folder")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or str(error)
        raise Refused(f"can't read {path}: {why}") from None
    return descriptor


def open_stdin() -> int:
    """Return the descriptor of stdin.

    Raises:
        Refused: If it is closed.
    """
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        raise Refused("stdin is closed")
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists only on Windows

        msvcrt.setmode(0, os.O_BINARY)
    return 0
