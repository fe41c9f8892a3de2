"""Many processes in virtual time: what the server sees, whatever Redis and the processes do."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from bulk_stage import Service, most_in_any_window, simulate
from shared_stage import TIMEOUT, Process, Redis, draw

from clerk_async import RateLimit
from clerk_async.testing.settings import SlidingWindow

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationReport

LIMIT = RateLimit(100, per=1.0)


def ids(count: int, name: object) -> list[str]:
    """Return names of sessions."""
    return [f"sess_{name}_{number}" for number in range(count)]


async def run_together(
    processes: list[Process], counts: list[int]
) -> tuple[list[RevocationReport], float]:
    """Let each process revoke sessions; return the reports, and the seconds until the last."""
    begun = asyncio.get_running_loop().time()
    reports = await asyncio.gather(
        *(
            process.work(ids(count, number))
            for number, (process, count) in enumerate(zip(processes, counts, strict=True))
        )
    )
    return reports, asyncio.get_running_loop().time() - begun


@pytest.mark.parametrize(
    "counts",
    [
        [250] * 4,
        pytest.param([500] * 4, marks=pytest.mark.slow),
        pytest.param([1400, 200, 200, 200], marks=pytest.mark.slow),
        pytest.param([40] * 50, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("low_high", [(0.001, 0.01), (0.005, 0.15)])
def test_nothing_is_rejected_and_the_window_stays_full(
    counts: list[int], low_high: tuple[float, float]
) -> None:
    """Equal jobs, unequal jobs, and many small ones, with low and with widely varying latency."""
    service = Service(SlidingWindow(100, 1.0), there=draw(*low_high, 1))
    redis = Redis(draw(0.0002, 0.005, 2))

    async def main() -> float:
        processes = [Process(redis, service, LIMIT) for _ in counts]
        reports, took = await run_together(processes, counts)
        assert [report.revoked for report in reports] == counts
        return took

    took = simulate(main())
    assert service.refused == 0
    assert most_in_any_window(service.arrivals, 1.0) <= 100
    best = sum(counts) / 100 * (1.0 + sum(low_high) / 2)
    assert took <= 1.08 * best + 1.0


def test_one_process_alone_is_hardly_slower_than_without_redis() -> None:
    """1,000 sessions at 100 per second."""
    service = Service(SlidingWindow(100, 1.0), there=lambda: 0.005)

    async def main() -> float:
        _, took = await run_together([Process(Redis(), service, LIMIT)], [1000])
        return took

    assert simulate(main()) <= 9 * 1.03 + 1.0
    assert service.refused == 0


def test_processes_that_start_together_while_redis_is_slow_once_reject_nothing() -> None:
    """None of them takes the whole limit because its first message got no reply in time."""
    service = Service(SlidingWindow(100, 1.0), there=lambda: 0.005)
    redis = Redis()

    async def main() -> None:
        redis.freeze()
        processes = [Process(redis, service, LIMIT) for _ in range(4)]
        together = asyncio.create_task(run_together(processes, [100] * 4))
        await asyncio.sleep(1.1 * TIMEOUT)
        redis.thaw()
        await together

    simulate(main())
    assert service.refused == 0


TROUBLES = ("freeze", "kill", "restart", "blink")


async def make(trouble: str, redis: Redis, draws: random.Random) -> None:
    """Freeze or kill Redis for four seconds, or for a moment."""
    if trouble in {"freeze", "blink"}:
        redis.freeze()
        await asyncio.sleep(4.0 if trouble == "freeze" else draws.uniform(0.1, 1.0))
        redis.thaw()
    else:
        redis.kill()
        await asyncio.sleep(4.0 if trouble == "kill" else draws.uniform(0.05, 0.5))
        redis.restart()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_failing_redis_costs_little(trouble: str, seed: int) -> None:
    """At most 1 % of the requests is rejected, and runs take at most 1.25 of the best time."""
    draws = random.Random(f"{trouble} {seed}")
    service = Service(SlidingWindow(100, 1.0), there=draw(0.001, 0.03, seed))
    redis = Redis(draw(0.0002, 0.003, seed))
    counts = draws.choice([[500] * 4, [1400, 200, 200, 200]])

    async def main() -> tuple[list[int], float]:
        processes = [Process(redis, service, LIMIT) for _ in counts]
        together = asyncio.create_task(run_together(processes, counts))
        await asyncio.sleep(draws.uniform(1.0, 15.0))
        await make(trouble, redis, draws)
        reports, took = await together
        return [report.revoked for report in reports], took

    revoked, took = simulate(main())
    assert revoked == counts
    assert service.refused <= 20
    assert took <= 20 * 1.25


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_places_of_a_killed_worker_are_freed(seed: int) -> None:
    """The others use them, within 1.25 of the best time, and nothing is rejected."""
    draws = random.Random(seed)
    service = Service(SlidingWindow(100, 1.0), there=draw(0.001, 0.03, seed))
    redis = Redis(draw(0.0002, 0.003, seed))

    async def main() -> float:
        loop = asyncio.get_running_loop()
        victim, *others = (Process(redis, service, LIMIT) for _ in range(4))
        lost = asyncio.create_task(victim.work(ids(500, "victim")))
        together = asyncio.create_task(run_together(others, [500] * 3))
        await asyncio.sleep(draws.uniform(1.0, 12.0))
        done = len(service.revocations)
        victim.kill()
        begun = loop.time()
        await together
        took, left = loop.time() - begun, len(service.revocations) - done
        lost.cancel()
        await asyncio.wait([lost])
        assert set(service.revocations) >= set(ids(500, 0) + ids(500, 1) + ids(500, 2))
        return took / (left / 100)

    assert simulate(main()) <= 1.25
    assert service.refused == 0


def test_a_product_is_not_rejected_and_does_not_starve_the_runs() -> None:
    """15 calls a second beside two runs, 1000 per 10 s, all started at the same moment."""
    service = Service(SlidingWindow(1000, 10.0), there=draw(0.02, 0.06, 1))
    redis = Redis(draw(0.0002, 0.003, 2))
    limit = RateLimit(900, per=10.0)

    async def main() -> list[int]:
        product, *runs = (Process(redis, service, limit) for _ in range(3))
        calls = asyncio.create_task(product.call_now_and_then(1 / 15 - 0.04, until=45.0))
        reports, _ = await run_together(runs, [1500, 1500])
        await calls
        return [report.revoked for report in reports]

    assert simulate(main()) == [1500, 1500]
    assert service.refused == 0


def test_many_single_calls_slow_a_run_but_do_not_stop_it() -> None:
    """The product uses up the limit."""
    service = Service(there=lambda: 0.001)
    redis = Redis()

    async def main() -> float:
        product, run = Process(redis, service, LIMIT), Process(redis, service, LIMIT)
        calls = asyncio.create_task(product.call_now_and_then(0.005, until=10.0))
        await asyncio.sleep(1.5)
        _, took = await run_together([run], [40])
        await calls
        return took

    assert 4.0 < simulate(main()) <= 9.5
