"""Commands in a real terminal: questions, the bar, tables, colours, and Ctrl-C once and twice."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from cli_programs import Terminal

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async.testing import FakeClerk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's"),
]


@pytest.fixture
def ids(fake: FakeClerk, tmp_path: Path) -> Path:
    """Return a file of sixty live sessions."""
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{fake.add_session(user_id='user_1').id}\n" for _ in range(60)))
    return path


def live(fake: FakeClerk) -> int:
    """Return how many sessions are live at the service."""
    return sum(session.status == "active" for session in fake.sessions.values())


@pytest.mark.promise("confirmation")
@pytest.mark.parametrize("command", ["revoke", "revoke-all"])
@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 2, 60), ("", 2, 60)])
def test_above_25_sessions_it_asks_for_confirmation(
    fake: FakeClerk, ids: Path, command: str, *, answer: str, code: int, left: int
) -> None:
    """Any answer but yes revokes nothing."""
    source = ("--from", str(ids)) if command == "revoke" else ("--user", "user_1")
    with Terminal(fake, command, *source) as terminal:
        terminal.wait_for("? [y/N]")
        assert "60" in terminal.text
        assert live(fake) == 60
        terminal.type(f"{answer}\n")
        assert (terminal.end(), live(fake)) == (code, left), terminal.text


def test_ctrl_c_at_the_question_exits_with_130(fake: FakeClerk, ids: Path) -> None:
    """Nothing was revoked."""
    with Terminal(fake, "revoke", "--from", str(ids)) as terminal:
        terminal.wait_for("? [y/N]")
        terminal.type("\x03")
        assert (terminal.end(), live(fake)) == (130, 60), terminal.text
        assert "Traceback" not in terminal.text


def test_it_asks_at_the_terminal_if_stdin_has_the_ids(fake: FakeClerk, ids: Path) -> None:
    """The answer can't come from stdin then."""
    with Terminal(fake, "revoke", "--from", "-", stdin=ids) as terminal:
        terminal.wait_for("more than 25 sessions from stdin")
        terminal.type("yes\n")
        assert (terminal.end(), live(fake)) == (0, 0), terminal.text


def test_a_bar_shows_counts_rate_and_time_and_disappears(fake: FakeClerk, ids: Path) -> None:
    """It is on stderr only: results go to stdout."""
    fake.inject(Fault.hold(operation="revoke", after=40, count=1))
    with Terminal(fake, "revoke", "--from", str(ids), "--yes") as terminal:
        terminal.wait_for("59/60")
        terminal.wait_for("59 revoked")
        terminal.wait_for("/s")
        fake.release()
        assert terminal.end() == 0
        assert "━" in terminal.text
        assert "\x1b[32m" in terminal.raw
        assert terminal.text.rstrip().splitlines()[-1].startswith("Done: 60 revoked")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_turns_colours_off(fake: FakeClerk, ids: Path, env: dict[str, str]) -> None:
    """See https://no-color.org."""
    fake.inject(Fault.hold(operation="revoke", after=40, count=1))
    with Terminal(fake, "revoke", "--from", str(ids), "--yes", env=env) as terminal:
        if "NO_COLOR" in env:
            terminal.wait_for("59/60")
        fake.wait_for(lambda: fake.held == 1, timeout=40)
        fake.release()
        assert terminal.end() == 0
        assert "\x1b[3" not in terminal.raw
        assert ("\x1b" in terminal.raw) is ("NO_COLOR" in env), (
            "a dumb terminal supports no escapes"
        )


def test_results_go_to_a_file_and_the_bar_to_the_terminal(
    fake: FakeClerk, ids: Path, tmp_path: Path
) -> None:
    """`clerk-async --json revoke … > out.jsonl` still shows its progress."""
    out = tmp_path / "out.jsonl"
    fake.inject(Fault.hold(operation="revoke", after=40, count=1))
    with Terminal(fake, "--json", "revoke", "--from", str(ids), "--yes", stdout=out) as terminal:
        terminal.wait_for("59/60")
        fake.release()
        assert terminal.end() == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 61
    assert records[-1]["revoked"] == 60


@pytest.mark.parametrize(
    ("env", "rule"),
    [
        ({"COLUMNS": "200"}, "─"),
        ({"COLUMNS": "40"}, "─"),
        ({"PYTHONIOENCODING": "ascii"}, "-"),
    ],
)
def test_a_list_is_a_table_with_complete_ids(
    fake: FakeClerk, env: dict[str, str], rule: str
) -> None:
    """No id is truncated, however narrow the terminal is."""
    session = fake.add_session(user_id="user_1")
    with Terminal(fake, "list", "--user", "user_1", env=env) as terminal:
        assert terminal.end() == 0
        assert session.id in terminal.text
        assert rule * 40 in terminal.text
        assert "active" in terminal.text


