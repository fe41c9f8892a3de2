"""Apps in real servers, each in its own process group, and a bounded load on them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from clerk_async.testing import FakeClerk
    from clerk_async.testing.state import FakeSession

APPS: Final = Path(__file__).parent / "apps"
LIMIT: Final = 40.0
"""Seconds after which anything here counts as hung."""
TROUBLE: Final = re.compile(
    r"Traceback|never (?:awaited|retrieved)|was destroyed|[Uu]nclosed"
    r"|Fatal Python|coredump|sk_test_|eyJ\w{10}"
)
"""What a log must not contain: an uncaught error, something left open, or a secret."""


@attrs.define
class ServedApp:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    def post(self, path: str, session: FakeSession | None, fake: FakeClerk) -> int:
        """Send a request as the user of a session, and return the status of the response."""
        headers = {"Connection": "close"}
        if session is not None:
            headers["Authorization"] = f"Bearer {fake.mint(session)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request("POST", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def post_all(
        self, path: str, sessions: Sequence[FakeSession], fake: FakeClerk, *, at_once: int = 8
    ) -> list[int]:
        """Send a request for each session, several at once, and return the statuses."""
        with ThreadPoolExecutor(at_once) as pool:
            answers = [pool.submit(self.post, path, session, fake) for session in sessions]
            return [answer.result() for answer in answers]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server to end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def assert_clean(self) -> None:
        """Check that it logged no problem and no secret."""
        assert_clean(self.output(), listener=self.port)

    def output(self) -> str:
        """Return what it has printed so far."""
        self.log.seek(0)
        return self.log.read().decode()


def ask(
    app: ServedApp, method: str, path: str, session: FakeSession | None, fake: FakeClerk
) -> tuple[int, Any]:
    """Send a request as the user of a session; return the status and the JSON body, if any."""
    headers = {} if session is None else {"Authorization": f"Bearer {fake.mint(session)}"}
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request(method, path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(body) if is_json and body else None


@contextlib.contextmanager
def program(
    arguments: Sequence[str],
    fake: FakeClerk,
    *,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Generator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Run a program with the fake in its environment; the block leaves no process of it."""
    environment = {
        "PYTHONDEVMODE": "1",
        **os.environ,
        "CLERK_API_URL": fake.base_url,
        "CLERK_SECRET_KEY": fake.secret_key,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(APPS), str(APPS.parent.parent)]),
        **(environ or {}),
    }
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as home:
        environment["HOME"] = home
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=APPS,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, log
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT)


@contextlib.contextmanager
def served(
    arguments: Iterable[str], fake: FakeClerk, *, environ: Mapping[str, str] | None = None
) -> Generator[ServedApp]:
    """Run a server on an inherited listening socket, so that requests can be sent at once.

    Args:
        arguments: The module and its options; `{fd}` stands for the socket's number.
        fake: The service that the app talks to.
        environ: More environment for the app.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.set_inheritable(True)
        port, number = listener.getsockname()[1], listener.fileno()
        filled = [argument.format(fd=number) for argument in arguments]
        with program(filled, fake, environ=environ, pass_fds=[number]) as (process, log):
            listener.close()  # so that we don't keep the port open after the server has ended
            yield ServedApp(process, port, log)


def until(happened: Callable[[], object]) -> None:
    """Poll until something has happened elsewhere that gives no notice."""
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < deadline, "the expected event did not happen"
        pause.wait(0.02)


def assert_clean(output: str, *, listener: int = 0) -> None:
    """Check that a program logged no problem of its own, and no secret.

    Args:
        output: What it printed.
        listener: The port of a server, which may leave its listening socket open at exit.
    """
    for line in output.splitlines():
        is_ours = "unclosed <socket" not in line or str(listener) not in line
        assert not (is_ours and TROUBLE.search(line)), output
