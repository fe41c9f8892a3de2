"""Whole programs: killed and resumed, a million ids, and the pace on the real wire."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import add_sessions, bulk_client, live, sends
from bulk_stage import most_in_any_window
from programs import run_program

from clerk_async import RateLimit, SessionsApi
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

REVOKE = """
import asyncio, sys
from clerk_async import AsyncSessionsApi, RateLimit
path, base_url, key, in_flight = sys.argv[1:]
async def main():
    ids = sys.stdin.read().split()
    limit = RateLimit(999999, 1.0)
    async with AsyncSessionsApi(key, base_url=base_url, rate_limit=limit) as client:
        print("ready", flush=True)
        report = await client.revoke_many(ids, journal=path, concurrency=int(in_flight))
    print(report.total, report.resumed, flush=True)
asyncio.run(main())
"""
IN_FLIGHT = 8


def _start(path: Path, fake: FakeClerk, ids: list[str]) -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [sys.executable, "-c", REVOKE, path, fake.base_url, fake.secret_key, str(IN_FLIGHT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n".join(ids))
    program.stdin.close()
    assert program.stdout.readline() == "ready\n"
    return program


def _claims(path: Path) -> list[str]:
    claims: list[str] = []
    for line in path.read_bytes().split(b"\n")[1:]:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if "id" in entry:
            claims.append(entry["id"])
    return claims


@pytest.mark.promise("kill-9")
@pytest.mark.timeout(300)
def test_a_run_killed_at_50_random_moments_and_resumed_revokes_every_session(
    tmp_path: Path,
) -> None:
    """The journal never lists what was not done; only requests in flight are sent twice."""
    path = tmp_path / "job.jsonl"
    draw = random.Random(3)
    kills = 0
    with FakeClerk(seed=3) as fake:
        ids = add_sessions(fake, 5000)
        fake.inject(Fault.delayed(0.002, operation="revoke", count=None, process_first=True))
        while kills < 50:
            arrived = len(fake.requests) + draw.randint(0, 40)
            program = _start(path, fake, ids)
            while len(fake.requests) < arrived and program.poll() is None:
                time.sleep(draw.uniform(0.0, 0.001))
            assert program.poll() is None, "it ended before it was killed often enough"
            program.kill()
            program.wait()
            kills += 1
            assert program.stdout is not None
            program.stdout.close()
            if path.exists():
                dead = set(ids) - live(fake)
                assert dead.issuperset(_claims(path))
        program = _start(path, fake, ids)
        assert program.stdout is not None
        total, resumed = (int(word) for word in program.stdout.read().split())
        assert program.wait() == 0
        program.stdout.close()
        assert total == 5000
        assert resumed > 0
        assert not live(fake)
        assert sorted(_claims(path)) == sorted(ids)
        assert set(sends(fake)) == set(ids)
        assert sum(sends(fake).values()) <= 5000 + kills * IN_FLIGHT


MEMORY = """
import asyncio, pathlib, sys
from clerk_async.bulk.options import RunOptions
from clerk_async.bulk.run import BulkRun
from clerk_async.bulk.work import IdWork
from bulk_stage import Client, Service
def peak():  # ru_maxrss would be that of pytest, which we were forked from
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
class Forgetful(list):
    def append(self, _): pass
async def run(count, streamed):
    service = Service(arrivals=Forgetful(), revocations=Forgetful())
    ids = (f"sess_2abcDEFghiJKLmnoPQRstuVWX{number:07d}" for number in range(count))
    run = BulkRun(Client(service), RunOptions(), IdWork(ids))
    if streamed:
        async for _ in run.outcomes(): pass
    else:
        assert (await run.report()).revoked == count
