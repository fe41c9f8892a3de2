"""Rounds of measurements, each in a process of its own, and the medians and ratios of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases import BARS, OURS, Bar, Case
from benchmarks.sample import Job, Sample
from benchmarks.server import StaticServer, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BarResult", "Result", "judge", "measure_case"]


@attrs.frozen
class Result:
    """The medians of one client in one case.

    Attributes:
        case: The case's name.
        title: Its title.
        client: Who.
        rounds: How many measurements.
        rate: Calls a second.
        time: Seconds a call, wall.
        cpu: Seconds a call, of the process's own CPU.
        p50: Median seconds of a call, or None.
        p99: Likewise, the 99th percentile.
        peak: MiB.
        ratio: Ours over this client's rate, the median of the rounds' own ratios; below 1 means
            that the other is faster. None where ours did not run.
        cpu_ratio: Likewise of CPU per call: on a busy machine the steadier of the two.
        spread: The lowest and the highest of those ratios.
        server_load: The part of a core that the server used: near 1 it was the bottleneck.
        rates: Each round's.
    """

    case: str
    title: str
    client: str
    rounds: int
    rate: float
    time: float
    cpu: float
    p50: float | None
    p99: float | None
    peak: float
    ratio: float | None
    cpu_ratio: float | None
    spread: tuple[float, float] | None
    server_load: float
    rates: tuple[float, ...]


@attrs.frozen
class BarResult:
    """A bar and what was reached."""

    text: str
    bar: float
    at_least: bool
    reached: float
    is_met: bool


def measure_case(
    case: Case,
    server: StaticServer,
    *,
    rounds: int,
    scale: float,
    core: int | None,
    clients: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Measure a case: in each round all its clients in turn, every other round backwards.

    Args:
        case: What to measure.
        server: Who answers.
        rounds: How often.
        scale: Multiplies the number of calls.
        core: Where the clients run, or None.
        clients: Only these.
        tell: Told what goes on, and who can't take part.
    """
    taking_part = [each for each in case.clients if not clients or each in clients]
    samples: dict[str, list[Sample]] = {client: [] for client in taking_part}
    loads: dict[str, list[float]] = {client: [] for client in taking_part}
    for number in range(min(rounds, case.rounds or rounds)):
        for client in taking_part if number % 2 == 0 else taking_part[::-1]:
            if number and not samples[client]:
                continue
            tell(f"{case.name}: {client}, round {number + 1}")
            used = cpu_seconds(server.worker)
            sample = _run(case, client, server, scale=scale, core=core, tell=tell)
            if sample is not None:
                samples[client].append(sample)
                loads[client].append((cpu_seconds(server.worker) - used) / sample.wall)
    return [
        _result(case, client, taken, samples.get(OURS, []), loads[client])
        for client, taken in samples.items()
        if taken
    ]


def _run(
    case: Case,
    client: str,
    server: StaticServer,
    *,
    scale: float,
    core: int | None,
    tell: Callable[[str], None],
) -> Sample | None:
    job = Job(
        case=case.name,
        client=client,
        base_url=server.base_url + case.path,
        count=case.count_for(client, scale),
        concurrency=case.concurrency,
        size=case.size,
        loop=case.loop,
    )
    command = [sys.executable, "-m", "benchmarks.child", case.kind, json.dumps(attrs.asdict(job))]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("CLERK_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        tell(f"{case.name}: {client} can't take part: {last}")
        return None
    return Sample(**json.loads(done.stdout))


def _result(
    case: Case,
    client: str,
    taken: list[Sample],
    ours: list[Sample],
    loads: list[float],
) -> Result:
    middle = statistics.median
    rates = [sample.count / sample.wall for sample in taken]
    ratios = [
        mine.count / mine.wall / rate for mine, rate in zip(ours, rates, strict=False) if rate
    ]
    cpu_ratios = [
        (other.cpu / other.count) / (mine.cpu / mine.count)
        for mine, other in zip(ours, taken, strict=False)
        if mine.cpu
    ]
    p50 = [sample.p50 for sample in taken if sample.p50 is not None]
    p99 = [sample.p99 for sample in taken if sample.p99 is not None]
    return Result(
        case=case.name,
        title=case.title,
        client=client,
        rounds=len(taken),
        rate=middle(rates),
        time=middle(sample.wall / sample.count for sample in taken),
        cpu=middle(sample.cpu / sample.count for sample in taken),
        p50=middle(p50) if p50 else None,
        p99=middle(p99) if p99 else None,
        peak=middle(sample.peak for sample in taken),
        ratio=middle(ratios) if ratios else None,
        cpu_ratio=middle(cpu_ratios) if cpu_ratios else None,
        spread=(min(ratios), max(ratios)) if ratios else None,
        server_load=middle(loads),
        rates=tuple(rates),
    )


def judge(results: Sequence[Result]) -> list[BarResult]:
    """Hold the results against those bars whose figures are there."""
    by_key = {(result.case, result.client): result for result in results}
    judged: list[BarResult] = []
    for bar in BARS:
        reached = _reached(bar, by_key)
        if reached is not None:
            is_met = reached >= bar.factor if bar.at_least else reached <= bar.factor
            judged.append(BarResult(bar.text, bar.factor, bar.at_least, reached, is_met))
    return judged


def _reached(bar: Bar, results: dict[tuple[str, str], Result]) -> float | None:
    ours = results.get((bar.case, bar.client))
    if ours is None:
        return None
    mine: float = getattr(ours, bar.figure)
    if bar.peer is None:
        return mine
    other = results.get((bar.peer_case or bar.case, bar.peer))
    if other is None:
        return None
    if bar.figure == "cpu" and bar.peer_case is None and other.cpu_ratio is not None:
        return 1 / other.cpu_ratio
    if bar.peer_case is None and other.ratio is not None and bar.figure != "peak":
        return other.ratio if bar.figure == "rate" else 1 / other.ratio
    theirs: float = getattr(other, bar.figure)
    return mine / theirs
