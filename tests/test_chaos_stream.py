"""The outcome stream delivers every outcome, whatever the timing of workers and reader."""

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
    """400 outcomes arrive, though more workers wait for the reader than the buffer has room for."""
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
async def test_a_late_reader_gets_every_outcome(fake: FakeClerk, more: int) -> None:
    """All workers may be waiting for the reader, and they are more than the buffer has room for.

    Each read must wake every worker that has room again: waking one per read once left the last
    workers and the reader waiting for each other forever.
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
