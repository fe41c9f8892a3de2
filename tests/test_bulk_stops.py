"""Reasons to end a run early: nothing more is sent, and requests in flight get their outcomes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from bulk_client import add_sessions, bulk_client, by_status, live, sends, until
from bulk_stage import Client, Service, revoke_many, simulate
from clients import logged
from leaps import leap, leaping, time_stands_still, turns

from clerk_async import (
    AuthenticationError,
    ClientClosedError,
    ConnectionLostError,
    PermissionDeniedError,
    RateLimit,
    RetryPolicy,
    ServerError,
    SessionsApi,
)
from clerk_async.testing import Fault
from clerk_async.testing.settings import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from clerk_async import RevocationOutcome, RevocationProgress, RevocationReport
    from clerk_async.testing import FakeClerk


async def _answered(fake: FakeClerk, count: int) -> None:
    """Wait until the fake holds this many revocations."""
    await until(lambda: sum(sends(fake).values()) >= count)


@pytest.mark.promise("stops")
@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (403, PermissionDeniedError)]
)
async def test_a_rejected_key_stops_the_run_at_once_and_reports_the_rest(
    fake: FakeClerk, status: int, error: type[Exception]
) -> None:
    """One rejection is enough."""
    ids = add_sessions(fake, 100)
    fake.inject(Fault.status(status, operation="revoke", count=None, after=10))
    outcomes: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, concurrency=4, on_outcome=outcomes.append)
    assert report.stopped_by == "authentication"
    assert report.revoked == 10
    assert 1 <= report.failed <= 4
    assert report.not_attempted == 90 - report.failed
    assert report.total == len(outcomes) == 100
    assert report.exhausted
    assert not report.ok
    assert all(isinstance(failure.error, error) for failure in report.failures)
    assert sum(sends(fake).values()) == 10 + report.failed


async def test_a_wrong_key_costs_only_the_requests_in_flight(fake: FakeClerk) -> None:
    """It does not cost one for each id."""
    async with bulk_client(fake) as client:
        fake.inject(Fault.status(401, count=None))
        report = await client.revoke_many([f"sess_{number}" for number in range(5000)])
    assert report.stopped_by == "authentication"
    assert len(fake.requests) <= 100
    assert report.total == 5000


@pytest.mark.promise("stops")
@pytest.mark.parametrize(("most", "failed"), [(0, 1), (1, 1), (3, 3)])
async def test_max_failures_stops_after_that_many_failures(
    fake: FakeClerk, most: int, failed: int
) -> None:
    """0 and 1 both stop at the first failure; successes never stop a run."""
    ids = add_sessions(fake, 30)
    fake.inject(Fault.status(422, operation="revoke", count=None, after=2))
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, max_failures=most, concurrency=1)
    assert report.stopped_by == "max_failures"
    assert (report.revoked, report.failed) == (2, failed)
    assert report.not_attempted == 28 - failed


async def test_max_failures_does_not_count_failures_that_the_second_round_fixes(
    fake: FakeClerk,
) -> None:
    """Ids that fail for a temporary reason are retried before the run is given up."""
    ids = add_sessions(fake, 20)
    for session_id in ids[:8]:
        fake.inject(Fault.status(503, operation="revoke", session_id=session_id, count=3))
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, max_failures=3)
    assert report.stopped_by is None
    assert report.revoked == 20


async def test_max_failures_stops_an_outage_soon(fake: FakeClerk) -> None:
    """The run does not process the whole input first."""
    ids = add_sessions(fake, 300)
    fake.inject(Fault.status(500, operation="revoke", count=None))
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, max_failures=5, concurrency=4)
    assert report.stopped_by == "max_failures"
    assert len(fake.requests) < 100


@pytest.mark.promise("stops")
@leaping
async def test_the_deadline_stops_the_run_and_requests_in_flight_finish(
    fake: FakeClerk,
) -> None:
    """They are counted by their real outcomes."""
    ids = add_sessions(fake, 50)
    fake.inject(Fault.hold(operation="revoke", count=None))
    async with bulk_client(fake, timeout=600.0) as client:
        run = asyncio.create_task(client.revoke_many(ids, deadline=60.0, concurrency=5))
        await _answered(fake, 5)
        leap(60.0)
        await turns()
        assert not run.done()
        fake.clear_faults()
        fake.release()
        report = await run
    assert report.stopped_by == "deadline"
    assert report.revoked == 5
    assert report.not_attempted == 45
    assert sum(sends(fake).values()) == 5


@pytest.mark.promise("stops")
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_should_stop_is_called_before_each_send(fake: FakeClerk, kind: str) -> None:
    """It returns True at the eleventh call: ten requests were sent."""
    ids = add_sessions(fake, 40)
    asked = 0

    def plain() -> bool:
        nonlocal asked
        asked += 1
        return asked > 10

    async def coroutine() -> bool:
        return plain()

    should_stop: Any = plain if kind == "plain" else coroutine
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, should_stop=should_stop, concurrency=3)
    assert report.stopped_by == "should_stop"
    assert report.revoked == 10
    assert report.not_attempted == 30
    assert len(live(fake)) == 30


@pytest.mark.promise("stops")
async def test_should_stop_is_called_before_each_retry_too(fake: FakeClerk) -> None:
    """The third attempt is not made; the session is reported with the second attempt's error."""
    ids = add_sessions(fake, 1)
    fake.inject(Fault.status(500, operation="revoke", count=None))
    told: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_many(
            ids, should_stop=lambda: len(fake.requests) == 2, on_outcome=told.append
        )
    assert report.stopped_by == "should_stop"
    assert (report.failed, report.not_attempted) == (0, 1)
    assert [(each.attempts, type(each.error)) for each in told] == [(2, ServerError)]
    assert len(fake.requests) == 2


