"""The shared rate limit on the wire: several clients of one key, a real service, a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from clerk_async import AsyncSessionsApi, NotFoundError, RateLimit, SharedState
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from redis_servers import RedisServer

pytestmark = pytest.mark.slow

PER_SECOND = RateLimit(50, per=1.0)


def ids(count: int, name: str = "a") -> list[str]:
    """Return ids of unknown sessions: revoking one is a request like any other."""
    return [f"sess_{name}{number}" for number in range(count)]


def client(fake: FakeClerk, url: str, **options: Any) -> AsyncSessionsApi:
    """Make a client that shares the limit of 50 per second."""
    options = {"rate_limit": PER_SECOND, **options}
    return AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, shared_state=url, **options)


@contextlib.asynccontextmanager
async def clients(
    fake: FakeClerk, url: str, count: int, **options: Any
) -> AsyncGenerator[list[AsyncSessionsApi]]:
    """Yield some clients that know of each other."""
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(client(fake, url, **options)) for _ in range(count)]
        for each in made:
            assert each._link is not None
            while not each.shared_status().connected:  # on a busy machine, Redis may seem away
                await each._link.joined()
                await asyncio.sleep(0.01)
        yield made


async def until(holds: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it comes from another process
            await asyncio.sleep(0.005)


def refused(fake: FakeClerk) -> int:
    """Count the 429 responses."""
    return sum(request.status == 429 for request in fake.requests)


def most_at_once(fake: FakeClerk, per: float) -> int:
    """Return the number of requests in the fullest window."""
    times = sorted(request.time for request in fake.requests)
    return max(sum(1 for time in times if 0 <= time - first < per) for first in times)


@pytest.mark.promise("shared-limit")
async def test_two_clients_share_one_window(fake: FakeClerk, redis_server: RedisServer) -> None:
    """Each sends what the other leaves, and nothing is rejected."""
    fake.rate_limit = PER_SECOND
    async with clients(fake, redis_server.url, 2) as both:
        reports = await asyncio.gather(
            *(each.revoke_many(ids(75, name)) for each, name in zip(both, "ab", strict=True))
        )
    assert [report.not_found for report in reports] == [75, 75]
    assert refused(fake) == 0
    assert most_at_once(fake, 0.98) <= 50
    assert max(report.elapsed for report in reports) < 30.0


@pytest.mark.promise("shared-limit")
async def test_a_cap_applies_to_all_clients_together(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Two runs of 10 per second make 10 per second together; a third gets the rest."""
    cap = RateLimit(10, per=1.0)
    async with clients(fake, redis_server.url, 3) as three:
        await asyncio.gather(
            three[0].revoke_many(ids(15, "capped-a"), rate_limit=cap),
            three[1].revoke_many(ids(15, "capped-b"), rate_limit=cap),
            three[2].revoke_many(ids(100, "free")),
        )
    capped = [each for each in fake.requests if "capped" in (each.session_id or "")]
    times = sorted(each.time for each in capped)
    assert len(times) == 30
    assert all(later - first >= 0.98 for first, later in zip(times, times[10:], strict=False))
    assert most_at_once(fake, 0.98) <= 50


async def test_a_cap_with_another_period_applies_besides_the_window(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """It applies in the process, in addition to the key's window."""
    async with clients(fake, redis_server.url, 1) as (sessions,):
        report = await sessions.revoke_many(ids(12), rate_limit=RateLimit(5, per=0.4))
    assert report.not_found == 12
    times = sorted(each.time for each in fake.requests)
    assert all(later - first >= 0.38 for first, later in zip(times, times[5:], strict=False))


@pytest.mark.promise("shared-limit")
async def test_single_calls_are_counted(fake: FakeClerk, redis_server: RedisServer) -> None:
    """A run of another client leaves them their places."""
    fake.rate_limit = limit = RateLimit(50, per=5.0)
    async with clients(fake, redis_server.url, 2, rate_limit=limit) as (product, operator):
        calls = [product.get(f"sess_{number}") for number in range(30)]
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, NotFoundError) for each in told)
        await until(lambda: operator.shared_status().used >= 30)
        await operator.revoke_many(ids(30))
    assert refused(fake) == 0
    assert most_at_once(fake, 4.9) <= 50


@pytest.mark.promise("shared-limit")
async def test_single_calls_wait_for_no_window(fake: FakeClerk, redis_server: RedisServer) -> None:
    """Even beside a run that has filled it for longer than this test may take."""
    limit = RateLimit(50, per=600.0)
    async with clients(fake, redis_server.url, 2, rate_limit=limit) as (product, operator):
        run = asyncio.create_task(operator.revoke_many(ids(100)))
        await until(lambda: product.shared_status().used == 50)
        for number in range(20):
            with pytest.raises(NotFoundError):
                await product.get(f"sess_{number}")
        assert not run.done()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert Counter(each.operation for each in fake.requests) == {"revoke": 50, "get": 20}


