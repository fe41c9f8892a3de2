"""Denials between clients and processes: a real Redis, cut connections, lost data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    AsyncWebhookReceiver,
    DenialsUnavailableError,
    SharedState,
    TokenVerificationError,
)
from clerk_async.denials.table import Denials
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from redis_servers import RedisServer

KEY = "sk_test_feed"


async def until(holds: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it comes from another process
            await asyncio.sleep(0.005)


def client(url: str, **options: Any) -> AsyncSessionsApi:
    """Make a client that shares its denials."""
    return AsyncSessionsApi(KEY, shared_state=SharedState(url, **options))


@contextlib.asynccontextmanager
async def clients(url: str, count: int) -> AsyncGenerator[list[AsyncSessionsApi]]:
    """Yield some clients that share denials."""
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(client(url)) for _ in range(count)]
        for each in made:
            await each._catch_up()
        yield made


def refuses(sessions: AsyncSessionsApi, session_id: str, **claims: Any) -> bool:
    """Return whether a client's verifiers reject a token."""
    told: dict[str, Any] = {
        "user_id": "user_1",
        "issued_at": time.time(),
        "first_factor_age": 5,
        **claims,
    }
    return sessions._denials.refuses(session_id, skew=0.0, **told)


def stream(sessions: AsyncSessionsApi) -> str:
    """Return the name of a client's stream."""
    assert sessions._link is not None
    return sessions._link.feed._stream


@pytest.mark.promise("shared-denials")
async def test_a_denial_of_one_client_applies_to_the_others(redis_server: RedisServer) -> None:
    """Sessions, users, everyone and sign-ins; so does an allow."""
    now = datetime.now(UTC)
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"session_id": "sess_1"}, {}),
        ({"user_id": "user_2"}, {"user_id": "user_2", "issued_at": time.time() - 9}),
        ({"everyone": True}, {"issued_at": time.time() - 9}),
        (
            {"user_id": "user_3", "signed_in_before": now},
            {"user_id": "user_3", "issued_at": time.time() + 90},
        ),
        ({"everyone": True, "signed_in_before": now}, {"issued_at": time.time() + 90}),
    ]
    async with clients(redis_server.url, 2) as (one, other):
        for arguments, claims in kinds:
            name = "sess_1" if "session_id" in arguments else "sess_other"
            assert not refuses(other, name, **claims)
            await one.deny(**arguments)
            refused = partial(refuses, other, name, **claims)
            await until(refused)
            await one.allow(**arguments)
            await until(lambda refused=refused: not refused())  # type: ignore[misc]
        assert other.shared_status().denied == one.shared_status().denied == 0


@pytest.mark.promise("shared-denials")
@pytest.mark.parametrize("other_does", ["nothing", "deny", "late event", "run"])
async def test_a_stopped_run_takes_back_no_denial_of_another_process(
    other_does: str, redis_server: RedisServer, fake: FakeClerk
) -> None:
    """Neither its denials, nor those of sessions that its own run will still revoke."""
    found = [fake.add_session(user_id="user_1") for _ in range(3)]
    ids, early = [each.id for each in found], fake.webhook("session.ended", found[2])
    stopped: list[bool] = []
    state, url = SharedState(redis_server.url), fake.base_url
    async with (
        AsyncSessionsApi(fake.secret_key, base_url=url, shared_state=state) as one,
        AsyncSessionsApi(fake.secret_key, base_url=url, shared_state=state) as other,
    ):
        for each in (one, other):
            AsyncTokenVerifier(sessions=each, jwt_key=fake.jwt_key, authorized_parties=["x"])
            await each._start_link()
            await each._catch_up()
        fake.inject(Fault.hold(operation="revoke", count=2))
        ask = partial(bool, stopped)
        first = asyncio.create_task(one.revoke_many(ids, concurrency=1, should_stop=ask))
        await fake.until(lambda: fake.held == 1)
        await until(lambda: all(refuses(other, each) for each in ids))
        second: asyncio.Task[Any] | None = None
        if other_does == "run":
            second = asyncio.create_task(other.revoke_many(ids[1:], concurrency=1))
            await fake.until(lambda: fake.held == 2)
        elif other_does == "deny":
            await other.deny(session_id=ids[2])
        elif other_does == "late event":
            receiver = AsyncWebhookReceiver(sessions=other, signing_secret=fake.webhook_secret)
            await receiver.receive(*early)
        await other.deny(session_id="sess_marker")
        await until(lambda: refuses(one, "sess_marker"))
        fake.clear_faults()
        fake.inject(Fault.hold(operation="revoke", count=None))
        stopped.append(True)
        fake.release()
        assert (await first).not_attempted == 2
        await one.deny(session_id="sess_end")
        await until(lambda: refuses(other, "sess_end"))
        for each in (one, other):
            assert refuses(each, ids[2]) is (other_does != "nothing")
        fake.clear_faults()
        fake.release()
        if second is not None:
            assert (await second).ok


