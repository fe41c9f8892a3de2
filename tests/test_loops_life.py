"""One client across event loops, cancellations and its own closing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import gc
import json
import os
import pickle
import threading
import warnings
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from clients import ONCE, OPERATIONS, client_of, invoke, sync_client_of
from leaps import leap, leaping

from clerk_async import (
    AsyncSessionsApi,
    ClerkError,
    ClientClosedError,
    ConnectionLostError,
    RateLimitedError,
    RetryPolicy,
    WrongLoopError,
)
from clerk_async.http import transport
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from clerk_async.http.settings import WireSettings
    from clerk_async.testing import FakeClerk


@contextlib.contextmanager
def no_unraisable() -> Generator[list[str], None, None]:
    """Collect warnings that are raised only during finalization."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told: list[str] = []
        yield told
        gc.collect()
        told.extend(str(warning.message) for warning in caught)


# --- loops ----------------------------------------------------------------------------------------


@pytest.mark.promise("lazy-construction")
def test_making_a_client_needs_no_loop_and_does_no_io(fake: FakeClerk) -> None:
    """A client can be made at import, and so can a view of it."""
    client = client_of(fake)
    client.with_options(timeout=1)
    assert fake.total_connections == 0
    asyncio.run(client.aclose())


@pytest.mark.promise("dead-loops")
def test_a_client_works_in_two_runs(fake: FakeClerk) -> None:
    """A closed loop is dead: the client starts afresh in the next loop, without a warning."""
    session = fake.add_session().id
    client = client_of(fake)
    with no_unraisable() as told:
        for _ in range(3):
            assert asyncio.run(client.get(session)).id == session
        asyncio.run(client.aclose())
    assert told == []
    fake.wait_for(lambda: fake.open_connections == 0)


def test_a_loop_that_stopped_without_closing_is_dead_too(fake: FakeClerk) -> None:
    """It is neither closed nor running, so its calls can't continue and block nothing."""
    session = fake.add_session().id
    client = client_of(fake)
    left = asyncio.new_event_loop()
    try:
        left.run_until_complete(client.get(session))
        assert asyncio.run(client.get(session)).id == session
        asyncio.run(client.aclose())
    finally:
        left.close()
    fake.wait_for(lambda: fake.open_connections == 0)


def test_a_loop_that_runs_again_works_again(fake: FakeClerk) -> None:
    """A loop that is run in steps, as in notebooks, keeps its connections between the steps."""
    session = fake.add_session().id
    client = client_of(fake)
    loop = asyncio.new_event_loop()
    try:
        for _ in range(3):
            loop.run_until_complete(client.get(session))
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()
    assert fake.total_connections == 1


@pytest.mark.promise("dead-loops")
async def test_another_running_loop_is_rejected(fake: FakeClerk) -> None:
    """The error comes in the second loop; the client continues to work in its own."""
    session = fake.add_session().id
    caught: list[BaseException] = []

    def elsewhere(client: AsyncSessionsApi) -> None:
        for call in (client.get(session), client.aclose(), client.with_options().get(session)):
            try:
                asyncio.run(call)
            except ClerkError as error:
                caught.append(error)

    async with client_of(fake) as client:
        await client.get(session)
        thread = threading.Thread(target=elsewhere, args=(client,))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert [type(error) for error in caught] == [WrongLoopError] * 3
        await client.get(session)


