"""FakeClerk's life: it starts at once, stops completely, and its counters are right."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import inspect
import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from fake_calls import get, post
from programs import run_program, without_slowness

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from types import FrameType


def names() -> set[str]:
    """Return the names of the running threads."""
    return {thread.name for thread in threading.enumerate()}


class TestLife:
    def test_with_starts_and_stops_it(self) -> None:
        with FakeClerk() as fake:
            assert f"FakeClerk:{fake.port}" in names()
            assert fake.base_url == f"http://127.0.0.1:{fake.port}/v1"
            assert get(fake, "/jwks").status == 200
        assert f"FakeClerk:{fake.port}" not in names()
        with pytest.raises(ConnectionRefusedError):
            get(fake, "/jwks")

    async def test_async_with_does_too_without_blocking_the_loop(self) -> None:
        async with FakeClerk() as fake, aiohttp.ClientSession() as http:
            headers = {"Authorization": f"Bearer {fake.secret_key}"}
            async with http.get(f"{fake.base_url}/jwks", headers=headers) as reply:
                assert reply.status == 200
        assert f"FakeClerk:{fake.port}" not in names()

    async def test_async_with_stops_it_when_cancelled(self) -> None:
        entered = asyncio.Event()
        fake = FakeClerk()

        async def run() -> None:
            async with fake:
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert f"FakeClerk:{fake.port}" not in names()

    def test_start_and_stop_may_be_repeated(self) -> None:
        fake = FakeClerk()
        fake.stop()
        fake.start()
        assert fake.start() is fake
        assert get(fake, "/jwks").status == 200
        fake.stop()
        fake.stop()
        assert fake.open_connections == 0

    def test_a_restart_keeps_port_state_limits_and_faults(self) -> None:
        fake = FakeClerk(rate_limit=(3, 1000.0))
        with fake:
            session, port = fake.add_session(), fake.port
            assert get(fake, f"/sessions/{session.id}").status == 200
            fake.inject(Fault.status(500))
        assert fake.base_url.endswith(f":{port}/v1")
        with fake:
            assert fake.port == port
            found = [get(fake, f"/sessions/{session.id}").status for _ in range(4)]
            assert found == [500, 200, 200, 429]

    def test_it_has_no_address_before_it_starts(self) -> None:
        with pytest.raises(RuntimeError, match="with FakeClerk"):
            FakeClerk().base_url  # noqa: B018 - reading it is what raises

    def test_a_used_port_is_reported(self, fake: FakeClerk) -> None:
        other = FakeClerk(port=fake.port)
        with pytest.raises(OSError, match="in use"):
            other.start()
        other.stop()

    @pytest.mark.promise("fake-ends")
    def test_stopping_cuts_held_and_idle_connections(self) -> None:
        fake = FakeClerk().start()
        fake.inject(Fault.hold())
        with (
            socket.create_connection(("127.0.0.1", fake.port), timeout=10) as idle,
            socket.create_connection(("127.0.0.1", fake.port), timeout=10) as busy,
        ):
            busy.sendall(b"GET /v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n")
            fake.wait_for(lambda: fake.held == 1 and fake.open_connections == 2)
            fake.stop()
            assert idle.recv(1) == busy.recv(1) == b""
        assert (fake.open_connections, fake.in_flight, fake.held) == (0, 0, 0)

    @pytest.mark.promise("fake-ends")
    def test_stopping_closes_connections_accepted_just_before(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(30):
            fake = FakeClerk().start()
            late = [socket.create_connection(("127.0.0.1", fake.port), timeout=10) for _ in "abc"]
            fake.stop()
            for connection in late:
                connection.close()
        gc.collect()
        assert [record.getMessage() for record in caplog.records] == []

    def test_a_test_can_drop_connections(self, fake: FakeClerk) -> None:
        connection = HTTPConnection("127.0.0.1", fake.port, timeout=10)
        for _ in range(2):
            connection.request("GET", "/v1/jwks")
            connection.getresponse().read()
        assert (fake.open_connections, fake.total_connections) == (1, 1)
        assert [request.connection for request in fake.requests] == [1, 1]
        fake.drop_connections()
        fake.wait_for(lambda: fake.open_connections == 0)
        connection.close()
        assert get(fake, "/jwks").status == 200
        assert fake.total_connections == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("ending", ["", "raise SystemExit(7)", "1 / 0"])
    def test_a_program_that_never_stops_it_exits_quietly(self, ending: str) -> None:
        program = (
            "from clerk_async.testing import FakeClerk, Fault\n"
            "import http.client\n"
            "fake = FakeClerk().start()\n"
            "c = http.client.HTTPConnection('127.0.0.1', fake.port); c.request('GET', '/v1/jwks')\n"
            "assert c.getresponse().status == 401; c.close()\n"
            f"{ending}\n"
        )
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            capture_output=True,
            timeout=30,
            check=False,
            text=True,
        )
        assert done.returncode == {"": 0, "1 / 0": 1}.get(ending, 7)
        told = without_slowness(done.stderr)
        assert told == "" or (ending == "1 / 0" and "Resource" not in told)


@pytest.mark.promise("fake-ends")
class Interruption:
    """A Ctrl-C that is raised at the line of the server's code with a given number."""

    def __init__(self, strikes_at: int) -> None:
        self.lines_left = strikes_at
        self.struck: str | None = None

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """Trace the frames of the fake, except lines at which nothing could be done about it."""
        code = frame.f_code
        if not code.co_filename.endswith(("testing/server.py", "testing/fake.py")):
            return None
        is_line = event == "line" and not (
            code.co_name == "__exit__" and frame.f_lineno == code.co_firstlineno + 1
        )
        if is_line and self.struck is None:
            self.lines_left -= 1
            if self.lines_left < 0:
                self.struck = f"{code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.trace

    def run(self, fake: FakeClerk, *, stops_again: bool) -> None:
        """Start and stop a fake, with an interruption."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            with contextlib.suppress(KeyboardInterrupt), fake:
                pass
        finally:
            sys.settrace(before)
        if stops_again:
            fake.stop()


@pytest.mark.promise("fake-ends")
@pytest.mark.parametrize("stops_again", [False, True])
def test_an_interrupted_start_or_stop_leaves_no_thread(stops_again: bool) -> None:
    """It leaves no socket either: it can be started again at once, on the same port."""
    strikes_at, places, before = 0, set[str](), names()
    fake = FakeClerk(sessions=1)
    while True:
        interruption = Interruption(strikes_at)
        interruption.run(fake, stops_again=stops_again)
        for thread in threading.enumerate():
            if thread.name.startswith("FakeClerk") and thread.name not in before:
                thread.join(10)
        assert names() <= before, interruption.struck
        if interruption.struck is None:
            break
        places.add(interruption.struck.split(":")[0])
        strikes_at += 1
    assert places > {"start", "stop", "begin", "end", "wait", "__enter__", "_make_wire"}
    with fake:
        assert get(fake, "/jwks").status == 200


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are Unix's")
def test_a_forked_child_keeps_no_socket_of_it_open() -> None:
    """Otherwise clients of a stopped fake would wait forever, and its port would stay in use."""
    ended = run_program(
        """
        import os, socket, sys, warnings
        from clerk_async.testing import FakeClerk
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
        fake = FakeClerk().start()
        address = ("127.0.0.1", fake.port)
        with socket.create_connection(address, timeout=5) as idle:
            fake.wait_for(lambda: fake.open_connections == 1)
            hears, tells = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(tells)
                os.read(hears, 1)
                fake.stop()
                os._exit(len(fake.sessions))
            idle.sendall(b"GET /v1/jwks HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            print(idle.recv(12))
            fake.stop()
            while idle.recv(1000):
                pass
        try:
            socket.create_connection(address, timeout=5)
        except ConnectionRefusedError:
            print("refused")
        with fake, socket.create_connection(address, timeout=5):
            print("the same port")
        os.close(tells)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        None,
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == ["b'HTTP/1.1 401'", "refused", "the same port", "0"]


class TestTransport:
    async def test_responses_are_compressed_if_the_client_accepts_it(self) -> None:
        async with (
            FakeClerk(compress=True) as fake,
            aiohttp.ClientSession(auto_decompress=False) as http,
        ):
            url = f"{fake.base_url}/sessions/sess_1"
            async with http.get(url, headers={"Accept-Encoding": "gzip"}) as reply:
                assert reply.headers["Content-Encoding"] == "gzip"
                assert b"authorization" in gzip.decompress(await reply.read())
            async with http.get(url, headers={"Accept-Encoding": "identity"}) as reply:
                assert "Content-Encoding" not in reply.headers

    @pytest.mark.parametrize("reset", [False, True])
    async def test_https_works(self, reset: bool) -> None:
        authority = trustme.CA()
        server, client = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            ssl.create_default_context(),
        )
        authority.issue_cert("127.0.0.1").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
        authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
        async with FakeClerk(ssl_context=server) as fake, aiohttp.ClientSession() as http:
            assert fake.base_url.startswith("https://")
            async with http.get(f"{fake.issuer}/.well-known/jwks.json", ssl=client) as reply:
                assert reply.status == 200
            fake.inject(Fault.cut("after", reset=reset))
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.post(f"{fake.base_url}/sessions/s/revoke", ssl=client)