@pytest.mark.promise("shared-denials")
async def test_a_client_that_starts_later_learns_of_earlier_denials(
    redis_server: RedisServer,
) -> None:
    """The stream is replayed; the cut-off of sign-ins stays even without the stream."""
    async with client(redis_server.url) as one:
        await one.deny(session_id="sess_1")
        await one.deny(user_id="user_9", signed_in_before=datetime.now(UTC))
        key = stream(one)
    async with clients(redis_server.url, 1) as (late,):
        assert refuses(late, "sess_1")
        assert refuses(late, "sess_2", user_id="user_9")
    redis_server.command("DEL", key)  # as if all of it were older than `keep`
    async with clients(redis_server.url, 1) as (later,):
        assert not refuses(later, "sess_1")
        assert refuses(later, "sess_2", user_id="user_9")


@pytest.mark.promise("shared-denials")
async def test_a_denial_that_is_sent_late_does_not_undo_a_later_allow(
    redis_server: RedisServer,
) -> None:
    """Both are made while Redis is frozen; whichever it reads first, the later one wins."""
    async with clients(redis_server.url, 3) as (one, other, third):
        redis_server.freeze()
        await one.deny(session_id="sess_1")
        await one.deny(session_id="sess_2")
        await other.allow(session_id="sess_1")
        assert refuses(one, "sess_1")
        redis_server.thaw()
        await until(lambda: all(refuses(each, "sess_2") for each in (one, other, third)))
        await until(lambda: not refuses(one, "sess_1"))
        assert not refuses(other, "sess_1")
        assert not refuses(third, "sess_1")


@pytest.mark.promise("shared-denials")
async def test_after_redis_lost_its_data_every_client_resends_the_denials(
    redis_server: RedisServer,
) -> None:
    """Including one whose sender is gone, and those that must persist."""
    async with clients(redis_server.url, 2) as (holder, _):
        async with client(redis_server.url) as gone:
            await gone.deny(session_id="sess_1")
            await gone.deny(everyone=True, signed_in_before=datetime.fromtimestamp(5, UTC))
            await until(lambda: holder.shared_status().denied == 2)
        redis_server.restart()
        await until(lambda: redis_server.command("EXISTS", stream(holder)))
        async with clients(redis_server.url, 1) as (new,):
            await until(lambda: refuses(new, "sess_1"))
            await until(lambda: refuses(new, "sess_2", issued_at=6.0))


