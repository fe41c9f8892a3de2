"""Nothing needs what Windows lacks: each such name is removed, and everything still works."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from clients import sync_client_of
from programs import run_program

from clerk_async.cli.output import shell_variable, shell_words

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async.testing import FakeClerk

LACKING = {
    "os": "fchmod chown fchown geteuid getuid getegid fork forkpty register_at_fork O_CLOEXEC "
    "O_NOFOLLOW O_NONBLOCK O_DIRECTORY WNOHANG killpg getpgid setsid sched_setaffinity "
    "sched_getaffinity posix_spawn pread pwrite fdatasync mkfifo eventfd eventfd_read "
    "eventfd_write",
    "signal": "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGTSTP SIGCONT SIGPIPE SIGKILL SIGWINCH "
    "pthread_sigmask pthread_kill sigwait siginterrupt setitimer",
    "select": "poll epoll",
    "modules": "fcntl termios tty pty resource pwd grp",
    "asyncio.SelectorEventLoop": "add_reader remove_reader add_writer add_signal_handler",
    "platform": "win32",
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
with open({journal!r} + "-ids", "wb") as file:
    file.write(b"\\xef\\xbb\\xbfsess_1\\r\\nsess_2\\r\\n")
assert main(["revoke", "--from", {journal!r} + "-ids", "--yes"]) == 0
if sys.platform != "win32":  # there, Python's own modules would use more of Windows
    assert main(["demo", "--sessions", "5"]) == 0
assert main(["verify-token", {token!r}, "--authorized-party", "https://app.example.com"]) == 0
"""


def _without(lacking: dict[str, list[str]]) -> str:
    return (
        "import asyncio, os, select, signal, ssl, subprocess, sys, tempfile, threading, types\n"
        "import aiohttp, click, click.testing, rich.cells, uuid\n"  # as on this system
        "sys.modules['msvcrt'] = types.SimpleNamespace(setmode=lambda *_: None)\n"
        "os.O_BINARY = 0\n"
        "asyncio.new_event_loop().close()\n"  # so that asyncio knows its kind
        f"for name in {lacking.get('os', [])!r}: vars(os).pop(name, None)\n"
        f"for name in {lacking.get('signal', [])!r}: vars(signal).pop(name, None)\n"
        f"for name in {lacking.get('select', [])!r}: vars(select).pop(name, None)\n"
        f"for name in {lacking.get('modules', [])!r}: sys.modules[name] = None\n"
        "def not_implemented(*_): raise NotImplementedError\n"
        f"for name in {lacking.get('asyncio.SelectorEventLoop', [])!r}:\n"
        "    setattr(asyncio.SelectorEventLoop, name, not_implemented)\n"
        f"for sys.platform in {lacking.get('platform', [])!r}: pass\n"
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


def test_a_journal_saved_by_a_windows_editor_is_continued(fake: FakeClerk, tmp_path: Path) -> None:
    """Its CRLF line ends and byte order mark change nothing."""
    ids = [fake.add_session().id for _ in range(3)]
    path = tmp_path / "job.jsonl"
    with sync_client_of(fake) as sessions:
        sessions.revoke_many(ids[:1], journal=path)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        for resumed, revoked in ((1, 1), (2, 0)):
            report = sessions.revoke_many(ids[:2], journal=path)
            assert (report.resumed, report.revoked) == (resumed, revoked)


@pytest.mark.parametrize(
    ("platform", "words", "variable"),
    [
        ("linux", "revoke --journal 'my job.jsonl'", "export CLERK_SECRET_KEY=sk_test_x"),
        ("win32", 'revoke --journal "my job.jsonl"', '$env:CLERK_SECRET_KEY = "sk_test_x"'),
    ],
)
def test_commands_to_copy_are_for_the_shell_of_the_system(
    platform: str, words: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, single quotes and `export` mean nothing."""
    monkeypatch.setattr(sys, "platform", platform)
    assert shell_words(["revoke", "--journal", "my job.jsonl"]) == words
    assert shell_variable("CLERK_SECRET_KEY", "sk_test_x") == variable
