"""What bulk commands check, say and ask before they send anything, and their journal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from cli_programs import Terminal, run

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli_programs import InProcess

pytestmark = pytest.mark.may_block  # a command has its own loop

KEY = "sk_test_planted0123456789abcdWxYz"
RUNS = [("revoke", "sess_1"), ("revoke-all", "--user", "user_1")]


@pytest.fixture
def fake() -> Iterator[FakeClerk]:
    """Yield a service whose key would be noticed anywhere."""
    with FakeClerk(secret_key=KEY) as running:
        yield running


def add(fake: FakeClerk, count: int, user_id: str = "user_1") -> list[str]:
    """Add live sessions."""
    return [fake.add_session(user_id=user_id).id for _ in range(count)]


def write(path: Path, ids: list[str]) -> str:
    """Write ids to a file, one per line."""
    path.write_text("".join(f"{one}\n" for one in ids))
    return str(path)


def sent(fake: FakeClerk) -> list[str | None]:
    """Return the sessions for which a revocation request arrived."""
    return [request.session_id for request in fake.requests if request.operation == "revoke"]


def journals() -> list[Path]:
    """Return the journals that runs have created automatically."""
    folder = Path(os.environ["XDG_STATE_HOME"], "clerk-async")
    return sorted(folder.iterdir()) if folder.exists() else []


# --- the key, the service, the instance ---


@pytest.mark.promise("cli-checks-first")
@pytest.mark.parametrize("options", [(), ("--yes",), ("--dry-run",)])
@pytest.mark.parametrize("command", RUNS)
def test_a_rejected_key_exits_with_3_before_anything_is_sent(
    cli: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    """In a dry run too, whose result would be useless."""
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_another_instance")
    ended = cli(*command, *options)
    assert (ended.code, ended.out) == (3, "")
    assert "nothing was sent" in ended.err
    assert [request.operation for request in cli.fake.requests] == ["jwks"]


@pytest.mark.parametrize("options", [("--yes",), ("--dry-run",)])
@pytest.mark.parametrize("command", RUNS)
def test_an_unreachable_service_exits_with_4_before_anything_is_sent(
    cli: InProcess, command: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """It does not fail once for each session."""
    cli.fake.inject(Fault.cut("before", operation="jwks", count=None))
    ended = cli(*command, *options)
    assert (ended.code, sent(cli.fake), "nothing was sent" in ended.err) == (4, [], True)


def test_a_gateway_that_hides_the_key_set_is_noted_and_stops_nothing(cli: InProcess) -> None:
    """The service is there, and the key wasn't rejected."""
    (live,) = add(cli.fake, 1)
    cli.fake.inject(Fault.status(404, operation="jwks", count=None))
    ended = cli("revoke", live)
    assert (ended.code, "could not be checked" in ended.err) == (0, True)


# --- the question ---


def question(terminal: Terminal) -> str:
    """Wait for the question, and return it completely, as one line."""
    terminal.wait_for("? [y/N]")
    return " ".join(terminal.text.split())


@pytest.mark.promise("confirmation")
def test_the_question_has_the_facts(fake: FakeClerk, tmp_path: Path) -> None:
    """The instance, the key, how many, how fast and how long; never the key itself."""
    ids = write(tmp_path / "ids", [*add(fake, 197), "anna@example.com", "user_1", "user_2"])
    with Terminal(fake, "revoke", "--from", ids, "--rate", "20/10") as terminal:
        told = question(terminal)
        assert f"Revoke 200 sessions from {ids} at {fake.base_url}" in told
        assert "key test, ends in …WxYz, from CLERK_SECRET_KEY; instance ins_" in told
        assert "pace at most 20 requests in 10 s, so about 1 min 30 s" in told
        assert "1 of the session ids looks like an e-mail address: anna@example.com (" in told
        assert "2 of the session ids look like user ids, such as user_1 (revoke-all" in told
        assert "planted" not in terminal.text
        terminal.type("n\n")
        assert terminal.end() == 2
    assert sent(fake) == []
    assert journals() == []


