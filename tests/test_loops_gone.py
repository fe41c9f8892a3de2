"""What is left of a client's work when its event loop has gone, or when closing is cancelled."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from programs import run_program

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ClientClosedError,
    RetryPolicy,
    WrongLoopError,
)
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

import_module("clerk_async.bulk.run")  # else two threads may parse it, which Python 3.11.7 can't


def client(fake: FakeClerk, **options: Any) -> AsyncSessionsApi:
    """Make a client of the service."""
    return AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, **options)


async def never() -> AsyncIterator[str]:
    """Yield no id."""
    await asyncio.Event().wait()
    yield "sess_1"


def test_a_forked_child_does_not_keep_the_journal(fake: FakeClerk, tmp_path: Path) -> None:
    """The next run of the parent uses it while the child lives."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(3)]
    ended = run_program(
        """
        import os, signal, sys, warnings
        from clerk_async import SessionsApi
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
        journal, *ids = sys.argv[1:]
        sessions, children = SessionsApi(), []
        def fork(outcome):
            if not children:
                children.append(os.fork())
                if not children[0]:
                    signal.pause()
        print(sessions.revoke_many(ids, journal=journal, on_outcome=fork).ok)
        print(sessions.revoke_many(ids, journal=journal).ok, flush=True)
        os.kill(children[0], signal.SIGKILL)
        """,
        fake,
        str(tmp_path / "journal.jsonl"),
        *ids,
    )
    assert (ended.code, ended.out, ended.err) == (0, "True\nTrue\n", "")


async def test_a_cancelled_close_closes_the_connections(fake: FakeClerk) -> None:
    """As by a timeout around it."""
    session = fake.add_session().id
    sessions = client(fake)
    fake.inject(Fault.hold(operation="get"))
    call = asyncio.create_task(sessions.get(session))
    await fake.until(lambda: fake.held == 1)
    wire = sessions._shared._wire
    assert wire is not None
    closing = asyncio.create_task(sessions.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing, call])
    assert closing.cancelled()
    assert wire._session.closed


async def test_closing_ends_runs_although_the_connections_are_of_an_earlier_loop(
    fake: FakeClerk,
) -> None:
    """A run that waits for input has opened none in this loop."""
    sessions = client(fake)

    async def use() -> None:
        await sessions.list(user_id="user_1")

    await asyncio.to_thread(asyncio.run, use())
    run = asyncio.create_task(sessions.revoke_many(never()))
    while not (sessions._shared.runs or run.done()):  # noqa: ASYNC110 - it begins soon
        await asyncio.sleep(0)
    await sessions.aclose()
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(run, 30)


async def test_closing_is_refused_while_a_run_waits_in_another_running_loop(
    fake: FakeClerk,
) -> None:
    """The client stays open, and can be closed there."""
    sessions = client(fake)
    begun, over = threading.Event(), threading.Event()

    async def run_and_close() -> object:
        run = asyncio.create_task(sessions.revoke_many(never()))
        while not (sessions._shared.runs or run.done()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        begun.set()
        await asyncio.to_thread(over.wait, 60)
        await sessions.aclose()
        return type((await asyncio.gather(run, return_exceptions=True))[0])

    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, run_and_close()))
    assert await asyncio.to_thread(begun.wait, 60)
    with pytest.raises(WrongLoopError):
        await sessions.aclose()
    over.set()
    assert await elsewhere is ClientClosedError


@pytest.mark.promise("key-outage")
def test_a_fetch_that_is_left_in_a_closed_loop_stops_no_later_one(fake: FakeClerk) -> None:
    """As in a serverless function, where each call has its own loop, after a failed fetch."""
    sessions = client(fake, retry=RetryPolicy(attempts=1))
    verifier: Any = AsyncTokenVerifier(sessions=sessions, authorized_parties=None, key_ttl=0.01)
    token = fake.mint(fake.add_session())

    async def verify_until(holds: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await verifier.verify(token)
                await asyncio.sleep(0.02)

    asyncio.run(verify_until(lambda: verifier.key_status().fetches))
    fake.inject(Fault.status(500, operation="jwks"))
    asyncio.run(verify_until(lambda: verifier.key_status().failed_fetches))
    fake.inject(Fault.hold(operation="jwks"))
    gone = asyncio.new_event_loop()
    gone.run_until_complete(verify_until(lambda: fake.held))
    gone.close()
    fake.clear_faults()
    before = verifier.key_status().fetches
    asyncio.run(verify_until(lambda: verifier.key_status().fetches > before + 1))
    asyncio.run(sessions.aclose())


async def test_a_token_source_keeps_its_token_if_another_loop_asks(fake: FakeClerk) -> None:
    """The other loop gets an error, and this one goes on."""
    async with client(fake) as sessions:
        source: Any = sessions.token_source(fake.add_session().id)
        await source.token()
        held = source._held

        async def elsewhere() -> None:
            with pytest.raises(WrongLoopError):
                await source._renew()

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert source._held is held
