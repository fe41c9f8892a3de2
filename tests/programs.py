"""Starts whole programs against a fake service, and returns how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import attrs
from running_time import RunningTime

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk


@attrs.frozen
class Finished:
    """How a program ended, and after how many seconds of a running machine."""

    code: int
    out: str
    err: str
    seconds: float


def environment(fake: FakeClerk | None) -> dict[str, str]:
    """Return the environment of a program: warnings as errors, and the fake's key and address."""
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE", "COV_CORE"))
    }
    found.setdefault("PYTHONDEVMODE", "1")
    found |= {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
    if fake is not None:
        found |= {"CLERK_SECRET_KEY": fake.secret_key, "CLERK_API_URL": fake.base_url}
    return found


def start(code: str, fake: FakeClerk | None, *arguments: str) -> subprocess.Popen[str]:
    """Start a program; its source may be indented."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment(fake),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: subprocess.Popen[str], *, limit: float = 50.0) -> Finished:
    """Wait for a program to end; one that hangs is killed and counts as failed."""
    with RunningTime() as seconds:
        started = seconds()
        try:
            out, err = program.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            program.kill()
            out, err = program.communicate()
            raise AssertionError(f"the program hung; so far it said:\n{out}\n{err}") from None
        took = seconds() - started
    return Finished(program.returncode, out, without_slowness(err), took)


def without_slowness(text: str) -> str:
    """Remove asyncio's warnings of slow turns on a busy machine, which are nobody's fault."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Executing <"))


def run_program(
    code: str, fake: FakeClerk | None, *arguments: str, limit: float = 50.0
) -> Finished:
    """Run a program to its end."""
    return finish(start(code, fake, *arguments), limit=limit)
