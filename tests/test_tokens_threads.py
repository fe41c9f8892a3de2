"""One verifier in many threads and event loops at once, in forks and in signal handlers."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from token_samples import OTHER, OURS, PARTY, AsyncStub, Clock, SyncStub, claims, key_set, token

from clerk_async import AsyncTokenVerifier, TokenVerificationError, TokenVerifier
from clerk_async.testing import Fault
from clerk_async.tokens.refusals import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clerk_async.testing import FakeClerk

ORIGIN = "http://localhost:3000"
THREADS = 16
GOOD = token()


@pytest.fixture
def _switch_all_the_time() -> Iterator[None]:
    """Switch threads after a microsecond; without the GIL they run in parallel anyway."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work: Callable[[], object], threads: int = THREADS) -> list[object]:
    """Run a function in threads at the same time; return all results, or raise the first error."""
    start = threading.Barrier(threads)

    def run() -> object:
        start.wait(30)
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result(50) for future in [pool.submit(run) for _ in range(threads)]]


def fetches(fake: FakeClerk) -> int:
    """Count the fetches of keys that have arrived."""
    return sum(
        request.operation == "published keys" or "jwks" in request.path for request in fake.requests
    )


@pytest.mark.promise("one-fetch", "many-threads")
@pytest.mark.usefixtures("_switch_all_the_time")
def test_one_async_verifier_serves_many_loops(fake: FakeClerk) -> None:
    """All start at once: no error, and exactly one fetch, in one of the loops."""
    made = fake.mint(fake.add_session(user_id="user_1"))
    for number in range(1, 6):
        verifier = AsyncTokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])

        def use(verifier: AsyncTokenVerifier = verifier) -> object:
            return asyncio.run(asyncio.wait_for(verifier.verify(made), 30)).user_id

        assert set(at_once(use)) == {"user_1"}
        assert verifier.key_status().fetches == 1
        assert fetches(fake) == number
        assert verifier.key_status().accepted == THREADS


def test_a_loop_that_ends_leaves_no_other_loop_waiting(fake: FakeClerk) -> None:
    """The loop that began a fetch is gone; another one starts its own fetch."""
    made = fake.mint(fake.add_session(user_id="user_1"))
    verifier = AsyncTokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])
    fake.inject(Fault.hold(count=1))
    begun, ended = threading.Event(), threading.Event()

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(verifier.verify(made))
        while not fake.held:
            loop.run_until_complete(asyncio.sleep(0.001))
        waiter = threading.Thread(target=wait)
        # While this loop runs, the other one waits for its fetch.
        loop.call_soon(waiter.start)
        while not begun.is_set():
            loop.run_until_complete(asyncio.sleep(0.001))
        assert not ended.is_set()
        waiters.append(waiter)
        pending.append((loop, task))

    def wait() -> None:
        async def verify() -> None:
            begun.set()
            assert (await verifier.verify(made)).user_id == "user_1"

        asyncio.run(verify())
        ended.set()

    waiters: list[threading.Thread] = []
    pending: list[Any] = []
    abandon()
    assert ended.wait(30), "nothing fetched for the waiting loop"
    waiters[0].join()
    assert verifier.key_status().fetches == 2
    [(loop, task)] = pending
    fake.release()
    for each in asyncio.all_tasks(loop):
        each.cancel()
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_short_loops_do_not_each_start_a_fetch() -> None:
    """The background fetch of a loop ends with it; the next loop waits a little."""
    ages = Clock(0.0)
    stub = AsyncStub()
    verifier = AsyncTokenVerifier(
        sessions=stub, authorized_parties=[PARTY], clock=Clock(), monotonic=ages
    )
    asyncio.run(verifier.warm_up())
    ages.now = 250.0

    async def verify_and_end() -> None:
        stub.gate = asyncio.Event()  # the keys are slow to come
        await verifier.verify(GOOD)

    for _ in range(5):
        asyncio.run(verify_and_end())
    assert verifier.key_status().fetches == 2
    ages.now += 0.3
    asyncio.run(verify_and_end())
    assert verifier.key_status().fetches == 3


