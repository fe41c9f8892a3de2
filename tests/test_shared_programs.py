"""Processes that share a limit: a real service, and a real Redis that fails.

Durations are measured in virtual time (`test_shared_window.py`) and in the benchmarks: here other
programs share the processors, and asyncio runs in its debug mode.
"""

from __future__ import annotations

import json
import random
import signal
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from programs import finish, start

from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

    from redis_servers import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = """
    import asyncio, json, logging, sys, time
    from clerk_async import AsyncSessionsApi, RateLimit
    logging.disable(logging.CRITICAL)
    url, count, per, *ids = sys.argv[1:]
    async def main():
        limit = RateLimit(int(count), per=float(per))
        async with AsyncSessionsApi(shared_state=url, rate_limit=limit) as sessions:
            while not sessions.shared_status().connected:  # on a busy machine, Redis may seem away
                await sessions._link.joined()
                await asyncio.sleep(0.01)
            print("ready", flush=True)
            sys.stdin.readline()
            begun = time.monotonic()
            report = await sessions.revoke_many(ids)
            print(json.dumps({
                "revoked": report.revoked, "failed": report.failed, "throttled": report.throttled,
                "begun": begun, "ended": time.monotonic(),
            }))
    asyncio.run(main())
"""
PRODUCT = """
    import asyncio, json, sys, time
    from clerk_async import AsyncSessionsApi, RetryPolicy
    url, seconds, session_id = sys.argv[1:]
    async def main():
        times = []
        async with AsyncSessionsApi(shared_state=url, retry=RetryPolicy(attempts=1)) as sessions:
            await sessions.get(session_id)
            print("ready", flush=True)
            sys.stdin.readline()
            ends = time.monotonic() + float(seconds)
            async def timed(request):
                begun = time.monotonic()
                await request
                return time.monotonic() - begun
            async def call():  # the key set has no limit, but the same service and machine
                own, bare = await asyncio.gather(
                    timed(sessions.get(session_id)), timed(sessions._fetch_jwks())
                )
                times.append(own - bare)
            async with asyncio.TaskGroup() as group:
                while time.monotonic() < ends:
                    group.create_task(call())
                    await asyncio.sleep(1 / 15)
        print(json.dumps(sorted(times)))
    asyncio.run(main())
"""


class Workers:
    """Processes that wait for a start signal, and then revoke the given sessions."""

    def __init__(
        self, fake: FakeClerk, url: str, counts: list[int], limit: tuple[int, float]
    ) -> None:
        self.fake = fake
        self.programs: list[subprocess.Popen[str]] = []
        for number, count in enumerate(counts):
            ids = [f"sess_{number}_{each}" for each in range(count)]
            for each in ids:
                fake.add_session(session_id=each)
            self.programs.append(start(WORKER, fake, url, *map(str, limit), *ids))

    def __enter__(self) -> Self:
        for each in self.programs:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in self.programs:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self.programs:
            if each.poll() is None:
                each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout, each.stderr):
                if pipe is not None:
                    pipe.close()

    def results(self) -> list[dict[str, Any]]:
        """Wait for their exits, and return what each reports."""
        ended = [finish(each, limit=90.0) for each in self.programs]
        assert [each.err for each in ended] == ["" for _ in ended]
        return [json.loads(each.out) for each in ended]

    @property
    def begun(self) -> int:
        """Return how many of them have sent a request."""
        ids = [request.session_id or "" for request in self.fake.requests]
        return len({each.rpartition("_")[0] for each in ids})

    @property
    def refused(self) -> int:
        """Return the number of 429 responses."""
        return sum(request.status == 429 for request in self.fake.requests)

    @property
    def alive(self) -> int:
        """Return how many sessions are not revoked."""
        return sum(session.status != "revoked" for session in self.fake.sessions.values())


def took(results: list[dict[str, Any]]) -> float:
    """Return the seconds from the first start to the last end; a stuck run takes far longer."""
    return float(max(each["ended"] for each in results) - min(each["begun"] for each in results))


