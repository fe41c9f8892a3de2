"""The input of a bulk run: any iterable, each id once, in memory that doesn't grow."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import add_sessions, bulk_client, live, sends, until
from bulk_stage import Client, Service, revoke_many, simulate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from leaps import leap, leaping

from clerk_async import InvalidArgumentError, RateLimit
from clerk_async.bulk.intake import Duplicates, Input

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from clerk_async import RevocationOutcome, RevocationProgress
    from clerk_async.testing import FakeClerk


async def _async_ids(ids: list[str]) -> AsyncIterator[str]:
    for session_id in ids:
        await asyncio.sleep(0)
        yield session_id


@pytest.mark.promise("any-input")
@pytest.mark.parametrize("kind", [list, tuple, set, iter, dict.fromkeys, _async_ids])
async def test_any_iterable_of_ids_is_read_completely(fake: FakeClerk, kind: Any) -> None:
    """Lists, sets, generators, dicts and async generators work."""
    ids = add_sessions(fake, 25)
    async with bulk_client(fake) as client:
        report = await client.revoke_many(kind(ids))
    assert report.revoked == 25
    assert report.exhausted
    assert sends(fake) == dict.fromkeys(ids, 1)


async def test_an_empty_input_makes_an_empty_report(fake: FakeClerk) -> None:
    """No request is sent."""
    async with bulk_client(fake) as client:
        report = await client.revoke_many([])
    assert (report.total, report.ok, fake.requests) == (0, True, [])


@pytest.mark.parametrize("wrong", ["sess_1", b"sess_1", bytearray(b"s"), 5, None, object()])
async def test_an_input_that_is_not_a_collection_of_ids_is_rejected(
    fake: FakeClerk, wrong: Any
) -> None:
    """The letters of a single string would be taken for ids. No request is sent."""
    async with bulk_client(fake) as client:
        with pytest.raises(InvalidArgumentError, match="session_ids"):
            await client.revoke_many(wrong)
        with pytest.raises(InvalidArgumentError, match="session_ids"):
            client.revoke_stream(wrong)
    assert not fake.requests


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": 1.5},
        {"rate_limit": 5},
        {"rate_limit": (5, 1)},
        {"dry_run": 1},
        {"max_failures": -1},
        {"max_failures": "3"},
        {"deadline": -1.0},
        {"deadline": float("nan")},
        {"deadline": "soon"},
        {"should_stop": True},
        {"on_outcome": "print"},
        {"on_progress": 3},
        {"journal": 7},
        {"journal": ""},
        {"journal": b"job.jsonl"},
        {"journal": "a\0b"},
    ],
)
async def test_arguments_are_checked_before_any_request(
    fake: FakeClerk, options: dict[str, Any]
) -> None:
    """The error names the argument, in all three methods."""
    (name,) = options
    async with bulk_client(fake) as client:
        with pytest.raises(InvalidArgumentError, match=name):
            await client.revoke_many(["sess_1"], **options)
        with pytest.raises(InvalidArgumentError, match=name):
            client.revoke_stream(["sess_1"], **options)
        with pytest.raises(InvalidArgumentError, match=name):
            await client.revoke_all(user_id="user_1", **options)
    assert not fake.requests


async def test_a_duplicate_id_is_sent_once(fake: FakeClerk) -> None:
    """It is counted once, too."""
    ids = add_sessions(fake, 10)
    async with bulk_client(fake) as client:
        report = await client.revoke_many([*ids, *reversed(ids), ids[3]])
    assert report.total == report.revoked == 10
    assert max(sends(fake).values()) == 1


@pytest.mark.promise("any-input")
@example(values=[*"xxxabx"], size=3)
@settings(max_examples=60)
@given(values=st.lists(st.integers(0, 12).map(str), max_size=200), size=st.integers(1, 8))
def test_duplicates_are_detected_exactly_within_the_window(values: list[str], size: int) -> None:
    """The result equals that of a simple search through the last ids."""
    window = Duplicates(size)
    for index, value in enumerate(values):
        assert window.saw(value) == (value in values[max(0, index - size) : index])


@pytest.mark.parametrize(("between", "is_known"), [(49_999, True), (50_000, False)])
def test_duplicates_are_detected_up_to_50000_ids_back(between: int, *, is_known: bool) -> None:
    """The window has the documented size: one farther back is not detected."""
    window = Duplicates()
    assert not window.saw("sess_first")
    assert not any(window.saw(f"sess_{number}") for number in range(between))
    assert window.saw("sess_first") is is_known


def test_the_window_of_duplicates_stays_small_when_ids_leave_it() -> None:
    """Its tables take no more memory after 150,000 ids than after the first 50,000."""
    window = Duplicates()
    ids = [f"sess_{number}" for number in range(150_000)]
    for session_id in ids[:50_000]:
        window.saw(session_id)
    filled = sum(map(sys.getsizeof, window._seen))
    for session_id in ids[50_000:]:
        window.saw(session_id)
    assert sum(map(sys.getsizeof, window._seen)) < filled * 1.2


async def test_a_journal_detects_duplicates_from_farther_back(
    fake: FakeClerk, tmp_path: Path
) -> None:
    """It contains everything that was done, here by an earlier run."""
    earlier, session_id = add_sessions(fake, 2)
    done = [f"sess_{number}" for number in range(50_000)]
    journal = tmp_path / "job.jsonl"
    async with bulk_client(fake) as client:
        await client.revoke_many([earlier], journal=journal)
        line = journal.read_text("utf-8").splitlines()[-1]
        with journal.open("a", encoding="utf-8") as file:
            file.writelines(line.replace(earlier, other) + "\n" for other in done)
        ids = [session_id, *done, session_id]
        report = await client.revoke_many(ids, journal=journal, concurrency=1)
    assert (report.total, report.revoked, report.resumed) == (50_001, 1, 50_000)
    assert sends(fake)[session_id] == 1


async def test_an_endless_input_is_read_only_as_far_as_it_is_sent() -> None:
    """The run ends by its deadline, and does not read the rest of the input."""
    counter = itertools.count()

    async def main() -> int:
        client = Client(Service(back=lambda: 0.1), limit=RateLimit(10, per=1.0))
        report = await revoke_many(
            client, (f"sess_{number}" for number in counter), deadline=2.5, concurrency=5
        )
        assert report.stopped_by == "deadline"
        assert not report.exhausted
        assert not report.ok
        return report.total

    total = await asyncio.to_thread(simulate, main())
    assert 20 <= total <= 40
    assert next(counter) == total


async def test_an_input_that_raises_ends_the_run_after_requests_in_flight(fake: FakeClerk) -> None:
    """The user's own error is raised."""
    ids = add_sessions(fake, 20)

    def broken() -> Iterator[str]:
        yield from ids
        raise RuntimeError("the file ended in the middle")

    told: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        with pytest.raises(RuntimeError, match="in the middle"):
            await client.revoke_many(broken(), on_outcome=told.append)
    assert {outcome.session_id for outcome in told} == set(ids)
    revoked = {outcome.session_id for outcome in told if outcome.status == "revoked"}
    assert revoked == set(sends(fake))


