"""Asking before many sessions go, where there is somebody to ask."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from clerk_async.cli.exits import Refused

if TYPE_CHECKING:
    from clerk_async.cli.output import Output

ASK_ABOVE: Final = 25
"""Runs of more sessions than this need a yes."""
_TERMINAL: Final = Path("/dev/tty")


def confirm(out: Output, what: str, *, is_stdin_taken: bool) -> None:
    """Go on only after a yes.

    Args:
        out: Where to ask.
        what: What would happen, as `Revoke 40,000 sessions (…)`.
        is_stdin_taken: Whether the ids come from stdin, so that the answer can't.

    Raises:
        Refused: If the answer isn't yes, or nobody can be asked.
    """
    answers = _answers(out, is_stdin_taken=is_stdin_taken)
    if answers is None:
        raise Refused(
            f"{what}: nobody can be asked here, so say --yes if you mean it "
            "(--dry-run shows what would be done)"
        )
    out.err.write(f"{what}? [y/N] ")
    answer = _read_answer(answers)
    if answers is not sys.stdin:
        answers.close()
    if answer.strip().lower() not in {"y", "yes"}:
        if not answer.endswith("\n"):
            out.err.write("\n")
        raise Refused("not confirmed: nothing was revoked")


def _answers(out: Output, *, is_stdin_taken: bool) -> TextIO | None:
    if not out.err.is_terminal:
        return None
    if not is_stdin_taken:
        is_terminal = sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        return sys.stdin if is_terminal else None
    try:
        return _TERMINAL.open(encoding="utf-8")
    except OSError:
        return None


def _read_answer(answers: TextIO) -> str:
    if threading.current_thread() is not threading.main_thread():
        return answers.readline()
    # asyncio would only cancel the task that waits here; a Ctrl-C has to end the question itself.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return answers.readline()
    finally:
        signal.signal(signal.SIGINT, before)