@pytest.mark.promise("shared-limit")
@pytest.mark.parametrize("counts", [[150] * 4, [420, 60, 60, 60]], ids=["equal", "uneven"])
def test_four_processes_share_one_key(counts: list[int], redis_server: RedisServer) -> None:
    """100 per second: nothing is rejected, and all end."""
    with (
        FakeClerk(rate_limit=(100, 1.0)) as fake,
        Workers(fake, redis_server.url, counts, (100, 1.0)) as workers,
    ):
        results = workers.results()
        assert [each["revoked"] for each in results] == counts
        assert workers.refused == workers.alive == 0
    assert took(results) <= 60


@pytest.mark.promise("shared-limit")
def test_four_processes_share_one_key_at_any_latency(redis_server: RedisServer) -> None:
    """5 to 150 ms: nothing is rejected."""
    with (
        FakeClerk(rate_limit=(100, 1.0), latency=(0.005, 0.15)) as fake,
        Workers(fake, redis_server.url, [150] * 4, (100, 1.0)) as workers,
    ):
        assert [each["revoked"] for each in workers.results()] == [150] * 4
        assert workers.refused == workers.alive == 0


@pytest.mark.promise("redis-away")
@pytest.mark.parametrize("trouble", ["kill", "restart", "freeze"])
def test_a_failing_redis_loses_nothing(trouble: str, redis_server: RedisServer) -> None:
    """At a random moment of all four runs: every report is true, and few requests are rejected.

    At most 1 % are rejected in virtual time (`test_shared_window.py`), and 2 % on a busy machine.
    """
    counts = [200] * 4
    with (
        FakeClerk(rate_limit=(100, 1.0)) as fake,
        Workers(fake, redis_server.url, counts, (100, 1.0)) as workers,
    ):
        fake.wait_for(lambda: workers.begun == 4)
        time.sleep(random.uniform(0.0, 5.0))
        if trouble == "kill":
            redis_server.kill()
            time.sleep(4.0)
            redis_server.start()
        elif trouble == "restart":
            redis_server.restart()
        else:
            redis_server.freeze()
            time.sleep(4.0)
            redis_server.thaw()
        results = workers.results()
        assert [each["revoked"] for each in results] == counts
        assert workers.alive == 0
        assert workers.refused <= 16
    assert took(results) <= 60


@pytest.mark.promise("redis-away")
def test_places_of_a_killed_worker_are_freed(redis_server: RedisServer) -> None:
    """SIGKILL at a random moment: every report is true, and the others end in time."""
    with (
        FakeClerk(rate_limit=(100, 1.0)) as fake,
        Workers(fake, redis_server.url, [200] * 4, (100, 1.0)) as workers,
    ):
        fake.wait_for(lambda: workers.begun == 4)
        time.sleep(random.uniform(0.0, 5.0))
        victim = workers.programs.pop()
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        results = workers.results()
        assert [each["revoked"] for each in results] == [200] * 3
        assert workers.refused <= 8
    assert took(results) <= 60


@pytest.mark.promise("shared-limit")
def test_a_product_beside_bulk_runs_is_neither_rejected_nor_delayed(
    redis_server: RedisServer,
) -> None:
    """15 calls a second beside two runs of 800, 1000 per 10 s, the key's own limit."""
    limit = (900, 10.0)
    with FakeClerk(rate_limit=(1000, 10.0), production=True, latency=0.02) as fake:
        product_session = fake.add_session()
        product = start(PRODUCT, fake, redis_server.url, "15", product_session.id)
        assert product.stdout is not None
        assert product.stdout.readline() == "ready\n"
        assert product.stdin is not None
        product.stdin.write("\n")
        product.stdin.flush()
        with Workers(fake, redis_server.url, [800] * 2, limit) as workers:
            ended = finish(product, limit=60.0)
            assert ended.err == ""
            assert workers.refused == 0
            assert [each["revoked"] for each in workers.results()] == [800] * 2
            assert workers.refused == 0
    times = json.loads(ended.out)
    assert len(times) > 50
    # Each is compared with a request of the same moment that no limit delays. A call that waited
    # for the window would take up to ten seconds longer. `python -m benchmarks.shared_bounds`
    # measures the rest.
    assert len([each for each in times if each > 3.0]) <= len(times) / 10, times
