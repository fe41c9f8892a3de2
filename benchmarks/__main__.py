"""`python -m benchmarks`: measure, print a table, and write JSON and SVG where asked."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.chart import as_svg
from benchmarks.measure import Result, judge, measure_case
from benchmarks.server import measure_ceiling, static_server
from benchmarks.table import as_json, as_markdown, as_text, bars_as_text

_PACKAGES = (
    "aiohttp",
    "msgspec",
    "httpx",
    "requests",
    "clerk-backend-api",
    "uvloop",
    "cryptography",
    "joserfc",
    "PyJWT",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare clerk_async with what it is built on and with what it replaces.",
        epilog=f"Cases: {', '.join(case.name for case in CASES)}.",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="CASE", help="a case, or a pattern: 'sync*'"
    )
    parser.add_argument(
        "--client", action="append", default=[], metavar="NAME", help="only these clients"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements each; default 5")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the number of calls; 0.1 for a glance"
    )
    parser.add_argument("--long", action="store_true", help="bulk runs of up to 1,000,000 too")
    parser.add_argument("--no-nginx", action="store_true", help="use the fallback server")
    parser.add_argument("--no-pinning", action="store_true", help="leave the cores to the system")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too")
    parser.add_argument("--quiet", action="store_true", help="do not tell what is under way")
    return parser.parse_args()


def _chosen(patterns: list[str], *, long: bool) -> list[Case]:
    if not patterns:
        return [case for case in CASES if long or not case.long]
    chosen = [case for case in CASES if any(fnmatch(case.name, each) for each in patterns)]
    if not chosen:
        raise SystemExit(f"no such case; there are: {', '.join(case.name for case in CASES)}")
    return chosen


def _cores(*, pinning: bool) -> tuple[int | None, int | None]:
    """Choose a core for the server and one for the clients."""
    if not pinning or not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _machine(server: str, ceiling: str) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
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
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "server": server,
        "ceiling": ceiling,
        "versions": versions,
    }


def main() -> int:
    """Run the command; 1 if a bar that was measured is missed."""
    options = _arguments()
    cases = _chosen(options.only, long=options.long)
    server_core, client_core = _cores(pinning=not options.no_pinning)

    def tell(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr)

    results: list[Result] = []
    with static_server(server_core, prefer_nginx=not options.no_nginx) as server:
        if client_core is not None:
            os.sched_setaffinity(0, {client_core})
        ceiling = measure_ceiling(server)
        by_cpu = f", {ceiling.by_cpu:,.0f}/s by its CPU time" if ceiling.by_cpu else ""
        ceiling_text = f"at least {ceiling.measured:,.0f}/s from a bare socket loop{by_cpu}"
        print(f"server: {server.kind} on core {server_core}, ceiling {ceiling_text}")
        for case in cases:
            results += measure_case(
                case,
                server,
                rounds=options.rounds,
                scale=options.scale,
                core=client_core,
                clients=options.client,
                tell=tell,
            )
    machine = _machine(server.kind, ceiling_text)
    bars = judge(results)
    print(f"Python {machine['python']} on {machine['cpu']}, clients on core {client_core}\n")
    print(as_text(results))
    busy = {result.case for result in results if result.server_load > 0.8}
    if busy:
        print(f"\nthe server itself was the bottleneck in: {', '.join(sorted(busy))}")
    if bars:
        print(f"\n{bars_as_text(bars)}")
    outputs: list[tuple[Path | None, str]] = [
        (options.json, as_json(machine, results, bars)),
        (options.markdown, as_markdown(results) + "\n"),
        (options.svg, as_svg(results, f"{machine['command']} · Python {machine['python']}")),
    ]
    for path, text in outputs:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0 if all(bar.is_met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
