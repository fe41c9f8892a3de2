"""Writes the figures of both READMEs from a report, so that they match the measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.cases import CASES, CLERK, OURS
from benchmarks.table import bars_as_rows, bounds_as_rows, number, times

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.measure import Result
    from benchmarks.table import Report

__all__ = ["figures", "summary", "with_section"]

BEGIN: Final = "<!-- figures: written by `python -m benchmarks --readme`, not by hand -->\n"
END: Final = "<!-- end of figures -->\n"

_PEERS: Final = ("aiohttp", "httpx", "requests", "http.client", CLERK)
_NAMES: Final = {"aiohttp": "bare aiohttp"}
_ON_THE_NETWORK: Final = ("async", "sync")
_WITHOUT_ONE: Final = ("decode", "tokens", "requests", "construct", "process")
_PACKAGES: Final = ("aiohttp", "msgspec", "httpx", "requests", CLERK, "uvloop", "cryptography")

_MEASURED: Final = (
    "Measured with `{command}` on {date}: {cpu}, {cores} cores (load before the start: "
    "{load}), Python {python}, {versions}; medians of {rounds} rounds. "
    "Server: {server}, ceiling {ceiling}."
)
_BARS: Final = (
    "The bars that we set ourselves, judged by wall-clock time. The lowest and highest rounds are "
    "in brackets; the next column shows the ratio by CPU time alone:"
)
_NETWORK: Final = (
    "Calls per second of ours, and the ratio of ours to each other client, with the ratio by CPU "
    "time per call in brackets. Above 1, ours is faster:"
)
_LOCAL: Final = (
    "Without a network, and at the start of a program: the time per call, and for programs also "
    "their peak memory:"
)
_BOUNDS: Final = "What runs and shared state promise, measured by the `…_bounds` commands above:"
_BULK: Final = "Bulk runs without pacing, with 64 concurrent requests:"


def with_section(readme: str, section: str) -> str:
    """Return a README's text with the section between its two marks replaced.

    Raises:
        ValueError: If a mark is missing.
    """
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the README lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def summary(report: Report) -> str:
    """Return the few figures for the project's README."""
    rows = [
        (bar.text, times(bar.reached.middle))
        for bar in report.bars
        if bar.at_least and bar.text.endswith((CLERK, "bare aiohttp"))
    ]
    return _table(("compared", "times"), rows, "lr") + "\n"


def figures(report: Report) -> str:
    """Return all figures of a report."""
    machine = report.machine
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in _PACKAGES)
    rounds = max(len(result.rates) for result in report.results)
    network_head = (
        *("work", "ours, calls/s", "CPU µs", "p50 µs", "p99 µs", "MiB"),
        *(f"of {_NAMES.get(peer, peer)}" for peer in _PEERS),
    )
    bulk_head = ("ids", "ids/s", "µs an id", "CPU µs an id", "of bare aiohttp", "memory added")
    parts: tuple[str, ...] = (
        _MEASURED.format_map({**machine, "versions": versions, "rounds": rounds}),
        _BARS,
        _table(("what", "bar", "reached", "by CPU", ""), bars_as_rows(report.bars), "lrrrl"),
        _NETWORK,
        _table(network_head, _network_rows(report.results), "l" + "r" * (len(network_head) - 1)),
        _LOCAL,
        _table(("work", "ours", "others"), _local_rows(report.results), "lrl"),
        _BULK,
        _table(bulk_head, _bulk_rows(report.results), "rrrrrr"),
    )
    if report.bounds:
        rows = bounds_as_rows(report.bounds)
        parts = (*parts, _BOUNDS, _table(("what", "measured", ""), rows, "lll"))
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], align: str) -> str:
    marks = "|".join("---:" if each == "r" else "---" for each in align)
    lines = [f"| {' | '.join(head)} |", f"|{marks}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _groups(results: list[Result], kinds: tuple[str, ...]) -> Iterable[list[Result]]:
    for case in CASES:
        group = [result for result in results if result.case == case.name]
        if case.kind in kinds and group and group[0].client == OURS:
            yield group


def _network_rows(results: list[Result]) -> Iterable[tuple[str, ...]]:
    for ours, *others in _groups(results, _ON_THE_NETWORK):
        peers = {each.client: each for each in others}
        cells = [_compared(peers.get(name)) for name in _PEERS]
        yield (
            ours.title,
            number(ours.rate),
            number(ours.cpu * 1e6),
            number((ours.p50 or 0) * 1e6),
            number((ours.p99 or 0) * 1e6),
            f"{ours.peak:.0f}",
            *cells,
        )


def _compared(peer: Result | None) -> str:
    if peer is None or peer.ratio is None or peer.cpu_ratio is None:
        return ""
    return f"{times(peer.ratio.middle)} ({times(peer.cpu_ratio.middle)})"


def _local_rows(results: list[Result]) -> Iterable[tuple[str, ...]]:
    programs = {case.name for case in CASES if case.kind == "process"}
    for ours, *others in _groups(results, _WITHOUT_ONE):
        has_memory = ours.case in programs
        told = [f"{each.client} {_amount(each, has_memory=has_memory)}" for each in others]
        yield ours.title, _amount(ours, has_memory=has_memory), "; ".join(told)


def _amount(result: Result, *, has_memory: bool) -> str:
    told = f"{number(result.time * 1e6)} µs"
    if result.time >= 1e-3:
        told = f"{result.time * 1e3:.1f} ms"
    if not has_memory:
        return told
    memory = f"{result.peak:.0f} MiB"
    return memory if result.client == "bare Python" else f"{told}, {memory}"


def _bulk_rows(results: list[Result]) -> Iterable[tuple[str, ...]]:
    for ours, *others in _groups(results, ("bulk",)):
        yield (
            f"{int(ours.case.partition('-')[2]):,}",
            number(ours.rate),
            number(ours.time * 1e6),
            number(ours.cpu * 1e6),
            _compared(others[0] if others else None),
            f"{ours.peak:.1f} MiB",
        )
