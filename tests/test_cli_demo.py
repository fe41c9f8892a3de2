"""`demo` as a whole program: its claims hold, and it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_programs import environment, run

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="there is no redis-server on this machine"
)


def test_the_demo_passes_its_own_checks(fake: FakeClerk) -> None:
    """Every check against the service's own books passes, and the exit code shows it."""
    ended = run(fake, "demo", "--sessions", "150", "--seed", "7", env={"CLERK_SECRET_KEY": None})
    assert ended.code == 0, ended.out
    assert ended.out.count("✓") == 6
    assert "It worked" in ended.out
    assert fake.requests == []


@pytest.mark.parametrize("sessions", ["1", "3"])
def test_the_demo_passes_at_its_smallest_size(fake: FakeClerk, sessions: str) -> None:
    """One session is the operator's own, so there is nothing to revoke."""
    ended = run(fake, "demo", "--sessions", sessions, "--json")
    (summary,) = ended.records
    assert (ended.code, summary["ok"], len(summary["checks"])) == (0, True, 6)


def test_the_demo_fails_when_a_check_does() -> None:
    """The exit code is real: here the service forgets what it was told."""
    program = """
        import sys
        from clerk_async.cli import main, story
        sign_out = story._sign_some_out
        def meddle(out, fake, planned, seed):
            sign_out(out, fake, planned, seed)
            stranger = next(iter(set(fake.sessions) - set(planned)))
            fake.sessions[stranger].status = "replaced"
        story._sign_some_out = meddle
        sys.exit(main(["demo", "--sessions", "40"]))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert ended.returncode == 1, ended.stderr
    assert "✗" in ended.stdout


# --- the second process ---


@needs_redis
@pytest.mark.promise("cli-demo")
def test_the_demo_locks_a_user_out_of_another_process(fake: FakeClerk) -> None:
    """It says how long that took, and leaves the user's own shared state alone."""
    elsewhere = {"CLERK_ASYNC_SHARED_STATE": "redis://127.0.0.1:1/0"}
    ended = run(fake, "demo", "--sessions", "3", "--json", env=elsewhere)
    (summary,) = ended.records
    assert (ended.code, ended.err) == (0, "")
    assert summary["lockout"]["alone_because"] == ""
    assert 0 < summary["lockout"]["milliseconds"] < 10_000
    assert "the other process refused the token" in summary["checks"][-1]["check"]


def test_without_a_redis_server_the_demo_uses_one_process(fake: FakeClerk, tmp_path: Path) -> None:
    """It says so, and why."""
    ended = run(fake, "demo", "--sessions", "3", env={"PATH": str(tmp_path)})
    assert ended.code == 0, ended.err
    told = " ".join(ended.out.split())
    assert "process alone verifies it, because there is no redis-server on this machine" in told
    assert "✓ this process refused the token" in told


@needs_redis
def test_a_redis_server_that_does_not_start_is_reported(fake: FakeClerk, tmp_path: Path) -> None:
    """It may be broken; the demo still passes."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    ended = run(fake, "demo", "--sessions", "3", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert ended.code == 0, ended.err
    assert "because redis-server did not start" in " ".join(ended.out.split())


HELD_UP = """
    import asyncio, os, signal, sys
    from clerk_async.cli import main
    from clerk_async.cli.second_process import SecondProcess
    has_accepted = SecondProcess.watch
    async def watch(self, *given):
        await has_accepted(self, *given)
        print(self.url.removeprefix("unix://"), flush=True)
        if sys.argv[1] == "its end":
            os.kill(self._process.pid, signal.SIGKILL)
        else:
            await asyncio.Event().wait()
    SecondProcess.watch = watch
    sys.exit(main(["demo", "--sessions", "3", "--json"]))
"""


@needs_redis
@pytest.mark.promise("cli-demo")
@pytest.mark.parametrize("what", ["SIGINT", "SIGTERM", "SIGKILL", "its end"])
def test_an_interrupted_demo_leaves_nothing_behind(fake: FakeClerk, what: str) -> None:
    """However it ends, its Redis and its second process end too."""
    demo = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HELD_UP), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(fake),
    )
    assert demo.stdout is not None
    path = Path(demo.stdout.readline().strip())
    if what != "its end":
        demo.send_signal(signal.Signals[what])
    out, err = demo.communicate(timeout=40)
    codes = {"SIGINT": 130, "SIGTERM": 130, "SIGKILL": -signal.SIGKILL, "its end": 1}
    assert demo.returncode == codes[what], err
    assert ("did not refuse the token" in out) is (what == "its end")
    assert "Traceback" not in err
    ends = time.monotonic() + 20
    while _listens(path):
        assert time.monotonic() < ends, "the Redis of the demo still runs"
        time.sleep(0.02)
    if what != "its end":  # interrupted itself, it can't clean up
        while path.parent.exists():
            assert time.monotonic() < ends, f"{path.parent} is left behind"
            time.sleep(0.02)
    shutil.rmtree(path.parent, ignore_errors=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
