"""The commands for one session or one token: what they print, what they hide, how they exit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cli_programs import Terminal

from clerk_async.cli import main
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.may_block  # a command has its own loop


def test_get_shows_fields_or_json(cli: InProcess) -> None:
    """People see names and values; programs get one JSON object."""
    session = cli.fake.add_session(
        user_id="user_1", latest_activity={"city": "Oslo", "country": "NO", "id": "x"}
    )
    told = cli("get", session.id)
    assert told.code == 0
    assert told.lines[0].split() == ["session", session.id]
    assert "Oslo, NO" in told.out
    assert cli("get", session.id, "--json").records[0]["latest_activity"]["city"] == "Oslo"


def test_get_shows_several_sessions_and_continues_after_an_unknown_one(
    cli: InProcess,
) -> None:
    """In the order of the ids; failures are on stderr and in the exit code."""
    first, second = (cli.fake.add_session(user_id="user_1").id for _ in range(2))
    ended = cli("--json", "get", second, "sess_none", first)
    assert [record["id"] for record in ended.records] == [second, first]
    assert (ended.code, ended.err.startswith("clerk-async: sess_none: 404")) == (1, True)
    blocks = cli("get", first, second).out.split("\n\n")
    assert [block.split()[1] for block in blocks] == [first, second]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.status(401, count=None), 3),
        (Fault.status(500, count=None), 4),
        (Fault.status(404, count=None), 1),
    ],
)
def test_several_gets_that_all_fail_exit_like_one(cli: InProcess, fault: Fault, code: int) -> None:
    """A rejected key is reported once."""
    cli.fake.inject(fault)
    ended = cli("get", "sess_1", "sess_2", "sess_3")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("clerk-async: ") == (1 if code == 3 else 3)


def test_create_prints_the_session(cli: InProcess) -> None:
    """With --quiet it prints only its id."""
    cli.fake.add_user("user_1")
    made = cli("--quiet", "create", "--user", "user_1").out.strip()
    assert cli.fake.sessions[made].user_id == "user_1"


@pytest.mark.promise("no-secret-printed")
@pytest.mark.promise("no-secret-printed")
@pytest.mark.parametrize("arguments", [(), ("--template", "custom_hasura"), ("--expires-in", "90")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_program_gets_a_token_only_if_it_asks_for_it(
    cli: InProcess, arguments: tuple[str, ...], form: tuple[str, ...]
) -> None:
    """A hidden token would be useless: none is made, and the message names the option."""
    session = cli.fake.add_session()
    ended = cli("token", session.id, *arguments, *form)
    assert (ended.code, ended.out, cli.fake.requests) == (2, "", [])
    assert "--show-token" in ended.err
    shown = cli("token", session.id, *arguments, *form, "--show-token")
    assert shown.code == 0
    token = shown.records[0]["jwt"] if form else shown.out.strip()
    assert token.startswith("eyJ")


@pytest.mark.promise("no-secret-printed")
def test_on_a_terminal_a_token_is_hidden_unless_requested(fake: FakeClerk) -> None:
    """A token is a credential: it stays out of scrollback and logs."""
    session = fake.add_session()
    with Terminal(fake, "token", session.id) as terminal:
        assert terminal.end() == 0
        assert "eyJ" not in terminal.text
        assert "--show-token" in terminal.text
    with Terminal(fake, "token", session.id, "--show-token") as terminal:
        assert terminal.end() == 0
        assert "eyJ" in terminal.text
    with Terminal(fake, "--json", "token", session.id) as terminal:
        assert terminal.end() == 2


@pytest.mark.parametrize("answer", ["token", "cookie"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_refresh_takes_tokens_from_options_and_hides_the_result(
    cli: InProcess, answer: str, form: tuple[str, ...]
) -> None:
    """Of cookies it shows only the names."""
    session = cli.fake.add_session()
    arguments = (
        "refresh",
        session.id,
        "--expired-token",
        cli.fake.expired_token(session),
        "--refresh-token",
        cli.fake.refresh_token_for(session),
        "--origin",
        "http://localhost:3000",
        "--format",
        answer,
    )
    ended = cli(*arguments, *form)
    assert ended.code == 0, ended.err
    assert "eyJ" not in ended.out + ended.err
    assert "[hidden" in ended.out


@pytest.mark.parametrize(
    ("option", "asked"),
    [("--suffixed-cookies", "true"), ("--no-suffixed-cookies", "false"), ("--format", None)],
)
def test_refresh_can_ask_for_cookies_with_a_suffix(
    cli: InProcess, option: str, asked: str | None
) -> None:
    """It asks for what the request's cookies had; without an option the service decides."""
    session = cli.fake.add_session()
    about = ["--expired-token", cli.fake.expired_token(session)]
    about += ["--refresh-token", cli.fake.refresh_token_for(session)]
    about += ["--origin", "http://localhost:3000", "--format", "cookie"]
    ended = cli("refresh", session.id, *about, *([option] if asked else []))
    assert ended.code == 0, ended.err
    assert (f"__session_{cli.fake.cookie_suffix}=" in ended.out) is (asked == "true")
    assert cli.fake.requests[-1].query.get("suffixed_cookies") == asked