@pytest.mark.promise("shared-denials")
@pytest.mark.parametrize("how", ["restarted", "emptied", "evicted"])
async def test_lost_data_is_noticed_even_if_others_have_added_since(
    redis_server: RedisServer, how: str
) -> None:
    """Earlier denials reach clients that start later, and so do those that must persist."""
    async with clients(redis_server.url, 2) as (holder, other):
        async with client(redis_server.url) as gone:
            await gone.deny(session_id="sess_1")
            await gone.deny(user_id="user_1", signed_in_before=datetime.fromtimestamp(5, UTC))
            await until(lambda: holder.shared_status().denied == 2)
        if how == "restarted":
            redis_server.restart()
        elif how == "emptied":  # while connections stay open
            redis_server.command("FLUSHALL")
        else:
            redis_server.command("DEL", stream(holder))
            assert holder._link is not None
            holder._link.feed._checked_at -= 4.0
        added = json.dumps([{"at": 7, "of": "session", "ids": ["sess_2"]}])
        redis_server.command("XADD", stream(holder), "*", "from", "x", "number", "1", "all", added)
        await other.deny(user_id="user_2", signed_in_before=datetime.fromtimestamp(5, UTC))
        await until(lambda: denied_in(redis_server, stream(holder), "sess_1"))
        async with clients(redis_server.url, 1) as (new,):
            await until(lambda: refuses(new, "sess_1"))
            await until(lambda: refuses(new, "sess_3", user_id="user_1", issued_at=6.0))
            await until(lambda: refuses(new, "sess_3", user_id="user_2", issued_at=6.0))


def denied_in(server: RedisServer, key: str, session_id: str) -> bool:
    """Return whether an entry of a stream names a session."""
    return session_id in repr(server.command("XRANGE", key, "-", "+"))


@pytest.mark.promise("shared-denials")
async def test_denials_made_while_redis_was_away_are_sent_later(
    redis_server: RedisServer,
) -> None:
    """In the client itself they apply at once."""
    async with clients(redis_server.url, 2) as (one, other):
        redis_server.kill()
        await one.deny(session_id="sess_1")
        assert refuses(one, "sess_1")
        redis_server.start()
        await until(lambda: refuses(other, "sess_1"))


@pytest.mark.promise("shared-denials")
async def test_cut_connections_lose_no_denial(redis_server: RedisServer) -> None:
    """Redis drops every client again and again during 300 denials."""
    async with clients(redis_server.url, 2) as (one, other):
        for number in range(300):
            await one.deny(session_id=f"sess_{number}")
            if number % 10 == 0:
                redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: other.shared_status().denied == 300)


@pytest.mark.promise("shared-denials")
async def test_two_keys_share_nothing_on_one_redis_unless_they_share_a_name(
    redis_server: RedisServer,
) -> None:
    """Neither denials nor the window; with one `namespace` they do, as during a rotation."""
    for namespace, is_shared in ((None, False), ("production", True)):
        state = SharedState(redis_server.url, namespace=namespace)
        async with (
            AsyncSessionsApi("sk_test_old", shared_state=state) as old,
            AsyncSessionsApi("sk_test_new", shared_state=state) as new,
        ):
            await old._catch_up()
            await new._catch_up()
            await old.deny(session_id="sess_1")
            await new.deny(session_id="sess_2")
            count = 2 if is_shared else 1
            for each in (old, new):
                await until(partial(_has_read_back, each))
                await until(lambda each=each, count=count: each.shared_status().denied == count)  # type: ignore[misc]
            await until(lambda old=old, count=count: old.shared_status().processes == count)  # type: ignore[misc]
            assert refuses(old, "sess_2") is refuses(new, "sess_1") is is_shared


def _has_read_back(sessions: AsyncSessionsApi) -> bool:
    assert sessions._link is not None
    return not sessions._link.feed._waiting and not sessions._link.feed._pending


async def _trouble(server: RedisServer, chance: random.Random) -> None:
    what = chance.choice(["freeze", "flush", "restart", "cut", "evict", "evict"])
    if what == "freeze":
        server.freeze()
        await asyncio.sleep(chance.uniform(0.05, 0.8))
        server.thaw()
    elif what == "flush":
        server.command("FLUSHALL")
    elif what == "restart":
        await asyncio.to_thread(server.restart)
    elif what == "cut":
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    elif keys := server.command("KEYS", "*"):
        server.command("DEL", chance.choice(keys))