@pytest.mark.promise("pauses-of-all")
async def test_a_429_pauses_all_clients(fake: FakeClerk, redis_server: RedisServer) -> None:
    """Single calls of one client wait after another's 429; the status says how long."""
    async with clients(fake, redis_server.url, 2) as (one, other):
        fake.inject(Fault.status(429, retry_after=5, operation="get"))
        met = asyncio.create_task(one.get("sess_1"))
        await until(lambda: other.shared_status().paused_for > 1)
        assert other.shared_status().paused_for <= 5.5
        await other.list(user_id="user_1")
        with pytest.raises(NotFoundError):
            await met
    first, *rest = fake.requests
    assert len(rest) == 2
    assert all(each.time - first.time >= 5.0 for each in rest)


@pytest.mark.promise("pauses-of-all")
async def test_a_neighbour_outside_the_library_is_noticed_by_all(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """If one client finds that less of the limit is left, that applies to the others too."""
    fake.rate_limit = RateLimit(20, per=1.0)
    async with clients(fake, redis_server.url, 2) as (one, other):
        assert other._link is not None
        level = other._link.window.ramp.level[0]
        assert level == math.inf
        run = asyncio.create_task(one.revoke_many(ids(80)))
        ramp = other._link.window.ramp
        await until(lambda: ramp.level[0] < 40)
        assert (await run).not_found == 80


async def test_a_run_reports_its_last_places_when_it_ends(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Redis then shows none in flight."""
    async with clients(fake, redis_server.url, 1) as (sessions,):
        await sessions.revoke_many(ids(40))
        assert sessions._link is not None
        members = redis_server.command("HGETALL", sessions._link._keys[2])
        assert b'"held":{}' in next(iter(members.values()))


@pytest.mark.promise("redis-away")
async def test_without_redis_a_client_works_alone_and_logs_that_once(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """It uses its whole limit, because it has seen no other client."""
    fake.rate_limit = PER_SECOND
    with caplog.at_level(logging.INFO, "clerk_async"):
        async with client(fake, "redis://:planted-password@127.0.0.1:1/0") as sessions:
            report = await sessions.revoke_many(ids(120))
            status = sessions.shared_status()
    assert report.not_found == 120
    assert refused(fake) == 0
    assert (status.connected, status.age, status.processes) == (False, None, 1)
    told = [each.getMessage() for each in caplog.records if "shared state" in each.getMessage()]
    assert len(told) == 1
    assert "planted-password" not in caplog.text


@pytest.mark.promise("redis-away")
async def test_without_redis_each_client_takes_its_share(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Redis is killed under two runs: they wait one window, then use half the limit each."""
    fake.rate_limit = PER_SECOND
    async with clients(fake, redis_server.url, 2) as both:
        runs = [
            asyncio.create_task(each.revoke_many(ids(150, name)))
            for each, name in zip(both, "ab", strict=True)
        ]
        await until(lambda: len(fake.requests) >= 60)
        redis_server.kill()
        await until(lambda: not any(each.shared_status().connected for each in both))
        seen = len(fake.requests)
        await until(lambda: len(fake.requests) >= seen + 120)
        redis_server.start()
        reports = await asyncio.gather(*runs)
        assert all(each.shared_status().connected for each in both)
    assert [report.not_found for report in reports] == [150, 150]
    assert refused(fake) <= 3
    assert most_at_once(fake, 0.98) <= 50


@pytest.mark.promise("redis-away")
@pytest.mark.parametrize("trouble", ["freeze", "kill"])
async def test_closing_takes_bounded_time(
    fake: FakeClerk, redis_server: RedisServer, trouble: str
) -> None:
    """Whatever Redis does, even with unsent messages."""
    loop = asyncio.get_running_loop()
    sessions = client(fake, redis_server.url)
    assert sessions._link is not None
    await sessions._link.joined()
    getattr(redis_server, trouble)()
    sessions._denials.deny_sessions(["sess_1"])
    with pytest.raises(NotFoundError):
        await sessions.get("sess_1")
    begun = loop.time()
    await sessions.aclose()
    assert loop.time() - begun < 20.0  # otherwise forever
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_views_share_the_limit_and_do_not_close_it(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """A view's limit is its cap within the window."""
    async with clients(fake, redis_server.url, 1) as (sessions,):
        async with sessions.with_options(rate_limit=RateLimit(5, per=1.0)) as view:
            await view.revoke_many(ids(6))
        times = [each.time for each in fake.requests]
        assert times[5] - times[0] >= 0.98
        assert sessions.shared_status().connected
        assert sessions.shared_status().limit == view.shared_status().limit == 50


@pytest.mark.promise("nothing-secret-shared")
async def test_nothing_secret_is_stored_or_shown(
    fake: FakeClerk, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No key, token or password is in Redis, in logs, or in a repr."""
    session = fake.add_session(user_id="user_1")
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        state = SharedState(redis_server.url.replace("://", "://:planted-password@"))
        assert "planted-password" not in repr(state)
        async with clients(fake, redis_server.url, 1) as (sessions,):
            token = await sessions.create_token(session.id)
            await sessions.revoke_many([session.id, *ids(10)])
            sessions._denials.deny_sessions([session.id])
            sessions._denials.cut_off_sign_ins(before=1.0, user_id="user_1")
            assert sessions._link is not None
            await sessions._link.feed.sent()
            stored = redis_server.everything()
    assert session.id.encode() in stored
    for secret in (fake.secret_key, token.jwt, token.jwt.split(".")[2], "planted-password"):
        assert secret.encode() not in stored
        assert secret not in caplog.text
