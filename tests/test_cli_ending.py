"""The end of bulk commands: numbers that add up, each error once, and no false reassurance."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cli_programs import Terminal, run
from leaps import leap, leaping, turns

from clerk_async.cli.output import WAITING_AT_MOST, BackgroundLines
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import Ended, InProcess

pytestmark = pytest.mark.may_block  # a command has its own loop

FAST = ("--rate", "100000/1")
STOPPED = re.compile(
    r"Stopped: ([\d,]+) of ([\d,]+) (?:done|planned), ([\d,]+) left(?:, ([\d,]+) failed)?, in "
)


def add(fake: FakeClerk, count: int, user_id: str = "user_1") -> list[str]:
    """Add live sessions."""
    return [fake.add_session(user_id=user_id).id for _ in range(count)]


def write(path: Path, ids: list[str]) -> str:
    """Write ids to a file, one per line."""
    path.write_text("".join(f"{one}\n" for one in ids))
    return str(path)


def revoked(fake: FakeClerk) -> int:
    """Return how many sessions are revoked at the service."""
    return sum(session.status == "revoked" for session in fake.sessions.values())


def numbers(told: str) -> tuple[int, int, int, int]:
    """Return done, total, left and failed of a stopped run, and check that they add up."""
    found = STOPPED.search(told)
    assert found is not None, told
    done, total, left, failed = (int((text or "0").replace(",", "")) for text in found.groups())
    assert done + left + failed == total, told
    return done, total, left, failed


@pytest.mark.promise("cli-true-endings")
@pytest.mark.parametrize("source", ["arguments", "file"])
def test_a_run_stopped_by_failures_reports_done_left_and_failed(
    cli: InProcess, tmp_path: Path, source: str
) -> None:
    """Unread sessions count too; exit code 1, and it prints the command that resumes."""
    ids = add(cli.fake, 1600)
    cli.fake.inject(Fault.status(422, operation="revoke", after=300, count=None))
    given = ids if source == "arguments" else ["--from", write(tmp_path / "ids", ids)]
    ended = cli("revoke", *given, "-y", *FAST, "--max-failures", "2")
    done, total, left, failed = numbers(ended.err)
    assert (ended.code, done, total) == (1, revoked(cli.fake), 1600)
    assert failed >= 2
    assert left == 1600 - done - failed
    assert "too many failures" in ended.err
    assert "To resume where this run stopped, run:" in ended.err


def test_a_key_rejected_during_a_run_leaves_sessions_and_fails_none(
    cli: InProcess, tmp_path: Path
) -> None:
    """A valid key can revoke them: exit code 3, and the command that resumes."""
    ids = write(tmp_path / "ids", add(cli.fake, 60))
    cli.fake.inject(Fault.status(401, operation="revoke", after=20, count=None))
    ended = cli("revoke", "--from", ids, "-y", *FAST)
    done, total, left, failed = numbers(ended.err)
    assert (ended.code, done, total, left, failed) == (3, 20, 60, 40, 0)
    assert "the service refused the secret key" in ended.err
    assert "failed" not in ended.out + ended.err
    assert re.search(r"\d+ of those left (was|were) tried: 401", ended.err)


def test_the_json_summary_of_a_stopped_run_says_how_many_are_left(
    cli: InProcess, tmp_path: Path
) -> None:
    """Its counts by status call a rejected request failed, but the next run tries it again."""
    ids = write(tmp_path / "ids", add(cli.fake, 60))
    cli.fake.inject(Fault.status(401, operation="revoke", after=20, count=None))
    ended = cli("--json", "revoke", "--from", ids, "-y", *FAST)
    summary = ended.records[-1]
    assert (summary["done"], summary["left"], ended.code) == (20, 40, 3)
    assert summary["failed"] >= 1
    assert summary["failed"] + summary["not_attempted"] <= 40  # the run need not have read them all


@pytest.mark.slow
def test_ctrl_c_leaves_sessions_that_wait_for_their_second_round(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """They were tried, and the next run tries them again."""
    ids = write(tmp_path / "ids", add(fake, 60))
    # Each try takes a second, so that no session has used up its six when the run is stopped.
    fake.inject(Fault.status(500, operation="revoke", after=20, count=None, delay=1.0))
    with Terminal(fake, "revoke", "--from", ids, "-y", *FAST) as terminal:
        terminal.wait_for("the service fails, retrying")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
    assert numbers(terminal.text) == (20, 60, 40, 0)
    assert re.search(r"\d+ of those left (was|were) tried: 500", terminal.text)
    assert "failed" not in terminal.text
    assert terminal.text.count("500") <= 2


@pytest.mark.slow
def test_ctrl_c_leaves_sessions_that_wait_for_their_second_look(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """A 400 may mean that a session has ended; only a look can tell, and there was none."""
    made = add(fake, 400)
    for one in made[30:]:
        fake.sessions[one].status = "ended"
    fake.inject(Fault.hold(operation="get", count=None))
    with Terminal(fake, "revoke", "--from", write(tmp_path / "ids", made), "-y", *FAST) as terminal:
        fake.wait_for(lambda: fake.held >= 16, timeout=20)
        terminal.type("\x03")
        terminal.wait_for("requests in flight have ended")
        fake.inject(Fault.status(500, operation="get", count=None))
        fake.release()
        assert terminal.end() == 130, terminal.text
    done, total, left, failed = numbers(terminal.text)
    assert (total, done + left, failed) == (400, 400, 0)
    assert "failed" not in terminal.text


def test_a_small_stopped_run_prints_left_for_each_waiting_session(cli: InProcess) -> None:
    """Each session is on stdout once."""
    ids = add(cli.fake, 5)
    cli.fake.inject(Fault.status(401, operation="revoke", after=2, count=None))
    ended = cli("revoke", *ids, *FAST)
    assert ended.code == 3
    assert sorted(line.split()[0] for line in ended.lines) == sorted(ids)
    assert sum(line.endswith("  left") for line in ended.lines) == 3
    assert numbers(ended.err) == (2, 5, 3, 0)


def test_a_large_run_stopped_early_does_not_list_a_few_sessions_as_all(
    cli: InProcess, tmp_path: Path
) -> None:
    """The few that it reached are not the list of what is left."""
    ids = add(cli.fake, 60)
    cli.fake.inject(Fault.status(401, operation="revoke", after=2, count=None))
    ended = cli("revoke", "--from", write(tmp_path / "ids", ids), "-y", "--rate", "4/10")
    assert (ended.code, ended.lines) == (3, [])
    assert numbers(ended.err) == (2, 60, 58, 0)


@pytest.mark.promise("cli-true-endings")
def test_a_dry_run_is_never_called_done(cli: InProcess) -> None:
    """Its sessions are still live, so it is not shown as a success."""
    ids = add(cli.fake, 3)
    for arguments in (("revoke", *ids), ("revoke-all", "--user", "user_1")):
        ended = cli(*arguments, "--dry-run")
        assert ended.code == 0
        assert "Dry run: 3 would be revoked" in ended.err
        assert "Done" not in ended.err


@pytest.mark.promise("cli-true-endings")
def test_the_same_error_is_printed_once_with_its_count(cli: InProcess, tmp_path: Path) -> None:
    """Among a thousand equal lines nobody finds the one that differs."""
    ids = add(cli.fake, 400)
    cli.fake.inject(
        Fault.status(422, session_id=ids[7], body=error("another {}", ids[7]), count=None),
        Fault.status(422, operation="revoke", body=error("no session", ""), count=None),
    )
    ended = cli("revoke", "--from", write(tmp_path / "ids", ids), "-y", *FAST)
    assert ended.code == 1
    assert len(ended.lines) == 2
    assert ended.lines[0].startswith("399 sessions  failed: 422: no session")
    assert ended.lines[0].endswith("and 396 more)")
    assert ended.lines[1].startswith(f"{ids[7]}  failed: 422: another")
    assert "Not done: 400 failed" in ended.err


def error(message: str, session_id: str) -> dict[str, Any]:
    """Make an error as the service does; it may name the session."""
    text = message.format(session_id)
    return {"errors": [{"message": text, "code": "x", "long_message": text}]}


def test_errors_that_differ_only_by_the_session_are_grouped(cli: InProcess) -> None:
    """The service often names it; a small run lists all sessions that failed alike."""
    ids = add(cli.fake, 6)
    for one in ids[:5]:
        cli.fake.inject(Fault.status(422, session_id=one, body=error("{} is odd", one), count=None))
    ended = cli("revoke", *ids)
    (line,) = [line for line in ended.lines if "failed" in line]
    assert line.startswith("5 sessions  failed: 422: … is odd")
    assert all(one in line for one in ids[:5])
    assert f"{ids[5]}  revoked" in ended.lines


def test_a_user_whose_sessions_can_not_be_listed_is_not_a_success(cli: InProcess) -> None:
    """The sessions of the others are still revoked."""
    add(cli.fake, 3, "user_1")
    add(cli.fake, 3, "user_2")
    cli.fake.inject(Fault.status(422, operation="list"))
    ended = cli("revoke-all", "--user", "user_1", "user_2", "-y")
    assert (ended.code, revoked(cli.fake)) == (1, 3)
    assert re.search("^sessions of user_[12]  failed: 422", ended.out, re.MULTILINE)
    assert "Not done: 3 revoked, 1 failed" in ended.err


def test_results_go_to_stdout_and_everything_else_to_stderr(cli: InProcess) -> None:
    """So the next run can read what a dry run prints."""
    ids = add(cli.fake, 3)
    ended = cli("revoke", *ids)
    assert sorted(ended.lines) == sorted(f"{one}  revoked" for one in ids)
    assert re.fullmatch(r"Done: 3 revoked, in \d s\n", ended.err)
    dry = cli("revoke-all", "--user", "user_1", "--dry-run")
    assert (dry.out, "no sessions" in dry.err) == ("", True)


# --- never a success if nothing matched ---


def warned(ended: Ended) -> bool:
    """Return whether a run reported anything but success."""
    return "Done:" not in ended.err and ended.code == 1


@pytest.mark.promise("cli-true-endings")
@pytest.mark.parametrize("option", [(), ("--json",), ("--dry-run",), ("--dry-run", "--json")])
@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ("anna@example.com", "looks like an e-mail address"),
        ("user_1", "looks like a user id: user_1 (revoke-all --user"),
        ("org_2abc", "looks like an organization id"),
        ("client_2abc", "looks like a client id"),
        ("ins_2abc", "looks like an instance id"),
        ("+4712345678", "looks like a phone number"),
        ("sess_1,sess_2", "looks like several ids in one"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1c2VyXzEifQ.c2ln", "looks like a token: [redacted]"),
        ("Anna", "looks like something else: Anna (ids of sessions begin with sess_)"),
    ],
)
def test_ids_that_look_like_other_objects_are_not_a_success(
    cli: InProcess, option: tuple[str, ...], given: str, cause: str
) -> None:
    """This holds even beside revoked sessions: their users are still signed in."""
    ended = cli("revoke", given, *add(cli.fake, 2), *option)
    assert (ended.code, cause in ended.err) == (1, True), ended.err
    assert "Done:" not in ended.err
    if "--json" in option:
        summary = ended.records[-1]
        assert (summary["exit_code"], len(summary["warnings"])) == (1, 1)


@pytest.mark.parametrize("spared", ["user_1", "anna@example.com", "client_1", "sess_1,sess_2"])
def test_an_exception_that_would_spare_nothing_is_rejected(cli: InProcess, spared: str) -> None:
    """The operator's own session would be revoked with the others."""
    add(cli.fake, 2)
    ended = cli("revoke-all", "--user", "user_1", "--except", "sess_none", spared)
    assert (ended.code, "--except" in ended.err, cli.fake.requests) == (2, True, [])