def test_a_closed_loop_is_not_woken() -> None:
    """A caller that gave up waiting gets no notice, and no traceback is printed."""
    stub = AsyncStub()
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())

    async def verify() -> None:
        stub.gate = asyncio.Event()
        first = asyncio.create_task(verifier.verify(GOOD))
        await asyncio.sleep(0)
        await asyncio.to_thread(give_up)
        stub.gate.set()
        assert (await first).user_id == "user_1"

    def give_up() -> None:
        async def wait_a_moment() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(verifier.verify(GOOD), 0.01)

        asyncio.run(wait_a_moment())

    asyncio.run(verify())
    assert verifier.key_status().fetches == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_fetch_that_never_started_blocks_nobody(kind: str) -> None:
    """An interruption may come between the decision to fetch and its start.

    A waiting thread starts the fetch itself; a task can't start it in another loop, and decides
    again.
    """
    ages = Clock(0.0)
    options: dict[str, Any] = {
        "authorized_parties": [PARTY],
        "clock": Clock(),
        "monotonic": ages,
    }
    verifier: Any = (
        TokenVerifier(sessions=SyncStub(), **options)
        if kind == "sync"
        else AsyncTokenVerifier(sessions=AsyncStub(), **options)
    )

    async def verify() -> object:
        _begin_and_forget(verifier)
        ages.now = 10.0
        return await verifier.verify(GOOD)

    if kind == "async":
        told: Any = asyncio.run(verify())
    else:
        _begin_and_forget(verifier)
        told = verifier.verify(GOOD)
    assert told.user_id == "user_1"
    assert verifier.key_status().fetches == (2 if kind == "async" else 1)


def _begin_and_forget(verifier: Any) -> None:
    """Decide to fetch, and be interrupted."""
    need = next(verifier._verification.keys.prepare())
    assert need.start


@pytest.mark.usefixtures("_switch_all_the_time")
def test_no_count_is_lost() -> None:
    """Accepted, rejected and cache hits, from sixteen threads."""
    verifier = TokenVerifier(sessions=SyncStub(), authorized_parties=[PARTY], clock=Clock())
    verifier.warm_up()
    foreign = token(claims(azp="https://evil.example"))

    def work() -> None:
        for _ in range(200):
            verifier.verify(GOOD)
            verifier.authenticate_request({"authorization": f"Bearer {GOOD}"})
            verifier.authenticate_request({})
            with pytest.raises(TokenVerificationError):
                verifier.verify(foreign)

    at_once(work)
    status = verifier.key_status()
    assert status.accepted == 2 * 200 * THREADS
    assert status.refused == {
        "token-invalid-authorized-parties": 200 * THREADS,
        "session-token-missing": 200 * THREADS,
    }
    assert status.hits == 3 * 200 * THREADS


def test_reading_a_counter_does_not_change_it() -> None:
    """However often it is read."""
    counter = Counter()
    for number in range(3):
        assert [counter.value, counter.value] == [number, number]
        counter.add()