@pytest.mark.slow
@pytest.mark.promise("shared-denials")
@pytest.mark.parametrize("seed", range(3))
async def test_all_agree_in_the_end_whatever_befalls_redis(
    redis_server: RedisServer, seed: int
) -> None:
    """Cuts, restarts, losses of all or some of it, and stops, in any order, under many changes."""
    chance = random.Random(seed)
    last: dict[str, bool] = {}
    async with clients(redis_server.url, 3) as three:
        for _ in range(40):
            session_id, who = f"sess_{chance.randrange(8)}", chance.choice(three)
            what = chance.choice(["deny", "deny", "allow", "trouble", "trouble"])
            if what == "trouble":
                await _trouble(redis_server, chance)
            else:
                last[session_id] = what == "deny"
                await getattr(who, what)(session_id=session_id)
            await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.1]))

        def agrees(one: AsyncSessionsApi) -> bool:
            return all(one._denials.denies(each) is expected for each, expected in last.items())

        await until(lambda: all(map(agrees, three)))
        for each in three:  # the next look at what Redis has, without the wait for it
            assert each._link is not None
            each._link.feed.check()
        async with clients(redis_server.url, 1) as (new,):
            await until(lambda: agrees(new))


async def test_many_denials_are_sent_in_few_entries(redis_server: RedisServer) -> None:
    """50,000 sessions are locked out elsewhere within moments."""
    async with clients(redis_server.url, 2) as (one, other):
        one._denials.deny_sessions(f"sess_{number}" for number in range(50_000))
        await until(lambda: other.shared_status().denied == 50_000)
        assert int(redis_server.command("XLEN", stream(one))) == 250


@pytest.mark.promise("unreadable-entries")
async def test_an_unreadable_entry_is_dropped_and_logged_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever somebody else writes there, the entries after it are read."""
    future = int((time.time() + 3600) * 1e6)
    bad = [
        b"no json",
        b"{}",
        b"[1]",
        b'[{"at": 1}]',
        b'[{"at": -1, "of": "session", "ids": ["sess_x"]}]',
        b'[{"at": 1, "of": "planet", "ids": ["sess_x"]}]',
        b'[{"at": "1", "of": "session", "ids": ["sess_x"]}]',
        b'[{"at": 1, "of": "session", "ids": [7]}]',
        b'[{"at": 1, "of": "session", "ids": [""]}]',
        b'[{"at": 1, "of": "user", "ids": []}]',
        b"\xff\xfe",
        json.dumps([{"at": future, "of": "session", "ids": ["sess_x"]}]).encode(),
        json.dumps([{"at": 1, "of": "session", "ids": ["sess_x" * 100]}]).encode(),
    ]
    async with clients(redis_server.url, 2) as (one, other):
        for text in bad:
            redis_server.command("XADD", stream(one), "*", "from", "x", "number", "1", "all", text)
        redis_server.command("XADD", stream(one), "*", "other", "field")
        await one.deny(session_id="sess_after")
        await until(lambda: refuses(other, "sess_after"))
        assert other.shared_status().denied == 1
    told = [each for each in caplog.records if "unreadable" in each.getMessage()]
    assert len(told) == 2  # once per client
    assert "sess_x" not in caplog.text


async def test_the_stream_is_trimmed_by_time(redis_server: RedisServer) -> None:
    """It covers the time of `keep`, and expires when nobody adds to it."""
    async with client(redis_server.url, keep=0.2) as one:
        for number in range(300):  # entries are trimmed by the hundred
            one._denials.deny_sessions([f"sess_{number}"])
            await one._tell_denials()
        await asyncio.sleep(0.3)
        await one.deny(session_id="sess_last")
        assert int(redis_server.command("XLEN", stream(one))) <= 101
        assert 0 < int(redis_server.command("PTTL", stream(one))) <= 61_000


async def test_different_clocks_do_not_change_the_order(redis_server: RedisServer) -> None:
    """A client that is an hour ahead denies, and another one allows: the later action wins."""
    async with clients(redis_server.url, 1) as (one,):
        ahead = client(redis_server.url)
        ahead._denials._zero += 3_600_000_000
        async with ahead:
            ahead._denials.deny_sessions(["sess_before"])  # not connected yet
            await ahead._catch_up()
            await ahead.deny(session_id="sess_1")
            await until(lambda: refuses(one, "sess_1") and refuses(one, "sess_before"))
            await one.allow(session_id="sess_1")
            await one.allow(session_id="sess_before")
            await until(lambda: not refuses(ahead, "sess_1"))
            await until(lambda: not refuses(ahead, "sess_before"))


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_clock_that_is_behind_spares_no_token(
    redis_server: RedisServer, *, is_connected: bool
) -> None:
    """A user's tokens are cut off by the later of the local clock and that of Redis."""
    async with clients(redis_server.url, 1) as (one,):
        behind = client(redis_server.url)
        behind._denials._zero -= 3_600_000_000
        behind._denials._wall_clock = lambda: time.time() - 3600
        async with behind:
            if is_connected:
                await behind._catch_up()
            issued_at = time.time() - 1
            assert not refuses(one, "sess_1", issued_at=issued_at)
            await behind.deny(user_id="user_1")
            await until(lambda: refuses(one, "sess_1", issued_at=issued_at))
            assert refuses(behind, "sess_1", issued_at=issued_at)
            assert not refuses(one, "sess_1", issued_at=time.time() + 600)


