"""Event loops as users run them: one after another, uvloop, eager tasks, notebooks."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clients import OPERATIONS, invoke
from served_apps import LIMIT, assert_clean, program, until

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, ClientClosedError
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.testing import FakeClerk


def descriptors() -> int:
    """Count the open file descriptors of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def uvloop_loop() -> asyncio.AbstractEventLoop:
    """Make a uvloop event loop."""
    uvloop = pytest.importorskip("uvloop", reason="part of the extra named servers")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


LOOPS = [
    pytest.param(None, id="asyncio"),
    pytest.param(
        uvloop_loop,
        id="uvloop",
        marks=[
            pytest.mark.slow,
            # uvloop itself warns of what it closes at the end, because nobody closed the client
            pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning"),
        ],
    ),
]


@pytest.mark.promise("dead-loops")
@pytest.mark.parametrize("factory", LOOPS)
@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_one_client_works_in_one_asyncio_run_after_another(
    factory: Callable[[], asyncio.AbstractEventLoop] | None, fake: FakeClerk
) -> None:
    """Each new loop starts afresh and leaves nothing open; no warning, no growth."""
    client = AsyncSessionsApi(fake.secret_key, base_url=fake.base_url)
    session = fake.add_session()

    async def work() -> list[str]:
        found = await asyncio.gather(*(client.get(session.id) for _ in range(5)))
        return [each.id for each in found]

    def run() -> list[str]:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work())

    assert run() == [session.id] * 5
    before = descriptors()
    for _ in range(6):
        assert run() == [session.id] * 5
    until(lambda: descriptors() <= before + 1)  # the service takes a moment to close its ends

    async def close() -> None:
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await client.get(session.id)

    asyncio.run(close())


@pytest.mark.promise("other-loops")
@pytest.mark.slow
async def test_every_operation_works_on_uvloop(fake: FakeClerk) -> None:
    """Operations, verification, a bulk run, and closing during a call."""
    loop = uvloop_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_everything(fake))

    await asyncio.to_thread(run)


@pytest.mark.promise("other-loops")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
async def test_every_operation_works_in_eager_tasks(fake: FakeClerk) -> None:
    """The same, with tasks that start at once."""
    factory: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(factory)
    await _everything(fake)


@pytest.mark.promise("other-loops")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
async def test_a_bulk_run_in_eager_tasks_keeps_its_concurrency(fake: FakeClerk) -> None:
    """Its workers don't start inside one another, however many ids there are."""
    factory: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(factory)
    ids = [fake.add_session().id for _ in range(40)]
    async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        report = await client.revoke_many(ids, concurrency=3)
        assert (report.revoked, report.ok) == (40, True)
        assert fake.max_open_connections <= 3
        planned = await client.revoke_many((f"sess_{n}" for n in range(3000)), dry_run=True)
        assert planned.planned == 3000


async def _everything(fake: FakeClerk) -> None:
    async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        for operation in OPERATIONS:
            await asyncio.gather(*(invoke(client, operation, fake) for _ in range(3)))
        verifier = AsyncTokenVerifier(sessions=client, authorized_parties=["http://localhost:3000"])
        live = [fake.add_session(user_id="user_of_all") for _ in range(30)]
        claims = await asyncio.gather(*(verifier.verify(fake.mint(each)) for each in live))
        assert {each.user_id for each in claims} == {"user_of_all"}
        assert sum(request.operation == "jwks" for request in fake.requests) == 1
        report = await client.revoke_all(user_id="user_of_all")
        assert (report.revoked, report.ok) == (30, True)
        fake.inject(Fault.hold(operation="get"))
        call = asyncio.create_task(client.get(live[0].id))
        await fake.until(lambda: fake.held == 1)
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await call
        fake.release()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.promise("real-servers")
@pytest.mark.slow
def test_both_clients_work_in_a_notebook(fake: FakeClerk) -> None:
    """In a kernel whose loop is running: the sync client as it is, the async one with await."""
    for _ in range(3):
        fake.add_session(user_id="user_1")
    environ = {"PYTHONDEVMODE": ""}  # asyncio's debug mode complains about ipykernel itself
    with program(["notebook.py"], fake, environ=environ) as (process, log):
        assert process.wait(2 * LIMIT) == 0
        log.seek(0)
        output = log.read().decode()
    assert output.split()[-3:] == ["3", "3", "3"]
    assert_clean(output)
    assert {session.status for session in fake.sessions.values()} == {"revoked"}
