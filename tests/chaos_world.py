"""One client, one service and the bad weather between them; and the books that are compared after.

A `World` makes calls, notes what the client said of each, and `settle` closes the client and holds
that against what the service has and against what passed the proxy.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import attrs
from chaos_proxy import clear

from clerk_async import (
    ApiError,
    AsyncSessionsApi,
    AuthenticationError,
    BadRequestError,
    ClerkError,
    ClientClosedError,
    ConnectError,
    RateLimit,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
    RevocationOutcome,
    RevocationStatus,
    SessionsApi,
    Timeouts,
    TransportError,
)
from clerk_async.testing import Fault

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from chaos_proxy import ChaosProxy

    from clerk_async.testing import FakeClerk
    from clerk_async.testing.record import ReceivedRequest

CALLS: Final = ("list", "iterate", "get", "revoke", "create", "refresh", "create_token")
SLACK: Final = 0.1
"""Seconds that a call may end late for the machine's sake, besides the loop's measured lateness."""
DEADLINE: Final = 0.3
MOST_AT_ONCE: Final = 24
"""Calls at once; more would wait in the test's own threads, and count as the client's time."""
ORIGIN: Final = "http://localhost:3000"
_PAGE: Final = 2
_OF_A_USER: Final = 5
_PASSING: Final = (500, 502, 504, 520, 522, 524)


@attrs.define
class Tried:
    """One call: what it was for, and how it ended.

    Attributes:
        operation: Which.
        key: The session's id, or the user's for `list`, `iterate` and `create`.
        value: What came back.
        attempts: The attempts that the client told of; None where it told nothing.
        error: What was raised.
        elapsed: Seconds that it took.
        cancelled_at: When it was cancelled, in seconds from its beginning.
    """

    operation: str
    key: str
    value: Any = None
    attempts: int | None = None
    error: BaseException | None = None
    elapsed: float = 0.0
    cancelled_at: float | None = None

    @property
    def may_have_arrived(self) -> bool:
        """Whether the client says that the service may have acted on it."""
        return isinstance(self.error, ResponseDecodeError) or getattr(
            self.error, "_may_have_arrived", True
        )

    @property
    def needle(self) -> bytes:
        """What stands in each sending of it, and in no other's."""
        match self.operation:
            case "list" | "iterate":
                return f"user_id={self.key}&".encode()
            case "create":
                return f'"user_id":"{self.key}"'.encode()
            case "get":
                return f"GET /v1/sessions/{self.key} HTTP".encode()
            case "create_token":
                return f"POST /v1/sessions/{self.key}/tokens HTTP".encode()
            case name:
                return f"POST /v1/sessions/{self.key}/{name} HTTP".encode()

    def is_of(self, request: ReceivedRequest) -> bool:
        """Whether a request that arrived was made for it."""
        if self.operation in {"list", "iterate"}:
            return f"user_id={self.key}&" in request.query_string
        if self.operation == "create":
            return self.needle in request.body
        return request.session_id == self.key and request.operation == self.operation


@attrs.define
class BulkTried:
    """One bulk run: its ids, what it told, and its journal."""

    ids: list[str]
    unknown: set[str]
    journal: Path
    outcomes: list[RevocationOutcome] = attrs.field(factory=list[RevocationOutcome])
    report: Any = None
    error: BaseException | None = None