def test_should_stop_is_called_during_a_long_pause() -> None:
    """A stop does not wait for the next window."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        client = Client(Service(), limit=RateLimit(10, per=60.0))
        report = await revoke_many(
            client, [f"sess_{number}" for number in range(30)], should_stop=lambda: loop.time() > 5
        )
        assert report.stopped_by == "should_stop"
        assert report.revoked == 10
        return loop.time()

    assert simulate(main()) < 6


@pytest.mark.parametrize("what", ["sess_same", None])
def test_should_stop_is_called_while_an_endless_input_has_nothing_to_send(
    what: str | None,
) -> None:
    """The input repeats one id, or yields malformed ones, so no send calls it."""

    async def main() -> RevocationReport:
        client = Client(Service())
        asked = itertools.count(1)
        endless: Any = itertools.repeat(what)
        return await revoke_many(client, endless, should_stop=lambda: next(asked) > 3)

    # in real time, because the loop is never idle
    report = asyncio.run(asyncio.wait_for(main(), 30))
    assert report.stopped_by == "should_stop"
    assert not report.exhausted


@pytest.mark.promise("stops")
async def test_should_stop_is_called_while_the_input_waits(fake: FakeClerk) -> None:
    """The input may be a pipe that nobody writes to."""
    session_id = add_sessions(fake, 1)[0]

    async def slow() -> AsyncIterator[str]:
        yield session_id
        await asyncio.Event().wait()

    async with bulk_client(fake) as client:
        report = await client.revoke_many(slow(), should_stop=lambda: not live(fake))
    assert report.stopped_by == "should_stop"
    assert report.revoked == 1


async def test_a_dry_run_calls_should_stop_before_each_session(fake: FakeClerk) -> None:
    """The run itself would too; so a dry run of an endless input also ends."""
    asked = itertools.count(1)
    async with bulk_client(fake) as client:
        report = await client.revoke_many(
            (f"sess_{number}" for number in itertools.count()),
            dry_run=True,
            should_stop=lambda: next(asked) > 10,
        )
    assert report.stopped_by == "should_stop"
    assert report.planned == 10
    assert not fake.requests


async def test_a_run_with_a_deadline_of_0_sends_nothing(fake: FakeClerk) -> None:
    """Nothing may be left of a longer deadline."""
    ids = add_sessions(fake, 5)
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, deadline=0)
    assert report.stopped_by == "deadline"
    assert (report.not_attempted, report.total) == (5, 5)
    assert not fake.requests


def test_a_deadline_after_the_last_outcome_stops_nothing() -> None:
    """A slow callback at the end doesn't mean that the run was cut short."""
    told: list[int] = []

    async def on_progress(progress: RevocationProgress) -> None:
        if progress.done == 3:
            await asyncio.sleep(6)
            told.append(progress.done)

    client = Client(Service())
    ids = ["sess_1", "sess_2", "sess_3"]
    report = simulate(revoke_many(client, ids, deadline=5, on_progress=on_progress))
    assert told
    assert report.elapsed > 5
    assert report.stopped_by is None
    assert report.ok


