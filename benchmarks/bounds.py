"""Bounds that no peer sets: what runs and shared state promise, and the programs that show it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

__all__ = ["RUN", "Bound", "go", "print_all", "result_of", "start"]


@attrs.frozen
class Bound:
    """One row of the table.

    Attributes:
        what: The situation.
        figure: What was measured.
        is_met: Whether it keeps the promise.
    """

    what: str
    figure: str
    is_met: bool


async def print_all(bounds: AsyncIterable[Bound]) -> int:
    """Print each row as soon as it is measured; return 1 if a bound is missed."""
    print("| measured | | |\n|---|---|---|")
    is_met = True
    async for bound in bounds:
        is_met = is_met and bound.is_met
        print(f"| {bound.what} | {bound.figure} | {'met' if bound.is_met else 'missed'} |")
        sys.stdout.flush()
    return 0 if is_met else 1


RUN: Final = """
    import asyncio, json, sys, time
    from clerk_async import AsyncSessionsApi, RateLimit
    key, base, url, count, per, first, last = sys.argv[1:]
    async def main():
        limit = RateLimit(int(count), per=float(per)) if count != "0" else None
        async with AsyncSessionsApi(
            key, base_url=base, shared_state=url or None, rate_limit=limit
        ) as sessions:
            print("ready", flush=True)
            sys.stdin.readline()
            begun = time.monotonic()
            await sessions.revoke_many(f"sess_{n}" for n in range(int(first), int(last)))
            print(json.dumps([begun, time.monotonic()]))
    asyncio.run(main())
"""
"""A bulk run, for `start`: key, base URL, shared state, limit, its seconds, first and last id."""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program, and wait until it is ready."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def go(programs: list[subprocess.Popen[str]]) -> None:
    """Let programs start their work at the same time."""
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()


def result_of(program: subprocess.Popen[str]) -> Any:
    """Let a program work to its end, and return what it printed."""
    return json.loads(program.communicate("\n")[0])
