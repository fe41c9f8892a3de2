"""The link to Redis over a client's life: starts, several event loops, forks, and ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    RateLimit,
    SharedState,
    TokenVerificationError,
)
from clerk_async.denials.table import Denials
from clerk_async.pacing.news import News
from clerk_async.pacing.ramp import Ramp
from clerk_async.shared import link as link_module
from clerk_async.shared.connection import RedisConnection
from clerk_async.shared.feed import ENTRIES_PER_READ, Feed
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_servers import RedisServer

NOWHERE = "redis://127.0.0.1:1/0"
PER_SECOND = RateLimit(60, per=1.0)


def client(fake: FakeClerk, url: str, **options: Any) -> AsyncSessionsApi:
    """Make a client that shares its state."""
    return AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, shared_state=url, **options)


def sessions_of(fake: FakeClerk, count: int) -> list[str]:
    """Add live sessions."""
    return [fake.add_session(user_id="user_1").id for _ in range(count)]


def tasks() -> list[str]:
    """Return the names of the other tasks of the running loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return sorted(each.get_coro().__qualname__ for each in others)  # type: ignore[union-attr]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that a test runs now and then."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


# --- starts and ends ---


@pytest.mark.promise("redis-away")
async def test_closing_does_not_wait_for_a_redis_that_refuses(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that makes one call and ends has a denial to send, but nobody to send it to."""
    monkeypatch.setattr(link_module, "CLOSE_WITHIN", 3600.0)
    (session,) = sessions_of(fake, 1)
    sessions = client(fake, NOWHERE)
    await sessions.revoke(session)
    await sessions.aclose()


async def test_a_cancelled_close_leaves_no_task(fake: FakeClerk, redis_server: RedisServer) -> None:
    """The link ends at once instead of going on without its client."""
    sessions = client(fake, redis_server.url)
    await sessions._catch_up()
    closing = asyncio.create_task(sessions.aclose())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    for _ in range(100):
        await asyncio.sleep(0)
    assert tasks() == []


async def test_a_closed_client_waits_for_no_news(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it never connected."""
    monkeypatch.setattr(link_module, "CATCH_UP_WITHIN", 3600.0)
    sessions = client(fake, NOWHERE)
    await sessions.aclose()
    await sessions._catch_up()


def test_a_loop_that_is_dropped_prints_nothing(fake: FakeClerk, redis_server: RedisServer) -> None:
    """The program ends without closing its client or its loop."""
    ended = run_program(
        """
        import asyncio, sys
        from clerk_async import AsyncSessionsApi
        sessions = AsyncSessionsApi(shared_state=sys.argv[1])
        async def main():
            await sessions.list(user_id="user_1")
            await sessions._catch_up()
            await asyncio.sleep(0.3)
        asyncio.new_event_loop().run_until_complete(main())
        """,
        fake,
        redis_server.url,
    )
    assert "Feed" not in ended.err
    assert "Link" not in ended.err


# --- several event loops ---


@pytest.mark.promise("shared-limit")
@pytest.mark.may_block
def test_a_bulk_run_works_while_a_verifier_serves_in_another_loop(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """The verifier has started the link; the run needs it in its own loop."""
    ids = sessions_of(fake, 100)
    sessions = client(fake, redis_server.url, rate_limit=PER_SECOND)
    verifier = AsyncTokenVerifier(sessions=sessions, jwt_key=fake.jwt_key, authorized_parties=None)
    serving: Future[None] = Future()
    over = threading.Event()

    async def serve() -> None:
        with pytest.raises(TokenVerificationError):
            await verifier.verify("x.y.z")
        await sessions._catch_up()
        serving.set_result(None)
        while not over.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)

    async def revoke() -> None:
        async with sessions:
            report = await sessions.revoke_many(ids)
            assert (report.revoked, sessions.shared_status().connected) == (100, True)

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    try:
        serving.result(60)
        asyncio.run(asyncio.wait_for(revoke(), 60))
    finally:
        over.set()
        server.join()


def test_a_loop_that_runs_again_runs_one_link(
    fake: FakeClerk, redis_server: RedisServer, loop: asyncio.AbstractEventLoop
) -> None:
    """Its first tasks end, and none is left after closing."""
    sessions = client(fake, redis_server.url)

    async def use() -> list[str]:
        await sessions.list(user_id="user_1")
        await sessions._catch_up()
        await asyncio.sleep(0.05)
        return tasks()

    async def end() -> list[str]:
        await sessions.aclose()
        return tasks()

    link = ["Feed.read", "Feed.send", "Link._keep_window"]
    assert loop.run_until_complete(use()) == link
    assert asyncio.run(use()) == link
    assert loop.run_until_complete(use()) == link
    assert loop.run_until_complete(end()) == []
    gc.collect()


@pytest.mark.parametrize("ending", ["closed", "collected"])
def test_a_link_does_not_outlive_its_client_in_a_loop_that_runs_again(
    ending: str, fake: FakeClerk, redis_server: RedisServer, loop: asyncio.AbstractEventLoop
) -> None:
    """Whether the client is closed in another loop, or collected."""
    sessions: AsyncSessionsApi | None = client(fake, redis_server.url)
    assert sessions is not None
    loop.run_until_complete(sessions._catch_up())
    if ending == "closed":
        asyncio.run(sessions.aclose())
    sessions = None
    gc.collect()

    async def later() -> list[str]:
        await asyncio.sleep(0.05)
        return tasks()

    assert loop.run_until_complete(later()) == []


@pytest.mark.promise("shared-limit")
def test_requests_that_waited_in_a_loop_that_is_gone_take_no_places(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """As after Ctrl-C in `run_until_complete`; a forked child has its parent's requests too."""
    ended = run_program(
        """
        import asyncio, os, sys
        from clerk_async import AsyncSessionsApi, RateLimit
        limit = RateLimit(60, per=1.0)
        sessions = AsyncSessionsApi(shared_state=sys.argv[1], rate_limit=limit)
        gone = asyncio.new_event_loop()
        async def begin():
            run = asyncio.create_task(sessions.revoke_many(f"sess_a{n}" for n in range(200)))
            while sessions.shared_status().used < 60:
                await asyncio.sleep(0.01)
        gone.run_until_complete(begin())
        gone.close()
        async def use():
            await sessions.list(user_id="user_1")
            await asyncio.sleep(1.5)  # by then there are places again
            report = await sessions.revoke_many(f"sess_b{n}" for n in range(80))
            print(report.not_found, flush=True)
        asyncio.run(use())
        os._exit(0)
        """,
        fake,
        redis_server.url,
    )
    assert (ended.code, ended.out) == (0, "80\n")
    assert "the shared state failed" not in ended.err


def test_a_call_that_is_collected_after_its_loop_counts_once(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Otherwise less than nothing would be in flight, and the next loop would never start."""
    fake.inject(Fault.hold(operation="get"))
    ended = run_program(
        """
        import asyncio, gc, os, sys
        from clerk_async import AsyncSessionsApi
        sessions = AsyncSessionsApi(shared_state=sys.argv[1])
        window = sessions._link.window
        gone = asyncio.new_event_loop()
        async def begin():
            call = asyncio.ensure_future(sessions.get("sess_1"))
            while not window._books["single"].in_flight:
                await asyncio.sleep(0.01)
        gone.run_until_complete(begin())
        gone.close()
        async def use():
            await sessions.list(user_id="user_1")
            gc.collect()
            print([each.in_flight for each in window._books.values()], flush=True)
        asyncio.run(use())
        asyncio.run(sessions.aclose())
        os._exit(0)
        """,
        fake,
        redis_server.url,
    )
    assert (ended.code, ended.out) == (0, "[0, 0]\n")


@pytest.mark.promise("redis-away")
async def test_runs_with_different_limits_go_on_without_redis(fake: FakeClerk) -> None:
    """What waits for the other run's requests is let out when these end."""
    many, few = sessions_of(fake, 400), sessions_of(fake, 5)
    async with client(fake, NOWHERE, rate_limit=RateLimit(1000, per=1.0)) as sessions:
        first = asyncio.create_task(sessions.revoke_many(many))
        await fake.until(lambda: bool(fake.requests))
        other = sessions.with_options(rate_limit=RateLimit(100, per=1.0))
        async with asyncio.timeout(60):
            reports = await asyncio.gather(first, other.revoke_many(few))
    assert [each.revoked for each in reports] == [400, 5]


# --- the feed and the news ---


class Popping:
    """A connection that reads the second entry back while the first is sent."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.sent: list[int] = []

    async def command(self, *words: Any, **_: Any) -> Any:
        """Note the number of an added entry."""
        if words[0] == "XADD":
            self.sent.append(words[words.index("number") + 1])
            self.feed._pending.pop(2, None)
        await asyncio.sleep(0)


@pytest.mark.promise("shared-denials")
async def test_an_entry_that_is_read_back_while_another_is_sent_stops_nothing() -> None:
    """Later denials are sent too."""
    denials = Denials(3600.0)
    feed = Feed(denials)
    feed._knows_time = True
    connection: Any = Popping(feed)
    for number in range(2):
        denials.deny_sessions([f"sess_{number}"])
        feed._bundle()
    sending = asyncio.create_task(feed.send(connection))
    await feed.sent()
    denials.deny_sessions(["sess_late"])
    await feed.sent()
    assert connection.sent == [1, 3]
    sending.cancel()
    await asyncio.wait([sending])


@pytest.mark.promise("shared-denials")
async def test_the_age_of_the_denials_grows_while_entries_are_unread(
    redis_server: RedisServer,
) -> None:
    """An answer with only a part of the stream says nothing about the rest."""
    feed = Feed(Denials(3600.0))
    feed.name("stream", "standing")
    connection = RedisConnection(SharedState(redis_server.url))

    def add(count: int) -> None:
        script = "for i = 1, ARGV[1] do redis.call('XADD', 'stream', '*', 'from', 'other') end"
        redis_server.command("EVAL", script, "0", str(count))

    add(ENTRIES_PER_READ + 1)
    await feed._read_on(connection)
    assert feed.read_at < 0
    await feed._read_on(connection)
    current = feed.read_at
    assert current > 0
    add(ENTRIES_PER_READ + 1)
    await feed._read_on(connection)
    assert feed.read_at == current
    await feed._read_on(connection)
    assert feed.read_at > current
    await connection.close()


@pytest.mark.promise("shared-limit")
@pytest.mark.parametrize("has_failed", [False, True])
def test_a_shorter_pause_replaces_no_longer_one(*, has_failed: bool) -> None:
    """The others wait as long as this process, also if a message may not have arrived."""
    news = News(Ramp(100, 1.0))
    news.pause(20.0, "rate_limited")
    if has_failed:
        news.told(0.0, is_alone=False)
    news.pause(1.0, "unavailable")
    if has_failed:
        news.failed()
    told = news.told(0.0, is_alone=False)
    assert (told["pause"], told["reason"]) == (20_000, "rate_limited")