def test_an_id_that_is_not_found_is_said_to_look_like_another_object(cli: InProcess) -> None:
    """`list` and `get` say so too."""
    for arguments in (("list", "--user", "a@b.c"), ("list", "--user", "a@b.c", "--limit", "5")):
        ended = cli(*arguments)
        assert (ended.code, "looks like an e-mail address" in ended.err) == (0, True)
    ended = cli("get", "user_1")
    assert (ended.code, "looks like a user id" in ended.err) == (1, True)
    assert "looks like" not in cli("get", "sess_1").err + cli("list", "--user", "user_1").err


def test_known_ids_may_look_like_anything(cli: InProcess) -> None:
    """Only ids that were not found are questioned."""
    session = cli.fake.add_session(session_id="anna@example.com")
    ended = cli("revoke", session.id)
    assert (ended.code, ended.err.startswith("Done: 1 revoked")) == (0, True)


def test_a_repeated_run_is_a_success(cli: InProcess, tmp_path: Path) -> None:
    """Ended sessions count as done, whoever ended them."""
    ids = write(tmp_path / "ids", add(cli.fake, 3))
    assert cli("revoke", "--from", ids).code == 0
    again = cli("revoke", "--from", ids)
    assert (again.code, again.err.startswith("Done: 3 already inactive")) == (0, True)
    users = cli("revoke-all", "--user", "user_1")
    assert (users.code, users.err.startswith("Done: no sessions")) == (0, True)


