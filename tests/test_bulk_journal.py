"""The journal: a second run skips what is done, and problems with the file are noticed."""

# ruff: noqa: ASYNC240, ASYNC221 - these tests read files, and nothing else runs in their loop
from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import add_sessions, bulk_client, live, sends, until
from programs import run_program

from clerk_async import AsyncSessionsApi, InvalidArgumentError, Journal, JournalError
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from clerk_async import RevocationOutcome, RevocationReport

ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the journal."""
    return tmp_path / "job.jsonl"


async def _run(fake: FakeClerk, ids: Any, journal: Any, **options: Any) -> RevocationReport:
    async with bulk_client(fake) as client:
        return await client.revoke_many(ids, journal=journal, **options)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def _refused(fake: FakeClerk, journal: Any, match: str) -> None:
    """Check that the run raises JournalError before any request, and leaves the file unchanged."""
    path = Path(journal.path if isinstance(journal, Journal) else journal)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(JournalError, match=match):
        await _run(fake, ["sess_1"], journal)
    assert not fake.requests
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.promise("kill-9")
async def test_a_second_run_skips_what_is_done(fake: FakeClerk, path: Path) -> None:
    """It skips revoked, already inactive and unknown sessions, and sends failed ones again."""
    ids = add_sessions(fake, 20)
    ended = fake.add_session(status="ended").id
    refused = Fault.status(422, operation="revoke", session_id=ids[3])
    fake.inject(refused)
    first = await _run(fake, [*ids, ended, "gone"], path)
    assert (first.revoked, first.already_inactive, first.not_found, first.failed) == (19, 1, 1, 1)
    assert first.resumed == 0
    fake.requests.clear()
    second = await _run(fake, [*ids, ended, "gone"], path)
    assert (second.total, second.resumed, second.revoked) == (22, 21, 1)
    assert second.ok
    assert sends(fake) == {ids[3]: 1}
    third = await _run(fake, [*ids, ended, "gone"], path)
    assert (third.resumed, third.revoked, third.total) == (22, 0, 22)


async def test_a_stream_and_revoke_many_share_a_journal(fake: FakeClerk, path: Path) -> None:
    """They process the same ids."""
    ids = add_sessions(fake, 6)
    await _run(fake, ids[:4], path)
    async with bulk_client(fake) as client:
        outcomes = [outcome async for outcome in client.revoke_stream(ids, journal=str(path))]
    assert {outcome.session_id for outcome in outcomes} == set(ids[4:])


async def test_the_file_has_the_documented_format(fake: FakeClerk, path: Path) -> None:
    """A header, then one line for each session; mode 0600; no key in it."""
    ids = add_sessions(fake, 3)
    await _run(fake, [*ids, "a/b", None], path)
    header, *lines = _lines(path)
    assert header["clerk_async_journal"] == 1
    assert header["run"] == "revoke_many"
    assert len(header["instance"]) == 64
    assert {line["id"] for line in lines} == set(ids)
    assert {line["status"] for line in lines} == {"revoked"}
    assert all(line["at"].endswith("Z") for line in lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fake.secret_key not in path.read_text()
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.may_block
async def test_a_line_is_written_before_the_callback_runs(fake: FakeClerk, path: Path) -> None:
    """A kill right after the callback loses nothing."""
    ids = add_sessions(fake, 10)
    known: list[bool] = []

    def look(outcome: RevocationOutcome) -> None:
        known.append(f'"{outcome.session_id}"' in path.read_text())

    await _run(fake, ids, path, on_outcome=look)
    assert known == [True] * 10


async def test_sessions_that_were_not_attempted_are_not_written(
    fake: FakeClerk, path: Path
) -> None:
    """The run that resumes sends them."""
    ids = add_sessions(fake, 10)
    await _run(fake, ids, path, should_stop=lambda: True)
    assert len(_lines(path)) == 1


async def test_a_journal_leaves_no_thread_behind(fake: FakeClerk, path: Path) -> None:
    """Its slow work runs in threads that end with it, none of them the loop's own."""
    before = set(threading.enumerate())
    await _run(fake, add_sessions(fake, 5), path)
    await until(lambda: set(threading.enumerate()) <= before)


