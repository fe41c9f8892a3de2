"""The command line as tests run it: in this process, as a program, and in a terminal."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from clerk_async.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

    from clerk_async.testing import FakeClerk

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MOVES = re.compile(r"(?:\x1b\[[0-9;?]*[A-Za-z]|\r|\n)+")


@attrs.frozen
class Ended:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.out.splitlines()

    @property
    def records(self) -> list[Any]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.lines]


@attrs.frozen
class InProcess:
    """Runs commands in this process."""

    fake: FakeClerk
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ended:
        """Run one command."""
        code = main(arguments)
        out, err = self.capsys.readouterr()
        return Ended(code, out, err)


def environment(fake: FakeClerk, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the environment of a program that uses the fake."""
    # asyncio's debug mode writes a line to stderr for every slow turn on a busy machine, and the
    # program must flush its output without Python's help
    left_out = {"PYTHONDEVMODE", "PYTHONUNBUFFERED"}
    values: dict[str, str | None] = {
        **{name: value for name, value in os.environ.items() if name not in left_out},
        "CLERK_SECRET_KEY": fake.secret_key,
        "CLERK_API_URL": fake.base_url.removesuffix("/v1"),
        "PYTHONWARNINGS": "error",
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        **(changes or {}),
    }
    return {name: value for name, value in values.items() if value is not None}


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a program."""
    return [sys.executable, "-m", "clerk_async", *arguments]


def run(
    fake: FakeClerk,
    *arguments: str,
    stdin: str | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> Ended:
    """Run a program with pipes and without a terminal, so that nobody can be asked."""
    ended = subprocess.run(
        command_line(arguments),
        input="" if stdin is None else stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(fake, env),
        start_new_session=True,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


_IN_TERMINAL: Final = (
    "import os, sys; os.close(os.open(os.ttyname(2), os.O_RDWR));"
    " os.execvp(sys.argv[1], sys.argv[1:])"
)
"""The first terminal that a session leader opens becomes its controlling terminal."""


class Terminal:
    """A program in its own pseudo-terminal.

    Args:
        fake: The service that it uses.
        arguments: The arguments after the program's name.
        stdin: A file to read from instead of the terminal.
        stdout: A file to write results to instead of the terminal.
        env: Changes to the environment.
        program: What to run instead: a shell and its options.
        cwd: The folder to run it in.
    """

    def __init__(
        self,
        fake: FakeClerk,
        *arguments: str,
        stdin: Path | None = None,
        stdout: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        program: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> None:
        self._raw = b""
        self._terminal, inside = os.openpty()
        with ExitStack() as files:
            files.callback(os.close, inside)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _IN_TERMINAL, *(program or command_line(arguments))],
                stdin=inside if stdin is None else files.enter_context(stdin.open("rb")),
                stdout=inside if stdout is None else files.enter_context(stdout.open("wb")),
                stderr=inside,
                env=environment(fake, env),
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    @property
    def raw(self) -> str:
        """Everything that was drawn so far."""
        return self._raw.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without colours and cursor movements."""
        return _MOVES.sub("\n", _COLOURS.sub("", self.raw))

    def _read(self, timeout: float) -> bool:
        if not select.select([self._terminal], [], [], timeout)[0]:
            return True
        try:
            part = os.read(self._terminal, 65_536)
        except OSError:
            return False
        self._raw += part
        return bool(part)

    def wait_for(self, text: str, timeout: float = 40) -> None:
        """Wait until a text was drawn."""
        end = time.monotonic() + timeout
        while text not in self.text:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} within {timeout} s in:\n{self.text}"
            if not self._read(left):
                break
        assert text in self.text, self.text

    def type(self, text: str) -> None:
        """Type on the keyboard; character 3 is Ctrl-C."""
        os.write(self._terminal, text.encode())

    def end(self, timeout: float = 60) -> int:
        """Wait for the program's end, and return its exit code."""
        end = time.monotonic() + timeout
        while self._read(max(0.0, end - time.monotonic())):
            assert time.monotonic() < end, f"still running:\n{self.text}"
        return self._process.wait(max(0.0, end - time.monotonic()))
