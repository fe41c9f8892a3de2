"""How commands exit: the exit codes, rejected usage, and the secret key."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from cli_programs import command_line, environment

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess

    from clerk_async.testing import FakeClerk


pytestmark = pytest.mark.may_block  # a command has its own loop


@pytest.mark.promise("exit-codes")
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.status(400, count=None), 1),
        (Fault.status(404, count=None), 1),
        (Fault.status(422, count=None), 1),
        (Fault.status(401, count=None), 3),
        (Fault.status(403, count=None), 3),
        (Fault.status(500, count=None), 4),
        (Fault.status(429, retry_after=600, count=None), 4),
        (Fault.cut("before", count=None), 4),
        (Fault.not_json(count=None), 1),
    ],
)
def test_an_error_has_the_exit_code_of_the_table(cli: InProcess, fault: Fault, code: int) -> None:
    """All commands share one table; the message is one line on stderr, and stdout stays empty."""
    session = cli.fake.add_session()
    cli.fake.inject(fault)
    ended = cli("get", session.id)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("clerk-async: ")
    assert "Traceback" not in ended.err


ORIGIN = "http://localhost:3000"
EACH: dict[str, tuple[str, ...]] = {
    "list": ("list", "--user", "user_1"),
    "list in pages": ("list", "--user", "user_1", "--limit", "5"),
    "get": ("get", "{session}"),
    "get several": ("get", "{session}", "{other}"),
    "create": ("create", "--user", "user_1"),
    "token": ("token", "{session}", "--show-token"),
    "refresh": (
        *("refresh", "{session}", "--origin", ORIGIN),
        *("--expired-token", "{expired}", "--refresh-token", "{refresh}"),
    ),
    "revoke": ("revoke", "{session}"),
    "revoke-all": ("revoke-all", "--user", "user_1"),
    "verify": ("verify", "{session}", "{token}"),
    "verify-token": ("verify-token", "{token}"),
    "doctor": ("doctor",),
}
CODES: dict[str, tuple[Fault | None, int]] = {
    "all is well": (None, 0),
    "the service says no": (Fault.status(422, count=None), 1),
    "the key is refused": (Fault.status(401, count=None), 3),
    "the service fails": (Fault.status(500, count=None), 4),
    "no answer comes": (Fault.cut("before", count=None), 4),
    "the service is busy for long": (Fault.status(429, retry_after=600, count=None), 4),
}


@pytest.mark.promise("exit-codes")
@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("what", CODES)
def test_each_command_exits_with_the_codes_of_the_table(
    cli: InProcess, name: str, what: str
) -> None:
    """The codes are the same with --json; problems are reported on stderr."""
    session, other = (cli.fake.add_session(user_id="user_1") for _ in range(2))
    words = {
        "session": session.id,
        "other": other.id,
        "token": cli.fake.mint(session),
        "expired": cli.fake.expired_token(session),
        "refresh": cli.fake.refresh_token_for(session),
    }
    fault, code = CODES[what]
    if name == "refresh" and what == "the key is refused":
        fault = Fault.status(401, error_code="clerk_key_invalid", count=None)
    if name == "verify-token" and code == 1:
        code = 4  # without keys the token can't be verified
    if fault is not None:
        cli.fake.inject(fault)
    arguments = [word.format(**words) for word in EACH[name]]
    ended = cli(*arguments)
    assert ended.code == code, ended
    assert "Traceback" not in ended.err
    if code and name != "doctor":
        assert "clerk-async: " in ended.err or "Not done: " in ended.err
    if fault is not None:
        assert cli("--json", *arguments).code == code


@pytest.mark.parametrize("name", EACH)
def test_each_command_without_a_key_exits_with_2(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """So does one with an unknown option."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    for arguments in (EACH[name], (*EACH[name], "--nonsense")):
        assert cli(*arguments).code == 2
    assert cli.fake.requests == []


@pytest.mark.parametrize(
    "name", ["completion bash", "help", "help list", "list --help", "--version"]
)
def test_commands_without_the_service_exit_with_0(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They need no key either."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    assert cli(*name.split()).code == 0


def test_a_rejected_key_of_verify_token_exits_with_3(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that the token keys can't be fetched, but its cause counts."""
    token = cli.fake.mint(cli.fake.add_session())
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_another")
    assert cli("verify-token", token).code == 3


@pytest.mark.promise("exit-codes")
@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--user", "u", "--limit", "501"),
        ("list", "--user", "u", "--all", "--limit", "5"),
        ("get",),
        ("get", "a/b"),
        ("token", "s", "--expires-in", "5"),
        ("lst",),
        ("revoke",),
        ("revoke", "s", "--from", "x"),
        ("revoke", "s", "--rate", "fast"),
        ("revoke", "s", "--rate", "0/10"),
        ("revoke", "s", "--share", "1.5"),
        ("revoke", "s", "--share", "nan"),
        ("revoke", "s", "--rotated-key"),
        ("revoke", "--from", "/does/not/exist"),
        ("revoke-all",),
        ("revoke-all", "--user", "u", "--created-before", "yesterday"),
        ("revoke-all", "--user", "u", "--created-before", "2026-03-01T12:00"),
        ("--key-file", "/does/not/exist", "get", "s"),
        ("--base-url", "http://example.com/v1", "get", "s"),
        ("--nonsense",),
        (),
    ],
)
def test_wrong_usage_exits_with_2_and_sends_nothing(
    cli: InProcess, arguments: tuple[str, ...]
) -> None:
    """Every mistake is reported before any request."""
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err
    assert cli.fake.requests == []


