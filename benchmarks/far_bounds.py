"""`python -m benchmarks.far_bounds`: what users feel whose service is far away.

A quiet app calls once in 25 seconds, over TLS and 40 ms of round trip: does its second call find
the connection of the first? And a bulk run has a window of 1,000 requests per 10 seconds, and each
response takes 80 ms: how much does it add to the time that the limit alone requires?
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from benchmarks.bounds import RUN, Bound, go, print_all, result_of, start
from clerk_async import RateLimit
from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["bounds"]

ROUND_TRIP: Final = 0.04
SILENCE: Final = 25.0
LATENCY: Final = 0.08
LIMIT: Final = RateLimit(1000, per=10.0)
SESSIONS: Final = 3000

_QUIET_APP: Final = """
    import json, sys, threading, time
    import httpx
    from clerk_async import SessionsApi
    from clerk_backend_api import Clerk
    key, base, session, silence = sys.argv[1:]
    taken = {}
    def measure(name, call):
        call()
        time.sleep(float(silence))
        begun = time.perf_counter()
        call()
        taken[name] = time.perf_counter() - begun
    client = httpx.Client(headers={"Authorization": f"Bearer {key}"})
    with SessionsApi(key, base_url=base) as ours, client, Clerk(key, server_url=base) as clerk:
        calls = {
            "ours": lambda: ours.get(session),
            "httpx": lambda: client.get(f"{base}/sessions/{session}").raise_for_status(),
            "clerk-backend-api": lambda: clerk.sessions.get(session_id=session),
        }
        threads = [threading.Thread(target=measure, args=each) for each in calls.items()]
        print("ready", flush=True)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps(taken))
"""


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, late_by: float) -> None:
    """Pass on what comes half a round trip later; the first piece waits for the handshake too."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            sink.write(piece)
        sink.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        piece = b"-"
        while piece:
            try:
                piece = await source.read(2**16)
            except OSError:
                piece = b""
            pieces.put_nowait((loop.time() + ROUND_TRIP / 2 + late_by, piece))
            late_by = 0.0


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(2**16):
            sink.write(piece)
    sink.close()


async def _relay(port: int, context: ssl.SSLContext | None = None) -> asyncio.Server:
    """Pass each connection on: out of TLS with a context, and from far away without one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        if context is None:  # TCP's own handshake is local and takes no time: its round trip too
            outward, home = _carry(reader, back, ROUND_TRIP), _carry(there, writer, late_by=0.0)
        else:
            outward, home = _copy(reader, back), _copy(there, writer)
        await asyncio.gather(outward, home)

    return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)


def _port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def _far_away(base_url: str) -> AsyncGenerator[str]:
    """Put TLS and a round trip before a service; who starts with this SSL_CERT_FILE trusts it."""
    import trustme  # noqa: PLC0415 - of the extra `bench`

    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    address = urlsplit(base_url)
    near = await _relay(address.port or 0, context)
    far = await _relay(_port_of(near))
    with tempfile.TemporaryDirectory() as folder:
        trusted = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(trusted))
        os.environ["SSL_CERT_FILE"] = str(trusted)
        try:
            yield f"https://localhost:{_port_of(far)}{address.path}"
        finally:
            del os.environ["SSL_CERT_FILE"]
            far.close()
            near.close()


async def measure_quiet_app() -> Bound:
    """Call twice with 25 seconds of silence in between; each client in a thread of its own."""
    with FakeClerk() as fake:
        session = fake.add_session().id
        async with _far_away(fake.base_url) as url:
            app = start(_QUIET_APP, fake.secret_key, url, session, SILENCE)
            taken = await asyncio.to_thread(result_of, app)
        await asyncio.sleep(2 * ROUND_TRIP)  # the ends of the connections are on their way
    trips = {name: seconds / ROUND_TRIP for name, seconds in taken.items()}
    mine = trips.pop("ours")
    others = ", ".join(f"{name}: {count:.1f}" for name, count in trips.items())
    return Bound(
        f"a call after {SILENCE:.0f} s of silence, over TLS and {ROUND_TRIP * 1e3:.0f} ms",
        f"{mine:.1f} round trips ({others})",
        mine < 2,
    )


async def measure_bulk_from_afar() -> Bound:
    """Revoke 3,000 sessions with 1,000 requests per 10 seconds, from 80 ms away."""
    # Nobody knows when the service counted a request, so its place is free 10 s after the response.
    best = (SESSIONS / LIMIT.count - 1) * (LIMIT.per + LATENCY) + LATENCY
    with FakeClerk(rate_limit=LIMIT, latency=LATENCY) as fake:
        for number in range(SESSIONS):
            fake.add_session(session_id=f"sess_{number}")
        run = start(RUN, fake.secret_key, fake.base_url, "", LIMIT.count, LIMIT.per, 0, SESSIONS)
        go([run])
        begun, ended = await asyncio.to_thread(result_of, run)
        refused = sum(request.status == 429 for request in fake.requests)
        left = sum(session.status != "revoked" for session in fake.sessions.values())
    took = ended - begun
    return Bound(
        f"{SESSIONS:,} sessions, {LIMIT.count:,} per 10 s, {LATENCY * 1e3:.0f} ms away",
        f"{took:.1f} s, {took / best:.2f} of the best time; {refused} refused",
        not left and not refused and took <= 1.05 * best,
    )


async def bounds() -> AsyncGenerator[Bound]:
    """Measure one after the other."""
    yield await measure_quiet_app()
    yield await measure_bulk_from_afar()


if __name__ == "__main__":
    sys.exit(asyncio.run(print_all(bounds())))
