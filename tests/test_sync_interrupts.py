"""Ctrl-C and signal handlers at any point: no thread waits in vain or forever."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import environment, run_program, without_slowness

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("each_programs_loop"),
]

STRIKES = Path(__file__).parent / "strikes.py"
CALLS = (
    "get",
    "revoke",
    "listing",
    "iterate",
    "iterate_and_leave",
    "revoke_many",
    "revoke_stream",
    "revoke_all",
)
VERIFYING = ("verify", "authenticate", "refresh")
MAKING = ("make", "first_call", "close")
_CUT_IMPORT = re.compile(
    r"Exception ignored in: <_io\.FileIO name='[^']*\.pyc?' .*\n(?:Traceback .*\n(?:  .*\n)*)?"
    r"ResourceWarning: unclosed file <_io\.BufferedReader name='[^']*\.pyc?'>\n"
)  # Python leaves the file open if Ctrl-C strikes while it reads a module
HANDLERS = ("close_it", "call", "call_differently", "use_another", "drop_another", "log")


def strike(
    fake: FakeClerk, scenario: str, kind: str, action: str = "interrupt", at_most: int = 40
) -> int:
    """Run the program, check that it found no problem, and return the number of strikes."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(4)]
    token = fake.mint(fake.sessions[ids[0]], expires_in=6000)
    ended = subprocess.run(
        [sys.executable, str(STRIKES), scenario, kind, action, str(at_most)],
        env={
            **environment(fake),
            "IDS": " ".join(ids),
            "TOKEN": token,
            "EXPIRED": fake.expired_token(fake.sessions[ids[0]]),
            "JWT_KEY": fake.jwt_key,
        },
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    told = re.fullmatch(
        rf"{scenario}: (\d+) strikes, 0 wrong, at the most \d+ ms\nthreads left: \[\]\n",
        ended.stdout,
    )
    assert told, ended.stdout + ended.stderr
    assert _CUT_IMPORT.sub("", without_slowness(ended.stderr)) == ""
    assert ended.returncode == 0
    return int(told[1])


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("scenario", [*CALLS, *MAKING, *VERIFYING])
def test_ctrl_c_works_at_any_line(scenario: str, fake: FakeClerk) -> None:
    """It raises soon, other threads and later calls work, and nothing is left or printed."""
    assert strike(fake, scenario, "lines") > 4


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("scenario", ["get", "first_call", "close", *VERIFYING])
def test_ctrl_c_works_between_any_two_steps(scenario: str, fake: FakeClerk) -> None:
    """Even between two bytecode steps within a line."""
    # In a round that pauses its tracing, Python 3.13 and later trace only some of the steps.
    assert strike(fake, scenario, "steps", at_most=80) > (4 if scenario in MAKING else 40)


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("scenario", [*CALLS, "first_call", "close", *VERIFYING])
def test_ctrl_c_works_at_any_instant(scenario: str, fake: FakeClerk) -> None:
    """By a real signal, whatever the thread is doing, including Python's own code."""
    assert strike(fake, scenario, "instants", at_most=80) > 0


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("scenario", ["get", "iterate_and_leave", "revoke_many", "first_call"])
def test_ctrl_c_works_wherever_the_loops_thread_is(scenario: str, fake: FakeClerk) -> None:
    """The call is cancelled at the next step of the loop, whatever it was doing."""
    assert strike(fake, scenario, "loop", at_most=20) > 4


@pytest.mark.promise("signal-handlers")
@pytest.mark.parametrize("action", HANDLERS)
@pytest.mark.parametrize("scenario", ["get", "first_call", "close", "iterate_and_leave"])
def test_a_signal_handler_may_use_a_client_anywhere(
    scenario: str, action: str, fake: FakeClerk
) -> None:
    """It closes, calls, makes and drops clients at any point of the main thread in our code."""
    assert strike(fake, scenario, "lines", action, at_most=20) > 4


@pytest.mark.promise("signal-handlers")
@pytest.mark.parametrize("action", ["close_it", "call", "use_another"])
def test_a_signal_handler_may_use_a_client_at_any_instant(action: str, fake: FakeClerk) -> None:
    """By a real signal, while the main thread makes a client's first call."""
    assert strike(fake, "first_call", "instants", action, at_most=80) > 0


@pytest.mark.promise("signal-handlers")
@pytest.mark.parametrize("kind", ["lines", "steps", "instants"])
@pytest.mark.parametrize("scenario", ["verify", "authenticate"])
def test_a_signal_handler_may_use_a_verifier(scenario: str, kind: str, fake: FakeClerk) -> None:
    """The same one that the main thread is using, while its keys are being fetched."""
    assert strike(fake, scenario, kind, "verify_too") > 0


EXITING = """
import signal, sys
from clerk_async import SessionsApi

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
first, second = SessionsApi(), SessionsApi()
number = getattr(signal, sys.argv[1])
first._thread.private().end = lambda grace: signal.raise_signal(number)
second._thread.private().end = lambda grace: print("the second one is closed")
"""


@pytest.mark.promise("interruptions")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_python_exits_only_ends_the_wait(name: str, fake: FakeClerk) -> None:
    """Python would print the exception, and the other clients would not be closed."""
    ended = run_program(EXITING, fake, name)
    assert (ended.code, ended.out, ended.err) == (0, "the second one is closed\n", "")


LOGGING = """
import faulthandler, logging, os, signal, sys
from clerk_async import SessionsApi, TokenVerifier

faulthandler.dump_traceback_later(50, exit=True)
one, token = sys.argv[1:]


class Struck:
    is_armed = False

    def write(self, text):  # called with the lock of the handler held
        if self.is_armed:
            self.is_armed = False
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(9):  # the signal comes between two of these steps
                pass
            print("still logging")

    def flush(self):
        pass


def act(_, __):
    {action}
    print("acted")


client = SessionsApi()
verifier = TokenVerifier(sessions=client, authorized_parties=["http://localhost:3000"])
client.get(one)
signal.signal(signal.SIGUSR1, act)
stream = Struck()
logging.basicConfig(stream=stream, level=logging.DEBUG)
stream.is_armed = True
logging.warning("a line")
client.close()
"""


@pytest.mark.promise("signal-handlers")
@pytest.mark.parametrize(
    "action",
    [
        "client.get(one)",
        "client.revoke_many([one])",
        "list(client.iterate(user_id='user_1'))",
        "SessionsApi().get(one)",
        "client.close()",
        "verifier.verify(token)",
        "verifier.verify(token, check_session=True)",
    ],
)
def test_a_signal_handler_may_use_a_client_in_the_middle_of_a_log_line(
    action: str, fake: FakeClerk
) -> None:
    """Clients and verifiers log too; their threads wait for no lock that the main thread holds."""
    session = fake.add_session(user_id="user_1")
    program = LOGGING.replace("{action}", action)
    ended = run_program(program, fake, session.id, fake.mint(session))
    assert (ended.code, ended.out) == (0, "acted\nstill logging\n"), ended.err


CONFIGURING = """
import faulthandler, logging.config, signal, sys
from clerk_async import SessionsApi

faulthandler.dump_traceback_later(50, exit=True)
one = sys.argv[1]
client = SessionsApi()
client.get(one)
signal.signal(signal.SIGUSR1, lambda *_: print(client.revoke_many([one], on_outcome=fail)))


def fail(outcome):
    raise ValueError


class Struck(logging.Handler):
    def __init__(self):  # called with logging's own lock held
        super().__init__()
        signal.raise_signal(signal.SIGUSR1)


logging.config.dictConfig(
    {"version": 1, "handlers": {"one": {"()": Struck}}, "root": {"handlers": ["one"]}}
)
client.close()
"""


def test_a_signal_handler_may_use_a_client_while_logging_is_configured(fake: FakeClerk) -> None:
    """The first error that is logged waits for no lock of logging's that the main thread holds."""
    session = fake.add_session(user_id="user_1")
    ended = run_program(CONFIGURING, fake, session.id)
    assert ended.code == 0, ended.err
    assert "1 revoked" in ended.out
