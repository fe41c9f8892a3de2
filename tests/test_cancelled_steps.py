"""A task is cancelled at any line of ours: no slot, task or waiter is lost, nobody else is hurt."""

from __future__ import annotations

import asyncio
import random
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import clerk_async
from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, RateLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.may_block]

PACKAGE: Final = str(Path(clerk_async.__file__).parent)
STRIKES: Final = 40
POOL: Final = 4


async def read(sessions: Any) -> None:
    """Iterate over all of something."""
    async for _ in sessions:
        pass


async def many(client: AsyncSessionsApi, session_id: str) -> None:
    """Make more calls at once than there are connections."""
    async with asyncio.TaskGroup() as group:
        for _ in range(3 * POOL):
            group.create_task(client.get(session_id))


async def verify(client: AsyncSessionsApi, token: str) -> None:
    """Verify with keys that must be fetched, and look the session up."""
    verifier = AsyncTokenVerifier(sessions=client, authorized_parties=lambda _: True)
    await verifier.verify(token, check_session=True)


USES: Final[dict[str, Callable[[AsyncSessionsApi, list[str], str], Awaitable[object]]]] = {
    "get": lambda client, ids, _: client.get(ids[0]),
    "iterate": lambda client, _, __: read(client.iterate(user_id="user_1", page_size=2)),
    "many calls": lambda client, ids, _: many(client, ids[0]),
    "revoke_many": lambda client, ids, _: client.revoke_many(ids[1:]),
    "revoke_stream": lambda client, ids, _: read(client.revoke_stream(ids[1:])),
    "revoke_all": lambda client, _, __: client.revoke_all(user_id="user_2"),
    "verify": lambda client, _, token: verify(client, token),
}


class Striker:
    """Cancels a task when the line of that number in our frames is reached."""

    def __init__(self, number: int) -> None:
        self.passed = 0
        self.task: asyncio.Task[object] | None = None
        self._number = number

    def enter(self, frame: FrameType, _: str, __: object) -> Any:
        """Trace our frames alone."""
        name = frame.f_code.co_filename
        return self._at if name.startswith(PACKAGE) and "/testing/" not in name else None

    def _at(self, _: FrameType, event: str, __: object) -> Any:
        self.passed += event == "line"
        if self.passed == self._number and event == "line" and self.task is not None:
            self.task.cancel()
        return self._at


async def struck(use: Callable[[], Awaitable[object]], striker: Striker) -> None:
    """Use a client in a task that is cancelled by the striker."""

    async def run() -> object:
        return await use()

    striker.task = asyncio.get_running_loop().create_task(run())
    sys.settrace(striker.enter)
    try:
        await asyncio.wait([striker.task])
    finally:
        sys.settrace(None)
    if not striker.task.cancelled():
        striker.task.result()


@pytest.mark.promise("books-agree")
@pytest.mark.parametrize("use", USES)
def test_a_task_may_be_cancelled_at_any_line(use: str, fake: FakeClerk) -> None:
    """Another task's call succeeds, and so do later ones; the pool is whole, nothing is logged."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(4)]
    fake.add_session(user_id="user_2")
    token = fake.mint(ids[0], expires_in=6000)
    said: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        async with AsyncSessionsApi(
            fake.secret_key,
            base_url=fake.base_url,
            pool_size=POOL,
            rate_limit=RateLimit(100_000, per=1.0),
        ) as client:
            again = partial(USES[use], client, ids, token)
            whole = Striker(-1)
            await struck(again, whole)
            step = max(1, whole.passed // STRIKES)
            for number in range(random.randint(1, step), whole.passed, step):
                neighbour = loop.create_task(client.get(ids[0]))
                await struck(again, Striker(number))
                async with asyncio.timeout(20):
                    assert (await neighbour).id == ids[0]
                    while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - they end by themselves
                        await asyncio.sleep(0.001)
                    await asyncio.gather(*(client.get(ids[0]) for _ in range(POOL + 1)))
                wire = client._shared._wire
                assert wire is not None
                assert (wire.slots.free, len(wire.calls)) == (POOL, 0)

    asyncio.run(main())
    assert said == []
