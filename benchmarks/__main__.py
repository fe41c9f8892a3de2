"""`python -m benchmarks`: measure, print a table, write JSON, SVG and the READMEs' figures."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import signal
import sys
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib import metadata, util
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import bulk_bounds, far_bounds, shared_bounds
from benchmarks.bars import judge
from benchmarks.bounds import Bound
from benchmarks.cases import CASES, CLERK, Case
from benchmarks.chart import as_svg
from benchmarks.measure import Result, measure_group
from benchmarks.readme import figures, summary, with_section
from benchmarks.server import TERMINATION, StaticServer, measure_ceiling, static_server
from benchmarks.table import Report, as_markdown, as_text, bars_as_text, bounds_as_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

_MODULES = {
    "aiohttp": "aiohttp",
    "msgspec": "msgspec",
    "httpx": "httpx",
    "requests": "requests",
    CLERK: "clerk_backend_api",
    "uvloop": "uvloop",
    "cryptography": "cryptography",
    "joserfc": "joserfc",
    "PyJWT": "jwt",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare clerk_async with what it is built on and what it replaces.",
        epilog=f"Cases: {', '.join(case.name for case in CASES)}.",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CASE",
        help="a case, or a pattern such as 'sync*'",
    )
    parser.add_argument(
        "--client", action="append", default=[], metavar="NAME", help="run only this client"
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each; default 3")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the number of calls; 0.1 is quick"
    )
    parser.add_argument("--long", action="store_true", help="add bulk runs of up to 1,000,000")
    parser.add_argument("--no-nginx", action="store_true", help="use the fallback server")
    parser.add_argument("--no-pinning", action="store_true", help="don't pin processes to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write benchmarks/results and the README's figures (all cases, all clients)",
    )
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="measure nothing; rewrite them from benchmarks/results/benchmarks.json",
    )
    parser.add_argument("--quiet", action="store_true", help="don't report progress")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not options.scale > 0:
        parser.error("--scale must be above 0")
    known = {client for case in CASES for client in case.clients}
    if unknown := set(options.client) - known:
        parser.error(f"unknown client {', '.join(unknown)}; known are: {', '.join(sorted(known))}")
    if options.readme and (options.only or options.client or not options.long):
        parser.error("the README shows everything: use --readme with --long, and without a subset")
    return options


def _chosen(patterns: list[str], *, long: bool) -> list[Case]:
    if not patterns:
        return [case for case in CASES if long or not case.long]
    chosen = [case for case in CASES if any(fnmatch(case.name, each) for each in patterns)]
    if not chosen:
        raise SystemExit(f"unknown case; known are: {', '.join(case.name for case in CASES)}")
    return chosen


def _cores(*, pinning: bool) -> tuple[int | None, int | None]:
    """Choose a core for the server and one for the clients."""
    if not pinning or not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _missing() -> list[str]:
    """Return the names of packages that aren't installed, and print how to install them."""
    missing = [name for name, module in _MODULES.items() if util.find_spec(module) is None]
    if missing:
        print(
            f"not installed, so skipped: {', '.join(missing)} "
            "(all of them: pip install -e '.[bench]')",
            file=sys.stderr,
        )
    return missing


def _machine() -> dict[str, Any]:
    versions: dict[str, str] = {}
    for package in _MODULES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "versions": versions,
    }


def _measure(options: argparse.Namespace, server: StaticServer) -> list[Result]:
    def tell(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    missing = _missing()
    results: list[Result] = []
    chosen = _chosen(options.only, long=options.long)
    for _, cases in groupby(chosen, key=lambda case: case.group or case.name):
        results += measure_group(
            list(cases),
            server,
            rounds=options.rounds,
            scale=options.scale,
            clients=options.client,
            missing=missing,
            tell=tell,
        )
    return results


async def _measure_bounds() -> list[Bound]:
    """Measure what has no peer, with all cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    bounds: list[Bound] = []
    for module in (bulk_bounds, far_bounds, shared_bounds):
        try:
            async for bound in module.bounds():
                print(bound.what, file=sys.stderr, flush=True)
                bounds.append(bound)
        except Exception as error:  # noqa: BLE001 - what was measured before counts all the same
            bounds.append(Bound(module.__name__, f"can't be measured: {error!r}", is_met=False))
    return bounds


def _write(report: Report, json: Path | None, svg: Path | None, markdown: Path | None) -> None:
    outputs = ((json, report.as_json), (svg, lambda: as_svg(report)))
    for path, text in (*outputs, (markdown, lambda: as_markdown(report.results))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")


def _publish(report: Report) -> None:
    """Write the results kept in the repository, and the READMEs' figures from them."""
    _write(report, *(RESULTS / f"benchmarks.{kind}" for kind in ("json", "svg", "md")))
    for folder, section in ((ROOT, summary(report)), (ROOT / "benchmarks", figures(report))):
        readme = folder / "README.md"
        text = with_section(readme.read_text(encoding="utf-8"), section)
        readme.write_text(text, encoding="utf-8")


def main() -> int:
    """Run the command; return 1 if a measured bar is missed."""
    options = _arguments()
    if options.redraw:
        _publish(Report.from_json((RESULTS / "benchmarks.json").read_text(encoding="utf-8")))
        return 0
    _chosen(options.only, long=options.long)
    signal.signal(signal.SIGTERM, TERMINATION)  # so that every program that we started ends too
    machine = _machine()
    server_core, client_core = _cores(pinning=not options.no_pinning)
    with static_server(server_core, prefer_nginx=not options.no_nginx) as server:
        if client_core is not None:
            os.sched_setaffinity(0, {client_core})  # inherited by all programs started from here
        ceiling = measure_ceiling(server)
        by_cpu = f", {ceiling.by_cpu:,.0f}/s by its CPU time" if ceiling.by_cpu else ""
        machine["server"] = server.kind
        machine["ceiling"] = f"at least {ceiling.measured:,.0f}/s from a bare socket loop{by_cpu}"
        if client_core is None:
            cores = "server and clients not pinned to cores"
        else:
            cores = f"server on core {server_core}, clients on core {client_core}"
        print(f"server: {server.kind}, ceiling {machine['ceiling']}")
        print(f"Python {machine['python']} on {machine['cpu']}, {cores}\n")
        results = _measure(options, server)
    if not results:
        print("nothing was measured: none of the clients could run", file=sys.stderr)
        return 2
    is_everything = options.long and not options.only and not options.client
    bounds = asyncio.run(_measure_bounds()) if is_everything else []
    report = Report(machine, results, judge(results), bounds)
    print(as_text(results))
    busy = {result.title for result in results if result.server_load > 0.8}
    if busy:
        print(f"\nthe server itself was the bottleneck in: {', '.join(sorted(busy))}")
    if report.bars:
        print(f"\n{bars_as_text(report.bars)}")
    if bounds:
        print(f"\n{bounds_as_text(bounds)}")
    _write(report, options.json, options.svg, options.markdown)
    if options.readme:
        _publish(report)
    is_met = all(bar.is_met for bar in report.bars) and all(bound.is_met for bound in bounds)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
