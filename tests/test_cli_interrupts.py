"""Signals on the command line: which ones are handled, and that handling them disturbs no write."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from cli_programs import command_line, environment
from programs import run_program

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow


def write_ids(fake: FakeClerk, path: Path, count: int) -> Path:
    """Make sessions of one user, and write their ids."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(count)]
    path.write_text("\n".join(ids))
    return path


def is_revoking(fake: FakeClerk) -> bool:
    """Return whether the run itself has begun, not only the checks before it."""
    return any(request.operation == "revoke" for request in fake.requests)


HEARD = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.mark.promise("inherited-signals")
@pytest.mark.parametrize("name", HEARD)
@pytest.mark.parametrize("command", ["revoke", "revoke-all"])
def test_a_signal_that_was_ignored_from_the_start_stays_ignored(
    fake: FakeClerk, tmp_path: Path, name: str, command: str
) -> None:
    """As under `nohup`, or in the background of a script that gets the Ctrl-C itself."""
    number = getattr(signal, name)
    ids = write_ids(fake, tmp_path / "ids", 60)
    arguments = ["revoke", "--from", str(ids)]
    if command == "revoke-all":
        arguments = ["revoke-all", "--user", "user_1"]
    fake.latency = 0.02
    with subprocess.Popen(
        command_line([*arguments, "--yes", "--rate", "60/1"]),
        env=environment(fake),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),  # noqa: PLW1509 - one thread
    ) as program:
        fake.wait_for(lambda: is_revoking(fake), timeout=30)
        program.send_signal(number)
        program.send_signal(number)
        told = program.communicate(timeout=40)[1]
    assert program.returncode == 0, told
    assert {session.status for session in fake.sessions.values()} == {"revoked"}
    assert "stopping" not in told


@pytest.mark.promise("inherited-signals")
@pytest.mark.parametrize("name", HEARD)
def test_a_signal_stops_a_run_and_prints_how_to_resume(
    fake: FakeClerk, tmp_path: Path, name: str
) -> None:
    """So does closing the terminal: requests in flight are finished."""
    ids = write_ids(fake, tmp_path / "ids", 400)
    with subprocess.Popen(
        command_line(["revoke", "--from", str(ids), "--yes", "--rate", "20/1"]),
        env=environment(fake),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),  # noqa: PLW1509
    ) as program:
        fake.wait_for(lambda: is_revoking(fake), timeout=30)
        program.send_signal(getattr(signal, name))
        told = program.communicate(timeout=40)[1]
    assert program.returncode == 130, told
    assert "stopping once the requests in flight have ended" in told
    assert "To resume" in told


STRUCK = """
    import signal, sys

    class CtrlC:
        names = sys.argv.pop(1).split()

        def find_spec(self, name, *_):
            if name in self.names:
                self.names.remove(name)
                raise KeyboardInterrupt

    sys.meta_path.insert(0, CtrlC())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from clerk_async.cli import main
    sys.exit(main())
"""


@pytest.mark.promise("second-ctrl-c")
@pytest.mark.parametrize(
    ("imports", "arguments"),
    [
        (["click"], ["list"]),
        (["clerk_async.cli.app"], ["list"]),
        (["clerk_async.cli.commands.sessions", "clerk_async.redaction"], ["list"]),
        (["clerk_async.redaction"], ["list", "--no-such-option"]),
    ],
)
def test_ctrl_c_during_an_import_prints_one_line(imports: list[str], arguments: list[str]) -> None:
    """While the program loads, or loads what a message needs, even that of an earlier Ctrl-C."""
    ended = run_program(STRUCK, None, " ".join(imports), *arguments)
    told = ended.err.lstrip()  # click prints an empty line after the terminal's ^C
    assert (ended.code, ended.out, told) == (130, "", "clerk-async: interrupted\n")


@pytest.mark.promise("second-ctrl-c")
@pytest.mark.parametrize("argument", ["--version", "--no-such-option"])
def test_ctrl_c_after_the_command_ends_the_program_silently(argument: str) -> None:
    """While Python exits, for example while logging is shut down."""
    program = "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT)"
    undisturbed = run_program(STRUCK, None, "", argument)
    ended = run_program(f"{program}\n{textwrap.dedent(STRUCK)}", None, "", argument)
    assert (ended.code, ended.err) == (-signal.SIGINT, undisturbed.err)


