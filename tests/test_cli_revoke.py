"""`revoke` and `revoke-all`: their input, questions, outcomes and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess

pytestmark = pytest.mark.may_block  # a command has its own loop


def add(fake: FakeClerk, count: int, user_id: str = "user_1") -> list[str]:
    """Add live sessions."""
    return [fake.add_session(user_id=user_id).id for _ in range(count)]


def revoked(fake: FakeClerk) -> set[str]:
    """Return the sessions that are revoked at the service."""
    return {session.id for session in fake.sessions.values() if session.status == "revoked"}


def sent(fake: FakeClerk) -> list[str | None]:
    """Return the sessions for which a revocation request arrived."""
    return [request.session_id for request in fake.requests if request.operation == "revoke"]


# --- outcomes ---


def test_a_small_run_prints_each_session(cli: InProcess) -> None:
    """First its outcome in words, then the counts."""
    (live,) = add(cli.fake, 1)
    ended_before = cli.fake.add_session(status="ended").id
    ended = cli("revoke", live, ended_before, "sess_none")
    assert ended.code == 0
    assert set(ended.lines) == {
        f"{live}  revoked",
        f"{ended_before}  already inactive",
        "sess_none  not found",
    }
    assert ended.err.startswith("Done: 1 revoked, 1 already inactive, 1 not found, in ")


def test_json_prints_one_line_per_outcome_and_a_summary(cli: InProcess) -> None:
    """Programs read stdout line by line; the last line has the counts and the exit code."""
    ids = add(cli.fake, 3)
    ended = cli("--json", "revoke", *ids, "a/b")
    *outcomes, summary = ended.records
    assert {record["session_id"]: record["status"] for record in outcomes} == {
        **dict.fromkeys(ids, "revoked"),
        "a/b": "failed",
    }
    assert all(record["type"] == "outcome" for record in outcomes)
    (failed,) = [record for record in outcomes if record["status"] == "failed"]
    assert failed["error"]["type"] == "InvalidArgumentError"
    assert failed["attempts"] == 0
    assert (summary["type"], summary["revoked"], summary["failed"]) == ("summary", 3, 1)
    assert (summary["ok"], summary["exit_code"], ended.code) == (False, 1, 1)


def test_a_large_run_prints_only_failures(cli: InProcess, tmp_path: Path) -> None:
    """Nobody reads forty thousand lines."""
    ids = add(cli.fake, 30)
    path = tmp_path / "ids.txt"
    path.write_text("\n".join([*ids, "a\\b"]))
    ended = cli("revoke", "--from", str(path), "--yes")
    assert ended.code == 1
    (line,) = ended.lines
    assert line.startswith("a\\b  failed: ")
    assert "Not done: 30 revoked, 1 failed" in ended.err


@pytest.mark.promise("doubted-key")
@pytest.mark.parametrize("option", [(), ("--json",), ("--quiet",)])
def test_if_no_session_is_found_it_suspects_another_instance(
    cli: InProcess, option: tuple[str, ...]
) -> None:
    """With another instance's key all would count as done, though the right ones are live."""
    (live,) = add(cli.fake, 1)
    ended = cli("revoke", "sess_none", "sess_nil", *option)
    assert (ended.code, "not one was found" in ended.err) == (1, True)
    stopped = ("--max-failures", "1", "--rate", "2/60")
    cli.fake.inject(Fault.status(422, session_id=live))
    assert "not one was found" not in cli("revoke", "sess_none", live, *stopped, *option).err
    ended = cli("revoke", "sess_none", live, *option)
    assert (ended.code, "not one was found" in ended.err) == (0, False)


def test_quiet_omits_counts_and_progress(cli: InProcess) -> None:
    """Failures are still printed."""
    (live,) = add(cli.fake, 1)
    ended = cli("--quiet", "revoke", live, "--progress", "text")
    assert (ended.code, ended.out, ended.err) == (0, f"{live}  revoked\n", "")


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 3), (500, 4), (422, 1)])
def test_a_run_exits_with_the_code_of_the_table(cli: InProcess, status: int, code: int) -> None:
    """3 for a rejected key, 4 if the service is unreachable, otherwise 1."""
    (live,) = add(cli.fake, 1)
    cli.fake.inject(Fault.status(status, operation="revoke", count=None))
    assert cli("revoke", live).code == code


def test_some_failures_among_successes_exit_with_1(cli: InProcess) -> None:
    """The service was reachable."""
    good, bad = add(cli.fake, 2)
    cli.fake.inject(Fault.status(500, session_id=bad, count=None))
    assert cli("revoke", good, bad).code == 1


# --- input ---