async def verified(verifier: AsyncTokenVerifier, token: str) -> None:
    """Verify a token; on a machine that stalls, the denials may be old for a moment."""
    async with asyncio.timeout(40):
        while True:
            try:
                await verifier.verify(token)
            except DenialsUnavailableError:
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.promise("closed-verifier")
async def test_a_verifier_with_stale_denials_says_that_it_can_not_know(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Data older than `denials_max_age` raises; the request is unknown, never signed out."""
    session = fake.add_session(user_id="user_1")
    async with AsyncSessionsApi(
        fake.secret_key, base_url=fake.base_url, shared_state=redis_server.url
    ) as sessions:
        token = (await sessions.create_token(session.id)).jwt
        closed = AsyncTokenVerifier(sessions=sessions, denials_max_age=1.0)
        opened = AsyncTokenVerifier(sessions=sessions)
        await closed.warm_up()
        await verified(closed, token)
        redis_server.freeze()
        await until(lambda: sessions._link is not None and sessions._link.age() > 1.0)
        with pytest.raises(DenialsUnavailableError) as caught:
            await closed.verify(token)
        assert caught.value.reason == "denials-unavailable"
        state = await closed.authenticate_request({"Authorization": f"Bearer {token}"})
        assert (state.status, state.reason) == ("unknown", "denials-unavailable")
        await opened.verify(token)
        await sessions.deny(session_id=session.id)  # applies here, whatever Redis does
        for verifier in (opened, closed):  # what is known to be denied needs no newer data
            with pytest.raises(TokenVerificationError) as refused:
                await verifier.verify(token)
            assert refused.value.reason == "session-revoked"
            state = await verifier.authenticate_request({"Authorization": f"Bearer {token}"})
            assert (state.status, state.reason) == ("signed_out", "session-revoked")
        redis_server.thaw()
        await until(lambda: sessions._link is not None and sessions._link.age() < 1.0)
        await sessions.allow(session_id=session.id)
        await verified(closed, token)


@pytest.mark.promise("shared-denials")
@pytest.mark.usefixtures("each_programs_loop")
def test_a_forked_child_has_its_own_link(fake: FakeClerk, redis_server: RedisServer) -> None:
    """Parent and child learn of each other's later denials; both exit quietly."""
    ended = run_program(
        """
        import os, sys, time, warnings
        from clerk_async import SessionsApi
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
        sessions = SessionsApi(shared_state=sys.argv[1])
        def wait_for(session_id):
            ends = time.monotonic() + 25
            while not sessions._async._denials.denies(session_id):
                assert time.monotonic() < ends, session_id
                time.sleep(0.01)
        sessions.deny(session_id="sess_before")
        child = os.fork()
        if not child:
            assert sessions._async._denials.denies("sess_before")
            sessions.deny(session_id="sess_child")
            wait_for("sess_parent")
            sys.exit(0)
        wait_for("sess_child")
        sessions.deny(session_id="sess_parent")
        print(os.waitpid(child, 0)[1])
        """,
        fake,
        redis_server.url,
    )
    assert (ended.out, ended.err) == ("0\n", "")


def test_a_list_of_denials_survives_a_round_trip() -> None:
    """Whatever it contains, and nothing of it is sent that the other already has."""
    one, other = Denials(), Denials()
    one.deny_sessions(f"sess_{number}" for number in range(450))
    one.deny_sessions(["sess_a"])
    one.deny_sessions(["sess_p"], issued_until=7.0)
    one.deny_user("user_1", issued_until=8.0)
    one.deny_user("user_2")
    one.deny_user(None, issued_until=9.0)
    one.cut_off_sign_ins("user_3", before=10.0)
    one.cut_off_sign_ins(None, before=11.0)
    one.allow_user("user_4")
    one.allow_sessions(["sess_q"])
    told = list(one.changes(not_in=other))
    assert max(len(change.ids) for change in told) <= 200
    other.is_watched = True
    for change in told:
        other.apply(change)
    assert list(one.changes(not_in=other)) == []
    assert list(other.changes(not_in=one)) == []
    assert len(one) == len(other) == 457


def test_denials_of_others_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Ids of sessions and users stay out of the logs."""
    with caplog.at_level(logging.DEBUG):
        Denials().deny_sessions(["sess_1"])
    assert caplog.text == ""


@pytest.mark.parametrize("kept", [True, False])
def test_a_program_that_never_closes_exits_quietly(
    fake: FakeClerk, redis_server: RedisServer, *, kept: bool
) -> None:
    """Its Redis connections are dropped, whether or not the client outlives the loop."""
    ended = run_program(
        """
        import asyncio, sys
        from clerk_async import AsyncSessionsApi
        async def main():
            sessions = AsyncSessionsApi(shared_state=sys.argv[1])
            await sessions.deny(session_id="sess_1")
            return sessions if sys.argv[2] == "True" else None
        kept = asyncio.run(main())
        """,
        fake,
        redis_server.url,
        str(kept),
    )
    assert (ended.code, ended.out, ended.err) == (0, "", "")


# --- several event loops ---


@pytest.mark.promise("shared-denials")
async def test_any_loop_may_deny_and_warm_up_while_another_one_shares(
    redis_server: RedisServer, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frameworks run async code in a loop of its own for each thread; one of them has the link."""
    token = fake.mint(fake.add_session(user_id="user_1"))
    async with clients(redis_server.url, 2) as (ours, others):
        verifier = AsyncTokenVerifier(
            sessions=ours, jwt_key=fake.jwt_key, authorized_parties=None, denials_max_age=60
        )
        link: Any = ours._link
        waited_in: list[object] = []

        async def wait_for(wait: Callable[[], Any]) -> None:
            waited_in.append(asyncio.get_running_loop())
            await wait()

        for name in ("sent", "current"):  # their events belong to the loop of the link
            monkeypatch.setattr(link.feed, name, partial(wait_for, getattr(link.feed, name)))

        async def elsewhere() -> None:
            await verifier.warm_up()
            assert (await verifier.verify(token)).user_id == "user_1"
            await ours.deny(user_id="user_1")

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert waited_in == [asyncio.get_running_loop()] * 2
        await until(lambda: refuses(others, "sess_1", issued_at=time.time() - 9))
        with pytest.raises(TokenVerificationError):
            await verifier.verify(token)


@pytest.mark.may_block
def test_of_two_loops_that_start_to_share_at_once_one_does(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second asks while the first is starting, and starts nothing itself."""
    sessions: Any = client(redis_server.url)
    link, started = sessions._link, list[object]()

    async def second() -> None:
        link.start()

    def start_slowly(loop: asyncio.AbstractEventLoop) -> None:
        started.append(loop)
        if len(started) == 1:
            thread = threading.Thread(target=asyncio.run, args=(second(),))
            thread.start()
            thread.join()
        start(loop)

    start = link._start
    monkeypatch.setattr(link, "_start", start_slowly)

    async def first() -> None:
        async with sessions:
            await sessions._catch_up()
            assert sessions.shared_status().connected
            assert started == [asyncio.get_running_loop()]

    asyncio.run(first())
