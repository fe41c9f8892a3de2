"""`python -m benchmarks.shared_bounds`: what shared state promises, with a real redis-server.

It measures what checking the denials costs, how fast a denial reaches another process, how much of
a limit four processes use together, and how two bulk runs affect a live product, with shared state
and without.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import timeit
import tracemalloc
from typing import TYPE_CHECKING, Final

from benchmarks.bounds import RUN, Bound, go, print_all, result_of, start
from clerk_async import AsyncSessionsApi
from clerk_async.denials.table import Denials
from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["bounds"]

CHECKS: Final = 100_000
MANY: Final = 1_000_000
SENT: Final = 1_000
MOST_SECONDS_OF_A_CHECK: Final = 0.3e-6
SESSION: Final = "sess_2abcDEFghiJKLmnoPQRstuVWXyz"

_WATCHER: Final = """
    import asyncio, json, sys, time
    from clerk_async import AsyncSessionsApi
    async def main():
        async with AsyncSessionsApi("sk_test_bench", shared_state=sys.argv[1]) as sessions:
            await sessions._catch_up()
            print("ready", flush=True)
            seen = {}
            while len(seen) < int(sys.argv[2]):
                await asyncio.sleep(0.0005)
                now = time.monotonic()
                for number in range(len(seen), int(sys.argv[2])):
                    if not sessions._denials.denies(f"sess_{number}"):
                        break
                    seen[number] = now
            print(json.dumps(list(seen.values())))
    asyncio.run(main())
"""
_PRODUCT: Final = """
    import asyncio, json, sys, time
    from clerk_async import AsyncSessionsApi
    key, base, url, seconds = sys.argv[1:]
    async def main():
        times, failed = [], 0
        async with AsyncSessionsApi(key, base_url=base, shared_state=url or None) as sessions:
            await sessions.list(user_id="user_1")
            print("ready", flush=True)
            sys.stdin.readline()
            ends = time.monotonic() + float(seconds)
            async def call():
                nonlocal failed
                begun = time.monotonic()
                try:
                    await sessions.list(user_id="user_1")
                except Exception:
                    failed += 1
                times.append(time.monotonic() - begun)
            async with asyncio.TaskGroup() as group:
                while time.monotonic() < ends:
                    group.create_task(call())
                    await asyncio.sleep(1 / 15)
        print(json.dumps([sorted(times), failed]))
    asyncio.run(main())
"""


@contextlib.contextmanager
def _redis() -> Generator[str]:
    """Run a private redis-server while the block runs, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
            server.wait()


def _seconds_of_a_check(denials: Denials) -> float:
    timer = timeit.Timer(
        "refuses(sid, user, issued, age, skew)",
        globals={
            "refuses": denials.refuses,
            "sid": SESSION,
            "user": "user_1",
            "issued": time.time(),
            "age": 5,
            "skew": 5.0,
        },
    )
    return min(timer.repeat(9, CHECKS)) / CHECKS


async def measure_check() -> Bound:
    """Check an empty list of denials, and one with a million sessions."""
    empty = _seconds_of_a_check(Denials())
    denials = Denials()
    denials.is_watched = True
    tracemalloc.start()
    for number in range(MANY):
        denials.deny_sessions((f"sess_{number:027d}",))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    full = _seconds_of_a_check(denials)
    denials.deny_user(None, issued_until=1.0)
    denials.cut_off_sign_ins(None, before=1.0)
    cut = _seconds_of_a_check(denials)
    return Bound(
        "a check of denials",
        f"{empty * 1e9:.0f} ns with none, {full * 1e9:.0f} ns with {MANY:,}, "
        f"{cut * 1e9:.0f} ns with everyone cut off as well; "
        f"{size / MANY:.0f} bytes each",
        max(empty, full) <= MOST_SECONDS_OF_A_CHECK and size <= 150 * MANY,
    )


