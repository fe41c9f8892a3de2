"""Rounds of measurements, each in its own process, and their medians and ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases import OURS, Case
from benchmarks.sample import Job, Sample
from benchmarks.server import StaticServer, cpu_seconds, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Ratio", "Result", "measure_group", "ratio_of"]

_LONGEST = 1800.0
"""Seconds that one measurement may take; a million ids take two minutes."""
_LEFT_OUT = {"PYTHONDEVMODE", "PYTHONASYNCIODEBUG", "PYTHONTRACEMALLOC", "PYTHONMALLOC"}
"""Variables that slow Python down; clients don't get them, nor keys, addresses and proxies."""


@attrs.frozen
class Ratio:
    """One client's figure divided by another's.

    Attributes:
        middle: The median of the ratios of all rounds.
        low: The lowest round's ratio.
        high: The highest round's ratio.
    """

    middle: float
    low: float
    high: float


@attrs.frozen
class Result:
    """The results of one client in one case, as medians of all rounds.

    Attributes:
        case: The case's name.
        title: The case's title.
        client: The client.
        rate: Calls per second.
        time: Wall-clock seconds per call.
        cpu: CPU seconds per call, of the client's process.
        p50: Median seconds of a call, or None.
        p99: 99th percentile of the seconds of a call, or None.
        peak: Peak memory in MiB.
        ratio: How many times as fast as this client ours is; below 1 means that the other is
            faster. None if ours did not run.
        cpu_ratio: The same by CPU time per call, which other programs disturb less.
        server_load: The fraction of a core that the server used: near 1, it was the bottleneck.
        rates: The rate of each round.
        cpus: The CPU seconds per call of each round.
        growth: For a long bulk run: its time per id divided by that of short runs made in between;
            None for other cases.
        cpu_growth: The same by CPU time.
    """

    case: str
    title: str
    client: str
    rate: float
    time: float
    cpu: float
    p50: float | None
    p99: float | None
    peak: float
    ratio: Ratio | None
    cpu_ratio: Ratio | None
    server_load: float
    rates: tuple[float, ...]
    cpus: tuple[float, ...]
    growth: Ratio | None = None
    cpu_growth: Ratio | None = None


def measure_group(
    cases: Sequence[Case],
    server: StaticServer,
    *,
    rounds: int,
    scale: float,
    clients: Iterable[str] = (),
    missing: Iterable[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Measure cases: each round runs all their clients in turn, every other round in reverse.

    Args:
        cases: What to measure.
        server: The server that responds.
        rounds: How many rounds to run.
        scale: Multiplies the number of calls.
        clients: Only these clients, if any are named.
        missing: The clients that aren't installed.
        tell: Called with progress messages, and with each client that can't run.
    """
    chosen, absent = set(clients), set(missing)
    pairs = [
        (case, client)
        for case in cases
        for client in case.clients
        if (not chosen or client in chosen) and client not in absent and case.loop not in absent
    ]
    taken: dict[tuple[Case, str], list[tuple[Sample, float]]] = {pair: [] for pair in pairs}
    for number in range(rounds):
        for pair in list(taken) if number % 2 == 0 else list(taken)[::-1]:
            case, client = pair
            if number >= (case.rounds or rounds):
                continue
            tell(f"{case.name}: {client}, round {number + 1}")
            used = cpu_seconds(server.worker)
            sample = _run(case, client, server, scale=scale, tell=tell)
            if sample is None:
                del taken[pair]
            else:
                taken[pair].append((sample, (cpu_seconds(server.worker) - used) / sample.wall))
    return [
        _result(case, client, of_both, taken.get((case, OURS), []))
        for (case, client), of_both in taken.items()
    ]


def _run(
    case: Case,
    client: str,
    server: StaticServer,
    *,
    scale: float,
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
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in _LEFT_OUT
        and not name.startswith("CLERK_")
        and not name.lower().endswith("_proxy")
    }
    pipe = subprocess.PIPE
    with program(command, stdout=pipe, stderr=pipe, env=clean) as process:
        printed, errors = process.communicate(timeout=_LONGEST)
    if process.returncode:
        last = (errors.strip().splitlines() or ["no output"])[-1]
        tell(f"{case.name}: {client} can't run: {last}")
        return None
    return Sample(**json.loads(printed))


def _result(
    case: Case,
    client: str,
    taken: list[tuple[Sample, float]],
    ours: list[tuple[Sample, float]],
) -> Result:
    middle = statistics.median
    samples = [sample for sample, _ in taken]
    rates, cpus = _figures(samples)
    our_rates, our_cpus = _figures([sample for sample, _ in ours])
    p50 = [sample.p50 for sample in samples if sample.p50 is not None]
    p99 = [sample.p99 for sample in samples if sample.p99 is not None]
    return Result(
        case=case.name,
        title=case.title,
        client=client,
        rate=middle(rates),
        time=middle(1 / rate for rate in rates),
        cpu=middle(cpus),
        p50=middle(p50) if p50 else None,
        p99=middle(p99) if p99 else None,
        peak=middle(sample.peak for sample in samples),
        ratio=ratio_of(our_rates, rates),
        cpu_ratio=ratio_of(cpus, our_cpus),
        server_load=middle(load for _, load in taken),
        rates=rates,
        cpus=cpus,
        growth=_spread([sample.growth for sample in samples]),
        cpu_growth=_spread([sample.cpu_growth for sample in samples]),
    )


def _spread(figures: Sequence[float | None]) -> Ratio | None:
    known = [figure for figure in figures if figure is not None]
    return Ratio(statistics.median(known), min(known), max(known)) if known else None


def _figures(samples: Sequence[Sample]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (
        tuple(sample.count / sample.wall for sample in samples),
        tuple(sample.cpu / sample.count for sample in samples),
    )


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Ratio | None:
    """Divide figures round by round, or their medians if one side had fewer rounds."""
    if not above or not below:
        return None
    if len(above) != len(below):
        above, below = (statistics.median(above),), (statistics.median(below),)
    ratios = [one / other for one, other in zip(above, below, strict=True) if other]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None