@pytest.mark.may_block
@pytest.mark.promise("dead-loops")
def test_of_two_loops_that_make_the_first_call_at_once_one_is_rejected(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first opens the connection pool."""
    session = fake.add_session().id
    client = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url)
    rejected: list[object] = []

    async def second() -> None:
        try:
            rejected.append(await client.get(session))
        except ClerkError as error:
            rejected.append(type(error))

    async def first() -> None:
        async with client:
            assert (await client.get(session)).id == session
            assert (await client.get(session)).id == session

    def open_slowly(settings: WireSettings) -> transport.Wire:
        monkeypatch.undo()
        thread = threading.Thread(target=asyncio.run, args=(second(),))
        thread.start()
        thread.join()
        return open_wire(settings)

    open_wire = transport.open_wire
    monkeypatch.setattr(transport, "open_wire", open_slowly)
    asyncio.run(first())
    assert rejected == [WrongLoopError]


@pytest.mark.promise("dead-loops")
def test_a_loop_that_ended_while_it_opened_the_pool_keeps_nobody_out(fake: FakeClerk) -> None:
    """Ctrl-C may come at any point of it."""
    session = fake.add_session().id
    client: Any = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url)
    interrupted = asyncio.new_event_loop()
    client._shared._opening[os.getpid()] = interrupted
    interrupted.close()

    async def use() -> None:
        async with client:
            assert (await client.get(session)).id == session

    asyncio.run(use())


@pytest.mark.promise("dead-loops")
def test_an_aiohttp_session_of_another_loop_is_rejected(fake: FakeClerk) -> None:
    """A session that the user passes in belongs to its loop."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(own: aiohttp.ClientSession) -> None:
        with pytest.raises(WrongLoopError, match="client_session"):
            await client_of(fake, client_session=own).get("sess_1")

    loop = asyncio.new_event_loop()
    own = loop.run_until_complete(make())
    asyncio.run(use(own))
    loop.run_until_complete(own.close())
    loop.close()


@pytest.mark.promise("views")
def test_an_aiohttp_session_of_a_stopped_loop_is_left_open(fake: FakeClerk) -> None:
    """Closing the client elsewhere drops the session, but closes none of its connections."""

    async def make_and_use() -> tuple[aiohttp.ClientSession, AsyncSessionsApi]:
        own = aiohttp.ClientSession()
        client = client_of(fake, client_session=own)
        await client.get(session)
        return own, client

    session = fake.add_session().id
    loop = asyncio.new_event_loop()
    try:
        own, client = loop.run_until_complete(make_and_use())
        asyncio.run(client.aclose())
        assert not own.closed
        loop.run_until_complete(own.close())
    finally:
        loop.close()
    fake.wait_for(lambda: fake.open_connections == 0)


# --- closing --------------------------------------------------------------------------------------


@pytest.mark.promise("closing")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_closing_ends_calls_in_flight(operation: str, fake: FakeClerk) -> None:
    """Waiting callers get an error that the client was closed, and nothing is left."""
    fake.inject(Fault.hold(count=None))
    client = client_of(fake)
    task = asyncio.ensure_future(invoke(client, operation, fake))
    await fake.until(lambda: fake.held == 1)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await task
    assert task.cancelling() == 0
    await fake.until(lambda: fake.open_connections == 0)


def _endless_sleep() -> tuple[asyncio.Event, Callable[[float], Awaitable[None]]]:
    """Return a sleep that never ends, and an event that says that it has begun."""
    has_begun = asyncio.Event()

    async def sleep(_: float) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    return has_begun, sleep


@pytest.mark.promise("closing")
async def test_closing_ends_queues_pauses_and_waits(fake: FakeClerk) -> None:
    """Calls that wait for the pool, for a pause, or between two attempts end too."""
    slow = RetryPolicy(base_delay=60, max_delay=60, deadline=None)
    client = client_of(fake, pool_size=1, retry=slow)
    client._shared.draw = lambda: 1.0  # the whole minute
    fake.inject(Fault.hold(operation="get", count=None))
    calls = [asyncio.create_task(client.get("sess_1")) for _ in range(3)]
    await fake.until(lambda: fake.held == 1)
    paused = client_of(fake, retry=slow)
    is_waiting, paused._shared.sleep = _endless_sleep()
    fake.inject(Fault.status(429, retry_after=60, operation="revoke", count=None))
    calls += [asyncio.create_task(paused.revoke("sess_1")) for _ in range(2)]
    await is_waiting.wait()
    calls.append(asyncio.create_task(paused.get("sess_1")))  # waits before its first send
    await asyncio.sleep(0)
    await client.aclose()
    await paused.aclose()
    _, unended = await asyncio.wait(calls, timeout=10)
    assert not unended, "a call that waits for a minute got no error"
    assert [type(call.exception()) for call in calls] == [ClientClosedError] * 6


async def test_a_closed_client_rejects_every_call(fake: FakeClerk) -> None:
    """Every operation, also of views; closing again does nothing."""
    client = client_of(fake)
    view = client.with_options(timeout=1)
    await client.aclose()
    await client.aclose()
    for target in (client, view, client.with_http_info):
        for operation in OPERATIONS:
            with pytest.raises(ClientClosedError):
                await invoke(target, operation, fake)
    with pytest.raises(ClientClosedError):
        await anext(client.iterate(user_id="u"))
    with pytest.raises(ClientClosedError):
        await client._fetch_jwks()
    assert fake.requests == []


@pytest.mark.promise("views")
async def test_views_share_the_pool_and_do_not_close_it(fake: FakeClerk) -> None:
    """Closing a view does nothing; closing the client ends its views."""
    session = fake.add_session().id
    client = client_of(fake)
    async with client.with_options(timeout=3) as view:
        await view.get(session)
    await client.get(session)
    await view.with_options(retry=ONCE).get(session)
    assert fake.total_connections == 1
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await view.get(session)


async def test_views_change_only_the_named_options(fake: FakeClerk) -> None:
    """Other options stay, and the client itself is unchanged."""
    async with client_of(fake, retry=ONCE) as client:
        view = client.with_options(timeout=0.05)
        assert view._calls.policy is client._calls.policy
        fake.inject(Fault.hold(count=None))
        with pytest.raises(TimeoutError):
            await view.get("sess_1")
        assert client._calls.timeouts.attempt == 15.0
        assert type(view) is AsyncSessionsApi


def test_an_unclosed_client_warns_with_the_fix(fake: FakeClerk) -> None:
    """If it is dropped in a running loop, it warns once, names the fix, and leaks nothing."""
    session = fake.add_session().id

    async def forget() -> list[str]:
        await client_of(fake).get(session)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gc.collect()
            await asyncio.sleep(0)
        return [f"{type(w.message).__name__}: {w.message}" for w in caught]

    async def whole() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            told = await forget()
            gc.collect()
        return told + [f"{type(w.message).__name__}: {w.message}" for w in caught]

    told = asyncio.run(whole())
    assert len(told) == 1, told
    assert told[0].startswith("ResourceWarning")
    assert "async with" in told[0]
    assert "aclose" in told[0]
    fake.wait_for(lambda: fake.open_connections == 0)


@pytest.mark.filterwarnings("ignore:unclosed clerk_async client:ResourceWarning")
def test_a_dropped_client_leaves_nothing_in_a_running_loop(fake: FakeClerk) -> None:
    """A descriptor left in the loop's selector once broke the next connection that reused it."""
    session = fake.add_session().id

    async def drop_some_and_go_on() -> None:
        for _ in range(3):
            dropped = [client_of(fake) for _ in range(4)]
            await asyncio.gather(*(client.get(session) for client in dropped))
            dropped.clear()
            gc.collect()
            async with client_of(fake) as other:
                assert (await other.get(session)).id == session

    asyncio.run(drop_some_and_go_on())
    fake.wait_for(lambda: fake.open_connections == 0)


def test_a_stopped_loop_can_continue_after_its_client_moved_on(fake: FakeClerk) -> None:
    """The descriptors of the closed sockets are free for its next connections."""
    session = fake.add_session().id
    loop: Any = asyncio.SelectorEventLoop()
    moved, other = client_of(fake), client_of(fake)
    try:
        loop.run_until_complete(moved.get(session))
        asyncio.run(moved.get(session))
        watched = loop._selector.get_map()
        assert len(watched) == 1, "the loop's own socket, with which threads wake it"
        assert loop.run_until_complete(other.get(session)).id == session
        assert loop.run_until_complete(moved.get(session)).id == session
        loop.run_until_complete(moved.aclose())
        loop.run_until_complete(other.aclose())
    finally:
        loop.close()
    fake.wait_for(lambda: fake.open_connections == 0)


def test_an_unused_client_needs_no_close(fake: FakeClerk) -> None:
    """A client that was never opened needs no closing, sync or async."""
    with no_unraisable() as told:
        client_of(fake)
        sync_client_of(fake)
    assert told == []


# --- cancellation ---------------------------------------------------------------------------------


@pytest.mark.promise("cancellation")
async def test_a_cancelled_call_is_cancelled_and_frees_its_connection(fake: FakeClerk) -> None:
    """The user's CancelledError is raised as it is, and the place in the pool is free again."""
    session = fake.add_session().id
    async with client_of(fake, pool_size=1) as client:
        for _ in range(3):
            fake.inject(Fault.hold())
            held = fake.held
            task = asyncio.create_task(client.get(session))
            await fake.until(lambda: fake.held > held)  # noqa: B023
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.get(session)).id == session
            fake.release()
    await fake.until(lambda: fake.open_connections == 0)


