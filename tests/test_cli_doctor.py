"""`doctor`: its checks, their order and its exit codes; it never prints the key."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from relays import Refusing

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cli_programs import InProcess
    from redis_servers import RedisServer

pytestmark = pytest.mark.may_block  # a command has its own loop

KEY = "sk_test_planted0123456789abcdWxYz"
CHECKS = ["key", "base URL", "name", "TLS", "key accepted", "instance", "clock", "pace"]


@pytest.fixture
def fake() -> Iterator[FakeClerk]:
    """Yield a service whose key would be noticed anywhere."""
    with FakeClerk(secret_key=KEY) as running:
        yield running


def told(out: str) -> dict[str, str]:
    """Return the line of each check, with its mark in front."""
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    found: dict[str, str] = {}
    for mark, rest in rows:
        name, _, detail = rest.partition("  ")
        found[name] = f"{mark} {detail.strip()}"
    return found


@pytest.mark.promise("cli-doctor")
def test_every_check_passes(cli: InProcess) -> None:
    """It prints one line for each check on stdout, and lists or revokes nothing."""
    ended = cli("doctor")
    assert (ended.code, ended.err) == (0, "")
    found = told(ended.out)
    assert list(found) == CHECKS
    assert all(line.startswith("✓") for line in found.values())
    assert found["key"] == "✓ test, ends in …WxYz, from CLERK_SECRET_KEY"
    assert found["base URL"] == f"✓ {cli.fake.base_url}, from CLERK_API_URL"
    assert "127.0.0.1" in found["name"]
    assert "ins_" in found["instance"]
    assert "80 requests in 10 s" in found["pace"]
    assert [request.operation for request in cli.fake.requests] == ["jwks"]


def test_programs_get_one_json_object(cli: InProcess) -> None:
    """The same facts, with a status for each check."""
    (record,) = cli("doctor", "--json").records
    assert (record["ok"], record["exit_code"], record["key_accepted"]) == (True, 0, True)
    assert record["key"] == {"kind": "test", "ends_in": "WxYz", "from": "CLERK_SECRET_KEY"}
    assert record["instance_id"].startswith("ins_")
    assert record["pace"] == {"count": 80, "per": 10.0}
    assert abs(record["clock_ahead"]) < 5
    assert [check["name"] for check in record["checks"]] == CHECKS
    assert {check["status"] for check in record["checks"]} == {"ok"}


def test_quiet_prints_only_problems(cli: InProcess) -> None:
    """A monitor needs this."""
    assert cli("doctor", "-q").out == ""
    cli.fake.inject(Fault.status(401, count=None))
    assert cli("doctor", "-q").out.startswith("✗ key accepted")


@pytest.mark.parametrize("form", [(), ("--json",), ("-v",), ("-q",)])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_never_printed(cli: InProcess, form: tuple[str, ...], status: int) -> None:
    """Except its last four characters, by which people recognize it."""
    if status != 200:
        body = {"errors": [{"message": f"bad {KEY}", "code": "x", "long_message": KEY}]}
        cli.fake.inject(Fault.status(status, body=body, count=None))
    ended = cli("doctor", *form)
    assert "planted" not in ended.out + ended.err


@pytest.mark.parametrize("key", ["sk_live_refused_refused_refused", "sk_test_x", "nonsense"])
def test_a_rejected_key_exits_with_3(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Skipped checks say so; of a short key nothing is shown."""
    monkeypatch.setenv("CLERK_SECRET_KEY", key)
    ended = cli("doctor")
    found = told(ended.out)
    assert ended.code == 3
    assert found["key accepted"].startswith("✗ 401")
    assert found["instance"] == found["clock"] == "- not checked"
    assert found["pace"].startswith("✓")
    assert key not in ended.out
    assert ("sk_live" in key) == ("ends in …used" in found["key"])