async def test_ids_of_any_characters_are_read_back_unchanged(fake: FakeClerk, path: Path) -> None:
    """Quotes, percent signs and other alphabets work."""
    ids = ['sess_"x"', "sess_ü", "sess_日本", "sess_%41", "sess_{}"]
    for session_id in ids:
        fake.add_session(session_id=session_id)
    await _run(fake, ids, path)
    report = await _run(fake, ids, path)
    assert report.resumed == 5


@pytest.mark.promise("kill-9")
async def test_a_torn_last_line_is_removed_and_its_session_sent_again(
    fake: FakeClerk, path: Path
) -> None:
    """This works for a line torn at any point."""
    ids = add_sessions(fake, 4)
    await _run(fake, ids, path)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    lost = json.loads(whole[last:])["id"]
    for end in range(last + 1, len(whole) - 2):
        path.write_bytes(whole[:end])
        fake.requests.clear()
        report = await _run(fake, ids, path)
        assert report.resumed == 3
        assert report.already_inactive == 1
        assert set(sends(fake)) == {lost}
        assert len(_lines(path)) == 5


async def test_a_last_line_without_its_newline_counts(fake: FakeClerk, path: Path) -> None:
    """The line is complete, so its session was done."""
    ids = add_sessions(fake, 4)
    await _run(fake, ids[:2], path)
    path.write_bytes(path.read_bytes()[:-1])
    report = await _run(fake, ids, path)
    assert (report.resumed, report.revoked) == (2, 2)
    assert len(_lines(path)) == 5