@pytest.mark.parametrize("option", [(), ("--json",), ("--quiet",), ("--yes",)])
def test_ids_of_another_instance_are_not_a_success(cli: InProcess, option: tuple[str, ...]) -> None:
    """With the key of another instance every id would be "not found"."""
    add(cli.fake, 2)
    with FakeClerk(seed=9) as another:
        ids = add(another, 3)
    ended = cli("revoke", *ids, *option)
    assert (ended.code, "instance of this key" in ended.err) == (1, True)
    assert "Done:" not in ended.err


@pytest.mark.promise("cli-true-endings")
@pytest.mark.parametrize("option", [(), ("--json",), ("--dry-run",), ("--quiet",), ("--yes",)])
def test_users_without_any_session_are_not_a_success(
    cli: InProcess, tmp_path: Path, option: tuple[str, ...]
) -> None:
    """They belong to another instance or don't exist: nobody was signed out."""
    add(cli.fake, 2, "user_known")
    for given in (
        ("--user", "user_1", "user_2"),
        ("--users-from", write(tmp_path / "users", ["user_1", "user_2"])),
        ("--client", "client_none"),
    ):
        ended = cli("revoke-all", *given, *option)
        assert (ended.code, "a session of any status" in ended.err) == (1, True), ended
        assert "Done:" not in ended.err
        if option == ("--json",):
            assert len(ended.records[-1]["warnings"]) == 1