def test_the_question_of_revoke_all_names_the_filters(fake: FakeClerk) -> None:
    """It counts the sessions that they select."""
    for created in (1_600_000_000_000, 1_700_000_000_000):
        for _ in range(30):
            fake.add_session(user_id="user_1", created_at=created)
    options = (
        "--created-before",
        "2021-01-01T00:00+01:00",
        "--except",
        "sess_mine",
        "--actor",
        "none",
    )
    with Terminal(fake, "revoke-all", "--user", "user_1", *options) as terminal:
        told = question(terminal)
        assert "Revoke the 30 live sessions of user user_1" in told
        assert "only created before 2020-12-31 23:00:00 UTC; impersonated by nobody" in told
        assert "except sess_mine" in told
        terminal.type("y\n")
        assert terminal.end() == 0
    assert len(sent(fake)) == 30


def test_the_time_of_revoke_all_includes_its_lists(cli: InProcess) -> None:
    """The lists that counted the sessions have used the rate limit too."""
    for number in range(60):
        cli.fake.add_session(user_id=f"user_{number // 4}")
    users = [f"user_{number}" for number in range(15)]
    ended = cli("revoke-all", "--user", *users, "--rate", "100/10")
    assert ended.code == 2
    assert "at most 100 requests in 10 s, so about 5 s" in ended.err  # 60 sessions, 90 lists


def test_the_question_counts_what_the_journal_leaves(fake: FakeClerk, tmp_path: Path) -> None:
    """Of 70 sessions 30 are done; the question is about the others."""
    ids = add(fake, 70)
    journal = str(tmp_path / "job.jsonl")
    first, all_of_them = write(tmp_path / "a", ids[:30]), write(tmp_path / "b", [*ids, *ids])
    assert run(fake, "revoke", "--from", first, "--journal", journal, "-y").code == 0
    with Terminal(fake, "revoke", "--from", all_of_them, "--journal", journal) as terminal:
        told = question(terminal)
        assert "Revoke 70 sessions" in told
        assert f"{journal}: 30 sessions are done, 40 are left" in told
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "Done: 40 revoked, 30 done by an earlier run" in terminal.text
    with Terminal(fake, "revoke-all", "--user", "user_1", "--journal", journal) as terminal:
        assert terminal.end() == 2
        assert "belongs to another kind of run" in terminal.text


def test_nothing_is_asked_if_the_journal_leaves_25_or_fewer(cli: InProcess, tmp_path: Path) -> None:
    """Somebody who resumes the end of a run has confirmed before."""
    ids = add(cli.fake, 70)
    journal = str(tmp_path / "job.jsonl")
    first = write(tmp_path / "a", ids[:45])
    assert cli("revoke", "--from", first, "--journal", journal, "-y").code == 0
    ended = cli("revoke", "--from", write(tmp_path / "b", ids), "--journal", journal)
    assert (ended.code, len(sent(cli.fake))) == (0, 70)


def test_the_same_facts_are_printed_if_nobody_can_be_asked(cli: InProcess, tmp_path: Path) -> None:
    """The log of a job then shows what --yes would mean."""
    ids = write(tmp_path / "ids", add(cli.fake, 26))
    ended = cli("revoke", "--from", ids)
    assert ended.code == 2
    assert "ends in …WxYz" in ended.err
    assert "at most 80 requests in 10 s" in ended.err
    assert "planted" not in ended.err


@pytest.mark.parametrize("source", ["list", "pipe"])
def test_nothing_is_sent_if_the_question_can_not_be_asked(
    fake: FakeClerk, tmp_path: Path, source: str
) -> None:
    """Input from a pipe is not read completely by then."""
    ids = write(tmp_path / "ids", add(fake, 40))
    arguments = ("--from", "-") if source == "pipe" else ("--from", ids)
    ended = run(fake, "revoke", *arguments, stdin=Path(ids).read_text())
    assert (ended.code, sent(fake)) == (2, [])
    assert f"Revoke {'more than 25' if source == 'pipe' else '40'} sessions" in ended.err


