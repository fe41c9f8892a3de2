"""One client, one service and faults between them; at the end the books are compared.

A `World` makes calls and notes what the client reported for each. `settle` closes the client and
compares that with the state of the service and with what passed the proxy.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import attrs
from chaos_books import PAGE_SIZE, SESSIONS_OF_A_USER, Books, BulkTried, Tried
from chaos_proxy import clear

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ClerkError,
    RateLimit,
    RetryPolicy,
    SessionsApi,
    Timeouts,
    TokenVerifier,
)
from clerk_async.sync.fast_loop import loop_factory
from clerk_async.testing import Fault

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from chaos_proxy import ChaosProxy

    from clerk_async.testing import FakeClerk

CALLS: Final = (
    "list",
    "iterate",
    "get",
    "revoke",
    "create",
    "refresh",
    "create_token",
    "verify_token",
    "verify_forged",
)
RUNS: Final = ("revoke_many", "revoke_stream", "revoke_all")
DEADLINE: Final = 0.3
MOST_AT_ONCE: Final = 24
"""Concurrent calls; more would wait in the test's own threads, and count as the client's time."""
VIEW_EACH: Final = 4
"""One call in this many goes through a view of the client that never retries."""
ORIGIN: Final = "http://localhost:3000"
_PASSING: Final = (500, 502, 504, 520, 522, 524)


def draw_fault(draw: random.Random) -> Fault:
    """Draw a fault of the service."""
    passes: dict[str, Any] = {"probability": draw.choice((0.1, 0.3, 0.6))}
    kinds: list[Callable[[], Fault]] = [
        lambda: Fault.status(429, retry_after=draw.choice((0, 0.05, 0.15, 0.5)), **passes),
        lambda: Fault.status(429, **passes),
        lambda: Fault.empty(503, retry_after=draw.choice((0, 0.05)), **passes),
        lambda: Fault.status(503, **passes),
        lambda: Fault.status(409, error_code="resource_locked", **passes),
        lambda: Fault.status(draw.choice(_PASSING), **passes),
        lambda: Fault.status(draw.choice(_PASSING), process=True, **passes),
        lambda: Fault.html(502, **passes),
        lambda: Fault.cut(
            draw.choice(("before", "after", "body")), reset=draw.random() < 0.5, **passes
        ),
        lambda: Fault.delayed(draw.uniform(0, 0.3), process_first=draw.random() < 0.5, **passes),
        lambda: Fault.slow_body(draw.uniform(0, 0.3), **passes),
        lambda: Fault.truncated_json(**passes),
        lambda: Fault.not_json("<html>", **passes),
        lambda: Fault.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", **passes),
        lambda: Fault.raw(b"\x16\x03\x01 this is no HTTP", **passes),
    ]
    return draw.choice(kinds)()


class World:
    """A client in a faulty world.

    Args:
        fake: The running service; nothing else uses it meanwhile.
        proxy: The proxy in front of it.
        name: Part of every id, so that nothing of another world is counted.
        folder: The folder for journals.
        is_sync: Whether the client is a SessionsApi, called from threads.
        attempts: The attempts of the client's retry policy.
        pool_size: The pool size of the client.
        patience: Seconds for one attempt, and for what the service may ask to wait: the call's
            deadline has to hold where they are longer.
    """

    def __init__(
        self,
        fake: FakeClerk,
        proxy: ChaosProxy,
        name: str,
        folder: Path,
        *,
        is_sync: bool = False,
        attempts: int = 3,
        pool_size: int = 10,
        patience: float = 0.12,
    ) -> None:
        self.fake = fake
        self.proxy = proxy
        self.name = name
        self.folder = folder
        self.pool_size = pool_size
        self.tried: list[Tried] = []
        self.bulks: list[BulkTried] = []
        self.books = Books(fake, proxy)
        self.policy = RetryPolicy(
            attempts=attempts,
            deadline=DEADLINE,
            base_delay=0.01,
            max_delay=0.05,
            max_retry_after=2 * patience,
        )
        self._threads_before = self._started_threads()
        if is_sync:
            loop_factory()().close()  # with uvloop's first loop, libuv opens a pipe for good
        self._fds_before = open_files()
        options: dict[str, Any] = {
            "base_url": proxy.base_url,
            "retry": self.policy,
            "timeout": Timeouts(connect=0.7 * patience, attempt=patience),
            "pool_size": pool_size,
        }
        self._threads: ThreadPoolExecutor | None = None
        if is_sync:
            self.client: Any = SessionsApi(fake.secret_key, **options)
            self._threads = ThreadPoolExecutor(MOST_AT_ONCE)
        else:
            self.client = AsyncSessionsApi(fake.secret_key, **options)
        kind = TokenVerifier if is_sync else AsyncTokenVerifier
        self.verifier: Any = kind(  # its keys expire fast, so that it meets the faults too
            sessions=self.client,
            authorized_parties=[ORIGIN],
            key_ttl=0.2,
            key_max_age=0.6,
            token_cache_size=4,
        )
        self.view = self.client.with_options(retry=attrs.evolve(self.policy, attempts=1))
        self._watch: asyncio.Task[None] | None = None

    # -- events ---------------------------------------------------------------------------------

    async def calls(
        self, plan: Iterable[tuple[str, float | None]], *, close_after: float | None = None
    ) -> None:
        """Make concurrent calls; cancel some, or close the client, after the given seconds."""
        if self._watch is None:
            self._watch = asyncio.create_task(self.books.lateness.measure())
        jobs = [asyncio.create_task(self._one(*entry)) for entry in plan]
        if close_after is not None:
            await asyncio.sleep(close_after)
            await self._close()
        for job in jobs:
            await job

    async def bulk(self, method: str, count: int, deadline: float | None) -> None:
        """Revoke some sessions and an unknown one, in one of three ways."""
        if self._watch is None:
            self._watch = asyncio.create_task(self.books.lateness.measure())
        number = len(self.bulks)
        user = f"user_{self.name}bulk{number}x"
        ids = [self._new_session(user) for _ in range(count)]
        unknown: set[str] = set()
        if method != "revoke_all":
            unknown.add(f"sess_{self.name}bulkunknown{number}x")
            ids[count // 2 : count // 2] = unknown
        spared, journal = self._new_session(user), self.folder / f"{self.name}-{number}.jsonl"
        run = BulkTried(method, ids, unknown, journal, user, spared)
        self.bulks.append(run)
        await self._run_bulk(self.client, run, deadline)

    async def _run_bulk(self, client: Any, run: BulkTried, deadline: float | None) -> None:
        options: dict[str, Any] = {
            "journal": run.journal,
            "rate_limit": RateLimit(10_000),
            "deadline": deadline,
        }
        run.outcomes.clear()
        run.has_ended = False
        try:
            async with asyncio.timeout(30):
                if run.method == "revoke_stream":
                    await self._do(lambda: self._read_stream(client, run, options))
                else:
                    options["on_outcome"] = run.outcomes.append
                    run.report = await self._do(lambda: _report_of(client, run, options))
            run.has_ended = True
        except ClerkError:
            return

    def _read_stream(self, client: Any, run: BulkTried, options: dict[str, Any]) -> Any:
        stream = client.revoke_stream(run.ids, **options)
        if self._threads is not None:
            run.outcomes.extend(stream)
            return None

        async def read() -> None:
            async with aclosing(stream):
                async for outcome in stream:
                    run.outcomes.append(outcome)

        return read()

    async def _do(self, call: Callable[[], Any]) -> Any:
        if self._threads is None:
            return await call()
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _one(self, operation: str, cancel_after: float | None) -> None:
        through_view = len(self.tried) % VIEW_EACH == VIEW_EACH - 1
        api = self.view if through_view else self.client
        policy = attrs.evolve(self.policy, attempts=1) if through_view else self.policy
        tried = Tried(operation, self._make_key(operation), policy, cancelled_at=cancel_after)
        self.tried.append(tried)
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(self._do(self._call_of(tried, api)))
        began = loop.time()
        if cancel_after is not None and self._threads is None:
            loop.call_later(cancel_after, call.cancel)
        done, _ = await asyncio.wait([call], timeout=20)
        tried.elapsed = loop.time() - began
        tried.was_closed = self.books.is_closed
        assert done, f"{operation} hangs"
        if call.cancelled():
            assert cancel_after is not None, f"{operation} was cancelled, but not by us"
            tried.error = asyncio.CancelledError()
        elif (error := call.exception()) is not None:
            tried.error = error
            tried.attempts = getattr(error, "attempts", None)
        elif operation in {"iterate", "verify_token", "verify_forged"}:
            tried.value = call.result()
        else:
            tried.value, tried.attempts = call.result().data, call.result().attempts

    def _make_key(self, operation: str) -> str:
        number = len(self.tried)
        user = f"user_{self.name}n{number}x"
        if operation == "create":
            return self.fake.add_user(user)
        if operation in {"list", "iterate"}:
            for _ in range(SESSIONS_OF_A_USER):
                self.fake.add_session(user_id=user)
            return user
        return self._new_session(user)

    def _new_session(self, user: str) -> str:
        return self.fake.add_session(user_id=user).id

    def _call_of(self, tried: Tried, client: Any) -> Callable[[], Any]:
        api, key = client.with_http_info, tried.key
        match tried.operation:
            case "list":
                return lambda: api.list(user_id=key, limit=100)
            case "iterate":
                return lambda: self._walk(client, key)
            case "create":
                return lambda: api.create(key)
            case "refresh":
                expired = self.fake.expired_token(key)
                refresh = self.fake.sessions[key].refresh_token
                return lambda: api.refresh(
                    key, expired_token=expired, refresh_token=refresh, request_origin=ORIGIN
                )
            case "verify_token" | "verify_forged":
                token = self.fake.mint(key)
                if tried.operation == "verify_forged":
                    token = token[:-8] + ("AAAAAAAA" if token[-8] != "A" else "BBBBBBBB")
                return lambda: self.verifier.verify(token)
            case name:
                return lambda: getattr(api, name)(key)

    def _walk(self, client: Any, user: str) -> Any:
        pages = client.iterate(user_id=user, page_size=PAGE_SIZE)
        if self._threads is not None:
            return list(pages)

        async def walk() -> Any:
            return [session async for session in pages]

        return walk()

    # -- the books ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Close the client, and check everything."""
        self.fake.clear_faults()
        self.fake.release()
        for run in self.bulks:
            if not self.books.is_closed and run.has_ended:
                await self._in_good_weather(run)
        if not self.books.is_closed:
            await self._pool_holds()
        await self._close()
        await self._nothing_is_left()
        sent = self.proxy.bodies()
        for tried in self.tried:
            try:
                self.books.check(tried, sent)
            except AssertionError as error:
                raise AssertionError(f"{error}\nafter {tried!r}") from None

    async def _in_good_weather(self, run: BulkTried) -> None:
        self.books.check_bulk(run)
        done: set[str] = set()
        self.proxy.listen_again()
        ways, self.proxy.way_of = self.proxy.way_of, clear
        self.proxy.drop_all()
        patient = self.client.with_options(timeout=10.0, retry=RetryPolicy())
        for _ in range(3):  # a connection that was cut just now may take another round
            done |= run.done
            await self._run_bulk(patient, run, None)
            if run.has_ended and all(one.status.is_done for one in run.outcomes):
                break
        self.proxy.way_of = ways
        self.books.check_finished(run, done)

    async def _pool_holds(self) -> None:
        """Check that finished calls hold no connection except those kept in the pool."""
        for _ in range(1000):
            if self.proxy.open_connections <= self.pool_size:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"{self.proxy.open_connections} connections are open")

    async def _close(self) -> None:
        if self.books.is_closed:
            return
        self.books.is_closed = True
        if self._threads is None:
            await self.client.aclose()
        else:
            await asyncio.get_running_loop().run_in_executor(self._threads, self.client.close)

    async def _nothing_is_left(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._threads is not None:
            self._threads.shutdown()
        own = {asyncio.current_task()}
        left: list[object] = []
        async with asyncio.timeout(20):
            while self.proxy.open_connections or self.fake.open_connections:  # noqa: ASYNC110 - threads
                await asyncio.sleep(0.002)
        for _ in range(500):
            left = [
                *(task for task in asyncio.all_tasks() if task not in own),
                *(self._started_threads() - self._threads_before - self._threads_of_loops()),
                *self._files_left(),
            ]
            if not left:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"left behind: {left}")

    @staticmethod
    def _started_threads() -> set[threading.Thread]:
        """Return the threads that were started; Python 3.11 keeps names of others forever."""
        return {each for each in threading.enumerate() if not each.name.startswith("Dummy-")}

    def _threads_of_loops(self) -> set[threading.Thread]:
        """Return the threads that this loop and the service's loop keep for blocking work."""
        found: set[threading.Thread] = set()
        served = self.fake._run
        assert served is not None
        for loop in (asyncio.get_running_loop(), served._loop):
            executor: Any = getattr(loop, "_default_executor", None)
            found |= set() if executor is None else executor._threads
        return found

    def _files_left(self) -> set[str]:
        now = open_files()  # the proxy may have a new listening socket by now
        return now - self._fds_before if len(now) > len(self._fds_before) else set()


def _report_of(client: Any, run: BulkTried, options: dict[str, Any]) -> Any:
    if run.method == "revoke_many":
        return client.revoke_many(run.ids, **options)
    return client.revoke_all(user_id=run.user, except_session_ids=[run.spared], **options)


def open_files() -> set[str]:
    """Return the open file descriptors, without that of the listing itself."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are enough
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
        except OSError:
            continue
    return found