@pytest.mark.promise("id-sources")
@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("lines", "{a}\n\n  {b}  \r\n# a comment\n{c}", None),
        ("byte order mark", "\ufeff{a}\n{b}\n{c}\n", None),
        ("quoted lines", '"{a}"\n{b}\r\n"{c}"\r\n', None),
        ("semicolons", '"user, or mail";session\n1,5;{a}\n;{b}\n;{c}\n', "session"),
        ("tabs", "session\tuser\n{a}\tx\n{b}\ty;z\n{c}\t\n", "session"),
        ("csv", "user,session\r\nu,{a}\r\nu,{b}\r\n\r\nu,{c}\r\n", "session"),
        ("quoted csv", '"a ""b"" c","session id"\n"x,y",{a}\n"x\ny",{b}\n,{c}\n', "session id"),
        ("json lines", '{{"s": "{a}"}}\n{{"s": "{b}", "n": 1}}\n\n{{"s": "{c}"}}', "s"),
    ],
)
def test_ids_are_read_from_files_of_many_kinds(
    cli: InProcess, tmp_path: Path, name: str, text: str, column: str | None
) -> None:
    """One per line, or a column of CSV or JSON lines."""
    a, b, c = add(cli.fake, 3)
    path = tmp_path / name
    path.write_text(text.format(a=a, b=b, c=c), newline="")
    arguments = (
        ("--from", str(path)) if column is None else ("--from", str(path), "--column", column)
    )
    ended = cli("revoke", *arguments)
    assert ended.code == 0, ended.err
    assert revoked(cli.fake) == {a, b, c}