@pytest.mark.parametrize(
    "edit",
    [
        b"not JSON at all",
        b'{"id": 5, "status": "revoked"}',
        b'{"id": "sess_x", "status": "vanished"}',
        b'{"status": "revoked"}',
        b"\x00\x00\x00\xff",
        b"[]",
    ],
)
async def test_an_unreadable_line_in_the_middle_is_skipped_with_a_warning(
    fake: FakeClerk, path: Path, edit: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session is sent once more, which does no harm."""
    ids = add_sessions(fake, 4)
    await _run(fake, ids, path)
    header, first, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([header, edit, b"", *rest]) + b"\n")
    fake.requests.clear()
    report = await _run(fake, ids, path)
    assert report.resumed == 3
    assert set(sends(fake)) == {json.loads(first)["id"]}
    assert "has unreadable lines (1)" in caplog.text


@pytest.mark.parametrize("part", [0, 1, 5, 40])
async def test_a_file_without_a_complete_header_is_started_over(
    fake: FakeClerk, path: Path, part: int
) -> None:
    """So is an empty file, such as mktemp makes."""
    ids = add_sessions(fake, 2)
    await _run(fake, ids[:1], path)
    path.write_bytes(path.read_bytes()[:part])
    path.chmod(0o644)
    report = await _run(fake, ids[1:], path)
    assert report.revoked == 1
    assert [line.get("id") for line in _lines(path)] == [None, ids[1]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.promise("foreign-journals")
@pytest.mark.parametrize(
    "content",
    [
        b"sess_1\nsess_2\n",
        b"sess_1",
        b'{"id": "sess_1", "status": "revoked"}\n',
        b'{"clerk_async_journal": "1", "instance": "x", "run": "revoke_many"}\n',
        b'{"clerk_async_journal": 1}\n',
        b"\n\n",
        b"\xff\xfe\x00",
    ],
)
async def test_a_file_that_is_not_a_journal_is_rejected_and_left_unchanged(
    fake: FakeClerk, path: Path, content: bytes
) -> None:
    """Somebody passed the list of ids instead of the journal."""
    path.write_bytes(content)
    await _refused(fake, path, "is not a journal")


async def test_a_journal_of_a_later_format_is_rejected(fake: FakeClerk, path: Path) -> None:
    """It may mean something else."""
    path.write_text('{"clerk_async_journal": 2, "instance": "x", "run": "revoke_many"}\n')
    await _refused(fake, path, "has format 2")


@pytest.mark.promise("foreign-journals")
async def test_a_journal_of_another_kind_of_run_is_rejected(fake: FakeClerk, path: Path) -> None:
    """This works both ways."""
    await _run(fake, add_sessions(fake, 1), path)
    async with bulk_client(fake) as client:
        with pytest.raises(JournalError, match="another kind of run"):
            await client.revoke_all(user_id="user_1", journal=path)
    fake.requests.clear()
    path.unlink()
    async with bulk_client(fake) as client:
        await client.revoke_all(user_id="user_1", journal=path)
    fake.requests.clear()
    await _refused(fake, path, "another kind of run: revoke_all")


@pytest.mark.promise("foreign-journals")
async def test_a_journal_of_another_key_is_rejected_unless_it_was_rotated(
    path: Path,
) -> None:
    """After one run with that flag, the journal belongs to the new key."""
    with FakeClerk(secret_key="sk_test_one") as fake:
        ids = add_sessions(fake, 4)
        await _run(fake, ids[:2], path)
    with FakeClerk(secret_key="sk_test_two") as other:
        for session_id in ids:
            other.add_session(session_id=session_id)
        await _refused(other, path, "another secret key")
        rotated = await _run(other, ids[:3], Journal(path, accept_other_key=True))
        assert (rotated.resumed, rotated.revoked) == (2, 1)
        again = await _run(other, ids, path)
        assert (again.resumed, again.revoked) == (3, 1)
    assert "sk_test" not in path.read_text()


async def test_two_runs_at_once_can_not_share_a_journal(fake: FakeClerk, path: Path) -> None:
    """The runs may be in one process or in two."""
    ids = add_sessions(fake, 3)
    fake.inject(Fault.hold(operation="revoke"))
    async with bulk_client(fake) as client:
        run = asyncio.create_task(client.revoke_many(ids, journal=path))
        await until(lambda: bool(fake.requests))
        with pytest.raises(JournalError, match="in use by another run"):
            await client.revoke_many(ids, journal=path)
        fake.release()
        report = await run
        assert report.ok
        await client.revoke_many(ids, journal=path)


async def test_a_symbolic_link_is_rejected(fake: FakeClerk, path: Path) -> None:
    """In a shared folder it may lead to a file of somebody else's choice."""
    target = path.parent / "elsewhere"
    path.symlink_to(target)
    await _refused(fake, path, "symbolic link")
    assert not target.exists()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "no folder", "file as folder"])
async def test_paths_that_can_not_be_a_journal_are_rejected(
    fake: FakeClerk, path: Path, kind: str
) -> None:
    """None of them hangs."""
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/full")
    elif kind == "no folder":
        path = path / "deeper"
    else:
        path.write_text("")
        path = path / "deeper"
    with pytest.raises(JournalError, match="journal"):
        await _run(fake, ["sess_1"], path)
    assert not fake.requests


async def test_a_read_only_folder_is_rejected(fake: FakeClerk, path: Path) -> None:
    """No request is sent. Nobody can create files in /sys, not even root."""
    path.parent.chmod(0o500)
    try:
        await _refused(fake, Path("/sys/job.jsonl") if ROOT else path, "can't be opened")
    finally:
        path.parent.chmod(0o700)


