"""SessionsApi in one process: many threads, hooks, views, and closing."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import gc
import itertools
import logging
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from chaos_world import open_files
from clients import ONCE, OPERATIONS, invoke, sync_client_of
from served_apps import until

from clerk_async import ClientClosedError, NotFoundError, SessionsApi, WrongLoopError
from clerk_async.sync.private_loop import Crossing
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clerk_async import RevocationOutcome
    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.usefixtures("each_private_loop")


def own_threads() -> list[threading.Thread]:
    """Return the live threads of sync clients."""
    return [thread for thread in threading.enumerate() if thread.name == "clerk_async"]


def test_a_thread_starts_with_the_first_call_and_ends_with_close(fake: FakeClerk) -> None:
    """Making a client starts nothing; after close nothing is left."""
    session = fake.add_session().id
    before = len(own_threads())
    client = sync_client_of(fake)
    assert len(own_threads()) == before
    client.get(session)
    assert len(own_threads()) == before + 1
    client.close()
    client.close()
    assert len(own_threads()) == before
    fake.wait_for(lambda: fake.open_connections == 0)


@pytest.mark.promise("sync-surroundings")
def test_fifty_threads_share_one_client(fake: FakeClerk) -> None:
    """Each gets its own response, the pool size is never exceeded, and nothing is left."""
    ids = [fake.add_session(user_id=f"user_{number}").id for number in range(50)]
    fake.latency = 0.002
    together = threading.Barrier(50)
    before = len(own_threads())

    def work(number: int) -> None:
        together.wait()
        for _ in range(4):
            assert client.get(ids[number]).user_id == f"user_{number}"
            assert [s.id for s in client.iterate(user_id=f"user_{number}")] == [ids[number]]
        with pytest.raises(NotFoundError) as caught:
            client.get(f"sess_nobody_{number}")
        assert caught.value.path == f"/sessions/sess_nobody_{number}"
        assert client.revoke(ids[number]).id == ids[number]

    with sync_client_of(fake, pool_size=9) as client, ThreadPoolExecutor(50) as threads:
        for done in [threads.submit(work, number) for number in range(50)]:
            done.result()
        assert len(own_threads()) == before + 1, "fifty concurrent first calls start one loop"
        assert fake.max_in_flight <= 9
        assert fake.max_open_connections <= 9
    fake.wait_for(lambda: fake.open_connections == 0)
    assert len(own_threads()) == before
    assert {session.status for session in fake.sessions.values()} == {"revoked"}


def test_closing_ends_calls_of_other_threads(fake: FakeClerk) -> None:
    """Threads that wait in a call get an error that the client was closed."""
    fake.inject(Fault.hold(count=None))
    client = sync_client_of(fake)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(client.get, "sess_1") for _ in range(3)]
        fake.wait_for(lambda: fake.held == 3)
        client.close()
        for call in calls:
            assert isinstance(call.exception(), ClientClosedError)
    fake.wait_for(lambda: fake.open_connections == 0)


@pytest.mark.promise("nobody-stranded")
def test_a_client_can_be_closed_in_a_callback(fake: FakeClerk) -> None:
    """The run around it ends first, as it needs this thread; then the loop and its thread end."""
    ids = [fake.add_session().id for _ in range(5)]
    before = set(own_threads())
    client = sync_client_of(fake)
    client.get(ids[0])
    [thread] = set(own_threads()) - before

    was_alive: list[bool] = []

    def on_outcome(_: object) -> None:
        client.close()
        was_alive.append(thread.is_alive())

    with pytest.raises(ClientClosedError):
        client.revoke_many(iter(ids), concurrency=1, on_outcome=on_outcome)
    assert was_alive[0], "nothing in a callback waits for the run around it"
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(ClientClosedError):
        client.get(ids[0])


@pytest.mark.promise("nobody-stranded")
def test_closing_does_not_wait_forever_for_a_callback(fake: FakeClerk) -> None:
    """A thread that is in one when the grace period ends gets the error when it returns."""
    session = fake.add_session().id
    is_called, may_go_on = threading.Event(), threading.Event()

    def on_outcome(_: object) -> None:
        is_called.set()
        assert may_go_on.wait(30)

    client = sync_client_of(fake)
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(client.revoke_many, [session], on_outcome=on_outcome)
        assert is_called.wait(10)
        client._thread.close(0.05)
        assert not run.done()
        may_go_on.set()
        assert isinstance(run.exception(10), ClientClosedError)


@pytest.mark.promise("nobody-stranded")
def test_a_call_that_ignores_cancellation_blocks_nobody(fake: FakeClerk) -> None:
    """Closing does not wait for it."""
    is_running = threading.Event()

    async def stubborn() -> None:
        is_running.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    client = sync_client_of(fake)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client._thread.call, stubborn)
        assert is_running.wait(10)
        client._thread.close(0.05)
        assert isinstance(call.exception(10), ClientClosedError)


@pytest.mark.promise("nobody-stranded")
@pytest.mark.may_block
def test_a_call_that_arrives_as_the_loop_ends_is_rejected(fake: FakeClerk) -> None:
    """It may be on its way in, or begin in the loop's last turn; it never waits forever."""
    client = sync_client_of(fake)
    client.get(fake.add_session().id)
    private = client._thread.private()
    assert private.loop is not None
    is_busy, may_go_on = threading.Event(), threading.Event()

    def keep_busy() -> None:
        is_busy.set()
        may_go_on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        private.loop.call_soon_threadsafe(keep_busy)
        private.loop.call_soon_threadsafe(private.loop.stop)
        assert is_busy.wait(10)
        calls = [threads.submit(client.get, "sess_1") for _ in range(2)]
        until(lambda: len(private._arrivals) == 2)
        may_go_on.set()
        for call in calls:
            error = call.exception(10)  # or the answer, if it came in that turn
            assert isinstance(error, ClientClosedError | NotFoundError)
        private._thread.join(10)
    with pytest.raises(ClientClosedError):
        client.get("sess_1")
    with pytest.raises(ClientClosedError):
        next(client.iterate(user_id="user_1"))
    asyncio.run(client._async.aclose())