async def test_a_callback_that_raises_a_cancelled_error_is_logged(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It awaited something that was cancelled; the run itself was not, and returns its report."""
    ids = add_sessions(fake, 50)
    never = asyncio.get_running_loop().create_future()
    never.cancel()
    told: list[RevocationOutcome] = []

    async def on_outcome(outcome: RevocationOutcome) -> None:
        told.append(outcome)
        if len(told) == 5:
            await never

    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, on_outcome=on_outcome, concurrency=4)
    assert (report.revoked, report.ok) == (50, True)
    assert len(told) == 50
    assert ["on_outcome raised" in record.message for record in logged(caplog)] == [True]


async def test_a_should_stop_that_raises_stops_nothing_and_is_logged_once(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a callback like the others."""
    ids = add_sessions(fake, 10)
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, should_stop=lambda: 1 / 0 > 1)
    assert report.revoked == 10
    assert [record.name for record in logged(caplog)] == ["clerk_async"]


def test_a_waiting_retry_is_abandoned_when_the_run_stops() -> None:
    """It is reported with its last error; a stop doesn't wait two minutes for a Retry-After."""

    async def main() -> None:
        service = Service(SlidingWindow(5, 100.0))
        client = Client(service, limit=RateLimit(1000, per=1.0))
        told: list[RevocationOutcome] = []
        ids = [f"sess_{number}" for number in range(20)]
        report = await revoke_many(client, ids, deadline=9, on_outcome=told.append)
        assert report.stopped_by == "deadline"
        assert report.elapsed < 10
        assert report.revoked == 5
        assert (report.failed, report.not_attempted) == (0, 15)
        tried = [each for each in told if each.attempts and each.status == "not_attempted"]
        assert len(tried) == report.throttled
        assert all(each.attempts == 1 and each.error is not None for each in tried)

    simulate(main())