@pytest.mark.promise("id-sources")
@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("sess_1,user_1\n", None, "--column"),
        ('{"id": "sess_1"}\n', None, "--column"),
        ("sess_1\tuser_1\n", None, "--column"),
        ("a,b\n1,2\n", "c", "it has a, b"),
        ("a,b\n1\n", "b", "no session ids: 1 row has an empty cell"),
        ("id\nsess_1,sess_2\n", "id", "line 2"),
        ("id;n\nsess_1;x;y\n", "id", "line 2"),
        ("id,ID,Id\ns,t,u\n", "iD", "3 columns"),
        ("id,id\ns,t\n", "id", "2 columns"),
        ("sess_1 sess_2\n", None, "--column"),
        ("{\n", "id", "jq -c ."),
        ("PK\x03\x04...", "id", "spreadsheet"),
        ("id,b\ns\0,1\n", "id", "NUL"),
        ('id,agent\ns_1,"Mozilla\ns_2,x\ns_3,y\n', "id", "line 4"),
        ('[{"id": "s_1"}]\n', "id", "jq -c"),
        ('{"id": 5}\n', "id", "line 1"),
        ('{"id": "x"}\nnope\n', "id", "line 2"),
        ('{"id": "x"}\n' + '{"x":' * 100_000, "id", "line 2"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_file_of_another_kind_is_rejected_before_anything_is_sent(
    cli: InProcess, tmp_path: Path, text: str, column: str | None, told: str
) -> None:
    """A line of CSV sent as an id would get "not found", which counts as done."""
    path = tmp_path / "ids"
    path.write_text(text)
    arguments = (
        ("--from", str(path)) if column is None else ("--from", str(path), "--column", column)
    )
    ended = cli("revoke", "--yes", *arguments)  # with a question it would be read before
    assert (ended.code, cli.fake.requests) == (2, [])
    assert told in ended.err


def test_text_that_is_not_utf_8_is_rejected(cli: InProcess, tmp_path: Path) -> None:
    """The message has the line's number."""
    path = tmp_path / "ids"
    path.write_bytes(b"sess_1\n\xff\xfe\n")
    ended = cli("revoke", "--from", str(path))
    assert (ended.code, "line 2" in ended.err, cli.fake.requests) == (2, True, [])


# --- asking ---


@pytest.mark.promise("confirmation")
@pytest.mark.parametrize("command", ["revoke", "revoke-all"])
def test_above_25_sessions_it_refuses_if_nobody_can_be_asked(
    cli: InProcess, tmp_path: Path, command: str
) -> None:
    """Exit code 2, nothing is revoked, and the message names --yes."""
    ids = add(cli.fake, 26)
    path = tmp_path / "ids"
    path.write_text("\n".join(ids))
    source = ("--from", str(path)) if command == "revoke" else ("--user", "user_1")
    ended = cli(command, *source)
    assert (ended.code, sent(cli.fake)) == (2, [])
    assert "--yes" in ended.err
    assert "26" in ended.err
    assert ("sessions of user user_1 at" in ended.err) == (command == "revoke-all")
    assert cli(command, *source, "--yes").code == 0
    assert revoked(cli.fake) == set(ids)


@pytest.mark.parametrize("command", ["revoke", "revoke-all"])
def test_up_to_25_sessions_it_does_not_ask(cli: InProcess, command: str) -> None:
    """25 sessions need no confirmation."""
    ids = add(cli.fake, 25)
    arguments = tuple(ids) if command == "revoke" else ("--user", "user_1")
    assert cli(command, *arguments).code == 0
    assert revoked(cli.fake) == set(ids)


def test_it_asks_about_more_than_25_users_without_listing_them(
    cli: InProcess, tmp_path: Path
) -> None:
    """Before the answer it only checks the key."""
    path = tmp_path / "users"
    path.write_text("\n".join(f"user_{number}" for number in range(26)))
    ended = cli("revoke-all", "--users-from", str(path))
    assert (ended.code, [request.operation for request in cli.fake.requests]) == (2, ["jwks"])
    assert "26 users" in ended.err


def test_a_run_that_can_not_be_counted_does_not_begin(cli: InProcess) -> None:
    """If the list fails, nobody knows whether to ask."""
    add(cli.fake, 3)
    cli.fake.inject(Fault.status(500, operation="list", count=None))
    ended = cli("revoke-all", "--user", "user_1")
    assert (ended.code, sent(cli.fake)) == (4, [])


# --- dry run, journal, limits ---


def test_a_dry_run_prints_what_would_be_revoked(cli: InProcess) -> None:
    """One id per line, without a question, and nothing is revoked."""
    ids = add(cli.fake, 30)
    ended = cli("revoke-all", "--user", "user_1", "--dry-run")
    assert (ended.code, sent(cli.fake)) == (0, [])
    assert {line.split("\t")[0] for line in ended.lines} == set(ids)
    assert ended.err.startswith("Dry run: 30 would be revoked")


def test_a_run_resumes_with_its_journal(cli: InProcess, tmp_path: Path) -> None:
    """Done sessions are not sent again, and the output says so."""
    first, second = add(cli.fake, 2)
    journal = tmp_path / "job.jsonl"
    assert cli("revoke", first, "--journal", str(journal)).code == 0
    ended = cli("revoke", first, second, "--journal", str(journal))
    assert ended.code == 0
    assert sent(cli.fake) == [first, second]
    assert "1 done by an earlier run" in ended.err
    assert cli.fake.secret_key not in journal.read_text()


def test_a_journal_of_another_kind_of_run_is_rejected(cli: InProcess, tmp_path: Path) -> None:
    """Exit code 2, before anything is sent."""
    journal = tmp_path / "job.jsonl"
    cli("revoke", "sess_1", "--journal", str(journal))
    cli.fake.requests.clear()
    ended = cli("revoke-all", "--user", "user_1", "--yes", "--journal", str(journal))
    assert (ended.code, cli.fake.requests) == (2, [])


def test_a_rotated_key_continues_a_journal_only_if_told(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option says that the key was rotated."""
    journal = tmp_path / "job.jsonl"
    first, second = add(cli.fake, 2)
    assert cli("revoke", first, "--journal", str(journal)).code == 0
    with FakeClerk(secret_key="sk_test_rotated") as rotated:
        rotated.add_session(session_id=second)
        monkeypatch.setenv("CLERK_SECRET_KEY", rotated.secret_key)
        monkeypatch.setenv("CLERK_API_URL", rotated.base_url)
        arguments = ("revoke", first, second, "--journal", str(journal))
        ended = cli(*arguments)
        assert (ended.code, rotated.requests) == (2, [])
        assert "--rotated-key" in ended.err
        assert "Journal(" not in ended.err
        assert cli(*arguments, "--rotated-key").code == 0
        assert sent(rotated) == [second]


def test_max_failures_stops_the_run(cli: InProcess, tmp_path: Path) -> None:
    """Exit code 1, and it prints the command that resumes."""
    path = tmp_path / "ids"
    path.write_text("\n".join(add(cli.fake, 300)))
    cli.fake.inject(Fault.status(422, operation="revoke", count=None))
    ended = cli("revoke", "--from", str(path), "--yes", "--max-failures", "3")
    assert ended.code == 1
    assert "too many failures" in ended.err
    assert f"revoke --from {path} --yes --max-failures 3" in ended.err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rate", "40/2"), (40, 2.0)),
        (("--rate", "40/2s"), (40, 2.0)),
        (("--rate", "40/s"), (40, 1.0)),
        (("--rate", "40/2", "--share", "0.5"), (20, 2.0)),
        (("--share", "0.5"), (50, 10.0)),
        ((), (80, 10.0)),
    ],
)
def test_rate_and_share_become_the_limit_of_the_run(
    cli: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: tuple[int, float],
) -> None:
    """A share alone applies to the key's own limit."""
    from clerk_async.sessions import AsyncSessionsApi  # noqa: PLC0415 - to look inside

    seen: list[Any] = []
    revoke_many = AsyncSessionsApi.revoke_many

    async def spy(self: AsyncSessionsApi, ids: Any, **options: Any) -> object:
        seen.append(self._rate_limit)
        return await revoke_many(self, ids, **options)

    monkeypatch.setattr(AsyncSessionsApi, "revoke_many", spy)
    assert cli("revoke", *add(cli.fake, 1), *options).code == 0
    (limit,) = seen
    assert (limit.count, limit.per) == expected


# --- revoke-all ---


def test_revoke_all_takes_several_users_and_spares_sessions(cli: InProcess) -> None:
    """Each option takes the values that follow it."""
    mine, *others = add(cli.fake, 3, "user_1")
    more = add(cli.fake, 2, "user_2")
    stranger = add(cli.fake, 1, "user_3")
    ended = cli("revoke-all", "--user", "user_1", "user_2", "--except", mine, "sess_x")
    assert ended.code == 0, ended.err
    assert revoked(cli.fake) == {*others, *more}
    assert cli.fake.sessions[stranger[0]].status == "active"


def test_revoke_all_reads_users_from_a_file(cli: InProcess, tmp_path: Path) -> None:
    """In the same way as revoke reads ids."""
    ids = add(cli.fake, 2, "user_1") + add(cli.fake, 2, "user_2")
    path = tmp_path / "users.csv"
    path.write_text("mail,user\na@x,user_1\nb@x,user_2\n")
    ended = cli("revoke-all", "--users-from", str(path), "--column", "user")
    assert ended.code == 0, ended.err
    assert revoked(cli.fake) == set(ids)


def test_revoke_all_filters_by_client_and_time(cli: InProcess) -> None:
    """Only matching sessions are revoked."""
    old = cli.fake.add_session(user_id="u", client_id="c", created_at=1_600_000_000_000).id
    cli.fake.add_session(user_id="u", client_id="c")
    cli.fake.add_session(user_id="u", created_at=1_600_000_000_000)
    ended = cli("revoke-all", "--client", "c", "--created-before", "2021-01-01T00:00Z")
    assert ended.code == 0, ended.err
    assert revoked(cli.fake) == {old}


def test_revoke_all_keeps_the_newest_of_each_user(cli: InProcess) -> None:
    """A dry run plans the same number; the question mentions it."""
    made = {
        user: [
            cli.fake.add_session(user_id=user, created_at=1_700_000_000_000 + 1000 * age).id
            for age in range(30)
        ]
        for user in ("user_1", "user_2")
    }
    arguments = ("revoke-all", "--user", *made, "--keep-newest", "2")
    assert len(cli(*arguments, "--dry-run").lines) == 56
    ended = cli(*arguments)
    assert ended.code == 2
    assert "Revoke the 56 live sessions of 2 users" in ended.err
    assert "except  each user's 2 newest" in ended.err
    assert cli(*arguments, "-y", "--rate", "500/1").code == 0
    assert revoked(cli.fake) == {one for ids in made.values() for one in ids[:-2]}
    assert cli(*arguments).code == 0, "nothing is left to do, which is not a failure"


def test_a_deadline_stops_the_run(cli: InProcess, tmp_path: Path) -> None:
    """Exit code 1, how much is left, and the command that resumes."""
    path = tmp_path / "ids"
    path.write_text("\n".join(add(cli.fake, 60)))
    ended = cli("revoke", "--from", str(path), "-y", "--rate", "4/60", "--deadline", "1s")
    assert ended.code == 1
    done = len(revoked(cli.fake))
    assert done <= 4
    assert f"Stopped: {done} of 60 done, {60 - done} left" in ended.err
    assert "the deadline passed" in ended.err
    assert f"revoke --from {path} -y --rate 4/60 --deadline 1s --journal" in ended.err


def test_revoke_all_without_users_never_means_everybody(cli: InProcess) -> None:
    """Exit code 2."""
    add(cli.fake, 1)
    ended = cli("revoke-all", "--yes")
    assert (ended.code, cli.fake.requests) == (2, [])


def test_json_of_revoke_all_names_the_users(cli: InProcess) -> None:
    """So that a failure can be investigated."""
    (live,) = add(cli.fake, 1)
    first = json.loads(cli("--json", "revoke-all", "--user", "user_1").lines[0])
    assert (first["session_id"], first["user_id"]) == (live, "user_1")