@pytest.mark.promise("nobody-stranded")
def test_a_call_that_arrives_after_the_loops_last_turn_is_rejected(fake: FakeClerk) -> None:
    """The loop still accepts it, but will never run it."""
    client = sync_client_of(fake)
    client.get(fake.add_session().id)
    private = client._thread.private()
    assert private.loop is not None
    late = Crossing(client._async.get, ("sess_1",))
    close = private.loop.close

    def close_late() -> None:
        private._arrivals.append(late)  # of a caller that checked just before the client was closed
        close()

    private.loop.close = close_late  # type: ignore[method-assign]
    client.close()
    assert late.wait(10)
    with pytest.raises(ClientClosedError):
        late.outcome()


@pytest.mark.promise("nobody-stranded")
def test_a_call_that_arrives_as_the_loop_goes_to_sleep_is_made(fake: FakeClerk) -> None:
    """Between its last check for calls and its sleep the loop is woken once more."""
    session = fake.add_session().id

    class Arrivals(collections.deque[Crossing[Any]]):
        def __bool__(self) -> bool:
            has_more = len(self) > 0
            if not has_more and late.task is None:
                private.hand_over(late)
            return has_more

    with sync_client_of(fake) as client:
        private = client._thread.private()
        late = Crossing(client._async.get, (session,))
        private._arrivals = Arrivals()
        assert client.get(session).id == session
        assert late.wait(10)
        assert late.outcome().id == session


def test_a_caller_that_is_woken_in_vain_waits_on(fake: FakeClerk) -> None:
    """What wakes it may also be rung for the call before, or by a fork that shares it."""
    session = fake.add_session().id
    with sync_client_of(fake) as client:
        client.get(session)
        for bell in client._thread.private().bells:
            bell.ring()
        assert client.get(session).id == session


