"""Commands as whole programs: in pipes, with closed streams, offline; the fake server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
from cli_programs import command_line, environment, run

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from redis_servers import RedisServer

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow


def live(fake: FakeClerk) -> int:
    """Return how many sessions are live at the service."""
    return sum(session.status == "active" for session in fake.sessions.values())


def write_ids(fake: FakeClerk, path: Path, count: int) -> Path:
    """Write a file of live sessions."""
    path.write_text("".join(f"{fake.add_session(user_id='user_1').id}\n" for _ in range(count)))
    return path


def without_journal(err: str) -> str:
    """Remove the path of the journal from the output of a run."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("journal: "))


def test_ids_go_through_pipes_from_list_to_revoke(fake: FakeClerk) -> None:
    """Each command reads what the previous one prints."""
    for _ in range(30):
        fake.add_session(user_id="user_1")
    listed = run(fake, "--quiet", "list", "--user", "user_1", "--all")
    ended = run(fake, "--json", "revoke", "--from", "-", "--yes", stdin=listed.out)
    assert (ended.code, live(fake)) == (0, 0), ended.err
    assert ended.records[-1]["revoked"] == 30


@pytest.mark.parametrize(
    ("names", "stdin"),
    [
        (("expired", "refresh"), "{expired}\n{refresh}\n"),
        (("expired",), "{expired}"),
        (("refresh",), "{refresh}\r\n"),
        ((), None),
    ],
)
def test_refresh_reads_tokens_without_an_option_from_lines_of_stdin(
    fake: FakeClerk, names: tuple[str, ...], stdin: str | None
) -> None:
    """First the expired token, then the refresh token, even if both arrive in one chunk."""
    session = fake.add_session()
    tokens = {"expired": fake.expired_token(session), "refresh": fake.refresh_token_for(session)}
    options = [f"--{name}-token={token}" for name, token in tokens.items() if name not in names]
    line = ("refresh", session.id, "--request-origin", "http://localhost:3000", *options)
    ended = run(fake, *line, stdin=stdin and stdin.format(**tokens))
    assert ended.code == 0, ended.err
    if names:
        short = run(fake, *line, stdin="x\n" if len(names) == 2 else "")
        assert (short.code, short.err) == (2, f"clerk-async: stdin contains no {names[-1]} token\n")


def test_the_output_of_a_list_or_a_dry_run_can_be_revoked(fake: FakeClerk, tmp_path: Path) -> None:
    """The lines of a table have tabs and a header; a quiet dry run prints ids alone."""
    for user_id in ("user_1", "user_2"):
        fake.add_session(user_id=user_id)
    path = tmp_path / "list.txt"
    path.write_text(run(fake, "list", "--user", "user_1").out)
    assert run(fake, "revoke", "--from", str(path), "--column", "SESSION").code == 0
    planned = run(fake, "--quiet", "revoke-all", "--user", "user_2", "--dry-run")
    assert run(fake, "revoke", "--from", "-", stdin=planned.out).code == 0
    assert live(fake) == 0


@pytest.mark.promise("id-sources")
def test_a_bad_line_in_a_pipe_ends_the_run_with_a_report(fake: FakeClerk) -> None:
    """The ids before it were sent: the report says so, and names the line."""
    first, second, third = (fake.add_session().id for _ in range(3))
    stdin = f"{first}\n{second}\nuser_1,{third}\n"
    told = run(fake, "revoke", "--from", "-", "--yes", stdin=stdin)
    assert (told.code, live(fake)) == (2, 1)
    assert told.out.splitlines() == [f"{first}  revoked", f"{second}  revoked"]
    assert "Stopped: 2 done, the rest was not read" in told.err
    assert "line 3 of stdin" in told.err
    assert "with the same ids on stdin" in told.err
    summary = run(fake, "--json", "revoke", "--from", "-", "--yes", stdin=stdin).records[-1]
    assert (summary["exhausted"], summary["ok"], summary["exit_code"]) == (False, False, 2)
    first_line = run(fake, "--json", "revoke", "--from", "-", "--yes", stdin="a,b\n")
    assert (first_line.code, first_line.out, first_line.err.count("\n")) == (2, "", 1)
    asked = run(fake, "revoke", "--from", "-", stdin=stdin)
    assert (asked.code, asked.out) == (2, "")
    assert sum(request.operation == "revoke" for request in fake.requests) == 4