DRAWING = """
    import asyncio, os, sys
    from clerk_async.cli.interrupts import Interrupts
    from clerk_async.cli.output import Output

    async def main():
        out = Output()
        with Interrupts(out, lambda: out.error("To go on, run this")):
            print("drawing", flush=True)
            number = 0
            while True:
                number += 1
                out.live(f"{number:7} " + "of many " * 20)
                if not number % 50:
                    await asyncio.sleep(0)

    asyncio.run(main())
"""


def start_drawing() -> subprocess.Popen[bytes]:
    """Start a program that only redraws its bar."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRAWING)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"drawing\n"
    return program


@pytest.mark.promise("second-ctrl-c")
def test_the_second_ctrl_c_exits_in_the_middle_of_a_write() -> None:
    """The bar is written to a reader that does not read, so the write can't end."""
    with start_drawing() as program:
        stuck = Path(f"/proc/{program.pid}/wchan")
        give_up = time.monotonic() + 10
        while not (stuck.exists() and "pipe" in stuck.read_text()) and time.monotonic() < give_up:
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        time.sleep(0.05)
        pressed = time.monotonic()
        while program.poll() is None:
            assert time.monotonic() < pressed + 20, "it does not exit"
            program.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert program.stderr is not None
        told = program.stderr.read()
    assert program.returncode == 130
    assert b"Traceback" not in told
    assert b"Error" not in told


SIGNALLED = """
    import asyncio, os, signal, sys
    from clerk_async.cli.interrupts import Interrupts
    from clerk_async.cli.output import Output, shell_words

    async def main():
        out = Output()
        before = set(sys.modules)
        with Interrupts(out, lambda: out.error("To go on, run " + shell_words(["this"]))):
            os._exit = lambda code: print(code, set(sys.modules) - before)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(0)

    asyncio.run(main())
"""


@pytest.mark.promise("second-ctrl-c")
def test_handling_a_signal_imports_nothing() -> None:
    """The signal may have interrupted the same import, which would then fail."""
    ended = run_program(SIGNALLED, None)
    assert ended.out == "130 set()\n"
    assert "To go on, run this" in ended.err


FULL = """
    import asyncio, os, signal
    from clerk_async.cli.interrupts import Interrupts
    from clerk_async.cli.output import Output

    async def main():
        out = Output()
        with Interrupts(out, lambda: out.error("To go on, run " + "this " * 100_000)):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)

    asyncio.run(main())
"""


@pytest.mark.promise("second-ctrl-c")
def test_the_second_ctrl_c_exits_though_nobody_reads_its_message() -> None:
    """Even if there is room for the beginning: here, two pages of the pipe to its reader."""
    reader, writer = os.pipe()
    with FileIO(reader) as told, FileIO(writer, "w") as stderr:
        os.set_blocking(writer, False)
        filled = 0
        while size := stderr.write(bytes(mmap.PAGESIZE)):
            filled += size
        os.set_blocking(writer, True)
        told.read(2 * mmap.PAGESIZE)
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(FULL)], stderr=stderr, timeout=60, check=False
        )
        stderr.close()
        rest = told.read()[filled - 2 * mmap.PAGESIZE :]
    assert ended.returncode == 130
    assert b"interrupted at once" in rest
    assert b"To go on, run this" in rest


def _read_into(told: list[bytes], stream: IO[bytes]) -> None:
    told.append(stream.read())


@pytest.mark.promise("second-ctrl-c")
@pytest.mark.timeout(180)
def test_the_second_ctrl_c_exits_at_any_point_of_drawing() -> None:
    """At twenty instants while the bar is drawn: no stream is written to within a write."""
    for number in range(20):
        with start_drawing() as program:
            assert program.stderr is not None
            stderr = program.stderr
            told: list[bytes] = []
            reader = threading.Thread(target=_read_into, args=(told, stderr))
            reader.start()
            time.sleep(0.0013 * number)
            program.send_signal(signal.SIGINT)
            while True:  # two that arrive together count as one
                program.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    program.wait(0.3)
                    break
            reader.join()
        assert program.returncode == 130, told[0][-500:]
        assert b"Traceback" not in told[0]
        assert b"interrupted at once" in told[0]
        assert told[0].rstrip().endswith(b"To go on, run this")
