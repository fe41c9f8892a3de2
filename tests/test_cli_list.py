"""`list`: what people see, what programs get, and that no value in it can mislead."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from cli_programs import Terminal, run
from rich.cells import cell_len

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from cli_programs import InProcess

    from clerk_async.testing import FakeClerk, FakeSession

pytestmark = pytest.mark.may_block  # a command has its own loop

DAY = 86_400_000
FORMATS = ((), ("--json",), ("--quiet",), ("--format", "csv"), ("--format", "ids"))
VICTIM = "sess_victim"
HOSTILE_VALUES = (
    f"X\n{VICTIM}\tactive",
    f"X\r{VICTIM}\tactive",
    f"X\r\n{VICTIM},active",
    f"X\u2028{VICTIM}\u2029{VICTIM}\x85{VICTIM}\x0b{VICTIM}\x0c{VICTIM}",
    f"\t{VICTIM}\t",
    f'"\n{VICTIM}\n"',
    '"Q',
    'Q"',
    "'",
    "\\",
    "\\n",
    f"a;b|c,d\t{VICTIM}",
    "#",
    "\ufeff",
    "\x1b[2J\x07\x9b",
    "\u202e\u200b",
    "=cmd()",
    " ",
    "\xa0",
    "-",
    '{"id": "sess_victim"}',
    "x" * 200_000,
)
HOSTILE_IDS = (
    f" {VICTIM}",
    f"{VICTIM} ",
    f"\xa0{VICTIM}",
    f"{VICTIM}\n",
    f"\n{VICTIM}",
    f"x\n{VICTIM}",
    f"x\r{VICTIM}",
    f"x\t{VICTIM}",
    f"x,{VICTIM}",
    f"{VICTIM},x",
    f"{VICTIM};x",
    f'"{VICTIM}"',
    f"'{VICTIM}'",
    f'x"\n{VICTIM}',
    f"#{VICTIM}",
    f"\ufeff{VICTIM}",
    f"{VICTIM}\u2028",
    f"{VICTIM}\x00",
    f"\x1b{VICTIM}",
    "id",
    "SESSION",
    f'{{"id":"{VICTIM}"}}',
    f"../{VICTIM}",
    "-",
    "--yes",
)


def at(fake: FakeClerk, user_id: str = "user_1", **values: Any) -> FakeSession:
    """Add a session with a place and a device."""
    activity = {"object": "session_activity", "id": "act_1", "is_mobile": False, **values}
    return fake.add_session(user_id=user_id, latest_activity=activity)


def test_in_a_pipe_list_prints_one_line_with_tabs_per_session(cli: InProcess) -> None:
    """A header comes first; ids are never truncated."""
    made = [cli.fake.add_session(user_id="user_1").id for _ in range(3)]
    ended = cli("list", "--user", "user_1")
    assert ended.code == 0
    assert ended.lines[0].startswith("SESSION\tSTATUS\tUSER")
    assert {line.split("\t")[0] for line in ended.lines[1:]} == set(made)


def test_list_prints_json_lines(cli: InProcess) -> None:
    """One object per session, with every field and times in ISO 8601."""
    session = cli.fake.add_session(user_id="user_1", created_at=1_700_000_000_123)
    (record,) = cli("--json", "list", "--user", "user_1").records
    assert (record["id"], record["status"]) == (session.id, "active")
    assert record["created_at"] == "2023-11-14T22:13:20.123Z"


def test_quiet_list_prints_ids_alone(cli: InProcess) -> None:
    """`revoke --from -` reads them."""
    made = cli.fake.add_session(user_id="user_1").id
    ended = cli("--quiet", "list", "--user", "user_1")
    assert (ended.out, ended.err) == (f"{made}\n", "")


def test_list_passes_its_options_on(cli: InProcess) -> None:
    """No other parameter is sent."""
    cli(
        "list", "--user", "u", "--client", "c", "--status", "ended", "--limit", "7", "--offset", "2"
    )
    query = cli.fake.requests[-1].query
    assert {name: query[name] for name in ("user_id", "client_id", "status")} == {
        "user_id": "u",
        "client_id": "c",
        "status": "ended",
    }
    assert (query["limit"], query["offset"]) == ("7", "2")


@pytest.mark.parametrize("form", [*FORMATS, ("--format", "table"), ("--format", "json")])
@pytest.mark.promise("cli-whole-lists")
def test_a_program_gets_the_whole_list(cli: InProcess, form: tuple[str, ...]) -> None:
    """The service returns ten at a time; a pipe into another program gets all of them."""
    made = {cli.fake.add_session(user_id="user_1").id for _ in range(612)}
    ended = cli("list", "--user", "user_1", *form)
    assert sum(any(one in line for one in made) for line in ended.lines) == 612
    assert ended.code == 0


@pytest.mark.parametrize(("form", "shown"), [((), 10), (("--all",), 12), (("--format", "ids"), 12)])
def test_a_person_gets_one_page_and_a_note_about_the_rest(
    fake: FakeClerk, form: tuple[str, ...], shown: int
) -> None:
    """This is on a terminal; --all and --format show everything there, too."""
    made = [fake.add_session(user_id="user_1").id for _ in range(12)]
    with Terminal(fake, "list", "--user", "user_1", *form) as terminal:
        assert terminal.end() == 0
        assert sum(one in terminal.text for one in made) == shown
        assert ("10 of 12 sessions; --all lists them all" in terminal.text) == (shown == 10)


def test_a_limit_or_an_offset_is_a_page_for_programs_too(cli: InProcess) -> None:
    """An explicit limit is obeyed."""
    for _ in range(12):
        cli.fake.add_session(user_id="user_1")
    assert len(cli("list", "--user", "user_1", "--limit", "3", "-q").lines) == 3
    ended = cli("list", "--user", "user_1", "--limit", "5", "--offset", "10", "--format", "ids")
    assert (len(ended.lines), ended.err) == (2, "")


def test_list_filters_by_age_idleness_and_actor(cli: InProcess) -> None:
    """The service has no such filters, so filtering one page would be wrong."""
    now = int(time.time() * 1000)
    old = cli.fake.add_session(
        user_id="user_1", created_at=now - 31 * DAY, last_active_at=now - DAY
    )
    idle = cli.fake.add_session(
        user_id="user_1", created_at=now - 20 * DAY, last_active_at=now - 8 * DAY
    )
    for _ in range(15):
        cli.fake.add_session(user_id="user_1")
    by_admin = cli.fake.add_session(user_id="user_1", actor={"sub": "user_admin"})
    by_other = cli.fake.add_session(user_id="user_1", actor={"sub": "user_other"})

    def listed(*options: str) -> set[str]:
        return set(cli("list", "--user", "user_1", "--format", "ids", *options).lines)

    assert listed("--older-than", "30d") == {old.id}
    assert listed("--older-than", "2w5d23h") == {old.id, idle.id}
    assert listed("--idle", "7d") == {idle.id}
    assert listed("--older-than", "10d", "--idle", "12h") == {old.id, idle.id}
    assert listed("--actor") == {by_admin.id, by_other.id}
    assert listed("--actor", "user_admin") == {by_admin.id}
    assert len(listed("--actor", "none")) == 17
    assert len(listed("--actor", "--limit", "1")) == 1
    assert len(listed("--actor", "--offset", "1")) == 1


def test_pending_sessions_are_found_without_a_filter_of_the_service(
    cli: InProcess,
) -> None:
    """The service would return 400, or leave them out."""
    pending = cli.fake.add_session(user_id="user_1", status="pending").id
    cli.fake.add_session(user_id="user_1")
    assert cli("list", "--user", "user_1", "--status", "pending", "-q").lines == [pending]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("has_column", [False, True])
@pytest.mark.promise("cli-list-read-back")
def test_the_output_of_list_can_be_revoked_whatever_the_values_contain(
    cli: InProcess, tmp_path: Path, form: tuple[str, ...], *, has_column: bool
) -> None:
    """A city, browser or user id never becomes another line or makes the list unreadable."""
    victim = cli.fake.add_session(session_id=VICTIM, user_id="user_2")
    made = [
        at(cli.fake, city=value, country=value, browser_name=value, ip_address=value)
        for value in HOSTILE_VALUES
    ]
    listed = cli("list", "--user", "user_1", *form)
    path = tmp_path / "list"
    path.write_text(listed.out, newline="")
    column = {"": "session", "--json": "ID", "--format csv": "id"}.get(" ".join(form))
    if has_column and column is None:
        return
    arguments = ("--column", column) if has_column and column is not None else ()
    ended = cli("revoke", "--from", str(path), *arguments)
    assert ended.code == 0, ended.err
    assert all(session.status == "revoked" for session in made)
    assert victim.status == "active"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("session_id", HOSTILE_IDS)
@pytest.mark.promise("cli-list-read-back")
def test_an_id_is_read_back_as_itself_or_not_at_all(
    cli: InProcess, tmp_path: Path, form: tuple[str, ...], session_id: str
) -> None:
    """Blanks, quotation marks or a leading hash never turn it into the id of another session."""
    victim = cli.fake.add_session(session_id=VICTIM, user_id="user_2")
    session = cli.fake.add_session(user_id="user_1")
    body = {"data": [{**session.as_json(), "id": session_id}], "total_count": 1}
    cli.fake.inject(Fault.status(200, body=body, operation="list", count=None))
    path = tmp_path / "list"
    path.write_text(cli("list", "--user", "user_1", *form).out, newline="")
    for arguments in ((), ("--column", "id"), ("--column", "SESSION")):
        ended = cli("revoke", "--from", str(path), "--yes", *arguments)
        assert ended.code in {1, 2}, ended
    assert victim.status == "active"


@pytest.mark.parametrize("user_id", [f"user_1{end}" for end in ("\tx", "\nuser_2", " ", '"', ",")])
def test_users_are_read_back_the_same_way(cli: InProcess, tmp_path: Path, user_id: str) -> None:
    """revoke-all reads the users from a list of sessions."""
    victim = cli.fake.add_session(user_id="user_2")
    session = cli.fake.add_session(user_id="user_1")
    body = {"data": [{**session.as_json(), "user_id": user_id}], "total_count": 1}
    for form in ((), ("--format", "csv"), ("--json",)):
        cli.fake.inject(Fault.status(200, body=body, operation="list", count=1))
        path = tmp_path / "list"
        path.write_text(cli("list", "--client", "c", "--limit", "1", *form).out, newline="")
        cli("revoke-all", "--users-from", str(path), "--yes")
    assert victim.status == "active"


def test_json_stays_json_in_any_terminal_encoding(fake: FakeClerk) -> None:
    """A stdout of another encoding gets JSON escapes, not Python escapes."""
    at(fake, city="Zürich 😀 \x9b\u202e")
    ended = run(fake, "list", "--user", "user_1", "--json", env={"PYTHONIOENCODING": "ascii"})
    city = json.loads(ended.out)["latest_activity"]["city"]
    assert city.startswith("Zürich 😀 \x9b\u202e")
    raw = run(fake, "list", "--user", "user_1", "--json").out
    assert "Zürich 😀" in raw
    assert not {"\x9b", "\u202e"} & set(raw)


@pytest.mark.slow
@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 34])
@pytest.mark.promise("cli-whole-lists")
def test_a_row_is_one_line_whatever_it_contains(fake: FakeClerk, width: int) -> None:
    """Ids stay whole; other cells end in an ellipsis, and a narrow terminal shows fewer of them."""
    made = [
        at(fake, city=value, browser_name=value * 3)
        for value in (
            "東京都渋谷区" * 9,
            "Zu\u0308rich",
            "x\ny\tz",
            "a" * 300,
            "😀" * 40,
            "\x1b[2J",
        )
    ]
    old = fake.add_session(user_id="user_1", status="abandoned", actor={"sub": "user_admin"})
    with Terminal(fake, "list", "--user", "user_1", env={"COLUMNS": str(width)}) as terminal:
        assert terminal.end() == 0
        lines = [line for line in terminal.text.splitlines() if line]
    table = lines[: 2 + len(made) + 1]
    assert all(cell_len(line) <= width for line in table)
    assert [line.split()[0] for line in table[2:]] == [old.id, *(one.id for one in reversed(made))]
    if width >= 60:
        assert all("now" in line for line in table[2:])
    if width >= 40:
        assert "*" in table[2]
        assert "active" in table[3]
    assert ("WHERE" in table[0]) == (width >= 60)


@pytest.mark.slow
def test_ended_sessions_are_dim_and_impersonated_ones_marked(fake: FakeClerk) -> None:
    """What matters in an incident is visible at once."""
    live = fake.add_session(user_id="user_1", actor={"sub": "user_admin"})
    ended = fake.add_session(user_id="user_1", status="ended")
    with Terminal(fake, "list", "--user", "user_1", "--all") as terminal:
        assert terminal.end() == 0
        rows = {line.split()[0].split("m")[-1]: line for line in terminal.raw.splitlines() if line}
    assert "\x1b[2m" in rows[ended.id]
    assert "\x1b[2m" not in rows[live.id]
    assert "*active" in rows[live.id]
    assert "* impersonated" in terminal.text


def test_an_unreadable_list_entry_is_reported_and_the_rest_is_shown(cli: InProcess) -> None:
    """Exit code 1, because the list isn't complete."""
    for _ in range(3):
        cli.fake.add_session(user_id="user_1")
    cli.fake.inject(Fault.missing("status", item=1, operation="list"))
    ended = cli("--quiet", "list", "--user", "user_1")
    assert (ended.code, len(ended.lines)) == (1, 2)
    assert "entry 1 of the list isn't a session" in ended.err
