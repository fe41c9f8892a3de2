"""The cases without a network: decoding, token verification, and starting a process."""

from __future__ import annotations

import base64
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from benchmarks.payloads import SESSION, session_list, session_page
from benchmarks.sample import SECRET_KEY, Job, Sample, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_decode", "run_process", "run_tokens"]

PARTY = "https://app.example.com"
WARM_UP = 20


def _timed(call: Callable[[Any], object], inputs: list[Any]) -> Sample:
    times: list[float] = []
    clock = time.perf_counter
    watch = Stopwatch()
    for each in inputs:
        start = clock()
        call(each)
        times.append(clock() - start)
    return watch.stop(len(inputs), times)


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
    return _timed(decode, [body] * job.count)


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


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _tokens(count: int) -> tuple[Any, str, list[str]]:
    """Sign tokens as Clerk does (RS256, version 2 claims), each with an id of its own."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public.public_bytes(serialization.Encoding.PEM, form).decode()
    now = int(time.time())
    head = _b64(json.dumps({"alg": "RS256", "kid": "ins_1", "typ": "JWT"}).encode())
    made: list[str] = []
    for number in range(count):
        claims = {
            "azp": PARTY,
            "exp": now + 3600,
            "fva": [1, -1],
            "iat": now,
            "iss": "https://clerk.example.com",
            "jti": f"{number:020x}",
            "nbf": now - 10,
            "sid": f"sess_{number:027d}",
            "sts": "active",
            "sub": "user_000000000000000000000000001",
            "v": 2,
        }
        signed = f"{head}.{_b64(json.dumps(claims, separators=(',', ':')).encode())}"
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        made.append(f"{signed}.{_b64(signature)}")
    return public, pem, made


def _verifier_of(client: str, public: Any, pem: str) -> Callable[[str], object]:
    match client:
        case "clerk_async":
            from clerk_async import TokenVerifier  # noqa: PLC0415

            return TokenVerifier(jwt_key=pem, authorized_parties=[PARTY]).verify
        case "clerk-backend-api":
            from clerk_backend_api.security import verify_token  # noqa: PLC0415
            from clerk_backend_api.security.types import VerifyTokenOptions  # noqa: PLC0415

            options = VerifyTokenOptions(jwt_key=pem, authorized_parties=[PARTY])
            # with line breaks its own reading of a PEM fails; this form of it passes
            options.jwt_key = pem
            return lambda token: verify_token(token, options)
        case "PyJWT":
            import jwt  # noqa: PLC0415

            return lambda token: jwt.decode(token, public, algorithms=["RS256"])
        case "joserfc":
            from joserfc import jwt as jose  # noqa: PLC0415
            from joserfc.jwk import RSAKey  # noqa: PLC0415
            from joserfc.jws import JWSRegistry  # noqa: PLC0415

            key = RSAKey.import_key(pem)
            # It refuses header fields that it does not know, such as Clerk's cat and oiat.
            headers = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
            return lambda token: jose.decode(token, key, registry=headers)
        case _:
            return _bare_check(public)


def _bare_check(public: Any) -> Callable[[str], object]:
    """Check the signature and nothing else, with everything decoded beforehand."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    verify, scheme, digest = public.verify, padding.PKCS1v15(), hashes.SHA256()
    return lambda parts: verify(parts[1], parts[0], scheme, digest)


def run_tokens(job: Job) -> Sample:
    """Verify tokens, each new (`token-first`) or one again and again (`token-again`)."""
    public, pem, tokens = _tokens(WARM_UP + (0 if job.case == "token-again" else job.count))
    verify: Callable[[Any], object] = _verifier_of(job.client, public, pem)
    inputs: list[Any] = list(tokens)
    if job.client.startswith("bare"):
        inputs = []
        for token in tokens:
            signed, _, signature = token.rpartition(".")
            raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
            inputs.append((signed.encode(), raw))
    for each in inputs[:WARM_UP]:
        verify(each)
    if job.case == "token-again":
        return _timed(verify, inputs[:1] * job.count)
    return _timed(verify, inputs[WARM_UP:])


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
_FRAME = """
import time
KEY, URL = {key!r}, {url!r}
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
    """Run a program in fresh processes; time and memory are taken inside, CPU from outside."""
    program = _PROGRAMS[job.case][job.client]
    text = _FRAME.format(key=SECRET_KEY, url=job.base_url, program=program)
    took: list[float] = []
    cpu = peak = 0.0
    for number in range(job.count + 1):
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        assert process.stdout is not None
        printed = process.stdout.read().split()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{job.client}: the program ended with {process.returncode}")
        if number == 0:  # writes the byte code, fills the system's cache
            continue
        took.append(float(printed[0]))
        peak = max(peak, float(printed[1]))
        cpu += usage.ru_utime + usage.ru_stime
    middle = statistics.median(took)
    return Sample(job.count, middle * job.count, cpu, middle, max(took), peak)
