"""What one measurement is: a count of calls, and the time, CPU and memory that they took."""

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

SECRET_KEY: Final = "sk_test_benchmark"  # noqa: S105 - a static server asks for none
HEADERS: Final = {"Authorization": f"Bearer {SECRET_KEY}", "Clerk-API-Version": "2026-05-12"}
"""What a client that knows nothing of Clerk is told to send: the same as ours sends."""


@attrs.frozen
class Job:
    """What a child process is told to do.

    Attributes:
        case: The name of the case.
        client: Who does the work.
        base_url: Of the static server, with its version path.
        count: Calls to make, after the warm-up.
        concurrency: Calls at once.
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
        wall: From the first call to the end of the last.
        cpu: The process's own CPU time meanwhile, all threads and the system's part included.
        p50: The median of the calls' times, or None where single calls were not timed.
        p99: The 99th percentile, likewise.
        peak: The most memory the process has had.
        growth: Of a long bulk run: the time of an id over that in short runs made in between.
        cpu_growth: Likewise by CPU time.
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
    """Tell the most memory that this process has had, in MiB.

    Linux's own figure first: `ru_maxrss` there counts what the parent held at the fork too.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def session_ids(count: int) -> list[str]:
    """Make ids that differ, so that no client can prepare a URL once."""
    return [f"sess_{number:027d}" for number in range(count)]


class Stopwatch:
    """Takes wall and CPU time from its making to `stop`."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self, count: int, times: Sequence[float] = ()) -> Sample:
        """Make the sample of `count` calls, with the calls' own times where they were taken."""
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
