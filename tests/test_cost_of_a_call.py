# pyright: reportUnknownMemberType=false
# (the type hints of trustme name packages that may not be installed)
"""What a call costs, in counts that don't depend on the machine.

They are function calls, turns of the loop, timers and memory: a change that makes every call more
expensive shows here, before anybody measures time. Each bound corresponds to a bound in
`benchmarks/cases.py`, or to a promise that has none there, and each test says to which. A bound may
be lowered, but never raised: an addition to a call must be compensated elsewhere in it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import ssl
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection, create_server
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

import clerk_async
from clerk_async import (
    AsyncSessionsApi,
    ConnectError,
    RateLimit,
    RetryPolicy,
    SessionsApi,
    TokenVerifier,
)
from clerk_async.http.decode import decode_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from socket import socket
    from types import FrameType

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.may_block  # the check for a blocked loop would be counted too

PACKAGE = str(Path(clerk_async.__file__).parent)
CALLS = 200


def _session(number: int) -> dict[str, Any]:
    times = ("last_active_at", "expire_at", "abandon_at", "updated_at", "created_at")
    return {
        "object": "session",
        "id": f"sess_{number}",
        "user_id": "user_1",
        "client_id": "client_1",
        "status": "revoked",
        "latest_activity": {"object": "session_activity", "id": "a_1", "is_mobile": False},
        **dict.fromkeys(times, 1_760_000_000_000),
    }


def _answer(body: object) -> bytes:
    raw = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(raw) + raw


LONG = _answer({**_session(1), "id": "sess_long", "padding": "x" * 900_000})


def _reply_to(head: bytes) -> bytes:
    """Make a response that fits the request, head and body in one, so that counts never vary."""
    target = head.split()[1].decode()
    if "/sess_long/" in target:
        return LONG
    if head.startswith(b"GET"):
        user = target.partition("user_id=")[2].partition("&")[0]
        return _answer({"data": [{**_session(1), "user_id": user}], "total_count": 1})
    return _answer({**_session(1), "id": target.split("/")[3]})


def _answer_all(connection: socket, context: ssl.SSLContext | None) -> None:
    pending = bytearray()
    if context is not None:
        connection = context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True)
    with connection:
        while data := connection.recv(65536):
            pending.extend(data)
            while (end := pending.find(b"\r\n\r\n")) >= 0:
                head = bytes(pending[:end])
                del pending[: end + 4]
                connection.sendall(_reply_to(head))


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Generator[str]:
    """Run a stateless server: it returns a session for every POST and a page for every GET."""
    with create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                if is_over.is_set():
                    connection.close()
                    return
                thread = threading.Thread(target=_answer_all, args=(connection, context))
                thread.start()
                threads.append(thread)

        is_over = threading.Event()
        accepting = threading.Thread(target=accept)
        accepting.start()
        host, port = listening.getsockname()
        try:
            yield f"http{'' if context is None else 's'}://{host}:{port}/v1"
        finally:
            is_over.set()
            create_connection((host, port)).close()  # wakes the accepting thread
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.fixture
def static_url() -> Generator[str]:
    """Return the URL of a plain HTTP server."""
    with serving() as url:
        yield url


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is added to the loop: callbacks (each step of a task is one) and timers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        for name in ("call_soon", "call_at", "create_task"):
            setattr(self, name, self._counted(name, getattr(self, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.counts[name] += 1
            return function(*args, **options)

        return counted


@contextmanager
def counted_calls() -> Generator[Counter[str]]:
    """Count the function calls of this thread: all, and those of our own functions.

    Each resumption of a coroutine counts as another call, as the interpreter sees it.
    """
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            counts["all"] += 1
            if frame.f_code.co_filename.startswith(PACKAGE):
                counts["ours"] += 1
        elif event == "c_call":
            counts["all"] += 1

    before = sys.getprofile()
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(before)
        gc.enable()


async def _count(call: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Return the average counts of one call on a warm client."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    for _ in range(20):
        await call()
    loop.counts.clear()
    with counted_calls() as calls:
        for _ in range(CALLS):
            await call()
    return calls + loop.counts


def _run(main: Callable[[], Any]) -> Any:
    """Run on a counting loop, without the overhead of debug mode."""
    with asyncio.Runner(debug=False, loop_factory=CountingLoop) as runner:
        runner.get_loop().set_debug(enabled=False)
        return runner.run(main())


async def _ours(url: str) -> Counter[str]:
    async with AsyncSessionsApi("sk_test_x", base_url=url) as sessions:
        return await _count(lambda: sessions.revoke("sess_1"))


async def _our_list(url: str) -> Counter[str]:
    users = (f"user_{number}" for number in itertools.count())
    async with AsyncSessionsApi("sk_test_x", base_url=url) as sessions:
        return await _count(lambda: sessions.list(user_id=next(users), limit=1))


async def _bare(url: str, method: str = "POST", path: str = "/sess_1/revoke") -> Counter[str]:
    headers = {"Authorization": "Bearer sk_test_x", "Clerk-API-Version": "2026-05-12"}
    numbers = itertools.count()  # a URL that was used before is cached
    async with aiohttp.ClientSession(headers=headers) as http:

        async def call() -> object:
            target = f"{url}/sessions{path}".replace("{}", str(next(numbers)))
            async with http.request(method, target) as response:
                return json.loads(await response.read())

        return await _count(call)


@pytest.mark.promise("cost-of-a-call")
def test_a_call_makes_fewer_function_calls_than_bare_aiohttp(static_url: str) -> None:
    """Including models, retries, deadline, pool and closing.

    Corresponds to the bounds "async one by one" and "async 64 at once, of bare aiohttp".
    """
    ours, bare = _run(lambda: _ours(static_url)), _run(lambda: _bare(static_url))
    assert ours["all"] <= bare["all"] * 0.96, (ours, bare)


def test_a_short_list_makes_no_more_function_calls_than_bare_aiohttp(static_url: str) -> None:
    """Including query, page and models.

    Corresponds to "async one by one, of bare aiohttp" for lists, which have no bound of their own
    when they are short.
    """
    ours = _run(lambda: _our_list(static_url))
    path = "?user_id=user_{}&paginated=true&limit=1"
    bare = _run(lambda: _bare(static_url, "GET", path))
    assert ours["all"] <= bare["all"], (ours, bare)


def test_our_own_layers_stay_thin(static_url: str) -> None:
    """Counts the functions of this package that run for one revocation, with each resumption.

    Corresponds to "async one by one, of bare aiohttp" too: a call in Python costs as much as
    several in C.
    """
    ours = _run(lambda: _ours(static_url))
    assert ours["ours"] / CALLS <= 32.1, ours


def test_a_call_takes_no_more_turns_of_the_loop_than_bare_aiohttp(static_url: str) -> None:
    """A successful request adds no task, no timer and no callback.

    Corresponds to "async 64 at once, of bare aiohttp": everything added to the loop delays all
    others.
    """
    ours, bare = _run(lambda: _ours(static_url)), _run(lambda: _bare(static_url))
    assert ours["call_soon"] <= bare["call_soon"], (ours, bare)
    assert ours["create_task"] == 0
    assert ours["call_at"] <= 0.05 * CALLS


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_response_is_read_into_a_small_buffer(*, is_encrypted: bool) -> None:
    """With 256 KiB, asyncio's size, each response would get its buffer from the system."""
    authority, server, client = trustme.CA(), None, None
    if is_encrypted:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)

    async def peak(url: str) -> int:
        async with AsyncSessionsApi("sk_test_x", base_url=url, ssl_context=client) as sessions:
            await sessions.revoke("sess_1")
            tracemalloc.start()
            try:
                for _ in range(5):
                    await sessions.revoke("sess_1")
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    with serving(server) as url:
        assert _run(lambda: peak(url)) < 2**18