def test_calls_work_where_there_is_nothing_to_ring(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without eventfd, as on macOS and Windows, or without a free file descriptor."""
    monkeypatch.delattr(os, "eventfd", raising=False)
    session = fake.add_session().id
    with sync_client_of(fake) as client:
        for _ in range(3):
            assert client.get(session).id == session


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="Linux's own")
def test_concurrent_calls_leave_no_file_open_after_close(fake: FakeClerk) -> None:
    """Each waiting thread has a descriptor; closing the client closes all of them."""
    session = fake.add_session().id

    def rung() -> int:
        gc.collect()  # of this test and of those before
        links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        return sum("eventfd" in link for link in links)

    gc.collect()  # bells of earlier tests
    before = rung()
    with sync_client_of(fake) as client, ThreadPoolExecutor(8) as threads:
        fake.inject(Fault.hold(count=8))
        calls = [threads.submit(client.get, session) for _ in range(8)]
        fake.wait_for(lambda: fake.held == 8)
        assert rung() - before >= 8
        fake.release()
        assert {call.result(10).id for call in calls} == {session}
    assert rung() <= before


def test_a_closed_client_rejects_every_call(fake: FakeClerk) -> None:
    """Every operation, also of views and of a client that was never used."""
    used, unused = sync_client_of(fake), sync_client_of(fake)
    used.get(fake.add_session().id)
    fake.wait_for(lambda: len(fake.requests) == 1)
    for client in (used, unused):
        view = client.with_options(timeout=1)
        client.close()
        for target in (client, view, client.with_http_info):
            for operation in OPERATIONS:
                with pytest.raises(ClientClosedError):
                    invoke(target, operation, fake)
        with pytest.raises(ClientClosedError):
            next(client.iterate(user_id="u"))
    assert len(fake.requests) == 1


def test_an_iterator_outlives_its_client_quietly(fake: FakeClerk) -> None:
    """An unfinished iterator of a closed client raises when used, not when dropped."""
    fake.add_session(user_id="user_1")
    fake.add_session(user_id="user_1")
    with sync_client_of(fake) as client:
        asked, dropped = (client.iterate(user_id="user_1", page_size=1) for _ in range(2))
        next(asked)
        next(dropped)
    with pytest.raises(ClientClosedError):
        next(asked)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del dropped
        gc.collect()
    assert caught == []


def test_an_iterator_collected_in_the_loops_thread_is_quiet(fake: FakeClerk) -> None:
    """That thread can't wait for itself, so the loop closes the iterator."""
    for _ in range(2):
        fake.add_session(user_id="user_1")
    with sync_client_of(fake) as client:
        held = [client.iterate(user_id="user_1", page_size=1)]
        next(held[0])
        loop = client._thread.private().loop
        assert loop is not None
        loop.call_soon_threadsafe(held.clear)
        assert client.get(fake.add_session().id).status == "active"
        assert held == []


def test_views_share_thread_and_pool(fake: FakeClerk) -> None:
    """Closing a view does nothing."""
    session = fake.add_session().id
    before = len(own_threads())
    with sync_client_of(fake) as client:
        with client.with_options(retry=ONCE) as view:
            view.get(session)
        client.get(session)
        client.with_http_info.get(session)
        assert len(own_threads()) == before + 1
        assert fake.total_connections == 1
        assert type(view) is SessionsApi


@pytest.mark.promise("caller-thread")
def test_a_call_from_its_own_loop_is_rejected(fake: FakeClerk) -> None:
    """In a trace hook it would wait for itself: it raises, and the outer call continues."""
    session = fake.add_session().id
    caught: list[BaseException] = []

    async def on_start(*_: Any) -> None:
        for act in (lambda: client.get(session), client.close):
            try:
                act()
            except WrongLoopError as error:
                caught.append(error)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_start)
    with sync_client_of(fake, trace_configs=[trace]) as client:
        assert client.get(session).id == session
        assert client.get(session).id == session
    assert len(caught) == 4


def test_hooks_see_the_callers_context(fake: FakeClerk) -> None:
    """A request id in a context variable of the caller is visible in trace hooks."""
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []

    async def on_start(*_: Any) -> None:
        seen.append(request_id.get())

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_start)
    session = fake.add_session(user_id="u").id
    with sync_client_of(fake, trace_configs=[trace]) as client:
        for value in ("one", "two"):
            token = request_id.set(value)
            client.get(session)
            list(client.iterate(user_id="u"))
            request_id.reset(token)
        client.get(session)
    assert [value for value, _ in itertools.groupby(seen)] == ["one", "two", "none"]


@pytest.mark.promise("caller-thread")
def test_callbacks_run_in_the_callers_thread(fake: FakeClerk) -> None:
    """So do the input iterables, in every method that takes them."""
    threads: dict[str, int] = {}

    def noting(name: str, answer: object = None) -> Any:
        def note(*_: object) -> Any:
            threads[name] = threading.get_ident()
            return answer

        return note

    def items(name: str, *values: str) -> Iterator[str]:
        threads[name] = threading.get_ident()
        yield from values

    def hooks(run: str) -> dict[str, Any]:
        names = ("on_outcome", "on_progress", "should_stop")
        return {name: noting(f"{run}: {name}", answer=False) for name in names}

    fake.add_session(user_id="u")
    fake.add_session(user_id="v")
    fake.inject(Fault.null("status", operation="list"))
    with sync_client_of(fake) as client:
        list(client.iterate(user_id="u", on_unreadable=noting("on_unreadable")))
        client.revoke_many(items("many", "sess_1"), **hooks("many"))
        list(client.revoke_stream(items("stream", "sess_1"), **hooks("stream")))
        client.revoke_all(user_ids=items("all", "v"), **hooks("all"))
    assert len(threads) == 13
    assert set(threads.values()) == {threading.get_ident()}


def test_dropping_a_client_ends_its_thread(fake: FakeClerk) -> None:
    """A client without references leaves neither thread nor connection."""
    session = fake.add_session().id
    before = len(own_threads())
    client = sync_client_of(fake)
    client.get(session)
    del client
    gc.collect()
    assert len(own_threads()) == before
    fake.wait_for(lambda: fake.open_connections == 0)


