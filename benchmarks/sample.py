"""One measurement: the number of calls, and the time, CPU and memory that they took."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "HEADERS",
    "SECRET_KEY",
    "Job",
    "Sample",
    "Stopwatch",
    "peak_mib",
    "session_ids",
    "timed",
]

SECRET_KEY: Final = "sk_test_benchmark"  # noqa: S105 - the static server doesn't check it
HEADERS: Final = {"Authorization": f"Bearer {SECRET_KEY}", "Clerk-API-Version": "2026-05-12"}
"""The headers that clients without Clerk support send; ours sends the same."""


@attrs.frozen
class Job:
    """The job of a child process.

    Attributes:
        case: The name of the case.
        client: The client that does the work.
        base_url: The URL of the static server, with its version path.
        count: Calls to make after the warm-up.
        concurrency: Concurrent calls.
        size: Sessions in a list, or None.
        loop: `asyncio` or `uvloop`.
    """

    case: str
    client: str
    base_url: str
    count: int
    concurrency: int = 1
    size: int | None = None
    loop: str = "asyncio"


@attrs.frozen
class Sample:
    """One measurement, in seconds and MiB.

    Attributes:
        count: Calls made.
        wall: Time from the start of the first call to the end of the last.
        cpu: The process's own CPU time meanwhile, of all threads, user and system.
        p50: The median time of a call; None if single calls were not timed.
        p99: The 99th percentile of the time of a call; None if single calls were not timed.
        peak: The peak memory of the process.
        growth: For a long bulk run: its time per id divided by that of short runs in between.
        cpu_growth: The same by CPU time.
    """

    count: int
    wall: float
    cpu: float
    p50: float | None
    p99: float | None
    peak: float
    growth: float | None = None
    cpu_growth: float | None = None


def peak_mib() -> float:
    """Return the peak memory of this process, in MiB.

    On Linux this reads VmHWM, because `ru_maxrss` includes what the parent had at the fork.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def session_ids(count: int) -> list[str]:
    """Return distinct ids, so that no client can reuse a prepared URL."""
    return [f"sess_{number:027d}" for number in range(count)]


class Stopwatch:
    """Measures wall-clock and CPU time from its creation to `stop`."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self, count: int, times: Sequence[float] = ()) -> Sample:
        """Return the sample of `count` calls, with the times of the calls if measured."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        p50 = p99 = None
        if len(times) >= 2:
            p50 = statistics.median(times)
            p99 = statistics.quantiles(times, n=100)[98]
        return Sample(count, wall, cpu, p50, p99, peak_mib())


def timed(call: Callable[[Any], object], inputs: Sequence[Any]) -> Sample:
    """Time one call for each of the inputs."""
    times: list[float] = []
    clock = time.perf_counter
    watch = Stopwatch()
    for each in inputs:
        start = clock()
        call(each)
        times.append(clock() - start)
    return watch.stop(len(inputs), times)
