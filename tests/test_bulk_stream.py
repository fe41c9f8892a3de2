"""revoke_stream: one outcome after another, at the reader's pace, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import weakref
from typing import TYPE_CHECKING

import pytest
from bulk_client import add_sessions, bulk_client, by_status, live, sends, until
from leaps import leaping, time_stands_still, turns

from clerk_async import InvalidArgumentError
from clerk_async.errors import JournalError
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async import RevocationOutcome
    from clerk_async.testing import FakeClerk


async def test_each_id_gives_one_outcome(fake: FakeClerk) -> None:
    """The outcomes are those that revoke_many would count."""
    ids = add_sessions(fake, 60)
    ended = fake.add_session(status="ended").id
    async with bulk_client(fake) as client:
        outcomes = [
            outcome async for outcome in client.revoke_stream([*ids, ended, "gone", "a/b", ids[0]])
        ]
    assert by_status(outcomes) == {
        "revoked": 60,
        "already_inactive": 1,
        "not_found": 1,
        "failed": 1,
    }
    assert {outcome.session_id for outcome in outcomes} == {*ids, ended, "gone", "a/b"}


async def test_outcomes_come_in_the_order_in_which_they_are_known(fake: FakeClerk) -> None:
    """This is not the order of the input."""
    ids = add_sessions(fake, 5)
    fake.inject(Fault.hold(operation="revoke", session_id=ids[0]))
    order: list[str | None] = []
    async with bulk_client(fake) as client:
        async for outcome in client.revoke_stream(ids):
            order.append(outcome.session_id)
            if len(order) == 4:
                fake.release()
    assert order[-1] == ids[0]
    assert set(order) == set(ids)


async def test_nothing_is_sent_before_the_first_outcome_is_requested(fake: FakeClerk) -> None:
    """A stream that nobody reads does nothing."""
    ids = add_sessions(fake, 3)
    async with bulk_client(fake) as client:
        stream = client.revoke_stream(ids)
        await asyncio.sleep(0.02)
        await stream.aclose()
    assert not fake.requests


@pytest.mark.promise("streams-end")
async def test_a_slow_reader_slows_the_sends_down(fake: FakeClerk) -> None:
    """Memory doesn't grow with unread outcomes."""
    ids = add_sessions(fake, 400)
    async with bulk_client(fake, pool_size=10) as client:
        stream = client.revoke_stream(ids)
        await anext(stream)
        await asyncio.sleep(0.3)
        assert sum(sends(fake).values()) < 100
        rest = [outcome async for outcome in stream]
    assert len(rest) == 399


async def test_failures_go_to_the_reader_and_are_not_kept(fake: FakeClerk) -> None:
    """Otherwise memory would grow with the failures of an endless stream."""
    fake.inject(Fault.status(422, operation="revoke", count=None))
    failures: list[weakref.ref[BaseException]] = []
    async with bulk_client(fake) as client:
        async for outcome in client.revoke_stream([f"sess_{number}" for number in range(300)]):
            assert outcome.error is not None
            failures.append(weakref.ref(outcome.error))
            if len(failures) == 150:
                del outcome
                gc.collect()
                assert sum(failure() is not None for failure in failures) < 10
    assert len(failures) == 300


async def test_closing_early_finishes_requests_in_flight_and_leaves_no_task(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """The journal has everything that was done."""
    before = asyncio.all_tasks()
    ids = add_sessions(fake, 300)
    told: list[RevocationOutcome] = []
    journal = tmp_path / "job.jsonl"
    async with bulk_client(fake, pool_size=8) as client:
        stream = client.revoke_stream(ids, journal=journal, on_outcome=told.append)
        async with contextlib.aclosing(stream):
            async for _ in stream:
                break
        assert asyncio.all_tasks() == before
    done = {sid for sid in ids if sid not in live(fake)}
    assert done == {outcome.session_id for outcome in told if outcome.status == "revoked"}
    text = journal.read_text()
    assert all(session_id in text for session_id in done)
    assert len(done) < 150
    assert len(told) < 150, "the rest of the list no longer matters"


async def test_a_dropped_stream_ends_by_itself(fake: FakeClerk) -> None:
    """After a plain break without closing, the loop closes it."""
    before = asyncio.all_tasks()
    ids = add_sessions(fake, 300)
    async with bulk_client(fake, pool_size=4) as client:
        async for _ in client.revoke_stream(ids):
            break
        gc.collect()
        await until(lambda: asyncio.all_tasks() == before)
    assert len(live(fake)) > 100


@leaping
async def test_cancelling_the_reader_ends_the_run_like_any_cancellation(
    fake: FakeClerk,
) -> None:
    """Requests in flight finish, everything is reported, and the cancellation is passed on."""
    ids = add_sessions(fake, 20)
    fake.inject(Fault.hold(operation="revoke", count=None))
    told: list[RevocationOutcome] = []
    before = asyncio.all_tasks()

    async with bulk_client(fake, pool_size=3) as client:

        async def read() -> None:
            async for _ in client.revoke_stream(ids, on_outcome=told.append):
                raise AssertionError("nothing was answered yet")

        reader = asyncio.create_task(read())
        await until(lambda: sum(sends(fake).values()) >= 3)
        with time_stands_still():  # the grace period does not end
            reader.cancel()
            await turns()
            fake.release()
            with pytest.raises(asyncio.CancelledError):
                await reader
        assert by_status(told) == {"revoked": 3}
        assert asyncio.all_tasks() == before


async def test_an_endless_input_can_be_streamed(fake: FakeClerk) -> None:
    """The reader decides when to stop."""
    seen = 0
    async with bulk_client(fake) as client:
        stream = client.revoke_stream(f"sess_{number}" for number in itertools.count())
        async with contextlib.aclosing(stream):
            async for outcome in stream:
                assert outcome.status == "not_found"
                seen += 1
                if seen == 500:
                    break
    assert seen == 500


async def test_a_stopped_stream_reports_what_was_not_attempted(fake: FakeClerk) -> None:
    """Each id gets one outcome, whatever happens."""
    ids = add_sessions(fake, 50)
    async with bulk_client(fake) as client:
        outcomes = [
            outcome async for outcome in client.revoke_stream(ids, should_stop=lambda: True)
        ]
    assert by_status(outcomes) == {"not_attempted": 50}


async def test_arguments_are_checked_when_the_stream_is_made_and_the_journal_when_it_is_read(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """Both happen before any request."""
    async with bulk_client(fake) as client:
        with pytest.raises(InvalidArgumentError):
            client.revoke_stream(["sess_1"], concurrency=0)
        stream = client.revoke_stream(["sess_1"], journal=tmp_path / "none" / "job.jsonl")
        with pytest.raises(JournalError):
            await anext(stream)
    assert not fake.requests


async def test_a_stream_that_has_ended_stays_ended(fake: FakeClerk) -> None:
    """It can be closed again."""
    ids = add_sessions(fake, 2)
    async with bulk_client(fake) as client:
        stream = client.revoke_stream(ids)
        assert len([outcome async for outcome in stream]) == 2
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
