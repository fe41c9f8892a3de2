"""`python -m benchmarks.bulk_bounds`: what bulk runs promise, measured over real HTTP.

The service is `FakeClerk` with a true sliding window. `python -m benchmarks --only 'bulk*'`
measures what a run costs in CPU time and memory.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.bounds import Bound, print_all
from clerk_async import (
    AsyncSessionsApi,
    RateLimit,
    RetryPolicy,
    RevocationOutcome,
    RevocationStatus,
    SessionsApi,
)
from clerk_async.bulk.journal import Journal, OpenJournal, open_journal
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["bounds"]

LIMIT: Final = RateLimit(100, per=1.0)
SESSIONS: Final = 2000
BEST: Final = SESSIONS / 100
"""Seconds that the limit alone requires."""
NO_LIMIT: Final = RateLimit(1_000_000, per=1.0)
LINES: Final = 40_000
ROUNDS: Final = 5
INSTANCE: Final = "0" * 64


def _delays(low: float, high: float) -> list[Fault]:
    """Respond after `low` to `high` seconds, spread evenly; half wait before they are counted."""
    steps = 20
    return [
        Fault.delayed(
            low + (high - low) * step / (steps - 1),
            operation="revoke",
            probability=1 / (steps - step),
            process_first=step % 2 > 0,
        )
        for step in range(steps)
    ]


async def measure_pace() -> Bound:
    """Revoke with a rate limit and no other client; responses take 5 to 150 ms."""
    with FakeClerk(rate_limit=LIMIT, seed=1) as fake:
        ids = [fake.add_session().id for _ in range(SESSIONS)]
        fake.inject(*_delays(0.005, 0.15))
        async with AsyncSessionsApi(
            fake.secret_key, base_url=fake.base_url, rate_limit=LIMIT
        ) as client:
            report = await client.revoke_many(ids)
    return Bound(
        f"{SESSIONS:,} sessions, a window of 100 per second, 5 to 150 ms of latency",
        f"{report.elapsed:.1f} s ({BEST:.1f} s by the limit alone), {report.throttled} refused",
        report.revoked == SESSIONS and not report.throttled and report.elapsed <= 1.08 * BEST,
    )


async def measure_neighbour() -> Bound:
    """Revoke while another client sends 50 requests a second with the same key."""
    with FakeClerk(rate_limit=LIMIT, seed=1) as fake:
        ids = [fake.add_session().id for _ in range(SESSIONS)]
        other = fake.add_session().id
        fake.inject(*_delays(0.005, 0.15))
        is_over = threading.Event()

        def neighbour() -> None:
            with SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
                while not is_over.is_set():
                    started = time.monotonic()
                    client.get(other)
                    is_over.wait(max(0.0, 0.02 - (time.monotonic() - started)))

        beside = threading.Thread(target=neighbour)
        beside.start()
        try:
            async with AsyncSessionsApi(
                fake.secret_key, base_url=fake.base_url, rate_limit=LIMIT
            ) as client:
                report = await client.revoke_many(ids)
        finally:
            is_over.set()
            beside.join()
    refused = report.throttled / (SESSIONS + report.throttled)
    return Bound(
        "the same while another client uses half of the limit",
        f"{SESSIONS - report.revoked} lost, {refused:.1%} of requests answered 429",
        report.revoked == SESSIONS and refused <= 0.03,
    )


async def measure_faults() -> Bound:
    """Revoke while 3 of 10 responses are faulty; compare with the service's own records."""
    quick = RetryPolicy(base_delay=0.01, max_delay=0.1)
    with FakeClerk(seed=1) as fake:
        ids = [fake.add_session().id for _ in range(SESSIONS)]
        fake.inject(
            Fault.status(503, probability=0.05),
            Fault.status(500, probability=0.05, process=True),
            Fault.html(502, probability=0.05),
            Fault.cut("before", probability=0.05),
            Fault.cut("after", probability=0.05),
            Fault.cut("body", probability=0.03),
            Fault.status(429, retry_after=0, probability=0.05),
        )
        outcomes: list[RevocationOutcome] = []
        async with AsyncSessionsApi(
            fake.secret_key, base_url=fake.base_url, rate_limit=NO_LIMIT, retry=quick
        ) as client:
            report = await client.revoke_many(ids, on_outcome=outcomes.append)
        wrong = sum(
            fake.sessions[str(outcome.session_id)].status != "revoked"
            for outcome in outcomes
            if outcome.status != RevocationStatus.FAILED
        )
    return Bound(
        f"{SESSIONS:,} sessions, 30% of responses faulty",
        f"{report.revoked:,} revoked, {report.failed} reported as failed, {wrong} reported wrongly",
        len(outcomes) == SESSIONS and not wrong,
    )


async def measure_journal() -> Bound:
    """Write a line for each of 40,000 sessions and read them back; take the best round."""
    ids = [f"sess_2abcDEFghiJKLmnoPQRstuVWX{number:05d}" for number in range(LINES)]
    written: list[float] = []
    read: list[float] = []
    size = 0
    is_whole = True
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.jsonl"
            opened = await _open(path)
            started = time.perf_counter()
            for session_id in ids:
                opened.write(session_id, RevocationStatus.REVOKED)
            written.append(time.perf_counter() - started)
            await opened.close()
            size = path.stat().st_size
            started = time.perf_counter()
            again = await _open(path)
            read.append(time.perf_counter() - started)
            is_whole = is_whole and all(again.was_done_earlier(session_id) for session_id in ids)
            await again.close()
    return Bound(
        "journal",
        f"{min(written) / LINES * 1e6:.1f} µs and {size / LINES:.0f} bytes per id; "
        f"{LINES:,} are read back in {min(read) * 1e3:.0f} ms",
        is_whole,
    )


async def _open(path: Path) -> OpenJournal:
    opened = await open_journal(
        Journal(path), instance=INSTANCE, run="revoke_many", for_writing=True
    )
    assert opened is not None
    return opened


async def bounds() -> AsyncGenerator[Bound]:
    """Measure one after the other."""
    for measure in (measure_pace, measure_neighbour, measure_faults, measure_journal):
        yield await measure()


if __name__ == "__main__":
    sys.exit(asyncio.run(print_all(bounds())))