def test_in_a_pipe_progress_is_plain_lines_and_stdout_has_only_results(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """No bar and no colour, unless `--progress bar` requests them."""
    ids = write_ids(fake, tmp_path / "ids", 40)
    arguments = ("--json", "revoke", "--from", str(ids), "--yes")
    ended = run(fake, *arguments)
    assert (ended.code, len(ended.records), without_journal(ended.err)) == (0, 41, "")
    forced = run(fake, *arguments, "--progress", "bar")
    assert len(forced.records) == 41
    assert "40/40" in forced.err
    assert "\x1b[3" not in forced.err


def test_without_a_terminal_nobody_is_asked(fake: FakeClerk, tmp_path: Path) -> None:
    """Exit code 2, whatever is on stdin."""
    ids = write_ids(fake, tmp_path / "ids", 26)
    ended = run(fake, "revoke", "--from", str(ids), stdin="y\n")
    assert (ended.code, live(fake)) == (2, 26)
    assert "--yes" in ended.err


@pytest.mark.promise("interrupted-runs")
@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("closing", ["at the start", "after a line"])
def test_a_run_continues_silently_when_stdout_closes(
    fake: FakeClerk, tmp_path: Path, form: tuple[str, ...], closing: str
) -> None:
    """A pipe into `head` still means that all sessions should be revoked."""
    ids = write_ids(fake, tmp_path / "ids", 60)
    line = command_line([*form, "revoke", "--from", str(ids), "--yes"])
    script = (
        'exec "$@" >&-' if closing == "at the start" else '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    )
    ended = subprocess.run(
        ["bash", "-c", script, "bash", *line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=environment(fake),
    )
    told = without_journal(ended.stderr).partition(",")[0]
    assert (ended.returncode, told, live(fake)) == (0, "" if form else "Done: 60 revoked", 0)


@pytest.mark.promise("interrupted-runs")
@pytest.mark.parametrize("arguments", [("--help",), ("revoke", "--help"), ("--version",)])
def test_help_into_a_closed_stdout_prints_no_error(
    fake: FakeClerk, arguments: tuple[str, ...]
) -> None:
    """No traceback, no "Exception ignored"."""
    gone = '"$@" | true; exit ${PIPESTATUS[0]}'
    for script in ('exec "$@" >&-', gone, 'exec "$@" >/dev/full'):
        ended = subprocess.run(
            ["bash", "-c", script, "bash", *command_line(arguments)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=environment(fake),
        )
        assert "Traceback" not in ended.stderr
        assert "Exception ignored" not in ended.stderr
        assert ended.returncode == ("full" in script)


def test_a_fake_server_that_can_not_print_says_so(fake: FakeClerk) -> None:
    """Nobody could reach it; the message does not blame its port."""
    ended = subprocess.run(
        ["bash", "-c", 'exec "$@" >/dev/full', "bash", *command_line(["fake-server"])],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment(fake),
    )
    assert ended.stderr == "clerk-async: stdout: No space left on device\n"
    assert ended.returncode == 1


def test_a_closed_stderr_stops_nothing(fake: FakeClerk, tmp_path: Path) -> None:
    """Progress is lost, and the run continues."""
    ids = write_ids(fake, tmp_path / "ids", 30)
    line = command_line(["revoke", "--from", str(ids), "--yes", "--progress", "bar"])
    ended = subprocess.run(
        ["bash", "-c", 'exec "$@" 2>&-', "bash", *line],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=environment(fake),
    )
    assert (ended.returncode, live(fake)) == (0, 0)
    assert ended.stdout == ""


def test_a_reader_who_stops_reading_stops_no_request(fake: FakeClerk, tmp_path: Path) -> None:
    """Responses arrive while stdout is blocked; each session is sent once."""
    count = 3000
    ids = write_ids(fake, tmp_path / "ids", count)
    options = ["--yes", "--rate", "100000/1", "--progress", "none"]
    line = command_line(["--json", "revoke", "--from", str(ids), *options])
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(fake)
    ) as program:
        fake.wait_for(lambda: live(fake) < count - 1000, timeout=40)
        out, err = program.communicate(timeout=60)
    assert (program.returncode, without_journal(err), live(fake)) == (0, "", 0)
    assert len(out.splitlines()) == count + 1
    assert sum(request.operation == "revoke" for request in fake.requests) == count


@pytest.mark.slow
def test_a_reader_who_stops_reading_gets_each_line_of_a_stopped_run(fake: FakeClerk) -> None:
    """It reads on only after a stopped run would have given up on a callback."""
    fake.inject(Fault.status(401, operation="revoke", count=None))
    ids = [f"sess_{number:06}" for number in range(4000)]  # more than fit into a pipe
    line = command_line(["--json", "revoke", "--yes", *ids])
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(fake)
    ) as program:
        fake.wait_for(lambda: fake.requests, timeout=40)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(4)
        out, _ = program.communicate(timeout=60)
    assert len(out.splitlines()) == len(ids) + 1


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "arguments",
    [("get", "s"), ("list", "--user", "u"), ("revoke", "s"), ("revoke-all", "--user", "u")],
)
def test_no_network_exits_with_4(fake: FakeClerk, arguments: tuple[str, ...]) -> None:
    """It is reported in one line, without a traceback."""
    ended = run(fake, "--base-url", f"http://127.0.0.1:{free_port()}/v1", *arguments)
    assert ended.code == 4
    assert "can't connect" in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_a_large_run_without_network_ends_at_once(fake: FakeClerk, tmp_path: Path) -> None:
    """It does not fail once for each session."""
    ids = write_ids(fake, tmp_path / "ids", 500)
    url = f"http://127.0.0.1:{free_port()}/v1"
    started = time.monotonic()
    ended = run(fake, "--base-url", url, "revoke", "--from", str(ids), "--yes")
    assert ended.code == 4
    assert "nothing was sent" in ended.err
    assert time.monotonic() - started < 35


def test_losing_the_network_ends_a_run_with_how_to_resume(fake: FakeClerk, tmp_path: Path) -> None:
    """A hundred failures in a row are enough; a journal keeps what was done."""
    ids = write_ids(fake, tmp_path / "ids", 400)
    journal = tmp_path / "job.jsonl"
    fake.inject(Fault.cut("before", operation="revoke", after=50, count=None))
    arguments = ("revoke", "--from", str(ids), "--yes", "--rate", "100000/1")
    ended = run(fake, *arguments, "--journal", str(journal), timeout=55)
    assert ended.code == 4, ended.err
    assert "Stopped: 50 of 400 done, 350 left" in ended.err
    assert "gave up" in ended.err
    assert "failed" not in ended.out + ended.err[ended.err.index("Stopped:") :]
    tried = re.findall(r"(\d+) of those left were tried: the connection was lost", ended.err)
    assert len(tried) == 1
    assert 100 <= int(tried[0]) <= 350, "the number of attempts before it gave up depends on timing"
    assert f"--journal {journal}" in ended.err
    fake.clear_faults()
    again = run(fake, *arguments, "--journal", str(journal))
    assert (again.code, live(fake)) == (0, 0), again.err
    assert "50 done by an earlier run" in again.err


@pytest.mark.parametrize(
    "arguments", [("get", "s"), ("revoke", "s"), ("revoke-all", "--user", "u")]
)
def test_a_bad_key_exits_with_3(fake: FakeClerk, arguments: tuple[str, ...]) -> None:
    """The key isn't shown."""
    env = {"CLERK_SECRET_KEY": "sk_test_planted"}
    ended = run(fake, *arguments, env=env)
    assert ended.code == 3
    assert "planted" not in ended.out + ended.err


def test_a_rejected_key_stops_a_large_run_at_once(fake: FakeClerk, tmp_path: Path) -> None:
    """Only a few requests are in flight by then, not hundreds."""
    ids = write_ids(fake, tmp_path / "ids", 500)
    env = {"CLERK_SECRET_KEY": "sk_test_planted"}
    ended = run(fake, "revoke", "--from", str(ids), "--yes", env=env)
    assert ended.code == 3
    assert len(fake.requests) < 50


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_without_a_terminal_is_the_same_as_ctrl_c(
    fake: FakeClerk, tmp_path: Path, number: signal.Signals
) -> None:
    """A supervisor sends it; requests in flight are finished."""
    ids = write_ids(fake, tmp_path / "ids", 60)
    fake.inject(Fault.hold(operation="revoke", process_first=True, after=10, count=4))
    line = command_line(["--json", "revoke", "--from", str(ids), "--yes", "--rate", "20/60"])
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(fake)
    ) as program:
        fake.wait_for(lambda: fake.held == 4, timeout=20)
        program.send_signal(number)
        assert program.stderr is not None
        assert any("requests in flight have ended" in line for line in program.stderr)
        fake.release()
        out, err = program.communicate(timeout=20)
    assert program.returncode == 130
    assert "not one was found" not in err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["exit_code"], summary["stopped_by"]) == (130, "should_stop")
    assert summary["revoked"] == 60 - live(fake)


