"""The command line: `clerk-async`, or `python -m clerk_async`.

Read `app` first (the table of commands, the shared options), then `exits` (the table of exit
codes), `revoke` (the commands for an incident) and `demo`. click is imported when a command runs,
and rich when something is drawn; `--help` imports no more than click.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `clerk_async.cli.exits`.

    Args:
        arguments: The arguments after the program's name; by default, those of the process.
    """
    trouble = ""
    if any(find_spec(name) is None for name in _NEEDED):
        trouble = "the extra `cli`, which is not installed: pip install 'clerk-async[cli]'"
    else:
        from clerk_async.extras import trouble_with  # noqa: PLC0415 - only to run a command

        trouble = trouble_with("cli")
    if trouble:
        if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
            sys.stderr.write(f"clerk-async: the command line needs {trouble}\n")
        return 2
    from clerk_async.cli.app import run  # noqa: PLC0415 - click is an extra

    return run(sys.argv[1:] if arguments is None else list(arguments))
