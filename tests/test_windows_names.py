"""Nothing needs what Windows lacks: each such name is removed, and everything still works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async.testing import FakeClerk

LACKING = {
    "os": "fchmod chown fchown geteuid getuid getegid fork forkpty register_at_fork O_CLOEXEC "
    "O_NOFOLLOW O_NONBLOCK O_DIRECTORY WNOHANG killpg getpgid setsid sched_setaffinity "
    "sched_getaffinity posix_spawn pread pwrite fdatasync mkfifo",
    "signal": "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGTSTP SIGCONT SIGPIPE SIGKILL SIGWINCH "
    "pthread_sigmask pthread_kill sigwait siginterrupt setitimer",
    "modules": "fcntl termios tty pty resource pwd grp",
}
USE = """
import asyncio, sys
from clerk_async import AsyncSessionsApi, SessionsApi, TokenVerifier, RevocationStatus

async def asynchronous():
    async with AsyncSessionsApi() as sessions:
        report = await sessions.revoke_many(["sess_1"], journal={journal!r} + "-async")
        report.raise_for_failures()

asyncio.run(asynchronous())
with SessionsApi() as sessions:
    report = sessions.revoke_many(["sess_2"], journal={journal!r})
    assert report.revoked == 1, report
    assert sessions.revoke_many(["sess_2"], journal={journal!r}).resumed == 1
    verifier = TokenVerifier(sessions=sessions, authorized_parties=["https://app.example.com"])
    assert verifier.verify({token!r}).session_id == "sess_1"
from clerk_async.testing import FakeClerk
with FakeClerk() as fake:
    fake.add_session(user_id="user_1")
from clerk_async.cli import main
assert main(["list", "--user", "user_1"]) == 0
assert main(["revoke", "sess_3", "--journal", {journal!r} + "-cli", "--yes"]) == 0
assert main(["verify-token", {token!r}, "--authorized-party", "https://app.example.com"]) == 0
"""


def _without(lacking: dict[str, list[str]]) -> str:
    return (
        "import asyncio, os, signal, ssl, subprocess, sys, tempfile, threading\n"
        f"for name in {lacking.get('os', [])!r}: vars(os).pop(name, None)\n"
        f"for name in {lacking.get('signal', [])!r}: vars(signal).pop(name, None)\n"
        f"for name in {lacking.get('modules', [])!r}: sys.modules[name] = None\n"
    )


@pytest.mark.promise("windows-names")
@pytest.mark.slow
@pytest.mark.parametrize("place", [*LACKING, "all"])
def test_nothing_needs_a_name_that_windows_lacks(
    place: str, fake: FakeClerk, tmp_path: Path
) -> None:
    """Clients, bulk runs with a journal, a verifier, the fake and commands work without them."""
    party = "https://app.example.com"
    for number in (1, 2, 3):
        fake.add_session(session_id=f"sess_{number}", user_id="user_1", authorized_party=party)
    names = {key: value.split() for key, value in LACKING.items() if place in {key, "all"}}
    use = USE.format(journal=str(tmp_path / "job.jsonl"), token=fake.mint("sess_1"))
    ended = run_program(_without(names) + use, fake)
    assert ended.code == 0, ended.err
    assert {fake.sessions[f"sess_{number}"].status for number in (1, 2, 3)} == {"revoked"}