async def test_with_a_shared_state_a_whole_file_is_locked_out_before_it_is_revoked(
    fake: FakeClerk, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The service takes ten minutes for thousands of sessions; verifiers reject them at once."""
    ids = write_ids(fake, tmp_path / "ids", 300)
    fake.inject(Fault.hold(operation="revoke", count=None))
    line = command_line(["revoke", "--from", str(ids), "--yes", "--rate", "20/60"])
    shared = {"CLERK_ASYNC_SHARED_STATE": redis_server.url}
    client = AsyncSessionsApi(
        fake.secret_key, base_url=fake.base_url, shared_state=redis_server.url
    )
    async with client:
        await AsyncTokenVerifier(sessions=client).warm_up()
        program = await asyncio.create_subprocess_exec(
            *line, stderr=subprocess.PIPE, env=environment(fake, shared)
        )
        async with asyncio.timeout(30):
            while client.shared_status().denied < 300:  # noqa: ASYNC110 - Redis sends no notice
                await asyncio.sleep(0.02)
        assert live(fake) == 300
        program.send_signal(signal.SIGINT)
        assert program.stderr is not None
        while b"requests in flight have ended" not in await program.stderr.readline():
            assert not program.stderr.at_eof()
        fake.release()
        told = await program.stderr.read()
        assert await program.wait() == 130
    assert b" of 300 done" in told


NOT_ON_WINDOWS = {
    "os": [
        "O_CLOEXEC",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "fork",
        "register_at_fork",
        "getuid",
        "ttyname",
    ],
    "signal": ["SIGHUP", "SIGALRM", "SIGPIPE", "SIGUSR1", "SIGKILL", "pthread_sigmask"],
}


def test_no_name_that_windows_lacks_is_needed(fake: FakeClerk) -> None:
    """Without a terminal to ask at, ids come from stdin; everything else works, too."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(30)]
    program = f"""
        import asyncio, aiohttp, attrs, cattrs, click, msgspec, os, rich.cells, signal, sys
        for module, names in {NOT_ON_WINDOWS!r}.items():
            for name in names:
                delattr(sys.modules[module], name)
        from clerk_async.cli import asking, main
        asking._TERMINALS = ("CONIN$",)
        sys.exit(main(sys.argv[1:]))
    """

    def windows(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env=environment(fake),
        )

    listed = windows("list", "--user", "user_1", "--format", "ids")
    assert (listed.returncode, set(listed.stdout.splitlines())) == (0, set(ids)), listed.stderr
    assert windows("doctor").returncode == 0
    unasked = windows("revoke", "--from", "-", "--no-journal", stdin=listed.stdout)
    assert (unasked.returncode, "--yes" in unasked.stderr, live(fake)) == (2, True, 30)
    done = windows("revoke", "--from", "-", "-y", "--no-journal", stdin=listed.stdout)
    assert (done.returncode, live(fake)) == (0, 0), done.stderr


# --- fake server, memory ---


@pytest.mark.promise("fake-ends")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_fake_server_prints_how_to_reach_it(fake: FakeClerk, number: signal.Signals) -> None:
    """Its first lines are shell commands that point this program at it. Ctrl-C ends it."""
    line = command_line(["fake-server", "--sessions", "8", "--rate", "1000/10"])
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(fake)
    ) as server:
        assert server.stdout is not None
        url, key, about = (server.stdout.readline().strip() for _ in range(3))
        user_id = about.rpartition(" ")[2]
        assert about.startswith("# 8 sessions of 2 users; the first is user_")
        env = {
            "CLERK_API_URL": url.partition("=")[2],
            "CLERK_SECRET_KEY": key.partition("=")[2],
        }
        assert len(run(fake, "--quiet", "list", "--user", user_id, env=env).lines) == 4
        server.send_signal(number)
        _, err = server.communicate(timeout=10)
    assert (server.returncode, err) == (0, "\n")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A million ids need no more memory than ten thousand."""
    program = """
        import asyncio, resource, sys
        from clerk_async.cli.inputs import ids_from
        async def read():
            ids = ids_from((), sys.argv[1], None, what="ids", option="--from")
            count = 0
            async for _ in ids.read(asyncio.Event().wait):
                count += 1
            return count, ids.total
        print(*asyncio.run(read()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks: dict[int, int] = {}
    for count in (10_000, 1_000_000):
        path = tmp_path / "ids"
        with path.open("w") as file:
            file.writelines(f"sess_{number:027}\n" for number in range(count))
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        read, total, peak = map(int, ended.stdout.split())
        assert (read, total) == (count, count)
        peaks[count] = peak
    assert peaks[1_000_000] - peaks[10_000] < 10 * 1024