@pytest.mark.promise("cancellation")
async def test_cancelling_a_queued_call_loses_no_slot(fake: FakeClerk) -> None:
    """Calls that gave up waiting don't take a connection with them."""
    session = fake.add_session().id
    async with client_of(fake, pool_size=2) as client:
        fake.inject(Fault.hold(count=2))
        busy = [asyncio.create_task(client.get(session)) for _ in range(2)]
        await fake.until(lambda: fake.held == 2)
        waiting = [asyncio.create_task(client.get(session)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        fake.release()
        results = await asyncio.gather(*busy, *waiting, return_exceptions=True)
        cancelled = [r for r in results if isinstance(r, asyncio.CancelledError)]
        assert len(cancelled) == 5
        assert not [r for r in results if isinstance(r, ClerkError)]
        assert client._shared.wire().slots.free == 2


@pytest.mark.promise("cancellation")
async def test_a_call_cancelled_in_a_pause_loses_no_slot(fake: FakeClerk) -> None:
    """A call that was queued before a 429 waits out the pause without a connection."""
    async with client_of(fake, pool_size=1, retry=ONCE) as client:
        is_waiting, client._shared.sleep = _endless_sleep()
        fake.inject(Fault.status(429, retry_after=5))
        first, second = (asyncio.create_task(client.get("sess_1")) for _ in range(2))
        await is_waiting.wait()
        with pytest.raises(RateLimitedError):
            await first
        assert client._shared.wire().slots.free == 1
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert client._shared.wire().slots.free == 1


@pytest.mark.promise("cancellation")
@leaping
async def test_a_cancellation_wins_over_our_timeout(fake: FakeClerk) -> None:
    """If the loop was blocked, both come in the same turn of it."""
    fake.inject(Fault.hold())
    policy = RetryPolicy(attempts=1, deadline=None)
    async with client_of(fake, timeout=60.0, retry=policy) as client:
        task = asyncio.create_task(client.get("sess_1"))
        await fake.until(lambda: fake.held == 1)
        leap(70.0)
        await asyncio.sleep(0)  # it is late, and gets a moment for its response
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(5.0, task.cancel)
        leap(10.0)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_timeouts_of_the_user_work(fake: FakeClerk) -> None:
    """asyncio.timeout and anyio's scopes around a call raise their own errors."""
    async with client_of(fake) as client:
        fake.inject(Fault.hold(count=None))
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await client.get("sess_1")
        assert not isinstance(caught.value, ClerkError)
        with anyio.move_on_after(0.05) as scope:
            await client.get("sess_1")
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get("sess_1"), 0.05)


@pytest.mark.promise("cancellation")
async def test_a_call_cancelled_while_closing_stays_cancelled(fake: FakeClerk) -> None:
    """The closing client doesn't turn the user's cancellation into an error."""
    client = client_of(fake)
    fake.inject(Fault.hold())
    task = asyncio.create_task(client.get("sess_1"))
    await fake.until(lambda: fake.held == 1)
    task.cancel()
    await client.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_group_gets_the_plain_error(fake: FakeClerk) -> None:
    """We raise no exception groups; a task group wraps our plain error."""
    fake.inject(Fault.cut("after", count=None))
    async with client_of(fake, retry=ONCE) as client:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(client.get("sess_1"))
        assert [type(error) for error in caught.value.exceptions] == [ConnectionLostError]


# --- many at once ---------------------------------------------------------------------------------


async def test_two_hundred_tasks_share_one_client(fake: FakeClerk) -> None:
    """Each gets its own response, the pool size is never exceeded, and nothing is left."""
    ids = [fake.add_session(user_id=f"user_{number}").id for number in range(200)]
    fake.latency = 0.002
    before = asyncio.all_tasks()
    async with client_of(fake, pool_size=17) as client:

        async def one(number: int) -> None:
            session = ids[number]
            assert (await client.get(session)).user_id == f"user_{number}"
            token = await client.create_token(session)
            part = token.jwt.split(".")[1]
            assert json.loads(_unpadded(part))["sid"] == session
            assert [s.id for s in await client.list(user_id=f"user_{number}")] == [session]
            revoked = await client.revoke(session)
            assert (revoked.id, revoked.status) == (session, "revoked")

        await asyncio.gather(*(one(number) for number in range(200)))
        assert fake.max_in_flight <= 17
        assert fake.max_open_connections <= 17
        assert fake.total_connections <= 17
    await fake.until(lambda: fake.open_connections == 0)
    assert asyncio.all_tasks() == before
    assert {session.status for session in fake.sessions.values()} == {"revoked"}


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


# --- pickling and reprs ---------------------------------------------------------------------------


@pytest.mark.promise("no-pickled-clients")
def test_a_client_can_not_be_pickled_or_copied(fake: FakeClerk) -> None:
    """It has a key and connections: the error says to make one in each process."""
    for client in (client_of(fake), sync_client_of(fake)):
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="make one in each process"):
                act(client)
        for act in (pickle.dumps, copy.deepcopy):  # this one had the key too
            with pytest.raises(TypeError, match="make one in each process"):
                act(client.with_http_info)


def test_the_repr_shows_the_address_and_never_the_key(fake: FakeClerk) -> None:
    """This holds for views, settings and endpoints too."""
    for client in (client_of(fake), sync_client_of(fake)):
        inner: Any = getattr(client, "_async", client)
        things = [client, client.with_options(), inner._endpoint, inner._shared.settings]
        things += [client.with_http_info, inner._shared, inner._calls]
        for thing in things:
            assert fake.secret_key not in repr(thing)
        assert fake.base_url in repr(client)
