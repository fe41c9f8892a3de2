"""How long a call may take: the pool, connecting, the response, and the deadline over all."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest
from clients import ONCE, Time, client_of, run
from leaps import follow, leap, leaping

from clerk_async import ClientClosedError, RequestTimeoutError, RetryPolicy, ServerError, Timeouts
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

FOREVER: Final = RetryPolicy(attempts=1, deadline=None)


@pytest.mark.promise("deadline")
def test_the_deadline_covers_waits(fake: FakeClerk) -> None:
    """When the waits have used up the deadline, the last attempt's error is raised."""
    time = Time(1.0)
    fake.inject(Fault.status(500, count=None))
    policy = RetryPolicy(attempts=100, deadline=10.0, base_delay=1.0, max_delay=4.0)
    error = run("async", fake, "get", time=time, retry=policy).error
    assert isinstance(error, ServerError)
    assert time.slept == [1.0, 2.0, 4.0]
    assert error.attempts == 4


@pytest.mark.promise("deadline")
@leaping
async def test_the_deadline_cuts_an_attempt_short(fake: FakeClerk) -> None:
    """No attempt continues past the deadline; an earlier error says more than the timeout."""
    session = fake.add_session().id
    retry = RetryPolicy(deadline=60.0, base_delay=0.0)
    async with client_of(fake, retry=retry, timeout=Timeouts(attempt=600.0)) as client:
        follow(client)
        for faults, expected in ([Fault.status(500)], ServerError), ([], RequestTimeoutError):
            fake.requests.clear()
            fake.inject(*faults, Fault.hold(count=None))
            call = asyncio.create_task(client.get(session))
            await fake.until(lambda: fake.held == 1)
            leap(60.0)
            with pytest.raises(expected) as caught:
                await call
            assert caught.value.attempts == len(fake.requests) == len(faults) + 1
            assert getattr(caught.value, "phase", "response") == "response"
            fake.clear_faults()
            fake.release()
            await fake.until(lambda: not fake.held)


@pytest.mark.promise("deadline")
async def test_a_late_attempt_has_only_the_rest_of_the_deadline(fake: FakeClerk) -> None:
    """An attempt after a long wait doesn't get the whole deadline again."""

    class Skipping(Time):
        def clock(self) -> float:
            return monotonic() + sum(self.slept)  # sleeps pass at once

    session = fake.add_session().id
    fake.inject(Fault.status(500), Fault.hold(count=None))
    policy = RetryPolicy(deadline=100.0, base_delay=99.5, max_delay=99.5)
    async with client_of(fake, retry=policy, timeout=Timeouts(attempt=None)) as client:
        Skipping(1.0).hand_to(client)
        with pytest.raises(ServerError) as caught:
            async with asyncio.timeout(10):
                await client.get(session)
    assert caught.value.attempts == len(fake.requests) == 2


@pytest.mark.promise("pool-wait")
@leaping
async def test_each_call_in_flight_has_its_own_timeout(fake: FakeClerk) -> None:
    """However many there are, started in any order; no cancellation is left behind."""

    async def get(seconds: float) -> int:
        with pytest.raises(RequestTimeoutError):
            await client.with_options(timeout=seconds).get("sess_1")
        task = asyncio.current_task()
        return -1 if task is None else task.cancelling()

    fake.inject(Fault.hold(count=None))
    async with client_of(fake, retry=FOREVER) as client:
        *calls, patient = (asyncio.create_task(get(one)) for one in (300.0, 100.0, 200.0, 3000.0))
        await fake.until(lambda: fake.held == 4)
        for call in (calls[1], calls[2], calls[0]):
            assert not call.done()
            leap(100.0)
            assert await call == 0
        assert not patient.done()
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient


