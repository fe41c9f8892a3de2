"""Real Redis servers for tests, on free ports, which can be killed, frozen and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class RedisServer:
    """A redis-server or a valkey-server without persistence.

    Attributes:
        port: Its port, the same after each start.
        url: Its URL.

    Args:
        directory: The folder that it may write to.
        program: The server program.
        options: Additional options of the program.
        password: The password that it requires.
    """

    def __init__(
        self,
        directory: Path,
        program: str = "redis-server",
        *options: str,
        password: str | None = None,
    ) -> None:
        self._directory = directory
        self._program = program
        self._options = options
        self._password = password
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        login = "" if password is None else f":{password}@"
        self.url: str = f"redis://{login}127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it with an empty memory, and wait until it responds."""
        options = ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        if self._password is not None:
            options += ["--requirepass", self._password]
        self._process = subprocess.Popen(
            [self._program, "--port", str(self.port), *options, *self._options],
            stdout=subprocess.DEVNULL,
        )
        ends = time.monotonic() + 20
        while time.monotonic() < ends and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.command("PING")
                return
            time.sleep(0.01)
        self.kill()
        raise AssertionError("the Redis server did not start")

    def kill(self) -> None:
        """Kill it at once, with all its data."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Freeze it: it keeps connections open, and responds to nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Unfreeze it; it processes what was sent meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it, and start it with an empty memory."""
        self.kill()
        self.start()

    def command(self, *words: str | bytes) -> Any:
        """Send a command, and return the response as redis-py does."""
        import redis  # noqa: PLC0415 - for these tests alone

        try:
            client: Any = redis.Redis(port=self.port, password=self._password)
            with client:
                return client.execute_command(*words)
        except redis.ConnectionError as error:
            raise OSError(str(error)) from None

    def everything(self) -> bytes:
        """Return everything that is stored, keys and values, as one text."""
        found: list[bytes] = []
        for key in self.command("KEYS", "*"):
            kind = self.command("TYPE", key)
            read = {
                b"hash": ("HGETALL", key),
                b"zset": ("ZRANGE", key, "0", "-1"),
                b"stream": ("XRANGE", key, "-", "+"),
                b"string": ("GET", key),
            }[kind]
            found += [key, repr(self.command(*read)).encode()]
        return b"\n".join(found)


def program_of(config: pytest.Config) -> str:
    """Return the server program that the tests use, or skip the test."""
    name = str(config.getoption("--redis-server"))
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found
