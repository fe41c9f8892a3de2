"""The asyncio cases: the same requests through ours, bare aiohttp, httpx and clerk-backend-api."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.payloads import USER
from benchmarks.sample import HEADERS, SECRET_KEY, Job, Sample, Stopwatch, peak_mib, session_ids

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from clerk_async import AsyncSessionsApi

__all__ = ["run_async", "run_bulk", "run_construct_async"]

WARM_UP = 200
SHORT_RUNS = 10_000  # minimum ids in a measurement of bulk runs: short runs are repeated
STRETCH = 10_000  # ids of a long bulk run between short ones
SHORT = 1_000  # ids of a short one
_SETTLING = 0.05
_DELAY = 0.001  # the first backoff in the case with faults, the same for each client
_TRIES = 8
_BUSY = 503


def _operation(job: Job) -> str:
    """Return the kind of request: `revoke`, `list` or `token`."""
    return job.case.split("-")[1]


def _number(id_: str) -> int:
    """Return the number in an id, which makes each request for a list different."""
    return int(id_[5:])


def _query(job: Job, id_: str) -> str:
    return f"user_id={USER}&limit={job.size}&offset={_number(id_)}&paginated=true"


@asynccontextmanager
async def _ours(job: Job) -> AsyncGenerator[Callable[[str], Awaitable[object]]]:
    from clerk_async import AsyncSessionsApi, RetryPolicy  # noqa: PLC0415

    policy = RetryPolicy()
    if "faults" in job.case:
        policy = RetryPolicy(attempts=_TRIES, base_delay=_DELAY, max_delay=0.1)
    async with AsyncSessionsApi(SECRET_KEY, base_url=job.base_url, retry=policy) as sessions:
        match _operation(job):
            case "list":
                yield lambda id_: sessions.list(user_id=USER, limit=job.size, offset=_number(id_))
            case "token":
                yield lambda id_: sessions.create_token(id_, expires_in_seconds=60)
            case _:
                yield sessions.revoke


@asynccontextmanager
async def _aiohttp(job: Job) -> AsyncGenerator[Callable[[str], Awaitable[object]]]:
    import aiohttp  # noqa: PLC0415

    base = job.base_url
    async with aiohttp.ClientSession(headers=HEADERS) as http:

        async def revoke(id_: str) -> object:
            async with http.post(f"{base}/sessions/{id_}/revoke") as response:
                return json.loads(await response.read())

        async def revoke_again(id_: str) -> object:
            for attempt in range(_TRIES):
                async with http.post(f"{base}/sessions/{id_}/revoke") as response:
                    body = json.loads(await response.read())
                if response.status != _BUSY:
                    return body
                await asyncio.sleep(random.random() * _DELAY * 2**attempt)
            raise RuntimeError("too many faults")

        async def page(id_: str) -> object:
            url = f"{base}/sessions?{_query(job, id_)}"
            async with http.get(url) as response:
                return json.loads(await response.read())

        async def token(id_: str) -> object:
            url = f"{base}/sessions/{id_}/tokens"
            async with http.post(url, json={"expires_in_seconds": 60}) as response:
                return json.loads(await response.read())

        if "faults" in job.case:
            yield revoke_again
        else:
            yield {"list": page, "token": token}.get(_operation(job), revoke)


@asynccontextmanager
async def _httpx(job: Job) -> AsyncGenerator[Callable[[str], Awaitable[object]]]:
    import httpx  # noqa: PLC0415

    base = job.base_url
    async with httpx.AsyncClient(headers=HEADERS) as http:

        async def revoke(id_: str) -> object:
            return json.loads((await http.post(f"{base}/sessions/{id_}/revoke")).content)

        async def revoke_again(id_: str) -> object:
            for attempt in range(_TRIES):
                response = await http.post(f"{base}/sessions/{id_}/revoke")
                if response.status_code != _BUSY:
                    return json.loads(response.content)
                await asyncio.sleep(random.random() * _DELAY * 2**attempt)
            raise RuntimeError("too many faults")

        async def page(id_: str) -> object:
            url = f"{base}/sessions?{_query(job, id_)}"
            return json.loads((await http.get(url)).content)

        async def token(id_: str) -> object:
            url = f"{base}/sessions/{id_}/tokens"
            return json.loads((await http.post(url, json={"expires_in_seconds": 60})).content)

        if "faults" in job.case:
            yield revoke_again
        else:
            yield {"list": page, "token": token}.get(_operation(job), revoke)


@asynccontextmanager
async def _clerk(job: Job) -> AsyncGenerator[Callable[[str], Awaitable[object]]]:
    from clerk_backend_api import Clerk  # noqa: PLC0415
    from clerk_backend_api.utils import BackoffStrategy, RetryConfig  # noqa: PLC0415

    backoff = BackoffStrategy(1, 100, 2.0, 60_000, jitter_ms=1)
    retries = RetryConfig("backoff", backoff, retry_connection_errors=True)
    async with Clerk(bearer_auth=SECRET_KEY, server_url=job.base_url) as clerk:
        sessions = clerk.sessions
        match _operation(job):
            case "list":
                yield lambda id_: sessions.list_async(
                    user_id=USER, limit=job.size, offset=_number(id_)
                )
            case "token":
                yield lambda id_: sessions.create_token_async(session_id=id_, expires_in_seconds=60)
            case _ if "faults" in job.case:
                yield lambda id_: sessions.revoke_async(session_id=id_, retries=retries)
            case _:
                yield lambda id_: sessions.revoke_async(session_id=id_)


_CLIENTS = {"clerk_async": _ours, "aiohttp": _aiohttp, "httpx": _httpx, "clerk-backend-api": _clerk}


async def _work(
    call: Callable[[str], Awaitable[object]], ids: list[str], concurrency: int
) -> list[float]:
    times: list[float] = []
    waiting = iter(ids)
    clock = time.perf_counter

    async def worker() -> None:
        for id_ in waiting:
            start = clock()
            await call(id_)
            times.append(clock() - start)

    if concurrency == 1:
        await worker()
    else:
        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return times


async def _measure(job: Job) -> Sample:
    async with _CLIENTS[job.client](job) as call:
        await _work(call, session_ids(min(WARM_UP, job.count)), job.concurrency)
        ids = session_ids(job.count)
        watch = Stopwatch()
        times = await _work(call, ids, job.concurrency)
        return watch.stop(job.count, times)


def _run(job: Job, main: Coroutine[Any, Any, Sample]) -> Sample:
    if job.loop == "uvloop":
        import uvloop  # noqa: PLC0415 - from the extra `bench`

        return uvloop.run(main)
    return asyncio.run(main)


def run_async(job: Job) -> Sample:
    """Run a case of single requests, `job.concurrency` at a time."""
    return _run(job, _measure(job))


_UNPACED = 10**9  # requests per second: more than any client can send


async def _ids(count: int) -> AsyncGenerator[str]:
    for number in range(count):
        yield f"sess_{number:027d}"


async def _revoke(sessions: AsyncSessionsApi, ids: AsyncGenerator[str], job: Job) -> int:
    from clerk_async import RateLimit  # noqa: PLC0415

    unpaced = RateLimit(_UNPACED, per=1.0)
    report = await sessions.revoke_many(ids, rate_limit=unpaced, concurrency=job.concurrency)
    if not report.ok:
        raise RuntimeError(f"the bulk run failed: {report}")
    return report.total


async def _bulk(job: Job) -> Sample:
    from clerk_async import AsyncSessionsApi  # noqa: PLC0415

    async with AsyncSessionsApi(SECRET_KEY, base_url=job.base_url) as sessions:
        await _revoke(sessions, _ids(WARM_UP), job)
        before = peak_mib()
        if job.count > SHORT_RUNS:
            sample = await _long_bulk(sessions, job)
        else:
            watch = Stopwatch()
            runs = SHORT_RUNS // job.count
            sample = watch.stop(
                sum([await _revoke(sessions, _ids(job.count), job) for _ in range(runs)])
            )
    # the peak is what the run itself added
    return attrs.evolve(sample, peak=max(0.0, sample.peak - before))


async def _long_bulk(sessions: AsyncSessionsApi, job: Job) -> Sample:
    """Run a long bulk revocation in stretches, each followed by short runs for comparison.

    The speed of a machine changes from minute to minute, which would distort a comparison of a run
    of minutes with one of seconds. It affects measurements within a second of each other alike.
    """
    stretches: list[Sample] = []
    short: list[Sample] = []

    async def ids() -> AsyncGenerator[str]:
        watch = Stopwatch()
        async for id_ in _ids(job.count):
            yield id_
            if int(id_[5:]) % STRETCH == STRETCH - 1:
                stretches.append(watch.stop(STRETCH))
                await asyncio.sleep(_SETTLING)  # requests in flight end outside both measurements
                watch = Stopwatch()
                total = sum([await _revoke(sessions, _ids(SHORT), job) for _ in range(5)])
                short.append(watch.stop(total))
                watch = Stopwatch()

    if await _revoke(sessions, ids(), job) != job.count:
        raise RuntimeError("the bulk run lost ids")
    per_id = zip(stretches, short, strict=True)
    ratios = [
        (
            long.wall / long.count * other.count / other.wall,
            long.cpu / long.count * other.count / other.cpu,
        )
        for long, other in per_id
    ]
    return Sample(
        job.count,
        sum(each.wall for each in stretches),
        sum(each.cpu for each in stretches),
        None,
        None,
        peak_mib(),
        growth=statistics.median(wall for wall, _ in ratios),
        cpu_growth=statistics.median(cpu for _, cpu in ratios),
    )


async def _bare_bulk(job: Job) -> Sample:
    async with _aiohttp(job) as call:
        await _work(call, session_ids(WARM_UP), 64)
        before = peak_mib()
        ids = (f"sess_{number:027d}" for number in range(job.count))

        async def worker() -> None:
            for id_ in ids:
                await call(id_)

        watch = Stopwatch()
        await asyncio.gather(*(worker() for _ in range(job.concurrency)))
        sample = watch.stop(job.count)
    return attrs.evolve(sample, peak=max(0.0, sample.peak - before))


def run_bulk(job: Job) -> Sample:
    """Run a bulk revocation of `job.count` ids; `peak` is the memory that the run added."""
    return _run(job, _bulk(job) if job.client == "clerk_async" else _bare_bulk(job))


async def _construct(job: Job) -> Sample:
    if job.client == "aiohttp":
        import aiohttp  # noqa: PLC0415

        watch = Stopwatch()
        for _ in range(job.count):
            await aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET_KEY}"}).close()
        return watch.stop(job.count)
    from clerk_async import AsyncSessionsApi  # noqa: PLC0415

    await AsyncSessionsApi(SECRET_KEY, base_url=job.base_url).aclose()  # imports on first use
    watch = Stopwatch()
    for _ in range(job.count):
        await AsyncSessionsApi(SECRET_KEY, base_url=job.base_url).aclose()
    return watch.stop(job.count)


def run_construct_async(job: Job) -> Sample:
    """Create and close clients that are never used."""
    return _run(job, _construct(job))