streamed = sys.argv[1] == "stream"
asyncio.run(run(10_000, streamed))
before = peak()
asyncio.run(run(int(sys.argv[2]), streamed))
print((peak() - before) / 1024)
"""


@pytest.mark.promise("any-input")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "count"), [("report", 1_000_000), ("stream", 300_000)])
def test_many_ids_need_at_most_10_mib_more_than_ten_thousand(kind: str, count: int) -> None:
    """Only the last 50,000 ids are kept, of a million or of a streamed 300,000."""
    program = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(count)],
        capture_output=True,
        text=True,
        check=True,
        cwd=".",
        env={"PYTHONPATH": "tests:."},
        timeout=280,
    )
    assert float(program.stdout) < 10


@pytest.mark.promise("pacing")
@pytest.mark.timeout(240)
async def test_on_the_wire_1000_sessions_get_no_429() -> None:
    """The window is 100 requests a second, with 5 to 150 ms before and after the service counts.

    The duration is tested in virtual time, because on the wire it depends on the machine's load.
    """
    draw = random.Random(5)
    with FakeClerk(rate_limit=RateLimit(100, per=1.0), seed=5) as fake:
        ids = add_sessions(fake, 1000)
        for number, session_id in enumerate(ids):
            seconds = draw.uniform(0.005, 0.15)
            fake.inject(
                Fault.delayed(
                    seconds, operation="revoke", session_id=session_id, process_first=number % 2 > 0
                )
            )
        async with bulk_client(fake, rate_limit=RateLimit(100, per=1.0)) as client:
            report = await client.revoke_many(ids)
        assert report.revoked == 1000
        assert report.throttled == 0
        assert most_in_any_window([seen.time for seen in fake.requests], 1.0) <= 100


@pytest.mark.timeout(240)
async def test_on_the_wire_nothing_is_lost_beside_a_second_client() -> None:
    """The second client uses half of the limit, from its own thread."""
    with FakeClerk(rate_limit=RateLimit(100, per=1.0), seed=6, latency=0.02) as fake:
        ids = add_sessions(fake, 800)
        other = fake.add_session().id
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
            async with bulk_client(fake, rate_limit=RateLimit(100, per=1.0)) as client:
                report = await client.revoke_many(ids)
        finally:
            is_over.set()
            beside.join()
        assert report.revoked == 800
        assert set(ids).isdisjoint(live(fake))
        assert report.throttled <= 0.05 * (800 + report.throttled)


@pytest.mark.promise("true-outcomes")
@pytest.mark.parametrize("kind", ["sync", "async", "cancelled", "stream"])
def test_a_report_is_returned_even_without_free_file_descriptors(
    kind: str, fake: FakeClerk, tmp_path: Path
) -> None:
    """At its end a run opens and imports nothing for the first time."""
    ids = [fake.add_session().id for _ in range(20)]
    ended = run_program(
        """
        import asyncio, os, resource, sys
        from clerk_async import AsyncSessionsApi, RateLimit, SessionsApi
        kind, base_url, key, path, *ids = sys.argv[1:]
        late = []
        class Spy:
            def find_spec(self, name, *_):
                late.append(name)
        class Told(list):
            def append(self, outcome):
                super().append(outcome)
                if len(self) == 1:
                    used = max(map(int, os.listdir("/proc/self/fd")))
                    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
                    sys.meta_path.insert(0, Spy())
        told = Told()
        options = {"journal": path, "on_outcome": told.append, "concurrency": 1}
        settings = {"base_url": base_url, "rate_limit": RateLimit(9999, per=1.0)}
        async def main():
            async with AsyncSessionsApi(key, **settings) as client:
                if kind == "stream":
                    print(len([each async for each in client.revoke_stream(ids, **options)]))
                    return
                run = asyncio.ensure_future(client.revoke_many(ids, **options))
                if kind == "cancelled":
                    while len(told) < 10:
                        await asyncio.sleep(0)
                    run.cancel()
                try:
                    print((await run).revoked)
                except asyncio.CancelledError:
                    print("cancelled")
        if kind == "sync":
            with SessionsApi(key, **settings) as client:
                print(client.revoke_many(ids, **options).revoked)
        else:
            asyncio.run(main())
        print(late)
        """,
        None,
        kind,
        fake.base_url,
        fake.secret_key,
        str(tmp_path / "job.jsonl"),
        *ids,
    )
    assert ended.err == ""
    assert ended.out.splitlines() == ["cancelled" if kind == "cancelled" else "20", "[]"]