@pytest.mark.usefixtures("_switch_all_the_time")
def test_the_cache_never_exceeds_its_size() -> None:
    """However many threads cache tokens at the same time."""
    tokens = [token(claims(jti=str(number))) for number in range(100)]
    verifier = TokenVerifier(
        sessions=SyncStub(), authorized_parties=[PARTY], clock=Clock(), token_cache_size=5
    )
    verifier.warm_up()
    most: list[int] = []

    def work() -> None:
        for made in tokens:
            verifier.verify(made)
            most.append(verifier.key_status().cached_tokens)

    at_once(work, threads=8)
    assert 1 <= max(most) <= 5
    assert verifier.key_status().accepted == 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_is_not_affected_by_work_in_progress_at_the_fork() -> None:
    """It caches tokens and fetches keys, whatever the parent's threads were doing."""
    stub = SyncStub()
    stub.gate = threading.Event()
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    fetching = threading.Thread(target=verifier.warm_up)
    fetching.start()
    give_up = time.monotonic() + 30
    while not verifier.key_status().fetches:
        assert time.monotonic() < give_up
    child = os.fork()
    if not child:  # pragma: no cover - another process
        stub.gate.set()
        verifier.verify(GOOD)
        os._exit(0 if verifier.key_status().cached_tokens == 1 else 1)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > give_up:
            os.kill(child, 9)
        time.sleep(0.01)
    stub.gate.set()
    fetching.join()
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_two_threads_that_decide_to_fetch_share_one() -> None:
    """The second joins it; one that decided before it ended checks the keys again instead."""
    stub = SyncStub()
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    keys: Any = verifier._verification.keys
    before = keys._ended
    first, second = keys._take_off(before, patience=None), keys._take_off(before, patience=None)
    assert (first.start, second.start) == (True, False)
    assert second.flight is first.flight
    keys.land(first.flight, stub.body)
    late = keys._take_off(before, patience=None)
    assert (late.start, late.flight.landed.is_open) == (False, True)
    verifier._meet_keys(late)
    assert verifier.verify(GOOD).user_id == "user_1"
    assert (verifier.key_status().fetches, stub.fetches) == (1, 0)


def keys_before_a_rotation() -> Any:
    """Return the fetched keys of a verifier, which lack the next one."""
    verifier = TokenVerifier(sessions=SyncStub(), authorized_parties=[PARTY], clock=Clock())
    keys: Any = verifier._verification.keys
    keys.land(keys._take_off(0, patience=None).flight, key_set(OURS))
    return keys


def assert_found(finding: Any) -> None:
    """Check that the search ends with the next key."""
    with pytest.raises(StopIteration) as found:
        next(finding)
    assert found.value.value.kid == "ins_other"


@pytest.mark.promise("one-fetch")
def test_a_key_that_comes_with_the_last_awaited_fetch_counts() -> None:
    """A token waits for a few fetches only, and other threads began those before the rotation."""
    keys = keys_before_a_rotation()
    finding = keys.find("ins_other")
    for body in (key_set(OURS), key_set(OURS), key_set(OURS, OTHER)):
        theirs = keys._take_off(keys._ended, patience=None)
        needed = next(finding)
        assert (needed.start, needed.flight) == (False, theirs.flight)
        keys.land(theirs.flight, body)
    assert_found(finding)


def test_fetches_that_have_just_ended_are_not_waited_for() -> None:
    """After any number of them, the token starts a fetch of its own."""
    keys = keys_before_a_rotation()
    finding = keys.find("ins_other")
    take_off = keys._take_off

    def one_has_just_ended(ended: int, patience: float | None) -> Any:
        return take_off(ended - 1, patience=patience)

    for _ in range(5):
        keys._take_off = one_has_just_ended
        assert next(finding).flight.landed.is_open
    keys._take_off = take_off
    needed = next(finding)
    assert needed.start
    keys.land(needed.flight, key_set(OURS, OTHER))
    assert_found(finding)


def test_a_fetch_that_begins_while_a_token_reads_the_clock_is_awaited() -> None:
    """Otherwise the token would see the cooldown, but not the fetch that began it."""
    keys = keys_before_a_rotation()
    clock, theirs = keys._clock, list[Any]()
    calls = iter(range(100))

    def another_begins() -> float:
        now: float = clock()
        if next(calls) == 1:  # after the look at the age of the keys
            theirs.append(keys._take_off(keys._ended, patience=None).flight)
            keys._unknown_at = now + 1.0
        return now

    keys._clock = another_begins
    finding = keys.find("ins_other")
    assert next(finding).flight is theirs[0]
    keys.land(theirs[0], key_set(OURS, OTHER))
    assert_found(finding)