PROGRAM = """
import asyncio, resource, sys
from clerk_async import AsyncSessionsApi, JournalError, RateLimit
path, base_url, key, size, *ids = sys.argv[1:]
sys.dont_write_bytecode = True  # Python would cut it at the same size, and break later programs
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
async def main():
    done = []
    async with AsyncSessionsApi(key, base_url=base_url, rate_limit=RateLimit(9999, 1.0)) as client:
        try:
            await client.revoke_many(ids, journal=path, concurrency=4, on_outcome=done.append)
        except JournalError as error:
            print(error)
            print(len(done), sum(outcome.status == "revoked" for outcome in done))
            sys.exit(3)
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_full_disk_ends_the_run_at_once_and_a_second_run_completes_it(
    fake: FakeClerk, path: Path
) -> None:
    """Requests in flight finish first; the torn line costs its session a second request."""
    ids = add_sessions(fake, 60)
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, fake.base_url, fake.secret_key, "1500", *ids],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert program.returncode == 3, program.stderr
    message, counts = program.stdout.splitlines()
    assert "can't be written" in message
    told, revoked = (int(count) for count in counts.split())
    assert told == revoked == 60 - len(live(fake))
    assert told < 40
    report = await _run(fake, ids, path)
    assert report.ok
    assert report.resumed >= 10
    assert not live(fake)
    assert max(sends(fake).values()) <= 2


async def test_a_dry_run_reads_the_journal_and_writes_nothing(fake: FakeClerk, path: Path) -> None:
    """It does not even create an empty file, and it needs no lock."""
    ids = add_sessions(fake, 5)
    planned = await _run(fake, ids, path, dry_run=True)
    assert planned.planned == 5
    assert planned.ok
    assert not path.exists()
    assert not fake.requests
    await _run(fake, ids[:2], path)
    before = path.read_bytes()
    path.chmod(0o400)
    planned = await _run(fake, ids, path, dry_run=True)
    assert (planned.planned, planned.resumed, planned.total) == (3, 2, 5)
    assert path.read_bytes() == before
    assert len(live(fake)) == 3


async def test_a_dry_run_rejects_a_journal_that_the_run_would_reject(
    fake: FakeClerk, path: Path
) -> None:
    """Finding such problems is its purpose."""
    path.write_text("something else\n")
    with pytest.raises(JournalError):
        await _run(fake, ["sess_1"], path, dry_run=True)
    with pytest.raises(JournalError):
        await _run(fake, ["sess_1"], path.parent / "none" / "job", dry_run=True)


def test_journals_are_equal_by_path_and_flag() -> None:
    """A journal is a value."""
    assert Journal("a.jsonl") == Journal(Path("a.jsonl"))
    assert Journal("a.jsonl") != Journal("a.jsonl", accept_other_key=True)
    wrong: Any
    for wrong in (5, "", "a\0b", "a\ud800"):
        with pytest.raises(InvalidArgumentError):
            Journal(wrong)


async def test_a_journal_error_shows_nothing_of_the_key(path: Path) -> None:
    """Neither its text nor its cause shows it."""
    path.write_text("other\n")
    async with AsyncSessionsApi("sk_test_planted", base_url="http://127.0.0.1:9/v1") as client:
        with pytest.raises(JournalError) as caught:
            await client.revoke_many(["sess_1"], journal=path)
    assert "planted" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("kind", ["a folder that may not be entered", "a name that is too long"])
def test_an_inaccessible_path_raises_a_journal_error(
    kind: str, fake: FakeClerk, tmp_path: Path
) -> None:
    """The same holds for its folder and its links: no OSError is raised as it is."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "job.jsonl" if kind.startswith("a folder") else tmp_path / ("x" * 300)
    ended = run_program(
        """
        import os, sys
        from pathlib import Path
        from clerk_async import JournalError, SessionsApi
        base_url, key, path = sys.argv[1:]
        with SessionsApi(key, base_url=base_url) as client:
            client.revoke_many(["sess_none"])
            if os.geteuid() == 0:
                for folder in list(Path(path).parents)[:-2]:
                    if folder.name != "closed":
                        folder.chmod(0o755)
                os.seteuid(65534)
            elif "closed" in path:
                Path(path).parent.chmod(0)
            for dry_run in (False, True):
                try:
                    client.revoke_many(["sess_1"], journal=path, dry_run=dry_run)
                except JournalError as error:
                    print("refused:", str(error).rpartition(": ")[2])
        """,
        None,
        fake.base_url,
        fake.secret_key,
        str(path),
    )
    assert ended.code == 0, ended.err
    why = "Permission denied" if kind.startswith("a folder") else "File name too long"
    assert ended.out.splitlines() == [f"refused: {why}"] * 2


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_journal_of_another_user_is_rejected(
    fake: FakeClerk, path: Path, *, dry_run: bool
) -> None:
    """Its owner may have listed sessions as done that are not."""
    ids = add_sessions(fake, 2)
    await _run(fake, ids[:1], path)
    os.chown(path, 65534, 65534)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="belongs to another user"):
        await _run(fake, ids, path, dry_run=dry_run)
    assert path.read_bytes() == before
    assert live(fake) == {ids[1]}


