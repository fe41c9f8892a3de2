"""The outcome stream hands on every outcome, however the workers and the reader meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clients import client_of, sync_client_of

from clerk_async import RateLimit, RevocationStatus
from clerk_async.bulk.stream import AHEAD_AT_MOST

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

UNLIMITED = RateLimit(10_000)
WORKERS = 100
BUFFER = AHEAD_AT_MOST


@pytest.mark.promise("streams-end")
@pytest.mark.parametrize("concurrency", [None, 3, 100])
async def test_a_stream_longer_than_its_buffer_ends(
    fake: FakeClerk, concurrency: int | None
) -> None:
    """400 outcomes come, though more workers than the buffer has room wait for the reader."""
    ids = [fake.add_session().id for _ in range(400)]
    async with client_of(fake) as client:
        seen = [
            outcome.session_id
            async for outcome in client.revoke_stream(
                ids, rate_limit=UNLIMITED, concurrency=concurrency
            )
            if outcome.status is RevocationStatus.REVOKED
        ]
    assert sorted(map(str, seen)) == sorted(ids)


@pytest.mark.promise("streams-end")
@pytest.mark.parametrize("more", [1, 6, 236])
async def test_a_reader_that_comes_late_gets_them_all(fake: FakeClerk, more: int) -> None:
    """Every worker may wait for the reader at once, more of them than the buffer has room.

    Each read must let go of whoever has room again: one for one left the last ones waiting for
    ever, and the reader for them.
    """
    ids = [fake.add_session().id for _ in range(BUFFER + WORKERS + more)]
    seen: list[str | None] = []
    async with client_of(fake, pool_size=WORKERS) as client:
        async for outcome in client.revoke_stream(ids, rate_limit=UNLIMITED):
            if not seen:
                await fake.until(lambda: len(fake.requests) >= BUFFER + WORKERS)
            seen.append(outcome.session_id)
    assert sorted(map(str, seen)) == sorted(ids)


@pytest.mark.promise("streams-end")
def test_a_sync_stream_longer_than_its_buffer_ends(fake: FakeClerk) -> None:
    """The same through the sync client."""
    ids = [fake.add_session().id for _ in range(400)]
    with sync_client_of(fake) as client:
        seen = [outcome.session_id for outcome in client.revoke_stream(ids, rate_limit=UNLIMITED)]
    assert sorted(map(str, seen)) == sorted(ids)
