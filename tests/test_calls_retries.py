"""Retries as the server sees them: the number of requests, and the waits between them."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from clients import MODES, ONCE, OPERATIONS, Mode, Time, client_of, invoke, logged, run
from leaps import leap, leaping

from clerk_async import (
    ApiError,
    AsyncSessionsApi,
    ClerkError,
    ConnectError,
    ConnectionLostError,
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

UNSAFE = {"create", "refresh"}
PASSING = (500, 502, 503, 504, 520, 522, 523, 524)
FINAL = (302, 400, 401, 403, 404, 408, 410, 418, 422, 501, 505, 521, 525, 529)


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for the whole table; its rows differ only in their faults."""
    with FakeClerk(revoke_inactive="ok") as running:
        yield running


@pytest.fixture
def fake(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Yield the shared service, reset after the previous row."""
    shared.clear_faults()
    shared.requests.clear()
    shared.rate_limit = None
    yield shared
    shared.clear_faults()
    shared.release()


async def jwks(client: AsyncSessionsApi) -> Any:
    """Fetch the key set, as verifiers do."""
    return await client._fetch_jwks()


def attempt(operation: str, fake: FakeClerk, mode: Mode = "async", **options: Any) -> ClerkError:
    """Make a call that fails, with simulated time."""
    call: Any = jwks if operation == "jwks" else operation
    error = run(mode, fake, call, time=Time(), **options).error
    assert error is not None
    return error


@pytest.mark.promise("retry-table")
@pytest.mark.parametrize("operation", [*OPERATIONS, "jwks"])
def test_each_status_is_retried_as_in_the_table(operation: str, fake: FakeClerk) -> None:
    """The number of requests is that of the table, and the error has it too."""
    for status in (*PASSING, *FINAL, 429, 409):
        fake.clear_faults()
        code = "conflict" if status == 409 else None
        fake.inject(Fault.status(status, error_code=code, operation=operation, count=None))
        fake.requests.clear()
        error = attempt(operation, fake)
        is_retried = status == 429 or (status in PASSING and operation not in UNSAFE)
        assert len(fake.requests) == (3 if is_retried else 1), status
        assert isinstance(error, ApiError)
        assert error.status == status
        assert error.attempts == len(fake.requests)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_lock_and_a_503_with_a_time_are_retried(operation: str, fake: FakeClerk) -> None:
    """409 resource_locked by all but refresh; 503 with Retry-After by all."""
    fake.inject(Fault.status(409, error_code="resource_locked", count=None))
    attempt(operation, fake)
    assert len(fake.requests) == (1 if operation == "refresh" else 3)
    fake.clear_faults()
    fake.requests.clear()
    fake.inject(Fault.empty(503, retry_after=1, count=None))
    attempt(operation, fake)
    assert len(fake.requests) == 3


@pytest.mark.promise("sent-once")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stage", ["before", "after", "body"])
def test_a_cut_is_retried_if_a_repeat_is_harmless(
    mode: Mode, operation: str, stage: Any, fake: FakeClerk
) -> None:
    """A request that may have arrived is retried only by safe operations."""
    fake.inject(Fault.cut(stage, count=None))
    error = attempt(operation, fake, mode)
    assert type(error) is ConnectionLostError
    assert len(fake.requests) == error.attempts == (1 if operation in UNSAFE else 3)


@pytest.mark.promise("sent-once")
@pytest.mark.parametrize("operation", OPERATIONS)
@leaping
async def test_a_timeout_is_retried_if_a_repeat_is_harmless(
    operation: str, fake: FakeClerk
) -> None:
    """A request without a response is retried only by safe operations."""
    attempts = 1 if operation in UNSAFE else 3
    fake.inject(Fault.hold(count=None))
    async with client_of(fake, timeout=60.0, retry=RetryPolicy(base_delay=0)) as client:
        call = asyncio.ensure_future(invoke(client, operation, fake))
        for sent in range(1, attempts + 1):
            await fake.until(lambda sent=sent: len(fake.requests) == sent)  # type: ignore[misc]
            leap(60.0)
        with pytest.raises(RequestTimeoutError) as caught:
            await call
    assert len(fake.requests) == caught.value.attempts == attempts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_connection_is_retried_by_all(
    mode: Mode, operation: str, fake: FakeClerk
) -> None:
    """A request that was never sent may be retried, whatever it does."""
    error = attempt(operation, fake, mode, base_url="http://127.0.0.1:1/v1")
    assert type(error) is ConnectError
    assert error.attempts == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_success_after_failures_counts_them(mode: Mode, operation: str, fake: FakeClerk) -> None:
    """The third attempt's response is returned with the number 3."""
    fake.inject(Fault.status(429, count=2))
    ended = run(
        mode, fake, lambda client: invoke(client.with_http_info, operation, fake), time=Time()
    )
    assert ended.error is None
    assert ended.value.attempts == len(fake.requests) == 3
    assert ended.value.status == 200
    assert ended.value.trace_id


def test_each_attempt_is_the_same_request(fake: FakeClerk) -> None:
    """A retry has the same path, headers and body as the first attempt."""
    fake.inject(Fault.status(429, count=2))
    assert run("async", fake, "create", time=Time()).error is None
    first, *others = [(r.method, r.path, dict(r.headers), r.body) for r in fake.requests]
    assert first[3]
    assert others == [first, first]


def test_waits_are_random_within_growing_bounds(fake: FakeClerk) -> None:
    """There is a wait between two attempts, but none before the first or after the last."""
    for draw, waits in ((0.0, [0.0] * 4), (1.0, [0.25, 0.5, 1.0, 1.0])):
        time = Time(draw)
        policy = RetryPolicy(attempts=5, max_delay=1.0)
        fake.clear_faults()
        fake.inject(Fault.status(500, count=None))
        run("async", fake, "get", time=time, retry=policy)
        assert time.slept == waits


@pytest.mark.promise("backoff")
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", [0, 1, 2.5, 61])
def test_retry_after_is_never_undercut(status: int, retry_after: float, fake: FakeClerk) -> None:
    """The wait is what the service said, and up to a tenth longer."""
    for draw in (0.0, 0.5, 0.999):
        time = Time(draw)
        fake.inject(Fault.status(status, retry_after=retry_after))
        ended = run("async", fake, "get", time=time, retry=RetryPolicy(deadline=None))
        assert ended.error is None
        assert retry_after <= sum(time.slept) <= retry_after * 1.1


def test_retry_after_may_be_a_date(fake: FakeClerk) -> None:
    """An HTTP date is compared with the wall clock."""
    time = Time(0.0)
    when = formatdate(time.now() + 20, usegmt=True)
    fake.inject(Fault.status(429, retry_after=when))
    assert run("async", fake, "get", time=time).error is None
    assert sum(time.slept) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("junk", ["nan", "-5", "soon", "1e9", "inf", ""])
def test_an_invalid_retry_after_is_ignored(junk: str, fake: FakeClerk) -> None:
    """Junk in the header means the usual backoff, not a crash or a NaN in a sleep."""
    time = Time(1.0)
    fake.inject(Fault.status(429, retry_after=junk))
    assert run("async", fake, "get", time=time).error is None
    assert sum(time.slept) <= 0.5


@pytest.mark.promise("backoff")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("retry_after", ["121", "9" * 39, "9" * 400])
def test_a_retry_after_beyond_the_policy_raises_at_once(
    mode: Mode, retry_after: str, fake: FakeClerk
) -> None:
    """Such as two minutes, or seconds of 39 digits; the error has the value."""
    time = Time()
    fake.inject(Fault.status(429, retry_after=retry_after))
    error = run(mode, fake, "get", time=time, retry=RetryPolicy(deadline=None)).error
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == float(retry_after)
    assert time.slept == []
    assert error.attempts == 1


def test_a_retry_after_beyond_the_deadline_raises_at_once(fake: FakeClerk) -> None:
    """A wait that can't end in time isn't started."""
    time = Time()
    fake.inject(Fault.status(503, retry_after=31))
    error = run("async", fake, "get", time=time).error
    assert isinstance(error, ServerError)
    assert error.retry_after == 31
    assert time.slept == []


def test_one_attempt_means_no_retry(fake: FakeClerk) -> None:
    """attempts=1 turns retries off, for connect errors too."""
    fake.inject(Fault.status(503, count=None))
    assert attempt("get", fake, retry=ONCE) is not None
    assert len(fake.requests) == 1


@pytest.mark.promise("retry-quota")
def test_the_quota_prevents_an_outage_from_tripling_the_load(fake: FakeClerk) -> None:
    """After some hundred failed calls a client sends each only once; successes refill it."""
    fake.inject(Fault.status(500, count=None))

    async def storm(client: AsyncSessionsApi) -> tuple[int, int]:
        for _ in range(60):
            with pytest.raises(ServerError):
                await client.get("sess_x")
        before = len(fake.requests)
        for _ in range(10):
            with pytest.raises(ServerError):
                await client.with_options(timeout=9).get("sess_x")
        return before, len(fake.requests) - before

    ended = run("async", fake, storm, time=Time())
    assert ended.value == (60 + 100, 10), "500 tokens pay for a hundred retries, views included"


def test_successes_refill_the_quota(fake: FakeClerk) -> None:
    """Each success returns one token, and one after a retry what the retry took."""

    async def storm(client: AsyncSessionsApi) -> list[int]:
        quota = client._shared.quota
        left: list[int] = []
        fake.inject(Fault.status(500, count=3))
        with pytest.raises(ServerError):
            await client.get(session)
        left.append(quota.tokens)
        await client.get(session)
        left.append(quota.tokens)
        fake.inject(Fault.status(500, count=1))
        await client.get(session)
        left.append(quota.tokens)
        return left

    session = fake.add_session().id
    assert run("async", fake, storm, time=Time()).value == [490, 491, 491]


# --- the pause: one for the client --------------------------------------------------------------


@pytest.mark.promise("shared-pause")
@pytest.mark.parametrize("status", [429, 503])
async def test_the_whole_client_pauses(status: int, fake: FakeClerk) -> None:
    """After a 429 (or a 503 with a time) other calls wait too, including those of views."""
    time = Time(0.0)
    session = fake.add_session().id
    async with client_of(fake) as client:
        time.hand_to(client)
        fake.inject(Fault.status(status, retry_after=5))
        with pytest.raises(ApiError):
            await client.with_options(retry=ONCE).get(session)
        start = time.moment
        await client.get(session)
        assert time.moment - start == 5.0
        assert [request.status for request in fake.requests] == [status, 200]


@pytest.mark.promise("shared-pause")
async def test_a_shorter_pause_does_not_end_a_longer_one(fake: FakeClerk) -> None:
    """Of two responses that ask the client to wait, the later end counts, whichever came last."""
    time = Time(0.0)
    long, short = fake.add_session().id, fake.add_session().id
    async with client_of(fake, retry=ONCE) as client:
        time.hand_to(client)
        fake.inject(
            Fault.status(429, retry_after=9, session_id=long),
            Fault.status(429, retry_after=1, session_id=short, delay=0.1),
        )
        await asyncio.gather(client.get(long), client.get(short), return_exceptions=True)
        assert [request.status for request in fake.requests] == [429, 429]
        start = time.moment
        await client.get(short)
        assert time.moment - start == 9.0


async def test_a_plain_failure_does_not_pause_the_client(fake: FakeClerk) -> None:
    """A 500, or a 503 without a time, concerns only one call."""
    time = Time()
    session = fake.add_session().id
    async with client_of(fake, retry=ONCE) as client:
        time.hand_to(client)
        for status in (500, 503):
            fake.inject(Fault.status(status))
            with pytest.raises(ServerError):
                await client.get(session)
        await client.get(session)
        assert time.slept == []


@pytest.mark.promise("shared-pause")
async def test_calls_queued_for_the_pool_pause_too(fake: FakeClerk) -> None:
    """A call that waited for a connection when the 429 came waits as well."""
    time = Time(0.0)
    session = fake.add_session().id
    async with client_of(fake, pool_size=1, retry=ONCE) as client:
        time.hand_to(client)
        fake.inject(Fault.status(429, retry_after=5))
        first, second = await asyncio.gather(
            client.get(session), client.get(session), return_exceptions=True
        )
        assert isinstance(first, RateLimitedError)
        assert not isinstance(second, BaseException)
        assert sum(time.slept) == 5.0


async def test_many_calls_share_one_pause(fake: FakeClerk) -> None:
    """Only requests already in flight are rejected, and no more until the pause ends."""
    time = Time(0.0)
    session = fake.add_session().id
    async with client_of(fake, pool_size=5) as client:
        time.hand_to(client)
        fake.inject(Fault.status(429, retry_after=5, count=5))
        results = await asyncio.gather(*(client.get(session) for _ in range(50)))
        assert len(results) == 50
        assert len(fake.requests) == 55


@pytest.mark.promise("shared-pause")
async def test_a_call_whose_deadline_is_within_the_pause_raises_at_once(fake: FakeClerk) -> None:
    """It isn't sent, and its error says when to retry."""
    time = Time(0.0)
    session = fake.add_session().id
    async with client_of(fake, retry=ONCE) as client:
        time.hand_to(client)
        fake.inject(Fault.status(429, retry_after=100))
        with pytest.raises(RateLimitedError):
            await client.get(session)
        fake.requests.clear()
        with pytest.raises(RateLimitedError) as caught:
            await client.get(session)
        assert caught.value.retry_after == 100
        assert caught.value.attempts == 0
        assert caught.value.path == f"/sessions/{session}"
        assert fake.requests == []
        assert time.slept == []


@pytest.mark.parametrize("fault", [Fault.cut("after"), Fault.status(500)], ids=["cut", "500"])
async def test_a_pause_beyond_the_deadline_ends_a_call_between_its_attempts(
    fault: Fault, fake: FakeClerk
) -> None:
    """With the last attempt's error, at once: it waits no longer and costs no second retry."""

    class Paused(Time):
        async def sleep(self, seconds: float) -> None:
            client._shared.paused_until = self.moment + 100.0  # another call has met a 429
            await super().sleep(seconds)

    time = Paused()
    session = fake.add_session().id
    async with client_of(fake) as client:
        time.hand_to(client)
        fake.inject(fault)
        with pytest.raises((ConnectionLostError, ServerError)) as caught:
            await client.get(session)
        assert caught.value.attempts == len(fake.requests) == 1
        assert len(time.slept) == 1
        assert client._shared.quota.tokens == 495


async def test_a_pause_is_no_longer_than_the_policy_allows(fake: FakeClerk) -> None:
    """If a service says a year, the client pauses for max_retry_after."""
    time = Time(0.0)
    session = fake.add_session().id
    policy = RetryPolicy(attempts=1, deadline=None, max_retry_after=20)
    async with client_of(fake, retry=policy) as client:
        time.hand_to(client)
        for value in ("99999999", "9" * 400):
            fake.inject(Fault.status(429, retry_after=value))
            with pytest.raises(RateLimitedError):
                await client.get(session)
            start = time.moment
            await client.get(session)
            assert time.moment - start == 20.0


async def test_each_client_pauses_separately(fake: FakeClerk) -> None:
    """There is no global state: another client continues."""
    time = Time(0.0)
    session = fake.add_session().id
    async with client_of(fake, retry=ONCE) as one, client_of(fake, retry=ONCE) as other:
        time.hand_to(one)
        time.hand_to(other)
        fake.inject(Fault.status(429, retry_after=10))
        with pytest.raises(RateLimitedError):
            await one.get(session)
        await other.get(session)
        assert time.slept == []


async def test_each_retry_is_logged(fake: FakeClerk, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, with the failure and the wait, besides the line that ends each call."""
    session = fake.add_session().id
    fake.inject(Fault.status(429, retry_after=2), Fault.cut("after"))
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        async with client_of(fake) as client:
            Time(0.0).hand_to(client)
            await client.get(session)
            await client.get(session)
    told = [record.getMessage() for record in logged(caplog)]
    assert [line.partition(":")[0] for line in told] == [f"GET /sessions/{session}"] * 4
    assert ["attempts 3" in line for line in told] == [False, False, True, False]
    assert "attempt 1 failed, retrying in 2.00 s: 429" in told[0]
    assert "attempt 2 failed, retrying in 0.00 s: the connection was lost" in told[1]


async def test_a_missing_session_is_requested_once(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """An ordinary rejection isn't retried, and isn't logged as a problem."""
    with caplog.at_level(logging.INFO):
        async with client_of(fake) as client:
            with pytest.raises(NotFoundError):
                await client.get("sess_nobody")
    assert len(fake.requests) == 1
    assert logged(caplog) == []