def draw_fault(draw: random.Random) -> Fault:
    """Draw something that the service does wrong."""
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
    """A client in bad weather.

    Args:
        fake: The service, already running; nobody else uses it meanwhile.
        proxy: The way to it.
        name: Stands in every id, so that nothing of another world is counted.
        folder: For journals.
        is_sync: Whether the client is a SessionsApi, called from threads.
        attempts: Of the client's policy.
        pool_size: Of the client.
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
        self.tried: list[Tried] = []
        self.bulks: list[BulkTried] = []
        self.lateness = 0.0
        self.policy = RetryPolicy(
            attempts=attempts,
            deadline=DEADLINE,
            base_delay=0.01,
            max_delay=0.05,
            max_retry_after=2 * patience,
        )
        self._threads_before = set(threading.enumerate())
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
        self._watch: asyncio.Task[None] | None = None
        self._is_closed = False

    # -- what happens ---------------------------------------------------------------------------

    async def calls(
        self, plan: Iterable[tuple[str, float | None]], *, close_after: float | None = None
    ) -> None:
        """Make calls at once; some are cancelled after so many seconds, or the client closed."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._measure_lateness())
        jobs = [asyncio.create_task(self._one(*entry)) for entry in plan]
        if close_after is not None:
            await asyncio.sleep(close_after)
            await self._close()
        for job in jobs:
            await job

    async def bulk(self, count: int, deadline: float | None) -> None:
        """Revoke so many sessions, and a few that there aren't, with a journal."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._measure_lateness())
        number = len(self.bulks)
        ids = [self._new_session("bulk") for _ in range(count)]
        unknown = f"sess_{self.name}bulkunknown{number}x"
        ids.insert(count // 2, unknown)
        run = BulkTried(ids, {unknown}, self.folder / f"{self.name}-{number}.jsonl")
        self.bulks.append(run)
        await self._run_bulk(run, deadline)

    async def _run_bulk(self, run: BulkTried, deadline: float | None) -> None:
        def revoke_many() -> Any:
            return self.client.revoke_many(
                run.ids,
                journal=run.journal,
                rate_limit=RateLimit(10_000),
                deadline=deadline,
                on_outcome=run.outcomes.append,
            )

        run.outcomes.clear()
        try:
            async with asyncio.timeout(30):
                run.report = await self._do(revoke_many)
        except ClerkError as error:
            run.error = error

    async def _do(self, call: Callable[[], Any]) -> Any:
        if self._threads is None:
            return await call()
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _one(self, operation: str, cancel_after: float | None) -> None:
        tried = Tried(operation, self._make_key(operation), cancelled_at=cancel_after)
        self.tried.append(tried)
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(self._do(self._call_of(tried)))
        began = loop.time()
        if cancel_after is not None and self._threads is None:
            loop.call_later(cancel_after, call.cancel)
        done, _ = await asyncio.wait([call], timeout=20)
        tried.elapsed = loop.time() - began
        assert done, f"{operation} hangs"
        if call.cancelled():
            assert cancel_after is not None, f"{operation} was cancelled by nobody"
            tried.error = asyncio.CancelledError()
        elif (error := call.exception()) is not None:
            tried.error = error
            tried.attempts = getattr(error, "attempts", None)
        elif operation == "iterate":
            tried.value = call.result()
        else:
            tried.value, tried.attempts = call.result().data, call.result().attempts

    def _make_key(self, operation: str) -> str:
        number = len(self.tried)
        user = f"user_{self.name}n{number}x"
        if operation == "create":
            return self.fake.add_user(user)
        if operation in {"list", "iterate"}:
            for _ in range(_OF_A_USER):
                self.fake.add_session(user_id=user)
            return user
        return self._new_session(user)

    def _new_session(self, user: str) -> str:
        return self.fake.add_session(user_id=user).id

    def _call_of(self, tried: Tried) -> Callable[[], Any]:
        api, key = self.client.with_http_info, tried.key
        match tried.operation:
            case "list":
                return lambda: api.list(user_id=key, limit=100)
            case "iterate":
                return lambda: self._walk(key)
            case "create":
                return lambda: api.create(key)
            case "refresh":
                expired = self.fake.expired_token(key)
                refresh = self.fake.sessions[key].refresh_token
                return lambda: api.refresh(
                    key, expired_token=expired, refresh_token=refresh, request_origin=ORIGIN
                )
            case name:
                return lambda: getattr(api, name)(key)

    def _walk(self, user: str) -> Any:
        pages = self.client.iterate(user_id=user, page_size=_PAGE)
        if self._threads is not None:
            return list(pages)

        async def walk() -> Any:
            return [session async for session in pages]

        return walk()

    async def _measure_lateness(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self.lateness = max(self.lateness, loop.time() - due)

    # -- the books ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Close, and check everything."""
        self.fake.clear_faults()
        self.fake.release()
        for run in self.bulks:
            if not self._is_closed and run.error is None:
                await self._in_good_weather(run)
        await self._close()
        await self._nothing_is_left()
        sent = self.proxy.bodies()
        for tried in self.tried:
            try:
                self._check(tried, sent)
            except AssertionError as error:
                raise AssertionError(f"{error}\nafter {tried!r}") from None

    async def _in_good_weather(self, run: BulkTried) -> None:
        self._check_bulk(run)
        before = {outcome.session_id for outcome in run.outcomes if outcome.status.is_done}
        self.proxy.listen_again()
        ways, self.proxy.way_of = self.proxy.way_of, clear
        self.proxy.drop_all()
        for _ in range(3):  # what was cut just now may cost a round
            await self._run_bulk(run, None)
            if run.report is not None and run.report.ok:
                break
        self.proxy.way_of = ways
        assert run.report is not None
        assert run.report.ok, f"a resumed run must finish the job: {run.report}"
        assert run.report.resumed >= len(before), "what was done is not done again"
        live = [one for one in run.ids if one not in run.unknown and self._status(one) != "revoked"]
        assert not live, f"said to be done, and still live: {live}"

    def _check_bulk(self, run: BulkTried) -> None:
        report, seen = run.report, [outcome.session_id for outcome in run.outcomes]
        assert len(seen) == len(set(seen)), "an outcome was told twice"
        assert sorted(map(str, seen)) == sorted(run.ids), "every id has one outcome"
        counts = [getattr(report, status.value) for status in RevocationStatus]
        assert sum(counts) + report.resumed == report.total == len(run.ids)
        sent = self.proxy.bodies()
        lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
        journaled = {line["id"]: line["status"] for line in lines if "id" in line}
        for outcome in run.outcomes:
            one = str(outcome.session_id)
            sends = sent.count(f"POST /v1/sessions/{one}/revoke HTTP".encode())
            status = self._status(one)
            assert sends <= outcome.attempts, f"{one}: {sends} sends, {outcome.attempts} told"
            assert journaled.get(one) in {outcome.status.value, None if not sends else "failed"}, (
                f"{one}: the journal says {journaled.get(one)}, the outcome {outcome.status}"
            )
            match outcome.status:
                case RevocationStatus.REVOKED | RevocationStatus.ALREADY_INACTIVE:
                    assert status == "revoked", f"{one} is said to be revoked"
                case RevocationStatus.NOT_FOUND:
                    assert one in run.unknown
                case RevocationStatus.NOT_ATTEMPTED:
                    assert not sends
                    assert status in {"active", None}
                case _:
                    assert outcome.error is not None
                    if status == "revoked":
                        told = getattr(outcome.error, "_may_have_arrived", True)
                        assert told or outcome.attempts > 1, f"{one} was revoked, and denied"

    def _status(self, session_id: str) -> str | None:
        session = self.fake.sessions.get(session_id)
        return None if session is None else session.status

    async def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
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
                *(set(threading.enumerate()) - self._threads_before - _threads_of_the_loop()),
                *self._files_left(),
            ]
            if not left:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"left behind: {left}")

    def _files_left(self) -> set[str]:
        now = open_files()  # the proxy's own listening socket may be another one by now
        return now - self._fds_before if len(now) > len(self._fds_before) else set()

    def _check(self, tried: Tried, sent: bytes) -> None:
        sends = sent.count(tried.needle)
        arrived = [request for request in list(self.fake.requests) if tried.is_of(request)]
        self._check_time(tried)
        self._check_kind(tried)
        if tried.operation == "iterate":
            if tried.error is None:
                found = sorted(session.id for session in tried.value)
                assert found == self._ids_of(tried.key), "a page was lost or came twice"
            return
        if tried.attempts is not None:
            assert sends <= tried.attempts <= self.policy.attempts, f"{sends} sends"
        if isinstance(tried.error, ConnectError) and tried.attempts == 1:
            assert sends == 0, "a connect error says that nothing was sent"
        if isinstance(tried.error, RequestTimeoutError) and tried.error.phase != "response":
            assert tried.attempts != 1 or sends == 0, "it was sent, though said to be waiting"
        if tried.operation in {"create", "refresh"}:
            repeatable = {429, 503} | ({409} if tried.operation == "create" else set[int]())
            refused = sum(request.status in repeatable for request in arrived)
            assert sends - refused <= 1, f"sent {sends} times, refused {refused} times"
            processed = sum(request.processed for request in arrived)
            assert processed <= 1, f"acted on {processed} times"
            if tried.error is not None and not tried.may_have_arrived:
                assert not processed, "denied, and it did happen"
        getattr(self, f"_check_{tried.operation}")(tried)

    def _check_time(self, tried: Tried) -> None:
        pages = _OF_A_USER // _PAGE + 2 if tried.operation == "iterate" else 1
        limit = pages * DEADLINE * 1.05
        if isinstance(tried.error, asyncio.CancelledError) and tried.cancelled_at is not None:
            limit = tried.cancelled_at
        most = limit + SLACK + 3 * self.lateness
        assert tried.elapsed <= most, (
            f"took {tried.elapsed:.3f} s, allowed are {limit:.3f} s "
            f"(the loop was up to {self.lateness:.3f} s late)"
        )

    def _check_kind(self, tried: Tried) -> None:
        error = tried.error
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        ours = (ApiError, TransportError, ResponseDecodeError, ClientClosedError)
        assert isinstance(error, ours), f"no error of ours: {error!r}"
        assert not isinstance(error, AuthenticationError), f"a second refresh: {error}"
        assert error.__cause__ is None
        if isinstance(error, ClientClosedError):
            assert self._is_closed

    def _ids_of(self, user: str) -> list[str]:
        sessions = list(self.fake.sessions.values())
        return sorted(session.id for session in sessions if session.user_id == user)

    def _check_list(self, tried: Tried) -> None:
        if tried.error is None:
            assert sorted(session.id for session in tried.value) == self._ids_of(tried.key)
            assert tried.value.total_count == _OF_A_USER

    def _check_get(self, tried: Tried) -> None:
        if tried.error is None:
            assert tried.value.id == tried.key
            assert tried.value.status == self._status(tried.key) == "active"

    def _check_create_token(self, tried: Tried) -> None:
        if tried.error is None:
            payload = tried.value.jwt.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            assert claims["sid"] == tried.key

    def _check_refresh(self, tried: Tried) -> None:
        self._check_create_token(tried)

    def _check_create(self, tried: Tried) -> None:
        made = self._ids_of(tried.key)
        assert len(made) <= 1, f"created twice: {made}"
        if tried.error is None:
            assert made == [tried.value.id], "said to be created"
        elif not isinstance(tried.error, ClientClosedError) and not tried.may_have_arrived:
            assert not made, "denied, and it did happen"

    def _check_revoke(self, tried: Tried) -> None:
        status = self._status(tried.key)
        if tried.error is None:
            assert tried.value.id == tried.key
            assert status == "revoked", "said to be revoked"
        elif isinstance(tried.error, BadRequestError):
            assert status == "revoked"
            assert tried.may_have_arrived, "an earlier attempt of ours revoked it"
        elif not isinstance(tried.error, ClientClosedError) and not tried.may_have_arrived:
            assert status == "active", "denied, and it did happen"


def _threads_of_the_loop() -> set[threading.Thread]:
    """Give the threads that the running loop keeps for blocking work, until it is closed."""
    executor: Any = getattr(asyncio.get_running_loop(), "_default_executor", None)
    return set() if executor is None else set(executor._threads)


def open_files() -> set[str]:
    """Tell the open file descriptors, the listing's own left out."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all it takes
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
        except OSError:
            continue
    return found