async def measure_feed(url: str) -> Bound:
    """Deny sessions one by one, and measure when another process learns of each."""
    watcher = start(_WATCHER, url, SENT)
    sent: list[float] = []
    async with AsyncSessionsApi("sk_test_bench", shared_state=url) as sessions:
        await sessions._catch_up()  # noqa: SLF001 - what a verifier's warm_up does
        for number in range(SENT):
            sent.append(time.monotonic())
            await sessions.deny(session_id=f"sess_{number}")
        seen = await asyncio.to_thread(result_of, watcher)
    took = sorted(there - here for here, there in zip(sent, seen, strict=True))
    p99 = took[len(took) * 99 // 100]
    return Bound(
        f"{SENT:,} denials to another process",
        f"{took[len(took) // 2] * 1e3:.1f} ms median, {p99 * 1e3:.1f} ms at the 99th percentile",
        p99 <= 0.05,
    )


async def measure_together(url: str) -> Bound:
    """Revoke 2,000 sessions in four processes, 100 per second."""
    with FakeClerk(rate_limit=(100, 1.0)) as fake:
        for number in range(2000):
            fake.add_session(session_id=f"sess_{number}")
        programs = [
            start(RUN, fake.secret_key, fake.base_url, url, 100, 1.0, first, first + 500)
            for first in range(0, 2000, 500)
        ]
        go(programs)
        ended = [await asyncio.to_thread(result_of, program) for program in programs]
        refused = sum(request.status == 429 for request in fake.requests)
    took = max(last for _, last in ended) - min(first for first, _ in ended)
    return Bound(
        "four processes, 500 sessions each, 100 per second",
        f"{took / 20:.3f} of the time that the limit requires; {refused} refused",
        refused == 0 and took <= 20 * 1.08 + 1.0,
    )


async def _product(fake: FakeClerk, url: str, runs: int) -> tuple[list[float], int, int]:
    product = start(_PRODUCT, fake.secret_key, fake.base_url, url, 25.0)
    programs = [
        start(RUN, fake.secret_key, fake.base_url, url, 0, 0, first, first + 1500)
        for first in range(0, runs * 1500, 1500)
    ]
    fake.requests.clear()
    go([product, *programs])
    times, failed = await asyncio.to_thread(result_of, product)
    for program in programs:
        program.kill()
        program.communicate()
    refused = sum(
        request.status == 429 and request.operation == "list" for request in fake.requests
    )
    return times, failed, refused


async def measure_product(url: str) -> Bound:
    """Make 15 calls per second alone, and during two runs with and without shared state."""
    told: list[str] = []
    is_met = True
    alone = 0.0
    for what, where, runs in (("alone", url, 0), ("shared", url, 2), ("not shared", "", 2)):
        with FakeClerk(rate_limit=(1000, 10.0), production=True, latency=0.04) as fake:
            for number in range(3000):
                fake.add_session(session_id=f"sess_{number}")
            times, failed, refused = await _product(fake, where, runs)
        late = sum(each > times[len(times) // 2] + 0.1 for each in times)
        p99 = times[len(times) * 99 // 100]
        alone = alone or p99
        told.append(
            f"{what}: {late} of {len(times)} late, {refused} refused, {failed} failed, "
            f"99th percentile {p99 * 1e3:.0f} ms"
        )
        if what == "shared":
            is_met = not (late or refused or failed) and p99 <= 2 * alone
        await asyncio.sleep(10.5)  # until the key's window in Redis is empty
    return Bound("a live product during two bulk runs", "; ".join(told), is_met)


async def bounds() -> AsyncGenerator[Bound]:
    """Measure one after the other."""
    yield await measure_check()
    if shutil.which("redis-server") is None:
        yield Bound("shared state", "redis-server is not installed", is_met=False)
        return
    with _redis() as url:
        yield await measure_feed(url)
        yield await measure_together(url)
        yield await measure_product(url)


if __name__ == "__main__":
    sys.exit(asyncio.run(print_all(bounds())))
