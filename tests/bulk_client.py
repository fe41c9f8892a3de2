"""Clients for bulk tests on the wire: no rate limit, and short waits between retries."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from clerk_async import AsyncSessionsApi, RateLimit, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async import RevocationOutcome
    from clerk_async.testing import FakeClerk

UNLIMITED: Final = RateLimit(1_000_000, per=1.0)
QUICK: Final = RetryPolicy(base_delay=0.001, max_delay=0.01)


def bulk_client(fake: FakeClerk, **options: Any) -> AsyncSessionsApi:
    """Make a client that waits for nothing but the fake."""
    options = {"rate_limit": UNLIMITED, "retry": QUICK, **options}
    return AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, **options)


def add_sessions(fake: FakeClerk, count: int, **facts: Any) -> list[str]:
    """Add live sessions, and return their ids."""
    return [fake.add_session(**facts).id for _ in range(count)]


def sends(fake: FakeClerk) -> Counter[str | None]:
    """Count the revocation requests that arrived, by session."""
    return Counter(seen.session_id for seen in fake.requests if seen.operation == "revoke")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread, or that gives no notice."""
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


def live(fake: FakeClerk) -> set[str]:
    """Return the ids that are still live at the fake."""
    return {
        sid for sid, session in fake.sessions.items() if session.status in {"active", "pending"}
    }


def by_status(outcomes: list[RevocationOutcome]) -> dict[str, int]:
    """Count outcomes by status."""
    return dict(Counter(outcome.status.value for outcome in outcomes))
