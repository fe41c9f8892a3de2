"""`fake-server`: an invented company to try everything on, given sessions, and faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from cli_programs import command_line
from programs import without_slowness

from clerk_async import SessionsApi
from clerk_async.cli import main, serving
from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from clerk_async.models import Session

LIVE = {"active", "pending"}


class Running:
    """A running `fake-server` program."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        self.told: list[str] = []
        for line in program.stdout:
            self.told.append(line.strip())
            if line.startswith("# Ctrl-C"):
                break
        settings = dict(
            line.removeprefix("export ").split("=", 1) for line in self.told if "export" in line
        )
        self.environment = {name: settings[name] for name in sorted(settings)}
        self.sessions = SessionsApi(
            settings["CLERK_SECRET_KEY"], base_url=f"{settings['CLERK_API_URL']}/v1"
        )

    def of(self, users: list[str]) -> list[Session]:
        """Return all sessions of these users."""
        return [session for user in users for session in self.sessions.iterate(user_id=user)]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return subprocess.run(
            command_line(arguments),
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env={**os.environ, **self.environment},
        )


@contextmanager
def running(*arguments: str, stdin: str | None = None) -> Generator[Running]:
    """Run a fake-server, and end it with Ctrl-C."""
    program = subprocess.Popen(
        command_line(["fake-server", *arguments]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdin is not None
        if stdin is not None:
            program.stdin.write(stdin)
        program.stdin.close()
        program.stdin = None
        try:
            server = Running(program)
            yield server
            server.sessions.close()
        finally:
            program.send_signal(signal.SIGINT)
            _, err = program.communicate(timeout=20)
    assert (program.returncode, without_slowness(err).strip()) == (0, ""), err


@pytest.mark.slow
class TestCompany:
    @pytest.mark.promise("try-it")
    def test_its_sessions_are_those_of_a_company(self, tmp_path: Path) -> None:
        """They have devices, places, organizations, impersonators, and many statuses and ages."""
        users, ids = tmp_path / "users", tmp_path / "ids"
        arguments = ("--sessions", "400", "--seed", "3")
        with running(*arguments, "--write-users", str(users), "--write-ids", str(ids)) as server:
            names = users.read_text().split()
            sessions = server.of(names)
            assert {session.id for session in sessions} == set(ids.read_text().split())
            assert (len(names), len(sessions)) == (100, 400)
            assert f"# 400 sessions of 100 users; the first is {names[0]}" in server.told
            assert {"active", "pending", "ended", "expired"} < {s.status for s in sessions}
            live = [session for session in sessions if session.status in LIVE]
            assert len(live) > 300
            seen = [session.latest_activity for session in sessions if session.latest_activity]
            assert len({activity.city for activity in seen}) > 5
            assert len({activity.browser_name for activity in seen}) > 3
            assert {activity.is_mobile for activity in seen} == {True, False}
            assert len({session.last_active_organization_id for session in sessions}) > 3
            assert any(session.actor for session in sessions)
            created = [session.created_at for session in sessions if session.created_at]
            assert (max(created) - min(created)).days > 20
        with running(*arguments) as again:
            assert {session.id for session in again.of(names)} == {s.id for s in sessions}

    def test_ids_can_be_revoked_from_the_file(self, tmp_path: Path) -> None:
        """An operator would do this; every session of the file ends."""
        ids = tmp_path / "ids"
        with running("--sessions", "60", "--write-ids", str(ids)) as server:
            ended = server.command("revoke", "--from", str(ids), "--yes", "--json", "--no-journal")
            assert ended.returncode == 0, ended.stderr
            summary = json.loads(ended.stdout.splitlines()[-1])
            assert summary["revoked"] + summary["already_inactive"] == 60
            assert summary["already_inactive"] > 0


@pytest.mark.slow
class TestGiven:
    @pytest.mark.promise("try-it")
    @pytest.mark.parametrize("from_stdin", [False, True])
    def test_the_output_of_list_can_be_served(self, tmp_path: Path, from_stdin: bool) -> None:
        """A complete copy of an instance's sessions, to rehearse on."""
        file = tmp_path / "sessions.jsonl"
        with running("--sessions", "12", "--write-users", str(tmp_path / "users")) as server:
            names = (tmp_path / "users").read_text().split()
            listed = [
                server.command("list", "--user", user, "--all", "--json").stdout for user in names
            ]
            before = server.of(names)
        file.write_text("".join(listed), encoding="utf-8")
        where = "-" if from_stdin else str(file)
        stdin = "".join(listed) if from_stdin else None
        with running("--seed-file", where, stdin=stdin) as copy:
            assert copy.of(names) == before

    def test_responses_of_the_service_can_be_served(self, tmp_path: Path) -> None:
        """Their times are in milliseconds, as in a log of responses."""
        fake = FakeClerk()
        raw = fake.add_session(user_id="user_1", actor={"sub": "user_2"}).as_json()
        file = tmp_path / "raw.jsonl"
        file.write_text(f"\ufeff{json.dumps(raw)}\n\n", encoding="utf-8")
        with running("--seed-file", str(file)) as copy:
            [session] = copy.of(["user_1"])
            assert (session.id, session.actor) == (raw["id"], {"sub": "user_2"})
            assert session.created_at is not None
            assert round(session.created_at.timestamp() * 1000) == raw["created_at"]

    def test_it_has_templates_faults_and_latency(self, tmp_path: Path) -> None:
        """A custom template, an operation that always fails, and one that is slow."""
        (tmp_path / "claims.json").write_text('{"who": "{{user.id}}"}', encoding="utf-8")
        with running(
            "--sessions=4",
            "--seed-file=-",
            f"--template=mine={tmp_path / 'claims.json'}",
            "--fault=get:404",
            "--fault=create_token:429:1.0",
            "--latency=0.001-0.002",
            stdin='{"id": "sess_1", "user_id": "user_1"}',
        ) as server:
            token = server.command("token", "sess_1", "--template", "mine", "--show-token")
            assert token.returncode == 0, token.stderr
            assert token.stdout.count(".") == 2
            assert server.command("get", "sess_1").returncode == 1


WRONG = {
    "an invalid fault": ["--fault", "revoke"],
    "a fault of no operation": ["--fault", "remove:500"],
    "a fault of no status": ["--fault", "revoke:1000"],
    "a fault that is too likely": ["--fault", "revoke:503:2"],
    "a template without a file": ["--template", "mine"],
    "a missing template": ["--template", "mine=/nowhere/claims.json"],
    "missing sessions": ["--seed-file", "/nowhere/sessions.jsonl"],
    "no latency": ["--latency", "fast"],
    "an invalid range": ["--latency", "0.2-0.1"],
    "users that can't be written": ["--write-users", "/nowhere/users"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_unusable_input_is_rejected(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is rejected before anything is served, and the message names it."""
    assert main(["fake-server", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert arguments[1].partition("=")[2] in err or arguments[0] in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sess_1", "line 2: isn't JSON"),
        ('["sess_1"]', "line 2: isn't a session"),
        ("{}", "line 2: a session has no id"),
        ('{"id": 7}', "line 2: a session has no id"),
        ('{"id": "sess_2", "status": 7}', "line 2: status must be str"),
        ('{"id": "sess_2", "created_at": "yesterday"}', "line 2: created_at isn't a time"),
        ('{"id": "sess_2", "created_at": "2026-01-01"}', "line 2: a session's time needs"),
        ('{"id": "sess_1"}', "line 2: there is a session 'sess_1' already"),
        ('{"id": "sess_2", "actor": "\\u001b[2J"}', "line 2: actor must be Mapping"),
    ],
)
def test_an_unusable_line_is_named(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has its number."""
    file = tmp_path / "sessions.jsonl"
    file.write_text(f'{{"id": "sess_1", "later": "unknown"}}\n{line}\n', encoding="utf-8")
    assert main(["fake-server", "--seed-file", str(file)]) == 2
    assert told in capsys.readouterr().err


def test_claims_that_are_not_an_object_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A template's file contains a JSON object."""
    for text, told in (("[]", "contains no claims"), ("{", "isn't JSON")):
        (tmp_path / "claims.json").write_text(text, encoding="utf-8")
        assert main(["fake-server", "--template", f"mine={tmp_path / 'claims.json'}"]) == 2
        assert told in capsys.readouterr().err


def test_a_million_sessions_are_made_up_fast() -> None:
    """Each takes well under a millisecond."""
    fake = serving.make_fake(
        port=0,
        sessions=2000,
        seed_file=None,
        templates=(),
        faults=(),
        rate=None,
        latency=0.0,
        seed=1,
        production=False,
    )
    assert len(fake.sessions) == 2000
    assert len(serving.users_of(fake)) == 500
