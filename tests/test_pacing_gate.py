"""The gate: runs of many workers against a true sliding window, in virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest
from bulk_stage import Client, Service, latency, most_in_any_window, revoke_many, simulate

from clerk_async.config import RateLimit
from clerk_async.pacing.gate import Gate, Gates, RunPacer
from clerk_async.pacing.window import SendRefused, Ticket
from clerk_async.testing.settings import SlidingWindow

PER_SECOND = RateLimit(100, per=1.0)
SESSIONS = 2000
FLOOR = SESSIONS / 100
"""Seconds that the limit alone requires."""


def _ids(count: int) -> list[str]:
    return [f"sess_{number}" for number in range(count)]


@pytest.mark.promise("pacing")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("where", ["there", "back", "both"])
def test_2000_sessions_get_no_429_and_take_at_most_8_percent_longer_than_needed(
    seed: int, where: str
) -> None:
    """5 to 150 ms of latency, all before the server counts, all after, or half and half."""
    service = Service(SlidingWindow(100, 1.0))
    if where == "both":
        service.there = latency(0.0025, 0.075, seed)
        service.back = latency(0.0025, 0.075, seed + 100)
    else:
        setattr(service, where, latency(0.005, 0.15, seed))
    client = Client(service, limit=PER_SECOND)
    report = simulate(revoke_many(client, _ids(SESSIONS)))
    assert report.revoked == SESSIONS
    assert service.refused == report.throttled == 0
    assert most_in_any_window(service.arrivals, 1.0) <= 100
    assert len(service.arrivals) == SESSIONS
    assert report.elapsed <= FLOOR * 1.08


def test_varying_latency_exceeds_no_window() -> None:
    """Slow and fast phases alternate: delayed requests arrive together with fast ones."""
    service = Service(SlidingWindow(100, 1.0))
    draw = random.Random(7)

    def there() -> float:
        spell = int(asyncio.get_running_loop().time() / 1.3)
        return draw.uniform(0.4, 0.9) if spell % 2 else draw.uniform(0.0, 0.01)

    service.there = there
    report = simulate(revoke_many(Client(service, limit=PER_SECOND), _ids(1000)))
    assert report.revoked == 1000
    assert service.refused == 0


@pytest.mark.parametrize("burst", [1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_neighbour_with_half_the_limit_causes_few_429s_and_no_loss(seed: int, burst: int) -> None:
    """At most 3 % of the requests get a 429."""
    service = Service(SlidingWindow(100, 1.0), there=latency(0.005, 0.15, seed))
    window = service.window
    assert window is not None
    draw = random.Random(seed)

    async def main() -> tuple[int, int]:
        async def neighbour() -> None:
            while True:
                for _ in range(burst):
                    window.admit(asyncio.get_running_loop().time())
                await asyncio.sleep(burst / 50 * draw.uniform(0.5, 1.5))

        beside = asyncio.get_running_loop().create_task(neighbour())
        report = await revoke_many(Client(service, limit=PER_SECOND), _ids(SESSIONS))
        beside.cancel()
        await asyncio.wait([beside])
        assert report.throttled == service.refused
        return report.revoked, report.throttled

    revoked, throttled = simulate(main())
    assert revoked == SESSIONS
    assert throttled <= 0.03 * len(service.arrivals)


def test_a_run_within_the_limit_waits_for_no_window() -> None:
    """80 requests of a limit of 80: a few round trips, no window of 10 s."""
    service = Service(SlidingWindow(80, 10.0), back=lambda: 0.05)
    client = Client(service, limit=RateLimit(80, per=10.0))
    report = simulate(revoke_many(client, _ids(80)))
    assert report.revoked == 80
    assert report.elapsed < 0.25


def test_two_runs_of_one_client_share_the_window() -> None:
    """One after the other, or concurrently: the key has one limit."""
    service = Service(SlidingWindow(50, 10.0), back=lambda: 0.01)
    client = Client(service, limit=RateLimit(50, per=10.0))

    async def main() -> float:
        await revoke_many(client, _ids(50))
        await asyncio.gather(
            revoke_many(client, [f"sess_a{number}" for number in range(25)]),
            revoke_many(client, [f"sess_b{number}" for number in range(25)]),
        )
        return asyncio.get_running_loop().time()

    assert simulate(main()) >= 10.0
    assert service.refused == 0
    assert len(service.revocations) == 100


def test_concurrency_never_exceeds_an_explicit_maximum() -> None:
    """The ramp doesn't go beyond it."""
    service = Service(back=lambda: 0.05)
    client = Client(service)
    report = simulate(revoke_many(client, _ids(200), concurrency=3))
    assert report.revoked == 200
    assert client.most_in_flight == 3