@pytest.mark.promise("stops")
@leaping
async def test_a_cancelled_run_finishes_and_reports_requests_in_flight(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """The callback and the journal get each outcome; then CancelledError is raised."""
    ids = add_sessions(fake, 30)
    fake.inject(Fault.hold(operation="revoke", count=None))
    outcomes: list[RevocationOutcome] = []
    journal = tmp_path / "job.jsonl"
    async with bulk_client(fake) as client:
        run = asyncio.create_task(
            client.revoke_many(ids, concurrency=4, journal=journal, on_outcome=outcomes.append)
        )
        await _answered(fake, 4)
        with time_stands_still():  # the grace period does not end
            run.cancel()
            await turns()
            assert not run.done()
            fake.release()
            with pytest.raises(asyncio.CancelledError):
                await run
    assert run.cancelled()
    assert by_status(outcomes) == {"revoked": 4}
    text = journal.read_text()
    assert all(str(outcome.session_id) in text for outcome in outcomes)
    assert sum(sends(fake).values()) == 4


@pytest.mark.slow
async def test_a_cancelled_run_cuts_off_requests_after_the_grace_period(fake: FakeClerk) -> None:
    """Such a session may be revoked, and its outcome says so."""
    ids = add_sessions(fake, 10)
    fake.inject(Fault.hold(operation="revoke", count=None))
    outcomes: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        run = asyncio.create_task(
            client.revoke_many(ids, concurrency=3, on_outcome=outcomes.append)
        )
        await _answered(fake, 3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert by_status(outcomes) == {"failed": 3}
        assert all(isinstance(outcome.error, ConnectionLostError) for outcome in outcomes)
        assert all(outcome.attempts == 1 for outcome in outcomes)
        fake.release()


@leaping
async def test_a_second_cancellation_ends_the_run_at_once(fake: FakeClerk) -> None:
    """It skips the grace period, which would never end while time stands still."""
    ids = add_sessions(fake, 10)
    fake.inject(Fault.hold(operation="revoke", count=None))
    async with bulk_client(fake) as client:
        run = asyncio.create_task(client.revoke_many(ids, concurrency=3))
        await _answered(fake, 3)
        with time_stands_still():
            run.cancel()
            await turns()
            assert not run.done()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        fake.release()


@leaping
async def test_an_anyio_cancel_scope_has_the_same_grace_period(fake: FakeClerk) -> None:
    """It cancels again and again, which must not shorten the grace period."""
    ids = add_sessions(fake, 20)
    fake.inject(Fault.hold(operation="revoke", count=None))
    outcomes: list[RevocationOutcome] = []
    scope, has_ended = anyio.CancelScope(), asyncio.Event()
    async with bulk_client(fake) as client:

        async def revoke() -> None:
            with scope:
                await client.revoke_many(ids, concurrency=4, on_outcome=outcomes.append)
            has_ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(revoke)
            await _answered(fake, 4)
            with time_stands_still():  # the grace period does not end
                scope.cancel()
                await turns(100)
                fake.release()
                await has_ended.wait()
        assert scope.cancelled_caught
    assert by_status(outcomes) == {"revoked": 4}


@leaping
async def test_a_timeout_around_a_run_raises_timeout_error(fake: FakeClerk) -> None:
    """The cancellation belongs to the caller, and is passed on to them."""
    ids = add_sessions(fake, 5)
    fake.inject(Fault.hold(operation="revoke", count=None))
    async with bulk_client(fake, timeout=600.0) as client:
        run = asyncio.create_task(asyncio.wait_for(client.revoke_many(ids), 60.0))
        await _answered(fake, 5)
        leap(60.0)
        await turns()
        with time_stands_still():
            fake.release()
            with pytest.raises(TimeoutError):
                await run
    assert not live(fake)


async def test_closing_the_client_ends_the_run_with_its_error(
    fake: FakeClerk,
) -> None:
    """The run does not report a failure for each remaining id."""
    ids = add_sessions(fake, 200)
    fake.inject(Fault.hold(operation="revoke", count=None))
    outcomes: list[RevocationOutcome] = []
    client = bulk_client(fake)
    run = asyncio.create_task(client.revoke_many(ids, concurrency=4, on_outcome=outcomes.append))
    await _answered(fake, 4)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await run
    assert len(outcomes) == 4
    fake.release()


@pytest.mark.promise("stops")
@pytest.mark.parametrize("how", ["revoke_many", "dry_run", "revoke_stream", "revoke_all"])
@pytest.mark.parametrize("count", [0, 3])
async def test_closing_the_client_ends_a_run_that_waits_for_its_input(
    how: str, count: int, fake: FakeClerk
) -> None:
    """It has no call in flight; its input is closed, and each outcome was reported."""
    users = [f"user_{number}" for number in range(count)]
    ids = [fake.add_session(user_id=user_id).id for user_id in users]
    told: list[RevocationOutcome] = []
    is_waiting, is_closed = asyncio.Event(), asyncio.Event()

    async def source(values: list[str]) -> AsyncIterator[str]:
        try:
            for value in values:
                yield value
            is_waiting.set()
            await asyncio.Event().wait()
        finally:
            is_closed.set()

    async def read() -> None:
        async for _ in client.revoke_stream(source(ids), **options):
            pass

    client = bulk_client(fake)
    options: dict[str, Any] = {"on_outcome": told.append}
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "revoke_many": lambda: client.revoke_many(source(ids), **options),
        "dry_run": lambda: client.revoke_many(source(ids), dry_run=True, **options),
        "revoke_stream": read,
        "revoke_all": lambda: client.revoke_all(user_ids=source(users), **options),
    }
    before = asyncio.all_tasks()
    run = asyncio.create_task(calls[how]())
    await is_waiting.wait()
    await until(lambda: len(told) == count)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await run
    assert is_closed.is_set()
    assert by_status(told) == ({"planned" if how == "dry_run" else "revoked": 3} if count else {})
    assert asyncio.all_tasks() == before
    with pytest.raises(ClientClosedError):
        await client.revoke_many([])


async def test_closing_the_client_ends_a_run_that_waits_for_the_second_round(
    fake: FakeClerk,
) -> None:
    """It has no call in flight either; the session is left, with its error."""
    ids = add_sessions(fake, 2)
    fake.inject(Fault.status(503, operation="revoke", session_id=ids[0], count=3))
    told: list[RevocationOutcome] = []
    client = bulk_client(fake, retry=RetryPolicy(base_delay=600.0, max_delay=600.0))
    client._shared.draw = lambda: 0.0  # no wait before a retry, but one before the second round
    run = asyncio.create_task(client.revoke_many(ids, on_outcome=told.append))
    await until(lambda: sends(fake)[ids[0]] == 3 and len(told) == 1)
    await until(lambda: not fake.in_flight)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await run
    assert by_status(told) == {"revoked": 1, "not_attempted": 1}
    assert isinstance(told[-1].error, ServerError)


def test_closing_a_sync_client_ends_a_run_that_waits_for_its_input(fake: FakeClerk) -> None:
    """The call raises as soon as the iterator returns, which nothing can interrupt."""
    ids = add_sessions(fake, 3)
    is_waiting, may_go_on = threading.Event(), threading.Event()

    def source() -> Iterator[str]:
        yield from ids
        is_waiting.set()
        assert may_go_on.wait(60)
        yield from add_sessions(fake, 1)

    client = SessionsApi(fake.secret_key, base_url=fake.base_url)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(client.revoke_many, source())
        assert is_waiting.wait(60)
        client.close()
        may_go_on.set()
        with pytest.raises(ClientClosedError, match="during the run"):
            run.result()
    assert len(sends(fake)) <= 3


async def test_no_task_is_left_whatever_ended_the_run(fake: FakeClerk) -> None:
    """Nothing keeps running in the background."""
    ids = add_sessions(fake, 50)
    before = asyncio.all_tasks()
    async with bulk_client(fake) as client:
        await client.revoke_many(ids, deadline=0.001)
        await client.revoke_many(ids, on_progress=lambda _: None, should_stop=lambda: True)
        run = asyncio.create_task(client.revoke_many(ids))
        await asyncio.sleep(0)
        run.cancel()
        await asyncio.wait([run])
        assert asyncio.all_tasks() == before


async def _hangs_in_its_end(ids: list[str]) -> AsyncIterator[str]:
    try:
        for session_id in ids:
            yield session_id
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()


async def _swallows_cancellations(ids: list[str]) -> AsyncIterator[str]:
    for session_id in ids:
        yield session_id
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def _wait_for_good() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def _does_both(ids: list[str]) -> AsyncIterator[str]:
    try:
        for session_id in ids:
            yield session_id
        await _wait_for_good()
    finally:
        await _wait_for_good()


@pytest.mark.promise("stops")
@leaping
async def test_an_input_whose_clean_up_fails_after_a_stop_costs_no_report(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection of its cursor is gone; the error is logged."""
    ids = add_sessions(fake, 3)

    async def source() -> AsyncIterator[str]:
        try:
            for session_id in ids:
                yield session_id
            await asyncio.Event().wait()
        finally:
            raise ValueError("the pool is gone")

    told: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        run = asyncio.create_task(
            client.revoke_many(source(), on_outcome=told.append, deadline=60.0)
        )
        await until(lambda: len(told) == 3)
        leap(60.0)
        report = await run
    assert (report.revoked, report.stopped_by, report.exhausted) == (3, "deadline", False)
    assert "the pool is gone" in caplog.text


@pytest.mark.slow
@pytest.mark.promise("stops")
@pytest.mark.parametrize("source", [_hangs_in_its_end, _swallows_cancellations, _does_both])
@pytest.mark.parametrize("how", ["deadline", "should_stop", "max_failures", "cancel", "stream"])
@leaping
async def test_an_input_that_never_closes_is_abandoned(
    source: Any, how: str, fake: FakeClerk
) -> None:
    """For example, its clean-up waits for a pool that is gone.

    Each outcome and the report arrive.
    """
    ids = add_sessions(fake, 3)
    told: list[RevocationOutcome] = []
    every: dict[str, dict[str, Any]] = {
        "deadline": {"deadline": 60.0},
        "should_stop": {"should_stop": lambda: len(told) == 3},
        "max_failures": {"max_failures": 1},
    }
    options = every.get(how, {})
    if how == "max_failures":
        fake.inject(Fault.status(422, operation="revoke", session_id=ids[2]))

    def quiet(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
        """Ignore the loop's complaints about abandoned generators."""

    asyncio.get_running_loop().set_exception_handler(quiet)
    async with bulk_client(fake) as client:
        if how == "stream":
            async for outcome in client.revoke_stream(source(ids)):
                told.append(outcome)
                if len(told) == 3:
                    break
        else:
            run = asyncio.create_task(
                client.revoke_many(source(ids), on_outcome=told.append, **options)
            )
            await until(lambda: len(told) == 3)
            if how == "deadline":
                leap(60.0)
            if how == "cancel":
                run.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await run
            else:
                report = await run
                assert report.stopped_by == how
                assert report.total == 3
    assert len(told) == 3


@pytest.mark.promise("stops")
async def test_a_should_stop_that_hangs_does_not_delay_the_deadline(
    fake: FakeClerk,
) -> None:
    """Its answer is no longer needed."""
    ids = add_sessions(fake, 10)

    async def should_stop() -> bool:
        await asyncio.Event().wait()
        return False

    async with bulk_client(fake) as client, asyncio.timeout(20):
        report = await client.revoke_many(ids, should_stop=should_stop, deadline=0.2)
    assert (report.stopped_by, report.not_attempted) == ("deadline", 10)


async def _hangs(*_: object) -> None:
    await asyncio.Event().wait()


async def _read(
    stream: AsyncIterator[RevocationOutcome], outcomes: list[RevocationOutcome]
) -> None:
    async for outcome in stream:
        outcomes.append(outcome)  # noqa: PERF401 - each counts, whatever ends the stream


async def _ignores_cancellations(*_: object) -> None:
    await _wait_for_good()


@pytest.mark.promise("stops")
@pytest.mark.parametrize("hanging", [_hangs, _ignores_cancellations])
@pytest.mark.parametrize("how", ["deadline", "should_stop", "max_failures", "stream", "close"])
@pytest.mark.parametrize("name", ["on_outcome", "on_progress"])
@leaping
async def test_a_callback_that_hangs_does_not_keep_a_stopped_run_from_ending(
    name: str, how: str, hanging: Any, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is called once; the report, the journal and the stream have the outcomes of all."""
    ids = add_sessions(fake, 10)
    is_hanging, is_enough = asyncio.Event(), False
    calls = 0

    async def callback(*values: object) -> None:
        nonlocal calls
        calls += 1
        is_hanging.set()
        await hanging(*values)

    every: dict[str, dict[str, Any]] = {
        "should_stop": {"should_stop": lambda: is_enough},
        "max_failures": {"max_failures": 1},
    }
    told: list[RevocationOutcome] = []
    options: dict[str, Any] = {"deadline": 60.0, **every.get(how, {})}
    options |= {"on_outcome": told.append, name: callback}
    if how == "max_failures":
        fake.inject(Fault.status(422, operation="revoke", session_id=ids[9]))
    streamed: list[RevocationOutcome] = []
    async with bulk_client(fake, timeout=600.0) as client:
        run: asyncio.Task[Any] = asyncio.create_task(
            _read(client.revoke_stream(ids, **options), streamed)
            if how == "stream"
            else client.revoke_many(ids, **options)
        )
        await is_hanging.wait()
        await until(lambda: len(sends(fake)) == 10 and not fake.in_flight)
        if name == "on_progress":  # the run needs only to tell of its end
            await until(lambda: len(told) == 10)
            await turns()
        is_enough = True
        if how == "close":
            await client.aclose()
        elif how in {"deadline", "stream"} or name == "on_progress":
            leap(60.0)
        for _ in range(40):  # the two seconds, and half a second for each clean-up
            await turns()
            leap(0.1)
        await until(run.done)
    assert calls == 1
    assert [f"{name} did not return" in record.message for record in logged(caplog)] == [True]
    if how == "stream":
        assert len(streamed) == 10
    elif how == "close" and name == "on_outcome":
        assert isinstance(run.exception(), ClientClosedError)
    else:
        report: RevocationReport = run.result()
        assert (report.total, report.failed) == (10, int(how == "max_failures"))
        assert report.revoked == 10 - report.failed


@pytest.mark.slow
def test_a_sync_run_waits_for_a_slow_callback_after_a_stop(fake: FakeClerk) -> None:
    """Its caller's thread runs the callback, so the call could not return any sooner."""
    ids = add_sessions(fake, 5)
    told: list[RevocationOutcome] = []
    has_time = threading.Event()

    def on_outcome(outcome: RevocationOutcome) -> None:
        if not told:
            assert not has_time.wait(2.2)  # longer than a coroutine would have
        told.append(outcome)

    with SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        report = client.revoke_many(ids, on_outcome=on_outcome, deadline=0.1)
    assert (report.stopped_by, report.total, len(told)) == ("deadline", 5, 5)


def test_a_slow_callback_gets_each_outcome_after_a_stop() -> None:
    """It has two seconds for each; only one that takes longer is left out."""

    async def main() -> None:
        told: list[RevocationOutcome] = []

        async def on_outcome(outcome: RevocationOutcome) -> None:
            await asyncio.sleep(1.9)
            told.append(outcome)

        ids = [f"sess_{number}" for number in range(10)]
        client = Client(Service(), limit=RateLimit(5, per=60.0))
        report = await revoke_many(client, ids, deadline=1, on_outcome=on_outcome)
        assert (report.stopped_by, report.revoked, report.not_attempted) == ("deadline", 5, 5)
        assert len(told) == 10

    simulate(main())


@pytest.mark.promise("stops")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["on_outcome", "on_progress", "should_stop"])
def test_a_callback_that_raises_an_interruption_lets_the_run_end_first(
    error: type[BaseException], name: str, fake: FakeClerk, tmp_path: Path
) -> None:
    """Requests in flight are finished and journaled; then the interruption continues."""
    ids = add_sessions(fake, 20)
    path = tmp_path / "job.jsonl"

    def callback(*_: object) -> None:
        if sum(sends(fake).values()) >= 5:
            raise error

    async def main() -> None:
        async with bulk_client(fake) as client:
            options: Any = {name: callback}
            await client.revoke_many(ids, journal=path, concurrency=2, **options)

    fake.latency = 0.1
    with pytest.raises(error):
        asyncio.run(main())
    revoked = len(ids) - len(live(fake))
    assert 5 <= revoked < 20
    assert len(path.read_text().splitlines()) == 1 + revoked


@pytest.mark.parametrize("name", ["on_outcome", "should_stop"])
async def test_a_callback_may_start_another_bulk_run(name: str, fake: FakeClerk) -> None:
    """It does not wait for a place that the outer run holds."""
    ids, inner = add_sessions(fake, 6), add_sessions(fake, 6)
    reports: list[RevocationReport] = []
    limit = RateLimit(1, per=0.05)
    async with bulk_client(fake, rate_limit=limit) as client, asyncio.timeout(30):

        async def callback(*_: object) -> bool:
            if inner:
                mine = [inner.pop()]
                reports.append(await client.revoke_many(mine))
            return False

        options: Any = {name: callback}
        report = await client.revoke_many(ids, **options)
    assert (report.revoked, report.ok) == (6, True)
    assert [each.revoked for each in reports] == [1] * 6
    assert not live(fake)


async def test_a_stop_abandons_sessions_that_wait_for_the_second_round(fake: FakeClerk) -> None:
    """They failed for a temporary reason; the same holds for a second look."""
    ids = add_sessions(fake, 20)
    for session_id in ids[:5]:
        fake.inject(Fault.status(503, operation="revoke", session_id=session_id, count=None))
    told: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_many(
            ids,
            concurrency=1,
            should_stop=lambda: len(live(fake)) <= 10,
            on_outcome=told.append,
        )
    assert (report.revoked, report.failed, report.not_attempted) == (10, 0, 10)
    waiting = [each for each in told if each.attempts and each.status == "not_attempted"]
    assert {each.session_id for each in waiting} == set(ids[:5])
    assert all(isinstance(each.error, ServerError) for each in waiting)


def test_a_callback_of_the_sync_client_may_raise_a_cancelled_error(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged like any other error, and the report is returned."""
    ids = add_sessions(fake, 10)

    def on_outcome(_: RevocationOutcome) -> None:
        raise asyncio.CancelledError

    with SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        report = client.revoke_many(ids, on_outcome=on_outcome)
    assert (report.revoked, report.ok) == (10, True)
    assert ["on_outcome raised" in record.message for record in logged(caplog)] == [True]