@pytest.mark.parametrize(
    ("key", "url", "failed"),
    [
        (None, None, "key"),
        ("pk_live_publishable", None, "key"),
        ("sk_test_with space", None, "key"),
        (KEY, "ftp://api.example", "base URL"),
        (KEY, "http://api.example/v1", "base URL"),
    ],
)
def test_an_unusable_setting_exits_with_2(
    cli: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    url: str | None,
    failed: str,
) -> None:
    """Nothing is sent."""
    monkeypatch.delenv("CLERK_SECRET_KEY")
    if key is not None:
        monkeypatch.setenv("CLERK_SECRET_KEY", key)
    ended = cli("doctor", *(() if url is None else ("--base-url", url)))
    found = told(ended.out)
    assert ended.code == 2
    assert [name for name, line in found.items() if line.startswith("✗")] == [failed]
    assert found["TLS"] == found["pace"] == "- not checked"
    assert cli.fake.requests == []


def test_an_unknown_host_name_exits_with_4(cli: InProcess) -> None:
    """The check of the name reports it, not a failed call."""
    ended = cli("doctor", "--base-url", "https://no-such-name.invalid/v1")
    assert (ended.code, told(ended.out)["name"][0]) == (4, "✗")


def test_an_unreachable_service_exits_with_4(cli: InProcess) -> None:
    """Nothing listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = cli("doctor", "--base-url", f"http://127.0.0.1:{port}/v1")
    assert (ended.code, told(ended.out)["key accepted"][0]) == (4, "✗")


@pytest.mark.parametrize(("seconds", "code"), [(-120, 1), (120, 1), (-7, 1), (7, 1), (2, 0)])
def test_a_clock_more_than_5_seconds_off_exits_with_1(
    cli: InProcess, seconds: int, code: int
) -> None:
    """Tokens would be judged by it."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    cli.fake.inject(Fault.with_headers({"Date": date}, operation="jwks", count=None))
    ended = cli("doctor")
    assert ended.code == code
    side = "behind" if seconds > 0 else "ahead of"
    assert f"{side} the service's" in told(ended.out)["clock"]
    (record,) = cli("doctor", "--json").records
    assert record["clock_ahead"] == pytest.approx(-seconds, abs=2)


def test_a_response_without_a_usable_date_leaves_the_clock_unchecked(cli: InProcess) -> None:
    """This machine is not at fault."""
    cli.fake.inject(Fault.with_headers({"Date": "yesterday"}, operation="jwks"))
    ended = cli("doctor")
    assert (ended.code, told(ended.out)["clock"][0]) == (0, "-")


def test_tls_is_reported_with_version_and_certificate_or_the_problem(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A certificate of an unknown authority exits with 4, and the message names the remedy."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    with Refusing(context) as front:
        ended = cli("doctor", "--base-url", front.base_url)
        line = told(ended.out)["TLS"]
        assert (ended.code, line[0], "SSL_CERT_FILE" in line) == (4, "✗", True)
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        line = told(cli("doctor", "--base-url", front.base_url).out)["TLS"]
        assert line.startswith("✓ TLSv1.3, certificate valid until ")
    ended = cli("doctor", "--base-url", f"https://localhost:{cli.fake.port}/v1")
    assert (ended.code, told(ended.out)["TLS"][0]) == (4, "✗")


def test_a_shared_state_is_checked_if_one_is_set(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    """The pace is that of sharing runs; without Redis it exits with 4; no password is shown."""
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", redis_server.url)
    ended = cli("doctor")
    assert list(told(ended.out)) == [*CHECKS, "shared state"]
    assert told(ended.out)["shared state"].startswith("✓ connected")
    assert "90 requests in 10 s" in told(ended.out)["pace"]
    assert (ended.code, cli("doctor", "--json").records[0]["shared_state"]) == (0, True)
    away = redis_server.url.replace("//", "//:planted@").rpartition(":")[0] + ":1/0"
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", away)
    ended = cli("doctor")
    assert (ended.code, told(ended.out)["shared state"][0]) == (4, "✗")
    assert told(ended.out)["key accepted"] == "✓ yes"
    assert "planted" not in ended.out
    monkeypatch.setenv("CLERK_ASYNC_SHARED_STATE", "nonsense://planted")
    ended = cli("doctor")
    assert (ended.code, told(ended.out)["shared state"][0]) == (2, "✗")
    assert told(ended.out)["key accepted"] == "- not checked"
    assert "planted" not in ended.out