def test_a_rejected_refresh_is_not_a_rejected_key(cli: InProcess) -> None:
    """Its 401 is about the session: exit code 1, not 3."""
    session = cli.fake.add_session()
    ended = cli(
        "refresh",
        session.id,
        "--expired-token",
        "e",
        "--refresh-token",
        "r",
        "--origin",
        "http://localhost:3000",
    )
    assert ended.code == 1


def test_verify_prints_its_deprecation_as_one_line(cli: InProcess) -> None:
    """It prints no Python warning, and names the command to use instead."""
    session = cli.fake.add_session()
    ended = cli("verify", session.id, cli.fake.mint(session))
    assert ended.code == 0
    assert session.id in ended.out
    (line,) = [line for line in ended.err.splitlines() if "deprecated" in line]
    assert "clerk-async verify-token" in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_verify_token_with_the_key_in_a_file(encoding: str, cli: InProcess, tmp_path: Path) -> None:
    """The service is not called. PowerShell writes UTF-16."""
    session = cli.fake.add_session(user_id="user_1")
    path = tmp_path / "key.pem"
    path.write_bytes(cli.fake.jwt_key.replace("\n", "\r\n").encode(encoding))
    ended = cli("verify-token", cli.fake.mint(session), "--jwt-key-file", str(path))
    assert ended.code == 0
    assert "user_1" in ended.out
    assert cli.fake.requests == []


def test_verify_token_with_fetched_keys_and_as_json(cli: InProcess) -> None:
    """The claims have the names of the attributes, and are unchanged under `raw`."""
    session = cli.fake.add_session(user_id="user_1")
    ended = cli("--json", "verify-token", cli.fake.mint(session))
    (record,) = ended.records
    assert (record["user_id"], record["session_id"]) == ("user_1", session.id)
    assert record["expires_at"].endswith("Z")
    assert record["raw"]["sub"] == "user_1"
    assert [request.operation for request in cli.fake.requests] == ["jwks"]


def test_verify_token_rejects_with_the_reason(cli: InProcess) -> None:
    """Exit code 1, and the token isn't repeated."""
    token = cli.fake.expired_token(cli.fake.add_session())
    ended = cli("verify-token", token)
    assert ended.code == 1
    assert "expired" in ended.err
    assert token[:20] not in ended.out + ended.err


def test_verify_token_checks_parties(cli: InProcess) -> None:
    """The token may come before or after the options."""
    token = cli.fake.mint(cli.fake.add_session(authorized_party="https://b.example"))
    other = ("--authorized-party", "https://a.example")
    parties = (*other, "--authorized-party", "https://b.example")
    assert cli("verify-token", token, *parties).code == 0
    assert cli("verify-token", *parties, token).code == 0
    assert cli("verify-token", *other, token).code == 1


def test_verify_token_has_the_options_of_a_verifier(cli: InProcess) -> None:
    """Tokens without a party, clock skew, and a session check with the service."""
    session = cli.fake.add_session()
    party = ("--authorized-party", "https://a.example")
    made = cli("token", session.id, "--show-token").lines[0]  # over the Backend API: no azp
    assert cli("verify-token", made, *party).code == 1
    assert cli("verify-token", made, *party, "--allow-missing-azp").code == 0
    old = cli.fake.mint(session, expires_in=-30)
    assert cli("verify-token", old).code == 1
    assert cli("verify-token", old, "--clock-skew", "60").code == 0
    issuers = ("--issuer", "https://clerk.example.com", "--issuer", cli.fake.issuer)
    assert cli("verify-token", made, *issuers).code == 0
    assert cli("verify-token", made, "--check-session").code == 0
    assert cli("revoke", session.id).code == 0
    ended = cli("verify-token", made, "--check-session")
    assert (ended.code, cli("verify-token", made).code) == (1, 0)
    assert "revoked" in ended.err


