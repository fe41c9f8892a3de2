"""Processes that users start: pools, Celery workers, and children that exit in every way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from typing import IO, TYPE_CHECKING, Final

import pytest
from programs import without_slowness
from served_apps import LIMIT, assert_clean, program, until

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
USERS: Final = [f"user_{number}" for number in range(12)]


@pytest.mark.promise("real-servers")
@pytest.mark.usefixtures("each_programs_loop")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_pool_signs_users_out(method: str, fake: FakeClerk) -> None:
    """Each worker uses the client of the module, and our errors get back to the parent."""
    sessions = [fake.add_session(user_id=user) for user in USERS for _ in range(2)]
    fake.add_session(user_id="user_of_the_parent")
    with program(["pools.py", method, *USERS], fake) as (process, log):
        assert process.wait(LIMIT) == 0
        output = _read(log)
    assert output.splitlines()[-3:] == [str(len(sessions)), "NotFoundError", "1"]
    assert_clean(output)
    assert {session.status for session in sessions} == {"revoked"}


@pytest.mark.usefixtures("each_programs_loop")
@pytest.mark.parametrize(("way", "code"), [("sys.exit", 7), ("os._exit", 7), ("exception", 1)])
def test_a_child_forked_during_a_call_works_and_exits_normally(
    way: str, code: int, fake: FakeClerk
) -> None:
    """Its own calls work, its exit code is its own, and the parent's call gets its response."""
    held = fake.add_session()
    fake.add_session(session_id="sess_of_child")
    fake.inject(Fault.hold(operation="revoke"))
    environ = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}  # 3.12 warns of the fork
    with program(["forked_exits.py", way, held.id], fake, environ=environ) as (process, log):
        fake.wait_for(lambda: fake.held == 1, timeout=LIMIT)
        process.send_signal(signal.SIGUSR1)
        until(lambda: "child ended" in _read(log))
        fake.release()
        assert process.wait(LIMIT) == 5
        lines = _read(log).splitlines()
    assert lines[0] == "sess_of_child"
    assert lines[-2:] == [f"child ended with {code}", "revoked"]
    between = lines[1:-2]
    if way == "exception":
        assert (between[0], between[-1]) == (
            "Traceback (most recent call last):",
            "LookupError: a bug in the child",
        )
        assert_clean("\n".join(between[1:-1]))
    else:
        assert between == []


@pytest.mark.promise("real-servers")
@pytest.mark.parametrize("where", ["between two loops", "in a running loop"])
def test_an_async_client_in_use_works_on_both_sides_of_a_fork(where: str, fake: FakeClerk) -> None:
    """The child has its own loops and connections; the parent keeps its own."""
    fake.add_session(session_id="sess_1")
    environ = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    with program(["-c", FORKS_ASYNC, where], fake, environ=environ) as (process, log):
        assert process.wait(LIMIT) == 0
        output = _read(log)
    assert_clean(output)
    said = [line for line in output.splitlines() if line in {"active", "7"}]
    assert said == ["active", "active", "active", "7", "active"]
    parents = [fake.requests[0].connection, fake.requests[-1].connection]
    children = [request.connection for request in fake.requests[1:-1]]
    assert not set(parents) & set(children)
    if where == "in a running loop":
        assert parents[0] == parents[1]


FORKS_ASYNC: Final = """
import asyncio, os, sys
from clerk_async import AsyncSessionsApi
sessions = AsyncSessionsApi()

def sockets():
    files = (os.path.realpath(f"/proc/self/fd/{number}") for number in range(100))
    return sum("socket:" in file for file in files)

async def use():
    print((await sessions.get("sess_1")).status.value, flush=True)

def fork():
    child = os.fork()
    if child == 0:
        asyncio.run(use())
        asyncio.run(close())
        os._exit(7 if sockets() == before else 8)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

async def close():
    async with sessions:
        await use()

async def main():
    global before
    before = sockets()  # the loop's own
    await use()
    fork()
    await close()

if sys.argv[1] == "in a running loop":
    asyncio.run(main())
else:
    before = sockets()
    asyncio.run(use())
    fork()
    asyncio.run(close())
"""


@pytest.fixture
def broker(tmp_path: Path) -> str:
    """Return the address of a Redis for the test: a Unix socket, so that no port is used."""
    return str(tmp_path / "redis.sock")


@pytest.mark.usefixtures("each_programs_loop")
def test_celery_prefork_workers_sign_users_out_and_exit_cleanly(
    fake: FakeClerk, broker: str, tmp_path: Path
) -> None:
    """Tasks run in forked workers; a warm shutdown finishes the current one and exits with 0."""
    server = shutil.which("redis-server")
    assert server, "this test needs a redis-server: apt-get install redis-server"
    environ = {"BROKER_URL": f"redis+socket://{broker}"}
    sessions = [fake.add_session(user_id=user) for user in USERS]
    redis = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", broker, "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    worker = ["-m", "celery", "-A", "celery_app", "worker", "-c", "2", "-l", "warning"]
    worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    try:
        until(lambda: _answers(broker))
        with program(worker, fake, environ=environ) as (process, log):
            with program(["enqueue.py", *USERS], fake, environ=environ) as (caller, printed):
                assert caller.wait(LIMIT) == 0
                printed.seek(0)
                assert printed.read().split() == [b"1"] * len(USERS)
            late = fake.add_session(user_id="user_late")
            fake.inject(Fault.hold(operation="revoke"))
            with program(["enqueue.py", "user_late"], fake, environ=environ) as (caller, printed):
                fake.wait_for(lambda: fake.held == 1, timeout=LIMIT)
                process.terminate()
                until(lambda: "shutdown" in _read(log))
                fake.release()
                assert caller.wait(LIMIT) == 0
            assert process.wait(LIMIT) == 0
            assert_clean(_read(log))
    finally:
        redis.kill()
        redis.wait()
    assert {session.status for session in [*sessions, late]} == {"revoked"}


def _read(log: IO[bytes]) -> str:
    return without_slowness(os.pread(log.fileno(), 1_000_000, 0).decode())


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True
