"""Whole programs with a sync verifier: they exit when they should, and survive a fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow

SETUP = """
    import os, sys, threading
    from clerk_async import SessionsApi, TokenVerifier
    key, url, token = sys.argv[1:4]
    verifier = TokenVerifier(
        sessions=SessionsApi(key, base_url=url), authorized_parties=["http://localhost:3000"]
    )
"""


def start(fake: FakeClerk, body: str) -> subprocess.Popen[str]:
    """Start a program that has a verifier."""
    program = textwrap.dedent(SETUP) + textwrap.dedent(body)
    made = fake.mint(fake.add_session(user_id="user_1"), expires_in=600)
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", program, fake.secret_key, fake.base_url, made],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(fake: FakeClerk, body: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has a verifier to its end."""
    with start(fake, body) as program:
        try:
            out, err = program.communicate(timeout=50)
        finally:
            program.kill()
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def test_a_program_that_never_closes_exits(fake: FakeClerk) -> None:
    """It has its own exit code, and the interpreter prints nothing."""
    ended = run(fake, "print(verifier.verify(token).user_id); sys.exit(3)")
    assert (ended.returncode, ended.stdout) == (3, "user_1\n"), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("source", ["sessions", "issuer"])
def test_a_program_exits_while_keys_are_being_fetched(fake: FakeClerk, source: str) -> None:
    """A hanging fetch does not delay the exit; its own timeout is 15 s."""
    fake.inject(Fault.hold(operation="jwks"))
    body = f"""
        if {source == "issuer"}:
            verifier = TokenVerifier(issuer=url[:-3])
        threading.Thread(target=lambda: verifier.verify(token), daemon=True).start()
        sys.stdin.readline()
        sys.exit(4)
    """
    with start(fake, body) as program:
        give_up = time.monotonic() + 40
        while not fake.held:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        told = time.monotonic()
        _, err = program.communicate("end now\n", timeout=30)
        assert program.returncode == 4, err
        assert time.monotonic() - told < 10


def test_a_forked_child_verifies(fake: FakeClerk) -> None:
    """With or without known keys, the child is independent, and the parent continues."""
    body = """
        for warm in (False, True):
            if warm:
                verifier.warm_up()
            child = os.fork()
            if child == 0:
                os._exit(0 if verifier.verify(token).user_id == "user_1" else 1)
            assert os.waitpid(child, 0)[1] == 0
        print(verifier.verify(token).user_id)
    """
    ended = run(fake, body)
    assert (ended.returncode, ended.stdout) == (0, "user_1\n"), ended.stderr


@pytest.mark.promise("one-fetch")
def test_a_fork_during_a_fetch_leaves_the_child_free(fake: FakeClerk) -> None:
    """The child starts its own fetch rather than wait forever for the parent's."""
    fake.inject(Fault.hold(operation="jwks", count=1))
    body = """
        threading.Thread(target=lambda: verifier.verify(token), daemon=True).start()
        while not verifier.key_status().fetches:
            pass
        child = os.fork()
        if child == 0:
            os._exit(0 if verifier.verify(token).user_id == "user_1" else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    ended = run(fake, body)
    assert ended.returncode == 0, ended.stderr


def test_ctrl_c_interrupts_a_wait_for_keys(fake: FakeClerk) -> None:
    """`verify` raises KeyboardInterrupt at once, and the next call works."""
    fake.inject(Fault.hold(operation="jwks", count=1))
    body = """
        import signal, _thread
        def interrupt():
            while not verifier.key_status().fetches:
                pass
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            verifier.verify(token)
        except KeyboardInterrupt:
            sys.exit(5)
    """
    assert run(fake, body).returncode == 5