# --- the key ---


def test_a_missing_key_message_says_where_keys_come_from(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLERK_SECRET_KEY or a file."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    ended = cli("get", "s")
    assert ended.code == 2
    assert "CLERK_SECRET_KEY" in ended.err
    assert "--key-file" in ended.err


def test_the_key_is_read_from_a_file(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The option may come before or after the command."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    path = tmp_path / "key"
    path.write_text(f"\ufeff\r\n{cli.fake.secret_key}\r\n", newline="")
    session = cli.fake.add_session()
    assert cli("--key-file", str(path), "get", session.id).code == 0
    assert cli("get", session.id, "--key-file", str(path)).code == 0


@pytest.mark.promise("exit-codes")
@pytest.mark.parametrize(
    "text",
    [
        "{key}",
        "\n  {key}  \n\n",
        "# the key\n{key}\n",
        "CLERK_SECRET_KEY={key}\n",
        "A=1\nCLERK_SECRET_KEY={key}\nCLERK_PUBLISHABLE_KEY=pk_test_x\n",
        "export CLERK_SECRET_KEY={key}\n",
        "CLERK_SECRET_KEY = '{key}'  # live, no: test\r\n",
        'CLERK_SECRET_KEY="{key}"\r\nB="x # y"\r\n',
        "CLERK_SECRET_KEY={key} # comment\n",
        "# CLERK_SECRET_KEY=sk_test_old\nCLERK_SECRET_KEY={key}\nCLERK_SECRET_KEY={key}\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_key_file_has_the_key_alone_or_on_its_own_line(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, encoding: str
) -> None:
    """The latter as in `.env` files."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    path = tmp_path / ".env"
    path.write_bytes(text.format(key=cli.fake.secret_key).encode(encoding))
    ended = cli("get", cli.fake.add_session().id, "--key-file", str(path))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "contains nothing"),
        ("sk_test_a\nsk_test_b\n", "contains several lines"),
        ("OTHER=sk_test_planted\n", "has no CLERK_SECRET_KEY= lines"),
        ("CLERK_SECRET_KEY=sk_test_planted\nCLERK_SECRET_KEY=sk_test_b\n", "several different"),
        ("CLERK_SECRET_KEY=\n", "is empty"),
        ("\x00\x01", "the secret key contains"),
    ],
)
def test_a_key_file_of_another_kind_exits_with_2(
    cli: InProcess, tmp_path: Path, text: str, told: str
) -> None:
    """Nothing of its content is repeated."""
    path = tmp_path / "key"
    path.write_text(text)
    ended = cli("get", "s", "--key-file", str(path))
    assert (ended.code, told in ended.err, "planted" in ended.err) == (2, True, False), ended.err
    assert cli.fake.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "get {session}",
        "list --user user_1",
        "doctor",
        "token {session} --show-token",
        "verify-token {token}",
        "revoke {session}",
        "revoke --from <(echo {session}) --yes",
        "revoke-all --user user_1 --dry-run",
        "revoke-all --user user_1 --share 0.5",
    ],
)
def test_a_key_file_that_can_be_read_only_once_works_for_every_command(
    fake: FakeClerk, arguments: str
) -> None:
    """`--key-file <(pass show clerk)` is a pipe."""
    session = fake.add_session(user_id="user_1")
    line = arguments.format(session=session.id, token=fake.mint(session))
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f"{shlex.join(command_line([]))} {line} --key-file <(echo {fake.secret_key})",
        ],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=environment(fake, {"CLERK_SECRET_KEY": None}),
    )
    assert ended.returncode == 0, ended.stderr


def test_no_option_takes_the_key(cli: InProcess) -> None:
    """It would show in the list of processes."""
    told = cli("--help").out
    assert "--secret-key" not in told
    for flag in ("--key", "--secret-key"):
        ended = cli(flag, "sk_live_planted", "get", "s")
        assert ended.code == 2
        assert "sk_live_planted" not in ended.out + ended.err


@pytest.mark.promise("no-secret-printed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("sk_live_planted",),
        ("get", "sk_live_planted/x"),
        ("revoke", "sk_live_planted"),
        ("--json", "revoke", "sk_live_planted/x"),
        ("--base-url", "http://127.0.0.1:9/v1", "revoke", "sk_live_planted"),
    ],
)
def test_a_key_typed_by_mistake_is_not_repeated(cli: InProcess, arguments: tuple[str, ...]) -> None:
    """It is not on stdout, on stderr, or in the command that resumes."""
    ended = cli(*arguments)
    assert "sk_live_planted" not in ended.out + ended.err


def test_a_key_that_the_service_echoes_is_not_repeated(cli: InProcess) -> None:
    """This holds for errors and outcomes."""
    body = {"errors": [{"message": f"bad {cli.fake.secret_key}", "code": "x", "long_message": ""}]}
    cli.fake.inject(Fault.status(422, body=body, count=None))
    for arguments in (("get", "s"), ("revoke", "s"), ("--json", "revoke", "s")):
        ended = cli(*arguments)
        assert ended.code == 1
        assert cli.fake.secret_key not in ended.out + ended.err