def test_a_client_dropped_in_its_own_thread_ends_too(fake: FakeClerk) -> None:
    """The garbage collector may run in the client's own thread, which can't wait for itself."""
    session = fake.add_session().id
    before = set(own_threads())
    held = [sync_client_of(fake)]
    held[0].get(session)
    [thread] = set(own_threads()) - before
    loop = held[0]._thread.private().loop
    assert loop is not None
    loop.call_soon_threadsafe(held.clear)
    thread.join(5)
    assert not thread.is_alive()
    assert loop.is_closed()
    fake.wait_for(lambda: fake.open_connections == 0)


def test_a_run_that_ends_early_leaves_nothing_to_the_garbage_collector(fake: FakeClerk) -> None:
    """The collector would close it later, and print what a signal handler raises just then."""
    ids = [fake.add_session(user_id=f"user_{number}").id for number in range(20)]
    left: list[object] = []

    async def watch(*_: object) -> None:
        sys.set_asyncgen_hooks(finalizer=left.append)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(watch)
    with sync_client_of(fake, trace_configs=[tracing]) as client:
        client.get(ids[0])
        told: list[object] = []
        report = client.revoke_many(
            iter(ids), concurrency=1, should_stop=lambda: len(told) > 1, on_outcome=told.append
        )
        assert report.stopped_by == "should_stop"
        iterators: list[Any] = [
            client.revoke_stream(iter(ids)),
            client.iterate(user_id="user_19"),
        ]
        for iterator in iterators:
            next(iterator)
            iterator.close()
        client.revoke_all(
            user_ids=(f"user_{number}" for number in range(20)), should_stop=lambda: True
        )
    gc.collect()
    assert left == []


@pytest.mark.may_block
async def test_it_works_in_a_running_loop(fake: FakeClerk) -> None:
    """It blocks that loop, as any sync call does."""
    session = fake.add_session().id
    with sync_client_of(fake) as client:
        assert client.get(session).id == session
        assert (await asyncio.to_thread(client.get, session)).id == session


def test_a_kept_error_keeps_no_file_open(fake: FakeClerk) -> None:
    """Its traceback has the frames of the call, after the client was closed too."""
    before = events_open()
    with sync_client_of(fake) as client, pytest.raises(NotFoundError) as kept:
        client.get("sess_nobody")
    assert kept.value.attempts == 1
    assert events_open() == before


def events_open() -> int:
    """Return how many files of this process are events, with which threads wake each other."""
    return sum("eventfd" in each for each in open_files())


def test_errors_are_raised_unchanged(fake: FakeClerk) -> None:
    """The traceback leads to the caller, and nothing of the loop is chained to it."""
    with sync_client_of(fake) as client, pytest.raises(NotFoundError) as caught:
        client.get("sess_nobody")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert any(str(entry.path) == __file__ for entry in caught.traceback)


@pytest.mark.parametrize("how", ["revoke_many", "revoke_stream"])
def test_ids_do_not_wait_for_an_iterable_that_pauses(how: str, fake: FakeClerk) -> None:
    """Such as lines of a pipe, whose next one comes later or never."""
    ids = [fake.add_session().id for _ in range(4)]

    def read() -> Iterator[str]:
        yield from ids[:3]
        fake.wait_for(
            lambda: all(fake.sessions[one].status == "revoked" for one in ids[:3]), timeout=30
        )
        yield ids[3]

    with sync_client_of(fake) as client:
        outcomes: list[RevocationOutcome] = []
        if how == "revoke_many":
            client.revoke_many(read(), on_outcome=outcomes.append)
        else:
            outcomes += client.revoke_stream(read())
    assert [outcome.status for outcome in outcomes] == ["revoked"] * 4


def test_async_only_inputs_are_rejected(fake: FakeClerk) -> None:
    """The sync client takes no aiohttp session and no async iterable."""
    with pytest.raises(TypeError):
        SessionsApi(fake.secret_key, client_session=None)  # type: ignore[call-arg]

    async def ids() -> AsyncIterator[str]:
        yield "sess_1"

    with sync_client_of(fake) as client, pytest.raises(ValueError, match="iterable"):
        client.revoke_many(ids())  # type: ignore[arg-type]
    assert fake.requests == []


def test_a_call_logs_in_the_thread_of_its_caller(fake: FakeClerk) -> None:
    """Its lines are there, in order, when it returns: also a bulk run's, and those of an error."""
    lines: list[tuple[int, str]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((threading.get_ident(), record.getMessage().partition(":")[0]))

    one = fake.add_session(user_id="user_1").id
    handler = Kept(logging.DEBUG)
    logger = logging.getLogger("clerk_async")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
            client.get(one)
            client.revoke_many([one])
            with pytest.raises(NotFoundError):
                client.get("sess_unknown")
            lines_of_calls = lines.copy()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert lines_of_calls == [
        (threading.get_ident(), f"GET /sessions/{one}"),
        (threading.get_ident(), f"POST /sessions/{one}/revoke"),
        (threading.get_ident(), "GET /sessions/sess_unknown"),
    ]