class TestWaiting:
    def test_wait_for_returns_when_the_condition_holds(self, fake: FakeClerk) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(fake.wait_for, lambda: len(fake.requests) == 2)
            get(fake, "/jwks")
            get(fake, "/jwks")
            waiting.result(timeout=5)

    def test_waiting_for_a_condition_that_never_holds_times_out(self, fake: FakeClerk) -> None:
        with pytest.raises(TimeoutError, match="0 requests in flight"):
            fake.wait_for(lambda: fake.requests, timeout=0.01)

    @pytest.mark.parametrize("wait", [FakeClerk.wait_for, FakeClerk.until])
    def test_the_default_timeout_outlasts_the_stalls_of_a_busy_machine(self, wait: Any) -> None:
        assert inspect.signature(wait).parameters["timeout"].default == 30

    async def test_until_does_not_block_the_loop(self, fake: FakeClerk) -> None:
        fake.inject(Fault.hold(count=None))
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(None, get, fake, "/jwks") for _ in range(3)]
        await fake.until(lambda: fake.held == 3)
        fake.release()
        assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 3
        await fake.until(lambda: True)
        with pytest.raises(TimeoutError, match="was not met"):
            await fake.until(lambda: False, timeout=0.01)


class TestLoad:
    def test_concurrent_threads_lose_nothing(self) -> None:
        with FakeClerk(sessions=400) as fake, ThreadPoolExecutor(16) as pool:
            paths = [f"/sessions/{session_id}/revoke" for session_id in fake.sessions]
            replies = list(pool.map(partial(post, fake), paths))
            assert {reply.status for reply in replies} == {200}
            assert {session.status for session in fake.sessions.values()} == {"revoked"}
            assert len(fake.requests) == 400
            assert fake.max_open_connections <= 16
            fake.wait_for(lambda: fake.open_connections == 0)

    def test_sessions_can_be_iterated_while_they_grow(self, fake: FakeClerk) -> None:
        first = fake.add_session()
        for session_id in fake.sessions:
            assert session_id == first.id
            fake.add_session()
        assert len(fake.sessions) == 2
        with pytest.raises(KeyError):
            fake.sessions["sess_no"]