@pytest.mark.promise("interrupted-runs")
def test_the_first_ctrl_c_finishes_requests_in_flight_and_prints_how_to_resume(
    fake: FakeClerk, ids: Path, tmp_path: Path
) -> None:
    """Exit code 130; the journal has everything that was sent, and the printed command resumes."""
    journal = tmp_path / "job.jsonl"
    arguments = ("revoke", "--from", str(ids), "--yes", "--journal", str(journal))
    fake.inject(Fault.hold(operation="revoke", process_first=True, after=10, count=4))
    with Terminal(fake, *arguments, "--rate", "20/60") as terminal:
        fake.wait_for(lambda: fake.held == 4, timeout=40)
        terminal.type("\x03")
        terminal.wait_for("stopping once the requests in flight have ended")
        fake.release()
        assert terminal.end() == 130, terminal.text
        assert f"clerk_async revoke --from {ids} --yes --journal {journal}" in terminal.text
        assert "Traceback" not in terminal.text
    done = {json.loads(line)["id"] for line in journal.read_text().splitlines()[1:]}
    assert done == {session.id for session in fake.sessions.values() if session.status != "active"}
    assert 14 <= len(done) <= 20
    with Terminal(fake, *arguments) as terminal:
        assert (terminal.end(), live(fake)) == (0, 0), terminal.text
        assert f"{len(done)} done by an earlier run" in terminal.text


def test_the_second_ctrl_c_exits_at_once(fake: FakeClerk, ids: Path) -> None:
    """It does not wait for responses; the terminal is left clean."""
    fake.inject(Fault.hold(operation="revoke", count=None))
    with Terminal(fake, "revoke", "--from", str(ids), "--yes") as terminal:
        fake.wait_for(lambda: fake.held > 0, timeout=40)
        terminal.type("\x03")
        terminal.wait_for("Ctrl-C again")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "may or may not" in terminal.text
        assert f"revoke --from {ids} --yes" in terminal.text
    fake.release()


def test_stopping_a_run_that_finds_nothing_says_so(fake: FakeClerk, tmp_path: Path) -> None:
    """The bar has shown it already; sessions that were not attempted don't count."""
    path = tmp_path / "users.txt"
    path.write_text("user_1\nuser_2\nuser_3\nuser_4\n")
    with Terminal(fake, "revoke", "--from", str(path), "--rate", "2/60") as terminal:
        terminal.wait_for("2 not found")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "not one was found" in terminal.text


def test_ctrl_c_ends_a_wait_for_more_ids(fake: FakeClerk) -> None:
    """Typed ids are sent line by line."""
    first = fake.add_session().id
    with Terminal(fake, "--json", "revoke", "--from", "-", "--yes") as terminal:
        terminal.type(f"{first}\n")
        terminal.wait_for('"status": "revoked"')
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "same ids on stdin" in terminal.text


def test_ctrl_c_in_a_single_call_exits_with_130(fake: FakeClerk) -> None:
    """It prints no traceback."""
    fake.inject(Fault.hold(operation="get"))
    with Terminal(fake, "get", "sess_1") as terminal:
        fake.wait_for(lambda: fake.held == 1, timeout=40)
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "Traceback" not in terminal.text
    fake.release()


def test_a_prompt_asks_for_keyboard_input(fake: FakeClerk) -> None:
    """A program that waits silently looks stuck."""
    session = fake.add_session()
    arguments = ("refresh", session.id, "--origin", "http://localhost:3000")
    with Terminal(fake, *arguments) as terminal:
        terminal.wait_for("the expired token, on one line:")
        terminal.type(f"{fake.expired_token(session)}\n")
        terminal.wait_for("the refresh token, on one line:")
        terminal.type(f"{fake.refresh_token_for(session)}\n")
        assert terminal.end() == 0, terminal.text
    with Terminal(fake, "verify-token", "-") as terminal:
        terminal.wait_for("the token, on one line:")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text


def test_ctrl_c_ends_the_demo(fake: FakeClerk) -> None:
    """It leaves nothing behind."""
    with Terminal(fake, "demo", "--sessions", "2000") as terminal:
        terminal.wait_for("2. Revoke")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "Traceback" not in terminal.text


def test_a_paused_bar_shows_the_reason(fake: FakeClerk, ids: Path) -> None:
    """Without a reason it looks broken."""
    fake.inject(Fault.status(429, retry_after=2, operation="revoke", after=5))
    with Terminal(fake, "revoke", "--from", str(ids), "--yes", env={"COLUMNS": "160"}) as terminal:
        terminal.wait_for("the service said 429")
        assert terminal.end() == 0, terminal.text


@pytest.mark.promise("cli-true-endings")
@pytest.mark.parametrize("width", ["160", "80", "40"])
def test_the_bar_shows_an_outage_and_the_run_continues_after_it(
    fake: FakeClerk, ids: Path, width: str
) -> None:
    """Sessions that only wait for a retry are not called failed."""
    # Each try takes a second, so that no session has used up its six when the outage ends.
    fake.inject(Fault.cut("before", operation="revoke", after=10, count=None, delay=1.0))
    arguments = ("revoke", "--from", str(ids), "--yes", "--rate", "100000/1")
    with Terminal(fake, *arguments, env={"COLUMNS": width}) as terminal:
        terminal.wait_for("can't connect, retrying")
        fake.clear_faults()
        assert terminal.end() == 0, terminal.text
        assert "waiting for the rate limit" not in terminal.text
        assert "failed" not in terminal.text
        assert "Done: 60 revoked" in terminal.text