def test_verify_token_without_any_key_says_where_keys_come_from(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    ended = cli("verify-token", "x.y.z")
    assert (ended.code, "--jwt-key-file" in ended.err) == (2, True)


def test_foreign_text_can_not_control_the_terminal(cli: InProcess) -> None:
    """The name of a browser may contain escape sequences, and so may an error of the service."""
    evil = "\x1b]0;pwned\x07\x9b2J"
    session = cli.fake.add_session(user_id="u", latest_activity={"id": "x", "browser_name": evil})
    body = {"errors": [{"message": evil, "code": "x", "long_message": evil}]}
    for arguments in (("get", session.id), ("list", "--user", "u")):
        ended = cli(*arguments)
        assert "pwned" in ended.out
        assert not {"\x1b", "\x07", "\x9b"} & set(ended.out + ended.err)
    cli.fake.inject(Fault.status(422, body=body, count=None))
    for arguments in (("get", session.id), ("revoke", session.id)):
        ended = cli(*arguments)
        assert ended.code == 1
        assert not {"\x1b", "\x07", "\x9b"} & set(ended.out + ended.err)


# --- help ---


def test_help_names_every_command_and_the_exit_codes(cli: InProcess) -> None:
    """Everything that the program can do fits on one screen."""
    told = cli("--help")
    assert told.code == 0
    for name in [
        "list",
        "get",
        "create",
        "token",
        "refresh",
        "revoke",
        "revoke-all",
        "verify",
        "verify-token",
        "fake-server",
        "demo",
    ]:
        assert f"\n  {name} " in told.out
        assert cli(name, "--help").code == 0
    assert "130 interrupted" in told.out.replace("\n  ", " ")


def test_help_is_a_command_too(cli: InProcess) -> None:
    """Alone it shows all commands; with a command's name it shows that command's options."""
    assert cli("help").out == cli("--help").out
    assert cli("help", "revoke-all").out == cli("revoke-all", "--help").out
    ended = cli("help", "rvoke")
    assert (ended.code, "Did you mean revoke?" in ended.err) == (2, True)


def test_verbose_prints_on_stderr_what_is_sent(cli: InProcess) -> None:
    """The option may come before or after the command; without it nothing is printed."""
    session = cli.fake.add_session()
    for arguments in (("-v", "get", session.id), ("get", session.id, "--verbose")):
        cli.fake.inject(Fault.status(503, operation="get", count=1))
        ended = cli(*arguments)
        assert ended.code == 0
        assert f"GET /sessions/{session.id}: attempt 1 failed" in ended.err
        assert cli.fake.secret_key not in ended.err
    cli.fake.inject(Fault.status(503, operation="get", count=1))
    assert cli("get", session.id).err == ""


def test_a_repeated_warning_is_printed_once_with_its_count(cli: InProcess) -> None:
    """A screen full of the same line hides what matters."""
    import logging  # noqa: PLC0415 - here alone

    from clerk_async.cli.messages import hide_log, show_log  # noqa: PLC0415 - to look inside
    from clerk_async.cli.output import Output  # noqa: PLC0415 - likewise

    show_log(Output())
    for number in range(50):
        logging.getLogger("clerk_async").warning("entry %d is odd", number)
    logging.getLogger("clerk_async").warning("another")
    hide_log()
    lines = cli.capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"note: entry {number} is odd" for number in range(3)]
    assert lines[3:] == ["note: another", "note: 47 more like this one: entry 49 is odd"]


def test_version_is_that_of_the_package(cli: InProcess) -> None:
    """`--version` prints it."""
    from clerk_async import __version__  # noqa: PLC0415 - beside what it is compared with

    assert cli("--version").out == f"clerk-async {__version__}\n"


def test_a_command_restores_the_log_settings(cli: InProcess) -> None:
    """What a command changes in order to show the log is undone when it ends."""
    import logging  # noqa: PLC0415 - here alone

    cli("get", "s")
    logger = logging.getLogger("clerk_async")
    assert (logger.propagate, logger.handlers) == (True, [])


def test_main_takes_the_process_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The installed script calls it this way."""
    monkeypatch.setattr("sys.argv", ["clerk-async", "--version"])
    monkeypatch.setattr("clerk_async.cli._let_ctrl_c_end_at_once", lambda: None)  # this process
    assert main() == 0
    assert capsys.readouterr().out.startswith("clerk-async ")


def test_completion_scripts_exist_for_three_shells(cli: InProcess) -> None:
    """They are the shells that click supports."""
    for shell in ("bash", "zsh", "fish"):
        assert "_CLERK_ASYNC_COMPLETE" in cli("completion", shell).out


def test_the_json_fields_of_a_session_are_stable(cli: InProcess) -> None:
    """Scripts rely on them."""
    session = cli.fake.add_session(user_id="user_1", actor={"sub": "user_admin"})
    record = json.loads(cli("--json", "get", session.id).out)
    assert set(record) == {
        "id",
        "status",
        "user_id",
        "client_id",
        "actor",
        "last_active_organization_id",
        "latest_activity",
        "tasks",
        "object",
        "last_active_at",
        "expire_at",
        "abandon_at",
        "updated_at",
        "created_at",
    }
    assert record["actor"] == {"sub": "user_admin"}