@pytest.mark.may_block
@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
async def test_deleting_the_journal_during_a_run_ends_the_run(
    how: str, fake: FakeClerk, path: Path
) -> None:
    """A second run would not find what is written into it."""
    ids = add_sessions(fake, 20)
    told: list[RevocationOutcome] = []

    def lose(outcome: RevocationOutcome) -> None:
        told.append(outcome)
        if len(told) == 5:
            if how == "moved":
                path.rename(path.with_suffix(".old"))
            else:
                path.unlink()
            if how == "replaced":
                path.write_text("")

    with pytest.raises(JournalError, match="removed or replaced"):
        await _run(fake, ids, path, on_outcome=lose, concurrency=1)
    assert len(told) == 6
    assert len(live(fake)) == 14


@pytest.mark.may_block
async def test_deleting_the_journal_at_the_very_end_is_noticed(fake: FakeClerk, path: Path) -> None:
    """It is noticed after the last line, when the file is closed."""

    def remove(_: RevocationOutcome) -> None:
        path.unlink()

    with pytest.raises(JournalError, match="removed or replaced"):
        await _run(fake, add_sessions(fake, 1), path, on_outcome=remove)


async def test_a_program_may_change_its_working_directory_during_a_run(
    fake: FakeClerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is relative to the folder in which the run began."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def leave(_: RevocationOutcome) -> None:
        os.chdir(tmp_path / "elsewhere")

    report = await _run(fake, add_sessions(fake, 5), "job.jsonl", on_outcome=leave)
    assert report.ok
    assert len(_lines(tmp_path / "job.jsonl")) == 6


def _descriptors_of(path: Path) -> int:
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("turns", [1, 2, 5])
def test_a_run_cancelled_while_its_journal_opens_releases_it(
    fake: FakeClerk, path: Path, turns: int, *, goes_on: bool
) -> None:
    """The journal is free at once in the same loop, or if the loop ends before the thread."""
    ids = add_sessions(fake, 3)
    asyncio.run(_run(fake, ids[:1], path))
    with path.open("a") as file:
        for number in range(60_000):
            file.write(f'{{"id": "sess_old{number}", "status": "revoked"}}\n')

    async def cut() -> None:
        async with bulk_client(fake) as client:
            run = asyncio.create_task(client.revoke_many(ids, journal=path))
            for _ in range(turns):
                await asyncio.sleep(0)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            if goes_on:
                report = await client.revoke_many(ids[:2], journal=path)
                assert report.resumed == 1

    asyncio.run(cut())
    assert _descriptors_of(path) == 0
    assert asyncio.run(_run(fake, ids, path)).ok


def test_a_journal_works_without_fchmod_and_flock(fake: FakeClerk, path: Path) -> None:
    """As on Windows, where older Pythons have neither."""
    ids = add_sessions(fake, 3)
    ended = run_program(
        """
        import os, sys
        del os.fchmod, os.geteuid
        sys.modules["fcntl"] = None
        from clerk_async import SessionsApi
        base_url, key, path, *ids = sys.argv[1:]
        with SessionsApi(key, base_url=base_url) as client:
            print(client.revoke_many(ids[:2], journal=path).revoked)
            print(client.revoke_many(ids, journal=path).resumed)
        """,
        None,
        fake.base_url,
        fake.secret_key,
        str(path),
        *ids,
    )
    assert (ended.code, ended.out.split()) == (0, ["2", "2"]), ended.err