def test_without_a_limit_concurrency_rises_to_the_pool_size() -> None:
    """If the rate limit has room, the pool size is the bound."""
    service = Service(back=lambda: 0.05)
    client = Client(service, pool_size=70)
    simulate(revoke_many(client, _ids(2000)))
    assert client.most_in_flight == 70


def test_after_a_429_nothing_is_sent_until_retry_after() -> None:
    """All workers wait together."""
    service = Service(SlidingWindow(10, 5.0), back=lambda: 0.01)
    report = simulate(revoke_many(Client(service, limit=RateLimit(1000, 5.0)), _ids(30)))
    assert report.revoked == 30
    assert report.throttled > 0
    first_block = [arrival for arrival in service.arrivals if arrival < 5.0]
    assert max(first_block) < 0.1


def test_a_cancelled_wait_returns_its_place() -> None:
    """Nobody waits for a request that will never be sent."""

    async def main() -> int:
        gate = Gate(RateLimit(1, per=5.0))
        lane = RunPacer(gate).lane()
        ticket = await lane.acquire()
        waiting = asyncio.ensure_future(lane.acquire())
        await asyncio.sleep(0)
        gate.answered(ticket, None, None)  # never sent, so its place is free and granted
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.wait_for(lane.acquire(), 0.1)
        return round(asyncio.get_running_loop().time() * 10)

    assert simulate(main()) == 0


def test_a_request_without_a_response_keeps_its_place() -> None:
    """It may have arrived; and in an outage a run must not spend all attempts at once."""

    async def main() -> float:
        lane = RunPacer(Gate(RateLimit(1, per=5.0))).lane()
        ticket = await lane.acquire()
        lane.sent(ticket)
        lane.answered(ticket, None, None)
        await lane.acquire()
        return asyncio.get_running_loop().time()

    assert simulate(main()) == pytest.approx(5.0, abs=0.1)


def test_a_stopped_run_ends_only_its_own_waits() -> None:
    """In the window, and in a pause."""

    async def main() -> None:
        gate = Gate(RateLimit(1, per=5.0))
        stopped, other = RunPacer(gate), RunPacer(gate)
        lane = stopped.lane()
        ticket = await lane.acquire()
        lane.sent(ticket)
        lane.answered(ticket, 200, None)
        waits = [asyncio.ensure_future(lane.acquire()), asyncio.ensure_future(lane.pause(60.0))]
        others = asyncio.ensure_future(other.lane().acquire())
        await asyncio.sleep(0)
        stopped.stop()
        for wait in waits:
            with pytest.raises(SendRefused):
                await wait
        with pytest.raises(SendRefused):
            await lane.acquire()
        with pytest.raises(SendRefused):
            await lane.pause(1.0)
        await others
        assert asyncio.get_running_loop().time() == pytest.approx(5.0, abs=0.1)

    simulate(main())


def test_a_gate_outlives_its_loop_and_remembers_the_window() -> None:
    """Requests in flight when the loop ended may have arrived."""
    gate = Gates(clock=iter([float(n) for n in range(100)]).__next__).gate(RateLimit(1, 1000.0))

    async def send() -> None:
        lane = RunPacer(gate).lane()
        lane.sent(await lane.acquire())

    async def wait() -> bool:
        waiting = asyncio.ensure_future(RunPacer(gate).lane().acquire())
        await asyncio.sleep(0)
        has_to_wait = not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        return has_to_wait

    simulate(send())
    assert simulate(wait())


def test_may_send_is_called_right_before_the_send() -> None:
    """It is called after the wait, and False prevents the send."""

    async def main() -> list[float]:
        asked: list[float] = []

        async def may_send() -> bool:
            asked.append(asyncio.get_running_loop().time())
            return len(asked) < 3

        lane = RunPacer(Gate(RateLimit(1, per=5.0)), may_send).lane()
        for _ in range(2):
            ticket = await lane.acquire()
            lane.sent(ticket)
            lane.answered(ticket, 200, None)
        with pytest.raises(SendRefused):
            await lane.acquire()
        return asked

    assert simulate(main()) == pytest.approx([0.0, 5.0, 10.0], abs=0.1)


def test_a_request_of_a_loop_that_is_gone_counts_once() -> None:
    """It may be collected long after the next loop has begun, and then nothing may be in flight."""
    gate = Gate(PER_SECOND)

    async def begin() -> Ticket:
        return await gate.acquire(RunPacer(gate))

    async def call() -> None:
        gate.answered(await begin(), 200, None)

    left = asyncio.run(begin())
    asyncio.run(call())
    gate.answered(left, None, None)
    assert gate._window.in_flight == 0
    asyncio.run(call())
