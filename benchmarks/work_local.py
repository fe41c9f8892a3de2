"""The cases without a network: decoding, and starting a process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

from benchmarks.payloads import JWT_KEY, SESSION, session_list, session_page
from benchmarks.sample import SECRET_KEY, Job, Sample, timed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_decode", "run_process"]


def run_decode(job: Job) -> Sample:
    """Decode a list of `job.size` sessions, or one session."""
    body = SESSION
    if job.size is not None:
        # the official SDK can't read pages
        make = session_list if job.client == "clerk-backend-api" else session_page
        body = make(job.size)
    decode: Callable[..., object]
    match job.client:
        case "clerk_async":
            from clerk_async.http.decode import decode_page, decode_session  # noqa: PLC0415

            decode = decode_session if job.size is None else decode_page
        case "clerk_async, every field read":
            decode = _read_all
        case "clerk-backend-api":
            from clerk_backend_api import models  # noqa: PLC0415
            from clerk_backend_api.utils import serializers  # noqa: PLC0415

            read = cast("Callable[[str, Any], object]", cast(Any, serializers).unmarshal_json)
            kind: Any = models.Session if job.size is None else list[models.Session]

            def read_bytes(body: bytes) -> object:
                return read(body.decode(), kind)

            decode = read_bytes
        case "msgspec, untyped":
            import msgspec  # noqa: PLC0415

            decode = msgspec.json.decode
        case _:
            decode = json.loads
    for _ in range(3):
        decode(body)
    return timed(decode, [body] * job.count)


def _read_all(body: bytes) -> object:
    from clerk_async.http.decode import decode_page  # noqa: PLC0415

    return [
        (
            each.id,
            each.user_id,
            each.client_id,
            each.status,
            each.last_active_at,
            each.latest_activity,
            each.expire_at,
            each.abandon_at,
            each.updated_at,
            each.created_at,
            each.tasks,
        )
        for each in decode_page(body)
    ]


_PROGRAMS = {
    "import": {
        "bare Python": "pass",
        "clerk_async": "import clerk_async",
        "clerk-backend-api": "import clerk_backend_api; clerk_backend_api.Clerk",
        "aiohttp": "import aiohttp",
    },
    "ready": {
        "bare Python": "pass",
        "clerk_async": "from clerk_async import AsyncSessionsApi; c = AsyncSessionsApi(KEY)",
        "clerk_async, sync": "from clerk_async import SessionsApi; c = SessionsApi(KEY)",
        "clerk-backend-api": "from clerk_backend_api import Clerk; c = Clerk(bearer_auth=KEY)",
    },
    "ready-verify": {
        "bare Python": "pass",
        "clerk_async": (
            "from clerk_async import TokenVerifier\n"
            "v = TokenVerifier(jwt_key=JWT_KEY, authorized_parties=['https://app.example.com'])"
        ),
        "aiohttp": "import aiohttp",
        "clerk-backend-api": (
            "from clerk_backend_api.security import verify_token\n"
            "from clerk_backend_api.security.types import VerifyTokenOptions\n"
            "o = VerifyTokenOptions(jwt_key='x', authorized_parties=['https://app.example.com'])\n"
            "o.jwt_key = JWT_KEY"
        ),
    },
    "first-call": {
        "clerk_async": (
            "from clerk_async import AsyncSessionsApi\n"
            "import asyncio\n"
            "async def main():\n"
            "    async with AsyncSessionsApi(KEY, base_url=URL) as c: await c.revoke('sess_1')\n"
            "asyncio.run(main())"
        ),
        "clerk_async, sync": (
            "from clerk_async import SessionsApi\n"
            "with SessionsApi(KEY, base_url=URL) as c: c.revoke('sess_1')"
        ),
        "aiohttp": (
            "import asyncio, aiohttp, json\n"
            "async def main():\n"
            "    async with aiohttp.ClientSession() as c:\n"
            "        async with c.post(URL + '/sessions/sess_1/revoke') as r:\n"
            "            json.loads(await r.read())\n"
            "asyncio.run(main())"
        ),
        "clerk-backend-api": (
            "from clerk_backend_api import Clerk\n"
            "with Clerk(bearer_auth=KEY, server_url=URL) as c:\n"
            "    c.sessions.revoke(session_id='sess_1')"
        ),
    },
}
_SLOWS_IMPORTS = {"PYTHONDONTWRITEBYTECODE", "PYTHONDEVMODE"}
"""Variables that slow imports down: without cached bytecode, each process would compile anew."""
_FRAME = """
import time
KEY, URL, JWT_KEY = {key!r}, {url!r}, {jwt_key!r}
start = time.perf_counter()
{program}
took = time.perf_counter() - start
try:
    with open("/proc/self/status") as status:
        peak = [int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")][0]
except OSError:
    import resource, sys
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(took, peak)
"""


def run_process(job: Job) -> Sample:
    """Run a program in fresh processes; measure time and memory inside, CPU time outside."""
    program = _PROGRAMS[job.case][job.client]
    text = _FRAME.format(key=SECRET_KEY, url=job.base_url, jwt_key=JWT_KEY, program=program)
    compiled = {name: value for name, value in os.environ.items() if name not in _SLOWS_IMPORTS}
    took: list[float] = []
    cpu = peak = 0.0
    for number in range(job.count + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, env=compiled
        )
        assert process.stdout is not None
        printed = process.stdout.read().split()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{job.client}: the program exited with {process.returncode}")
        if number == 0:  # writes the bytecode, and fills the system's cache
            continue
        took.append(float(printed[0]))
        peak = max(peak, float(printed[1]))
        cpu += usage.ru_utime + usage.ru_stime
    middle = statistics.median(took)
    return Sample(job.count, middle * job.count, cpu, middle, max(took), peak)
