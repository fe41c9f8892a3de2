"""Errors are reported in the words of the command line, never in those of the library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess


pytestmark = pytest.mark.may_block  # a command has its own loop

PARAMETERS = re.compile(r"[a-z]+_[a-z_]+|\b(?:count|per|fraction|TokenVerifier)\b")


@pytest.mark.promise("typed-messages")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("get", ""), "the session id is empty"),
        (("get", "a/b"), "the session id contains '/'"),
        (("get", ".."), "the session id must not be"),
        (("list", "--user", ""), "the user id is empty"),
        (("list", "--client", ""), "--client is empty"),
        (("list", "--user", "u", "--status", ""), "--status is empty"),
        (("create", "--user", "u", "--organization", ""), "--organization is empty"),
        (("token", "s", "--template", "a/b"), "--template contains"),
        (("verify", "s", ""), "the token is empty"),
        (
            ("refresh", "s", "--expired-token", "e", "--refresh-token", "r", "--origin", ""),
            "--origin",
        ),
        (("revoke", "s", "--rate", "0/10"), "N must be at least 1"),
        (("revoke", "s", "--rate", "10/0"), "S must be"),
        (("revoke", "s", "--share", "nan"), "--share"),
        (("revoke", "s", "--journal", ""), "--journal is not"),
        (("revoke", "a/b"), "the session id contains '/'"),
        (("revoke-all", "--user", ""), "the user id is empty"),
        (("revoke-all", "--user", "u", "--except", ""), "the session id is empty"),
        (("revoke-all", "--client", ""), "--client is empty"),
        (("revoke-all",), "--users-from"),
        (("--base-url", "ftp://x", "get", "s"), "--base-url must be"),
        (("--base-url", "http://x.example/v1", "get", "s"), "--base-url is http://"),
        (("verify-token", "t", "--issuer", "x"), "--issuer must be a URL"),
        (("verify-token", "t", "--authorized-party", ""), "--authorized-party must have"),
        (("verify-token", "t"), "--authorized-party is not set"),
    ],
)
def test_messages_name_options_not_parameters(
    cli: InProcess, arguments: tuple[str, ...], told: str
) -> None:
    """People at a shell have never seen the library's parameters."""
    ended = cli(*arguments)
    assert ended.code in {1, 2}
    assert told in ended.out + ended.err
    assert not PARAMETERS.search((ended.out + ended.err).replace("python -m clerk_async", ""))


def test_a_bad_public_key_is_reported_with_its_source(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is the environment or a file."""
    monkeypatch.setenv("CLERK_JWT_KEY", "nonsense")
    assert "CLERK_JWT_KEY can't be used" in cli("verify-token", "x").err
    path = tmp_path / "key.pem"
    path.write_text("nonsense")
    ended = cli("verify-token", "x", "--jwt-key-file", str(path))
    assert (ended.code, f"{path} can't be used" in ended.err) == (2, True)


def test_a_bad_key_in_the_environment_or_a_file_is_called_the_secret_key(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not repeated."""
    path = tmp_path / "key"
    path.write_text("sk_test_of mine")
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_of mine")
    for arguments in (("get", "s"), ("--key-file", str(path), "get", "s")):
        ended = cli(*arguments)
        assert (ended.code, "the secret key contains whitespace" in ended.err) == (2, True)
        assert "mine" not in ended.err


@pytest.mark.promise("typed-messages")
def test_messages_of_the_service_are_not_changed(cli: InProcess) -> None:
    """They may name the service's own parameters."""
    text = "session_id is no session: secret_key must be another"
    body = {"errors": [{"message": text, "code": "x", "long_message": text}]}
    cli.fake.inject(Fault.status(422, body=body, count=None))
    assert text in cli("get", "s").err
    assert text in cli("revoke", "s").out


def test_the_help_of_each_command_mentions_the_common_options(cli: InProcess) -> None:
    """They aren't listed there, but work there."""
    told = " ".join(cli("revoke", "--help").out.split())
    assert "--key-file, --base-url, --json, --quiet and --verbose work here too" in told