def test_users_whose_sessions_have_all_ended_are_a_success(cli: InProcess) -> None:
    """A repeated run is a success, even beside users without any session."""
    for user_id, status in (("user_1", "ended"), ("user_2", "revoked"), ("user_2", "expired")):
        cli.fake.add_session(user_id=user_id, status=status)
    ended = cli("revoke-all", "--user", "user_1", "user_2")
    assert (ended.code, ended.err.startswith("Done: no sessions")) == (0, True)
    ended = cli("revoke-all", "--user", "user_1", "user_2", "user_3")
    assert ended.code == 0
    assert "1 of 3 users have no session of any status" in ended.err


@pytest.mark.promise("cli-true-endings")
@pytest.mark.parametrize("option", [(), ("--dry-run",), ("--json",)])
@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ("anna@example.com", "looks like an e-mail address: anna@example.com"),
        ("sess_2abc", "looks like a session id: sess_2abc (revoke takes sessions)"),
        ("org_2abc", "looks like an organization id"),
    ],
)
def test_users_that_look_like_other_objects_are_not_a_success(
    fake: FakeClerk, cli: InProcess, given: str, cause: str, option: tuple[str, ...]
) -> None:
    """Even beside users whose sessions were revoked, and also from a pipe."""
    add(fake, 2)
    ended = cli("revoke-all", "--user", "user_1", given, *option)
    assert (ended.code, cause in ended.err) == (1, True), ended.err
    assert "Done:" not in ended.err
    stdin = f"user_1\n{given}\n"
    piped = run(fake, "revoke-all", "--users-from", "-", *option, stdin=stdin)
    assert (piped.code, cause in piped.err) == (1, True), piped.err


def test_known_users_may_look_like_anything(cli: InProcess) -> None:
    """Imported users may have other kinds of ids."""
    add(cli.fake, 2, "anna@example.com")
    cli.fake.add_session(user_id="0815", status="ended")
    ended = cli("revoke-all", "--user", "anna@example.com", "0815")
    assert (ended.code, ended.err.startswith("Done: 2 revoked")) == (0, True)


@leaping
async def test_a_reader_who_stops_reading_blocks_no_line_for_long() -> None:
    """Otherwise a stopped run would give up on its callback, and later lines would be lost."""
    may_write = threading.Event()
    written: list[str] = []

    class Stalled:
        def write(self, text: str) -> None:
            assert may_write.wait(60)
            written.append(text)

    stream: Any = Stalled()
    lines = BackgroundLines(stream)
    texts = [f"{number}\n" for number in range(2 * WAITING_AT_MOST + 10)]

    async def put_all() -> None:
        for text in texts:
            await lines.put(text)

    putting = asyncio.create_task(put_all())
    for _ in texts:
        await turns(5)
        leap(1.0)
    assert putting.done()
    assert not written
    may_write.set()
    await lines.close()
    assert "".join(written) == "".join(texts)