def test_a_long_response_takes_its_memory_once(static_url: str) -> None:
    """Its pieces aren't collected and joined: the memory for both would be new for each response.

    Corresponds to "list of 500, of bare aiohttp".
    """

    async def peak() -> int:
        async with AsyncSessionsApi("sk_test_x", base_url=static_url) as sessions:
            await sessions.revoke("sess_1")
            tracemalloc.start()
            try:
                await sessions.revoke("sess_long")
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert _run(peak) < len(LONG) * 1.5


LEAK = 20_000  # bytes that some hundred calls may leave


async def _left_behind(call: Callable[[], Coroutine[Any, Any, object]], times: int) -> int:
    """Return the memory that calls use permanently, each in its own task as in a server.

    A leak grows in each of three measurements; what other threads of the tests allocate does not.
    """

    async def make(count: int) -> int:
        for _ in range(count):
            await asyncio.create_task(call())
        gc.collect()
        gc.collect()  # free-threaded Python frees some objects only in the second collection
        return tracemalloc.get_traced_memory()[0]

    await make(50)
    tracemalloc.start()
    try:
        grown: list[int] = []
        while len(grown) < 3 and min(grown, default=LEAK) >= LEAK:
            before = await make(50)
            grown.append(await make(times) - before)
        return min(grown)
    finally:
        tracemalloc.stop()


@pytest.mark.promise("nothing-grows")
def test_calls_leak_no_memory(static_url: str) -> None:
    """After a thousand more calls, memory is the same except for a few odd objects.

    Corresponds to "bulk of 1,000,000, MiB added", and to clients that live for months.
    """

    async def grown() -> int:
        async with AsyncSessionsApi("sk_test_x", base_url=static_url) as sessions:
            return await _left_behind(lambda: sessions.revoke("sess_1"), 1000)

    assert _run(grown) < LEAK