@leaping
async def test_a_waiting_async_input_does_not_delay_a_stop(fake: FakeClerk) -> None:
    """If nobody fills the queue, the deadline still ends the run."""
    session_id = add_sessions(fake, 1)[0]

    async def slow() -> AsyncIterator[str]:
        yield session_id
        await asyncio.Event().wait()

    async with bulk_client(fake, timeout=600.0) as client:
        run = asyncio.create_task(client.revoke_many(slow(), deadline=60.0))
        await until(lambda: not live(fake))
        leap(60.0)
        report = await run
    assert report.stopped_by == "deadline"
    assert report.revoked == 1


@pytest.mark.parametrize("what", ["a duplicate", "malformed", "in a dry run"])
async def test_a_long_sync_input_does_not_block_the_loop(fake: FakeClerk, what: str) -> None:
    """Other tasks run while 30,000 ids that need no request are read."""
    add_sessions(fake, 1)
    turns = 0
    turns_at: list[int] = []

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def ids() -> Iterator[str]:
        for number in range(30_000):
            turns_at.append(turns)
            yield {"a duplicate": "sess_1", "malformed": "a/b"}.get(what, f"sess_{number}")

    task = asyncio.create_task(beside())
    async with bulk_client(fake) as client:
        await client.revoke_many(ids(), dry_run=what == "in a dry run")
    task.cancel()
    longest = max(len(list(same)) for _, same in itertools.groupby(turns_at))
    assert longest <= 1000


async def test_the_total_of_a_collection_is_known_from_the_start() -> None:
    """The total of a generator is known only at its end."""
    seen: dict[str, list[int | None]] = {"list": [], "generator": []}

    def note(kind: str) -> Any:
        def on_progress(progress: RevocationProgress) -> None:
            seen[kind].append(progress.total)

        return on_progress

    async def main() -> None:
        client = Client(Service(back=lambda: 0.2), limit=RateLimit(10, per=1.0))
        ids = [f"sess_{number}" for number in range(30)]
        await revoke_many(client, ids, on_progress=note("list"))
        await revoke_many(client, iter(ids), on_progress=note("generator"), concurrency=2)

    await asyncio.to_thread(simulate, main())
    assert set(seen["list"]) == {30}
    assert seen["generator"][0] is None
    assert seen["generator"][-1] == 30


async def _after(begin: asyncio.Event, count: int) -> AsyncIterator[int]:
    await begin.wait()
    for number in range(count):
        yield number


async def test_workers_run_in_parallel_again_after_a_slow_input() -> None:
    """Once the input is fast again, all workers read in each turn of the loop, not just one."""
    begin = asyncio.Event()
    values = Input(_after(begin, 800))
    turns = 0

    async def worker() -> list[int]:
        got: list[int] = []
        while (item := await values.read()) is not None:
            got.append(item[0])
            await asyncio.sleep(0)  # a request takes a moment
        return got

    workers = [asyncio.ensure_future(worker()) for _ in range(8)]
    await asyncio.sleep(0)
    begin.set()
    while not all(each.done() for each in workers):
        turns += 1
        await asyncio.sleep(0)
    assert sorted(itertools.chain(*[each.result() for each in workers])) == list(range(800))
    assert turns < 200


async def test_a_worker_cancelled_at_its_turn_hands_it_on() -> None:
    """No worker waits forever behind one that is cancelled while waiting or just after waking."""
    begin = asyncio.Event()
    values = Input(_after(begin, 3))
    first, second, third, fourth = (asyncio.ensure_future(values.read()) for _ in range(4))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()  # the reader; its end wakes the third, which goes before it runs
    asyncio.get_running_loop().call_soon(third.cancel)
    await asyncio.wait([first, second, third])
    begin.set()
    assert all(each.cancelled() for each in (first, second, third))
    assert await asyncio.wait_for(fourth, 5) is None, (
        "its input ended when the first reader was cancelled"
    )