# --- the journal ---


@pytest.mark.promise("cli-own-journal")
def test_a_run_of_more_than_25_keeps_a_journal_and_says_where(
    cli: InProcess, tmp_path: Path
) -> None:
    """It is in the user's state directory, readable only by the user; each run has its own file."""
    ids = write(tmp_path / "ids", add(cli.fake, 26))
    ended = cli("revoke", "--from", ids, "-y")
    (journal,) = journals()
    assert f"journal: {journal}\n" in ended.err
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
    assert re.fullmatch(r"revoke_many-\d{8}T\d{6}Z-\d+\.jsonl", journal.name)
    assert len(journal.read_text().splitlines()) == 27
    assert KEY not in journal.read_text()


def test_a_later_run_of_the_same_command_skips_nobody(cli: InProcess, tmp_path: Path) -> None:
    """Sessions that are live again are revoked again."""
    made = add(cli.fake, 26)
    ids = write(tmp_path / "ids", made)
    assert cli("revoke", "--from", ids, "-y").code == 0
    for one in made:
        cli.fake.sessions[one].status = "active"
    assert cli("revoke", "--from", ids, "-y").code == 0
    assert len(sent(cli.fake)) == 52


@pytest.mark.parametrize(
    ("count", "options", "kept"),
    [
        (25, ("-y",), 0),
        (26, ("-y",), 1),
        (26, ("-y", "--no-journal"), 0),
        (26, ("--dry-run",), 0),
    ],
)
@pytest.mark.parametrize("source", ["arguments", "file", "user"])
def test_a_journal_is_kept_above_25_sessions(
    cli: InProcess,
    tmp_path: Path,
    *,
    source: str,
    count: int,
    options: tuple[str, ...],
    kept: int,
) -> None:
    """Also if only the run itself can count the sessions."""
    ids = add(cli.fake, count)
    sources = {
        "arguments": ("revoke", *ids),
        "file": ("revoke", "--from", write(tmp_path / "ids", ids)),
        "user": ("revoke-all", "--user", "user_1"),
    }
    ended = cli(*sources[source], *options)
    assert ended.code == 0, ended.err
    assert len(journals()) == kept
    assert ("journal: " in ended.err) == bool(kept)


@pytest.mark.parametrize(("count", "kept"), [(25, 0), (26, 1)])
def test_a_journal_is_kept_for_a_pipe(fake: FakeClerk, count: int, kept: int) -> None:
    """The number of ids is known only at its end."""
    ended = run(fake, "revoke", "--from", "-", "-y", stdin="\n".join(add(fake, count)))
    assert (ended.code, len(journals())) == (0, kept)
    assert ("journal: " in ended.err) == bool(kept)


@pytest.mark.promise("cli-own-journal")
def test_the_printed_command_resumes_with_the_journal(fake: FakeClerk, tmp_path: Path) -> None:
    """It works as printed: what is done is not sent again."""
    ids = write(tmp_path / "ids file", add(fake, 40))
    fake.inject(Fault.status(422, operation="revoke", after=12, count=None))
    ended = run(fake, "revoke", "--from", ids, "-y", "--max-failures", "1", "--rate", "100000/1")
    assert ended.code == 1
    (journal,) = journals()
    command = ended.err.splitlines()[-1].strip()
    assert command.endswith(f"--journal {journal}")
    fake.clear_faults()
    fake.requests.clear()
    words = shlex.split(command)
    resumed = run(fake, *words[words.index("revoke") :])
    assert resumed.code == 0, resumed.err
    assert len(sent(fake)) == 28
    assert "12 done by an earlier run" in resumed.err