@pytest.mark.promise("pool-wait")
@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_hanging_connect_has_its_own_phase(is_busy: bool, fake: FakeClerk) -> None:
    """Phase `connect` means that nothing was sent, even if the attempt's timeout is shorter."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # they fill the backlog, so that no handshake completes
                filler.setblocking(False)  # noqa: FBT003
                filler.connect_ex(deaf.getsockname())
            for timeouts in (
                Timeouts(connect=0.1, attempt=5.0),
                Timeouts(connect=5.0, attempt=0.1),
                Timeouts(connect=None, attempt=0.1),
                Timeouts(connect=0.1, attempt=None),
            ):
                async with client_of(fake, base_url=url, timeout=timeouts, retry=ONCE) as client:
                    task = asyncio.create_task(client.get("sess_1"))
                    if is_busy:  # the loop is blocked, and both timers fire in the same turn
                        for _ in range(5):
                            await asyncio.sleep(0)
                        sleep(0.2)  # noqa: ASYNC251 - nothing else holds a loop up
                    with pytest.raises(RequestTimeoutError) as caught:
                        await task
                    assert caught.value.phase == "connect"
                    assert not caught.value._may_have_arrived
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.promise("pool-wait")
@leaping
async def test_waiting_for_the_pool_does_not_use_the_attempts_time(fake: FakeClerk) -> None:
    """Six calls share one connection, each most of its timeout long: none times out."""
    session = fake.add_session().id
    fake.inject(Fault.hold(count=None))
    async with client_of(fake, pool_size=1, timeout=100.0, retry=FOREVER) as client:
        calls = [asyncio.create_task(client.get(session)) for _ in range(6)]
        for number in range(6):
            await fake.until(lambda number=number: fake.held and len(fake.requests) == number + 1)  # type: ignore[misc]
            leap(60.0)
            await asyncio.sleep(0)
            fake.release()
        assert len(await asyncio.gather(*calls)) == 6


@pytest.mark.may_block
@leaping
async def test_a_response_that_arrived_while_the_loop_was_blocked_counts(fake: FakeClerk) -> None:
    """Afterwards a loop handles its timers first, and the response is no later than they are."""
    session = fake.add_session().id
    fake.inject(Fault.hold())
    async with client_of(fake, timeout=60.0, retry=FOREVER) as client:
        call = asyncio.create_task(client.get(session))
        await fake.until(lambda: fake.held == 1)
        fake.release()
        fake.wait_for(lambda: not fake.in_flight)  # this blocks the loop
        leap(61.0)
        assert (await call).id == session
        fake.inject(Fault.hold())
        call = asyncio.create_task(client.get(session))
        await fake.until(lambda: fake.held == 1)
        leap(61.0)
        with pytest.raises(RequestTimeoutError):
            await call


@pytest.mark.promise("deadline")
async def test_waiting_for_the_pool_ends_with_the_deadline(fake: FakeClerk) -> None:
    """A call that never got a connection has phase `queue`, and sent nothing."""
    session = fake.add_session().id
    fake.inject(Fault.hold(count=1))
    async with client_of(fake, pool_size=1) as client:
        first = asyncio.create_task(client.get(session))
        await fake.until(lambda: fake.held == 1)
        view = client.with_options(retry=RetryPolicy(deadline=0.05))
        with pytest.raises(RequestTimeoutError) as caught:
            await view.get(session)
        assert caught.value.phase == "queue"
        assert caught.value.attempts == 0
        assert not caught.value._may_have_arrived
        fake.release()
        await first
    assert len(fake.requests) == 1


async def test_none_means_no_limit(fake: FakeClerk) -> None:
    """This holds for every timeout."""
    session = fake.add_session().id
    timeouts = Timeouts(connect=None, attempt=None)
    async with client_of(fake, timeout=timeouts, retry=RetryPolicy(deadline=None)) as client:
        await client.get(session)


@pytest.mark.promise("deadline")
@leaping
async def test_a_call_within_a_call_has_its_own_timeout(fake: FakeClerk) -> None:
    """A trace hook may make a call: each has its own timeout and its own end."""
    outer, inner, slow = (fake.add_session().id for _ in range(3))
    made: list[str] = []

    async def call(*_: object) -> None:
        if not made:
            made.append("one")
            await client.get(inner)
            with pytest.raises(RequestTimeoutError):
                await client.with_options(timeout=60.0).get(slow)
            made.append("another")

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(call)
    fake.inject(*(Fault.hold(session_id=each, count=None) for each in (outer, slow)))
    async with client_of(fake, trace_configs=[trace], retry=FOREVER, timeout=600.0) as client:
        pending = asyncio.create_task(client.get(outer))
        await fake.until(lambda: fake.held == 1)
        leap(60.0)
        await fake.until(lambda: outer in {request.session_id for request in fake.requests})
        assert not pending.done()
        leap(540.0)
        with pytest.raises(RequestTimeoutError) as caught:
            await pending
        assert caught.value.phase == "response"
    assert made == ["one", "another"]


@pytest.mark.promise("deadline")
@leaping
async def test_the_timeout_of_an_outer_call_ends_the_inner_one(fake: FakeClerk) -> None:
    """Its time includes its hooks, so the call that a hook is making ends with it."""
    outer, inner = fake.add_session().id, fake.add_session().id
    ends: list[BaseException] = []

    async def call(*_: object) -> None:
        if not ends:
            try:
                ends.append(ValueError())
                await client.with_options(timeout=600.0).get(inner)
            except BaseException as error:
                ends.append(error)
                raise

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(call)
    fake.inject(Fault.hold(session_id=inner, count=None))
    async with client_of(fake, trace_configs=[trace], retry=FOREVER, timeout=60.0) as client:
        pending = asyncio.create_task(client.get(outer))
        await fake.until(lambda: fake.held == 1)
        leap(60.0)
        with pytest.raises(RequestTimeoutError):
            await pending
        assert isinstance(ends[1], asyncio.CancelledError)
        assert not pending.cancelling()
        assert (await client.get(outer)).id == outer


@pytest.mark.promise("closing")
async def test_closing_ends_an_outer_and_an_inner_call(fake: FakeClerk) -> None:
    """Both end at once, and the outer one says why."""
    outer, inner = fake.add_session().id, fake.add_session().id
    made: list[str] = []

    async def call(*_: object) -> None:
        if not made:
            made.append("one")
            await client.get(inner)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(call)
    for held in (outer, inner):
        made.clear()
        fake.release()
        await fake.until(lambda: not fake.held)
        fake.inject(Fault.hold(session_id=held))
        client = client_of(fake, trace_configs=[trace], retry=ONCE, timeout=30.0)
        pending = asyncio.create_task(client.get(outer))
        await fake.until(lambda: fake.held == 1)
        await client.aclose()
        async with asyncio.timeout(20):
            with pytest.raises(ClientClosedError):
                await pending
