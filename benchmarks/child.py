"""One measurement in a fresh process, which takes a job and prints a sample, both as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import attrs

from benchmarks.sample import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.sample import Sample

__all__ = ["main"]


def _worker_for(kind: str, client: str) -> Callable[[Job], Sample]:
    """Import only what this kind of work needs, so that the memory use is the client's own."""
    match kind:
        case "async":
            from benchmarks.work_async import run_async as run  # noqa: PLC0415
        case "bulk":
            from benchmarks.work_async import run_bulk as run  # noqa: PLC0415
        case "construct" if client in {"clerk_async", "aiohttp"}:
            from benchmarks.work_async import run_construct_async as run  # noqa: PLC0415
        case "construct":
            from benchmarks.work_sync import run_construct as run  # noqa: PLC0415
        case "sync":
            from benchmarks.work_sync import run_sync as run  # noqa: PLC0415
        case "decode":
            from benchmarks.work_local import run_decode as run  # noqa: PLC0415
        case "tokens":
            from benchmarks.work_tokens import run_tokens as run  # noqa: PLC0415
        case "requests":
            from benchmarks.work_tokens import run_requests as run  # noqa: PLC0415
        case _:
            from benchmarks.work_local import run_process as run  # noqa: PLC0415
    return run


def main() -> None:
    """Run the job in the second argument with the worker that the first argument names."""
    job = Job(**json.loads(sys.argv[2]))
    print(json.dumps(attrs.asdict(_worker_for(sys.argv[1], job.client)(job))))


if __name__ == "__main__":
    main()