def test_the_printed_command_has_a_fixed_time_instead_of_a_span(cli: InProcess) -> None:
    """Run tomorrow, `--older-than 30d` would select other sessions."""
    for _ in range(3):
        cli.fake.add_session(user_id="user_1", created_at=1_600_000_000_000)
    cli.fake.inject(Fault.status(422, operation="revoke", count=None))
    options = ("--max-failures", "1", "--older-than=30d", "--idle", "1h")
    ended = cli("revoke-all", "--user", "user_1", *options)
    command = ended.err.splitlines()[-1]
    assert re.search(
        r"--created-before 20\d\d-\d\d-\d\dT[\d:.]+Z --last-active-before 20\d\d", command
    )
    assert "--older-than" not in command
    assert "--idle" not in command


@pytest.mark.parametrize("is_full", [False, True])
def test_an_unusable_folder_for_journals_does_not_stop_a_run(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    """In an incident the sessions must be revoked; the run says that it keeps no journal."""
    if is_full:
        monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=SimpleNamespace(free=0)))
    else:
        blocked = tmp_path / "a file"
        blocked.touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    ended = cli("revoke", "--from", write(tmp_path / "ids", add(cli.fake, 26)), "-y")
    assert (ended.code, "no journal is kept" in ended.err) == (0, True)
    assert ("No space left on device" in ended.err) is is_full


def test_a_relative_state_home_is_ignored(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The XDG specification requires it: the journal goes into the home directory."""
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli("revoke", *add(cli.fake, 26), "-y").code == 0
    assert len(list((tmp_path / ".local/state/clerk-async").iterdir())) == 1


@pytest.mark.parametrize("kind", ["folder", "other file", "link", "in no folder"])
@pytest.mark.parametrize("options", [("--yes",), ("--dry-run",)])
def test_an_unusable_journal_exits_with_2_before_anything_is_sent(
    cli: InProcess, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    """A dry run reports it too."""
    path = tmp_path / "job.jsonl"
    told = "not a journal"
    if kind == "folder":
        path.mkdir()
        told = "Is a directory" if options == ("--yes",) else "not a regular file"
    elif kind == "other file":
        path.write_text("notes\n")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
        told = "symbolic link"
    else:
        path = tmp_path / "missing" / "job.jsonl"
        told = "doesn't exist" if options == ("--yes",) else "No such file"
    ended = cli("revoke", "sess_1", "--journal", str(path), *options)
    assert (ended.code, cli.fake.requests) == (2, [])
    assert told in ended.err


def test_journal_and_no_journal_exclude_each_other(cli: InProcess, tmp_path: Path) -> None:
    """Exit code 2."""
    ended = cli("revoke", "s", "--journal", str(tmp_path / "j"), "--no-journal")
    assert (ended.code, cli.fake.requests) == (2, [])


# --- input without an id ---


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "{header}\n", "\ufeff\n", "{csv}"])
@pytest.mark.parametrize("options", [("--yes",), ("--dry-run",), ()])
@pytest.mark.parametrize("command", [("revoke", "--from"), ("revoke-all", "--users-from")])
def test_an_input_without_an_id_exits_with_2(
    cli: InProcess, tmp_path: Path, text: str, options: tuple[str, ...], command: tuple[str, ...]
) -> None:
    """A run of nothing would look like success."""
    path = tmp_path / "ids"
    header = "Session ID" if command[0] == "revoke" else "user_id"
    path.write_text(text.format(header=header, csv="SESSION\tSTATUS\tUSER\n"))
    ended = cli(*command, str(path), *options)
    assert (ended.code, ended.out, cli.fake.requests) == (2, "", [])
    assert "contains no" in ended.err


@pytest.mark.parametrize("command", [("revoke", "--from"), ("revoke-all", "--users-from")])
def test_a_pipe_without_an_id_exits_with_2(fake: FakeClerk, command: tuple[str, ...]) -> None:
    """For example, `grep … | clerk-async revoke --from -`."""
    ended = run(fake, *command, "-", "--yes", stdin="")
    assert (ended.code, ended.out, fake.requests) == (2, "", [])
    assert "stdin contains no" in ended.err
