"""The second process of the demo: it verifies a token until it is refused, and reports when.

`lock_out` runs in the demo, `_serve` in the other process. That process also runs the Redis through
which the two share their state, in a private directory. Both end when its stdin closes, so that
nothing is left behind however the demo ends, even after `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs

from clerk_async.errors import TokenVerificationError
from clerk_async.extras import trouble_with
from clerk_async.reasons import TokenVerificationReason
from clerk_async.sessions import AsyncSessionsApi
from clerk_async.tokens.verifier import AsyncTokenVerifier

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from clerk_async.testing import FakeClerk, FakeSession

ANSWER_WITHIN: Final = 15.0
"""Seconds that the other process may take to respond."""
_END_WITHIN: Final = 5.0
_BETWEEN_TOKENS: Final = 0.001
_SERVERS: Final = ("redis-server", "valkey-server")


@attrs.frozen
class LockOut:
    """The result of locking out a user.

    Attributes:
        milliseconds: From the denial to the first refused token; None if none was refused.
        alone_because: Why it happened in one process; empty if there were two.
    """

    milliseconds: float | None
    alone_because: str = ""

    @property
    def finding(self) -> tuple[bool, str]:
        """Whether the user was locked out, and a sentence about it."""
        who = "this process" if self.alone_because else "the other process"
        if self.milliseconds is None:
            return False, f"{who} did not refuse the token"
        return True, f"{who} refused the token {self.milliseconds:.1f} ms after it was denied"


class SecondProcessError(Exception):
    """A second process is not available; the message says why."""


class SecondProcess:
    """A process that verifies one token over and over; it runs while entered.

    Args:
        secret_key: The secret key of the service that issued the token.
        base_url: The service's base URL.

    Attributes:
        url: The URL of the shared state.
    """

    def __init__(self, secret_key: str, base_url: str) -> None:
        self.url: str = ""
        self._order = {"secret_key": secret_key, "base_url": base_url}
        self._process: asyncio.subprocess.Process | None = None
        self._stdin: asyncio.StreamWriter
        self._stdout: asyncio.StreamReader

    async def __aenter__(self) -> Self:
        self._order["server"] = _server()
        # It finds the modules found here, and nothing else that happens to be in its folder.
        path = os.pathsep.join(each for each in sys.path if each)
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # only the demo handles Ctrl-C
            )
        except OSError as error:
            raise SecondProcessError(f"no second process could be started: {error}") from None
        self._process = process
        self._stdin = cast("asyncio.StreamWriter", process.stdin)
        self._stdout = cast("asyncio.StreamReader", process.stdout)
        try:
            self.url = (await self._ask(self._order))["url"]
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def watch(self, token: str, party: str) -> None:
        """Make it verify a token from now on; it has accepted it once when this returns."""
        await self._ask({"token": token, "party": party})

    async def refused_at(self) -> float:
        """Wait until it refuses the token, and return when that was, in monotonic time."""
        return float((await self._answer())["refused_at"])

    async def _ask(self, order: dict[str, str]) -> dict[str, Any]:
        self._stdin.write(json.dumps(order).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        line = b""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(ANSWER_WITHIN):
                line = await self._stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise SecondProcessError("the second process said nothing") from None
        if "error" in answer:
            raise SecondProcessError(str(answer["error"]))
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._stdin.close()
        code = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_WITHIN):
                    code = await process.wait()
        finally:
            if code != 0:
                with suppress(OSError):  # it may have left its Redis
                    os.killpg(process.pid, signal.SIGKILL)


def _server() -> str:
    """Return the Redis server to start.

    Raises:
        SecondProcessError: If there is none, or redis-py can't be used.
    """
    server = next(filter(None, map(shutil.which, _SERVERS)), None)
    is_unix = hasattr(socket, "AF_UNIX") and hasattr(os, "killpg")
    if server is None or not is_unix or not sys.executable:
        raise SecondProcessError("there is no redis-server on this machine")
    trouble = trouble_with("redis")
    if trouble:
        raise SecondProcessError(f"sharing state needs {trouble}")
    return server


async def lock_out(fake: FakeClerk, session: FakeSession, token: str) -> LockOut:
    """Deny a user whose token another process verifies; this process, if there is no other."""
    party = session.authorized_party or ""
    try:
        async with (
            SecondProcess(fake.secret_key, fake.base_url) as second,
            AsyncSessionsApi(
                fake.secret_key, base_url=fake.base_url, shared_state=second.url
            ) as sessions,
        ):
            await AsyncTokenVerifier(sessions=sessions, authorized_parties=[party]).warm_up()
            await second.watch(token, party)
            denied_at = time.monotonic()
            await sessions.deny(user_id=session.user_id)
            try:
                return LockOut(1000 * (await second.refused_at() - denied_at))
            except SecondProcessError:
                return LockOut(None)
    except SecondProcessError as error:
        alone_because = str(error)
    async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[party])
        await verifier.verify(token)
        denied_at = time.monotonic()
        await sessions.deny(user_id=session.user_id)
        try:
            await verifier.verify(token)
        except TokenVerificationError:
            return LockOut(1000 * (time.monotonic() - denied_at), alone_because)
    return LockOut(None, alone_because)


# --- the second process ---


async def _serve() -> None:
    """Carry out the demo's orders until its stdin closes."""
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    first = await orders.readline()
    if not first:
        return
    order = json.loads(first)
    try:
        async with _redis(order["server"]) as url:
            _say(url=url)
            if second := await orders.readline():
                watching = asyncio.create_task(_watch(order, url, **json.loads(second)))
                await orders.read()  # to its end
                watching.cancel()
                await asyncio.wait([watching])
    except SecondProcessError as error:
        _say(error=str(error))


def _say(**answer: object) -> None:
    with suppress(OSError):
        print(json.dumps(answer), flush=True)  # noqa: T201 - to the demo


@asynccontextmanager
async def _redis(server: str) -> AsyncGenerator[str]:
    with tempfile.TemporaryDirectory(prefix="clerk-async-") as directory:
        path = Path(directory) / "redis.sock"
        process = await asyncio.create_subprocess_exec(
            *(server, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await _wait_for(process, path)
            yield f"unix://{path}"
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _wait_for(process: asyncio.subprocess.Process, path: Path) -> None:
    """Wait until a server accepts connections."""
    ends = time.monotonic() + ANSWER_WITHIN / 2
    while process.returncode is None and time.monotonic() < ends:
        with suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise SecondProcessError("redis-server did not start")


async def _watch(order: dict[str, str], url: str, token: str, party: str) -> None:
    try:
        async with AsyncSessionsApi(
            order["secret_key"], base_url=order["base_url"], shared_state=url
        ) as sessions:
            verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[party])
            await verifier.warm_up()
            await verifier.verify(token)
            _say(accepted=True)
            while True:
                await asyncio.sleep(_BETWEEN_TOKENS)
                try:
                    await verifier.verify(token)
                except TokenVerificationError as error:
                    if error.reason != TokenVerificationReason.SESSION_REVOKED:
                        raise
                    _say(refused_at=time.monotonic())
                    return
    except Exception as error:  # noqa: BLE001 - the demo reports it
        _say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve())