@pytest.mark.promise("nothing-grows")
def test_failed_calls_leak_no_memory() -> None:
    """Neither failed connects nor the many different timeouts left by a deadline leak.

    Corresponds to clients that live for months: no bound covers an outage.
    """

    async def grown() -> int:
        hurried = RetryPolicy(attempts=1, deadline=3.0)
        async with AsyncSessionsApi(
            "sk_test_x", base_url="http://127.0.0.1:1/v1", retry=hurried
        ) as sessions:

            async def fail() -> None:
                with pytest.raises(ConnectError):
                    await sessions.revoke("sess_1")

            return await _left_behind(fail, 300)

    assert _run(grown) < LEAK


def test_a_bulk_run_has_a_constant_cost_per_id(static_url: str) -> None:
    """The function calls per id for 1,000 ids are within 5 % of those for 100.

    Corresponds to "bulk of 1,000,000, time per id of 1,000's": at most 1.1. 400 calls are 1.4 times
    those of a single revocation by bare aiohttp.
    """

    async def per_id(count: int) -> float:
        async with AsyncSessionsApi("sk_test_x", base_url=static_url) as sessions:
            unpaced = RateLimit(10**9, per=1.0)

            async def run(ids: range) -> None:
                named = (f"sess_{number}" for number in ids)
                report = await sessions.revoke_many(named, rate_limit=unpaced, concurrency=1)
                assert report.ok

            await run(range(20))
            with counted_calls() as calls:
                await run(range(count))
            return calls["all"] / count

    few, many = _run(lambda: per_id(100)), _run(lambda: per_id(1000))
    assert many <= few * 1.05
    assert many <= 400


def test_a_blocking_call_crosses_to_the_loop_once(static_url: str) -> None:
    """One wake-up and one task; in the caller's thread a few calls.

    Corresponds to the bounds "sync, of clerk-backend-api" and "sync, of httpx".
    """
    with SessionsApi("sk_test_x", base_url=static_url) as sessions:
        for _ in range(20):
            sessions.revoke("sess_1")
        with counted_calls() as calls:
            for _ in range(CALLS):
                sessions.revoke("sess_1")
    assert calls["ours"] / CALLS <= 8, calls
    if not sys.flags.dev_mode:  # there asyncio keeps the stack of every caller of the loop
        assert calls["all"] / CALLS <= 32, calls


def test_decoding_a_long_list_costs_two_calls_and_a_kilobyte_per_session() -> None:
    """Times stay integers until they are read, and no hook runs for a valid field.

    Corresponds to "list of 500, of bare aiohttp", which reads it with json.loads.
    """
    rows = [_session(number) for number in range(500)]
    for body in (json.dumps({"data": rows, "total_count": 500}), json.dumps(rows)):
        raw = body.encode()
        decode_page(raw)
        with counted_calls() as calls:
            page = decode_page(raw)
        assert len(page) == 500
        assert calls["all"] <= 500 * 2 + 30
        del page
        gc.collect()
        tracemalloc.start()
        try:
            page = decode_page(raw)
            used = tracemalloc.get_traced_memory()[0]
            assert used / len(page) <= 1024
        finally:
            tracemalloc.stop()


def test_verifying_a_token_again_is_a_cache_hit(fake_clerk: FakeClerk) -> None:
    """The signature is checked once; expiry and origin each time.

    Corresponds to the bounds "first token check" and "repeated token check".
    """
    session = fake_clerk.add_session(user_id="user_1")
    with SessionsApi(fake_clerk.secret_key, base_url=fake_clerk.base_url) as sessions:
        token = sessions.create_token(session.id).jwt
    verifier = TokenVerifier(jwt_key=fake_clerk.jwt_key)
    with counted_calls() as first:
        verifier.verify(token)
    verifier.verify(token)
    with counted_calls() as again:
        for _ in range(CALLS):
            verifier.verify(token)
    assert again["all"] / CALLS <= 30, again
    assert first["all"] <= 180, first


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import clerk_async", "asyncio aiohttp attrs msgspec cattrs anyio ssl cryptography click"),
        (
            "import clerk_async; clerk_async.AsyncSessionsApi('sk_test_x')",
            "cattrs cryptography click",
        ),
    ],
)
def test_importing_loads_nothing_heavy_before_it_is_needed(program: str, heavy: str) -> None:
    """Slow packages are imported by the first client, and some even later.

    Corresponds to the bounds "import" and "ready client".
    """
    ask = f"{program}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", ask], capture_output=True, text=True, check=True
    )
    assert not set(heavy.split()) & set(done.stdout.split())
