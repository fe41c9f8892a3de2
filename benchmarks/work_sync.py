"""The blocking cases, in one thread or several."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.sample import HEADERS, SECRET_KEY, Job, Sample, Stopwatch, session_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["run_construct", "run_sync"]

WARM_UP = 100


@contextmanager
def _ours(job: Job) -> Generator[Callable[[str], object]]:
    from clerk_async import SessionsApi  # noqa: PLC0415

    os.environ["CLERK_ASYNC_NO_UVLOOP"] = "" if job.loop == "uvloop" else "1"
    with SessionsApi(SECRET_KEY, base_url=job.base_url) as sessions:
        yield sessions.revoke


@contextmanager
def _httpx(job: Job) -> Generator[Callable[[str], object]]:
    import httpx  # noqa: PLC0415

    base = job.base_url
    with httpx.Client(headers=HEADERS) as client:
        yield lambda id_: json.loads(client.post(f"{base}/sessions/{id_}/revoke").content)


@contextmanager
def _requests(job: Job) -> Generator[Callable[[str], object]]:
    import requests  # noqa: PLC0415

    base = job.base_url
    with requests.Session() as client:
        client.headers.update(HEADERS)
        yield lambda id_: json.loads(client.post(f"{base}/sessions/{id_}/revoke").content)


@contextmanager
def _clerk(job: Job) -> Generator[Callable[[str], object]]:
    from clerk_backend_api import Clerk  # noqa: PLC0415

    with Clerk(bearer_auth=SECRET_KEY, server_url=job.base_url) as clerk:
        yield lambda id_: clerk.sessions.revoke(session_id=id_)


@contextmanager
def _stdlib(job: Job) -> Generator[Callable[[str], object]]:
    url = urlsplit(job.base_url)
    mine = threading.local()

    def revoke(id_: str) -> object:
        client: http.client.HTTPConnection | None = getattr(mine, "client", None)
        if client is None:
            client = mine.client = http.client.HTTPConnection(url.netloc)
        client.request("POST", f"{url.path}/sessions/{id_}/revoke", headers=HEADERS)
        return json.loads(client.getresponse().read())

    yield revoke


_CLIENTS = {
    "clerk_async": _ours,
    "httpx": _httpx,
    "requests": _requests,
    "clerk-backend-api": _clerk,
    "http.client": _stdlib,
}


def _work(call: Callable[[str], object], ids: list[str], threads: int) -> list[float]:
    times: list[float] = []
    clock = time.perf_counter

    def worker(mine: list[str]) -> None:
        for id_ in mine:
            start = clock()
            call(id_)
            times.append(clock() - start)

    if threads == 1:
        worker(ids)
        return times
    started = [
        threading.Thread(target=worker, args=(ids[number::threads],)) for number in range(threads)
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return times


def run_sync(job: Job) -> Sample:
    """Run a case of blocking requests from `job.concurrency` threads."""
    with _CLIENTS[job.client](job) as call:
        _work(call, session_ids(min(WARM_UP, job.count)), job.concurrency)
        ids = session_ids(job.count)
        watch = Stopwatch()
        times = _work(call, ids, job.concurrency)
        return watch.stop(job.count, times)


def run_construct(job: Job) -> Sample:
    """Create and close clients that are never used."""
    makers: dict[str, Callable[[], object]] = {}
    if job.client == "clerk-backend-api":
        from clerk_backend_api import Clerk  # noqa: PLC0415

        def make_clerk() -> None:
            with Clerk(bearer_auth=SECRET_KEY, server_url=job.base_url):
                pass

        makers[job.client] = make_clerk
    else:
        import httpx  # noqa: PLC0415

        makers[job.client] = lambda: httpx.Client(headers=HEADERS).close()
    make = makers[job.client]
    make()
    watch = Stopwatch()
    for _ in range(job.count):
        make()
    return watch.stop(job.count)
