"""The command line: `clerk-async`, or `python -m clerk_async`.

Read `app` first (the table of commands, the shared options), then `exits` (the table of exit
codes), `revoke` (the commands for an incident) and `demo`. click is imported when a command runs,
and rich when something is drawn; `--help` imports no more than click.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `clerk_async.cli.exits`.

    Args:
        arguments: The arguments after the program's name; by default, those of the process, which
            is then about to exit: a Ctrl-C ends it without a traceback.
    """
    if arguments is not None:
        return _run(list(arguments))
    try:
        code = _run(sys.argv[1:])
        _let_ctrl_c_end_at_once()
    except KeyboardInterrupt:  # while the program loads, prints an error, or ends
        _let_ctrl_c_end_at_once()
        _tell("interrupted")
        return 130  # INTERRUPTED, which needs click
    return code


def _run(arguments: list[str]) -> int:
    trouble = ""
    if any(find_spec(name) is None for name in _NEEDED):
        trouble = "the extra `cli`, which is not installed: pip install 'clerk-async[cli]'"
    else:
        from clerk_async.extras import trouble_with  # noqa: PLC0415 - only to run a command

        trouble = trouble_with("cli")
    if trouble:
        _tell(f"the command line needs {trouble}")
        return 2
    from clerk_async.cli.app import run  # noqa: PLC0415 - click is an extra

    return run(arguments)


def _tell(text: str) -> None:
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        sys.stderr.write(f"clerk-async: {text}\n")


def _let_ctrl_c_end_at_once() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # not in the main thread, where no Ctrl-C is raised
            signal.signal(signal.SIGINT, signal.SIG_DFL)
