"""The event loop of a sync client: uvloop's where it is installed and safe."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from clients import sync_client_of
from programs import run_program

from clerk_async.sync.fast_loop import _uvloop_class, loop_factory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_servers import RedisServer

    from clerk_async.testing import FakeClerk


@pytest.fixture(autouse=True)
def _loaded_anew() -> Iterator[None]:
    """Let each test load uvloop by itself."""
    _uvloop_class.cache_clear()
    yield
    _uvloop_class.cache_clear()


def loop_of_a_call(fake: FakeClerk) -> asyncio.AbstractEventLoop:
    """Return the loop that ran a call of a new client."""
    with sync_client_of(fake) as client:
        client.list(user_id="user_1")
        loop = client._thread.private().loop
        assert loop is not None
        return loop


@pytest.mark.promise("sync-uvloop")
@pytest.mark.parametrize(
    ("variable", "debugs"),
    [("PYTHONDEVMODE", False), ("PYTHONDEVMODE", True), ("PYTHONASYNCIODEBUG", True)],
)
def test_a_client_uses_uvloop_if_it_is_installed_outside_of_debug_mode(
    variable: str, debugs: bool, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be set. In debug mode, uvloop itself can crash the interpreter."""
    pytest.importorskip("uvloop", reason="the extra speed is not installed")
    monkeypatch.setenv("PYTHONDEVMODE", "")
    monkeypatch.setenv(variable, "1" if debugs else "")
    ended = run_program(
        """
        import uvloop
        from clerk_async import SessionsApi
        with SessionsApi() as client:
            client.list(user_id="user_1")
            print(isinstance(client._thread.private().loop, uvloop.Loop))
        """,
        fake,
    )
    assert (ended.code, ended.out, ended.err) == (0, f"{not debugs}\n", "")


@pytest.mark.promise("sync-uvloop")
@pytest.mark.parametrize("why", ["switched off", "missing", "broken", "old", "no GIL"])
def test_a_client_uses_asyncio_otherwise(
    why: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A uvloop that can't be used is no error."""
    monkeypatch.setattr("clerk_async.sync.fast_loop._is_debugging", bool)
    if why == "switched off":
        monkeypatch.setenv("CLERK_ASYNC_NO_UVLOOP", "1")
    elif why == "missing":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    elif why == "old":
        uvloop = pytest.importorskip("uvloop", reason="the extra speed is not installed")
        monkeypatch.setattr(uvloop, "__version__", "0.22.1")
    elif why == "broken":
        monkeypatch.setitem(sys.modules, "uvloop", ModuleType("uvloop"))
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert isinstance(loop_of_a_call(fake), asyncio.BaseEventLoop)


@pytest.mark.promise("sync-uvloop")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the names of threads")
def test_libuv_starts_no_thread_of_its_own(
    fake: FakeClerk, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked child would wait for such a thread at its exit, and crash."""
    pytest.importorskip("uvloop", reason="the extra speed is not installed")
    monkeypatch.setenv("PYTHONDEVMODE", "")
    ended = run_program(
        """
        import os, pathlib, sys, time, warnings
        from clerk_async import ConnectError, RetryPolicy, SessionsApi
        warnings.simplefilter("ignore", DeprecationWarning)
        once = RetryPolicy(attempts=1)
        client = SessionsApi(base_url=sys.argv[1], shared_state=sys.argv[2], retry=once)
        nobody = SessionsApi(base_url="https://nobody.invalid", retry=once)
        client.list(user_id="user_1")
        client.deny(session_id="sess_1")
        try:
            nobody.list(user_id="user_1")
        except ConnectError:
            print("no such host")
        ends = time.monotonic() + 20
        while not client.shared_status().connected and time.monotonic() < ends:
            time.sleep(0.01)
        names = [each.read_text() for each in pathlib.Path("/proc/self/task").glob("*/comm")]
        print([each for each in names if "uv" in each], client.shared_status().connected)
        child = os.fork()
        if not child:
            client.list(user_id="user_1")
            sys.exit(0)
        print(os.waitpid(child, 0)[1], client.list(user_id="user_1").total_count)
        """,
        fake,
        fake.base_url.replace("127.0.0.1", "localhost"),
        redis_server.url.replace("127.0.0.1", "localhost"),
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["no such host", "[] True", "0 0"]


def test_each_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asyncio does it."""
    pytest.importorskip("uvloop", reason="the extra speed is not installed")
    look_up = socket.getaddrinfo

    def two_addresses(host: str, *args: Any) -> list[Any]:
        if host != "two.example":
            return look_up(host, *args)
        if args[-1] & socket.AI_NUMERICHOST:
            raise socket.gaierror
        return [*look_up("127.0.0.2", *args), *look_up("127.0.0.1", *args)]

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def serve_and_connect() -> bytes:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("two.example", port)
            greeting = await reader.read()
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("two.example", port)
        return greeting

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    monkeypatch.setattr("clerk_async.sync.fast_loop._is_debugging", bool)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(serve_and_connect()) == b"hello"
