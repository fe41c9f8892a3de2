"""The cases: what is measured, with which clients, how often, and the bars we set ourselves."""

from __future__ import annotations

from typing import Final, Literal

import attrs

__all__ = ["BARS", "CASES", "CLERK", "OURS", "Bar", "Case"]

OURS: Final = "clerk_async"
CLERK: Final = "clerk-backend-api"
_ASYNC: Final = (OURS, "aiohttp", "httpx", CLERK)
_SYNC: Final = (OURS, "httpx", "requests", CLERK, "http.client")

_SHARES: Final = {
    ("async", "httpx"): 0.1,
    ("async", CLERK): 0.1,
    ("sync", CLERK): 0.3,
    ("decode", CLERK): 0.1,
    ("construct", "httpx"): 0.1,
    ("construct", CLERK): 0.1,
}
"""The fraction of calls that a slow client makes, so that no measurement takes many seconds."""

Kind = Literal["async", "sync", "bulk", "decode", "tokens", "requests", "process", "construct"]


@attrs.frozen
class Case:
    """One row group of the table.

    Attributes:
        name: The name for `--only`; its second word is the kind of request.
        title: The title in the table.
        kind: Which worker runs it.
        clients: The clients that it measures, ours first.
        count: Calls in one measurement; fewer for clients that take far longer (`count_for`).
        concurrency: Concurrent calls or threads.
        size: Sessions in a list.
        loop: `asyncio` or `uvloop`.
        path: A path after the host, for a different kind of response.
        rounds: Maximum rounds, for long cases.
        long: Whether it runs only on request.
        group: Cases of one group take turns within each round, because a bar compares them with
            each other. Without a group, a case is measured alone.
    """

    name: str
    title: str
    kind: Kind
    clients: tuple[str, ...]
    count: int
    concurrency: int = 1
    size: int | None = None
    loop: str = "asyncio"
    path: str = ""
    rounds: int | None = None
    long: bool = False
    group: str = ""

    def count_for(self, client: str, scale: float) -> int:
        """Return how many calls `client` makes: fewer if each takes ten times as long."""
        if self.kind in {"bulk", "process"}:
            return self.count
        share = _SHARES.get((self.kind, client), 1.0)
        return max(5 if self.kind == "construct" else 20, int(self.count * scale * share))


@attrs.frozen
class Bar:
    """A bar: one client's figure divided by another's, or an absolute figure.

    Attributes:
        text: Its text in the table.
        case: The case of our figure.
        factor: The value that must be reached (`at_least`) or not exceeded.
        peer: The other client; None for an absolute figure.
        peer_case: The case of the other client's figure, if different.
        client: The client of the first figure.
        figure: `rate` (calls per second), `time` (seconds per call), `peak` (MiB) or `growth` (of a
            long bulk run: the time per id divided by that in short runs made in between).
        at_least: Whether more is better.
    """

    text: str
    case: str
    factor: float
    peer: str | None = None
    peer_case: str | None = None
    client: str = OURS
    figure: Literal["rate", "time", "peak", "growth"] = "rate"
    at_least: bool = True


CASES: Final = (
    Case("async-revoke-1", "async revoke, one by one", "async", _ASYNC, 2_000),
    Case("async-revoke-64", "async revoke, 64 at once", "async", _ASYNC, 3_000, 64),
    Case("sync-revoke", "sync revoke", "sync", _SYNC, 1_500, group="sync"),
    Case(
        "sync-revoke-uvloop",
        "sync revoke, uvloop",
        "sync",
        (OURS,),
        1_500,
        loop="uvloop",
        group="sync",
    ),
    Case("sync-revoke-8", "sync revoke from 8 threads", "sync", _SYNC, 3_000, 8, group="sync"),
    Case("async-list-1", "list of 1", "async", _ASYNC, 2_000, size=1),
    Case("async-list-10", "list of 10", "async", _ASYNC, 2_000, size=10),
    Case("async-list-500", "list of 500", "async", _ASYNC, 400, size=500),
    Case("async-token-1", "create_token, one by one", "async", _ASYNC, 2_000),
    Case("async-token-64", "create_token, 64 at once", "async", _ASYNC, 3_000, 64),
    Case(
        "async-revoke-64-faults",
        "64 at once, 10 % of answers are 503",
        "async",
        _ASYNC,
        3_000,
        64,
        path="/faulty",
    ),
    Case("async-revoke-1-uvloop", "one by one, uvloop", "async", _ASYNC, 2_000, loop="uvloop"),
    Case("async-revoke-64-uvloop", "64 at once, uvloop", "async", _ASYNC, 3_000, 64, loop="uvloop"),
    Case("decode-1", "decoding one session", "decode", (OURS, "json.loads", CLERK), 20_000),
    Case(
        "decode-500",
        "decoding a list of 500",
        "decode",
        (OURS, f"{OURS}, every field read", "json.loads", "msgspec, untyped", CLERK),
        200,
        size=500,
    ),
    Case(
        "token-first",
        "token verification, first",
        "tokens",
        (OURS, "bare signature check", "joserfc", "PyJWT", CLERK),
        500,
    ),
    Case(
        "token-again",
        "token verification, repeated",
        "tokens",
        (OURS, "bare signature check", CLERK),
        2_000,
    ),
    Case(
        "token-first-org",
        "token verification, first, with an organization",
        "tokens",
        (OURS, "bare signature check", "joserfc", "PyJWT", CLERK),
        500,
    ),
    Case(
        "token-first-8",
        "token verification, first, from 8 threads",
        "tokens",
        (OURS, "bare signature check", "joserfc", "PyJWT", CLERK),
        2_000,
        8,
        group="token-threads",
    ),
    Case(
        "token-again-8",
        "token verification, repeated, from 8 threads",
        "tokens",
        (OURS, "bare signature check", CLERK),
        20_000,
        8,
        group="token-threads",
    ),
    Case(
        "request-bearer",
        "authenticate_request, bearer token",
        "requests",
        (OURS, CLERK),
        2_000,
    ),
    Case("request-cookie", "authenticate_request, cookies", "requests", (OURS, CLERK), 2_000),
    Case("import", "import", "process", (OURS, "bare Python", "aiohttp", CLERK), 2),
    Case(
        "ready",
        "import and a ready client",
        "process",
        (OURS, f"{OURS}, sync", "bare Python", CLERK),
        2,
    ),
    Case(
        "ready-verify",
        "import and a ready verifier",
        "process",
        (OURS, "bare Python", "aiohttp", CLERK),
        2,
    ),
    Case(
        "first-call",
        "import and first call, closed",
        "process",
        (OURS, f"{OURS}, sync", "aiohttp", CLERK),
        2,
    ),
    Case(
        "construct",
        "making and closing an unused client",
        "construct",
        (OURS, "aiohttp", "httpx", CLERK),
        100,
    ),
    Case("bulk-1000", "bulk run of 1,000", "bulk", (OURS, "aiohttp"), 1_000, 64, group="bulk"),
    Case("bulk-10000", "bulk run of 10,000", "bulk", (OURS, "aiohttp"), 10_000, 64, group="bulk"),
    Case(
        "bulk-100000",
        "bulk run of 100,000",
        "bulk",
        (OURS,),
        100_000,
        64,
        rounds=3,
        long=True,
        group="bulk",
    ),
    Case(
        "bulk-1000000",
        "bulk run of 1,000,000",
        "bulk",
        (OURS,),
        1_000_000,
        64,
        rounds=1,
        long=True,
        group="bulk",
    ),
)

BARS: Final = (
    Bar("async 64 at once, of bare aiohttp", "async-revoke-64", 1.0, "aiohttp"),
    Bar("async 64 at once, of clerk-backend-api", "async-revoke-64", 20, CLERK),
    Bar("async one by one, of bare aiohttp", "async-revoke-1", 0.97, "aiohttp"),
    Bar("async one by one, of clerk-backend-api", "async-revoke-1", 6, CLERK),
    Bar("sync, of clerk-backend-api", "sync-revoke", 4.5, CLERK),
    Bar("sync on uvloop, of clerk-backend-api", "sync-revoke-uvloop", 5.0, CLERK, "sync-revoke"),
    Bar("sync on uvloop, of the same on asyncio", "sync-revoke-uvloop", 1.12, OURS, "sync-revoke"),
    Bar("sync, of httpx", "sync-revoke", 1.2, "httpx"),
    Bar("sync, 8 threads of one", "sync-revoke-8", 1.5, OURS, "sync-revoke"),
    Bar("list of 500, of bare aiohttp", "async-list-500", 1.1, "aiohttp"),
    Bar("list of 500, of clerk-backend-api", "async-list-500", 3, CLERK),
    Bar(
        "first token check, time of the bare signature check's",
        "token-first",
        2.2,
        "bare signature check",
        figure="time",
        at_least=False,
    ),
    Bar(
        "first token check with an organization, time of the bare signature check's",
        "token-first-org",
        2.2,
        "bare signature check",
        figure="time",
        at_least=False,
    ),
    Bar("repeated token check, of clerk-backend-api", "token-again", 20, CLERK),
    Bar("authenticate_request, bearer token, of clerk-backend-api", "request-bearer", 10, CLERK),
    Bar("authenticate_request, cookies, of clerk-backend-api", "request-cookie", 7, CLERK),
    Bar(
        "ready verifier, time of aiohttp's import",
        "ready-verify",
        0.5,
        "aiohttp",
        figure="time",
        at_least=False,
    ),
    Bar("import, seconds", "import", 0.05, figure="time", at_least=False),
    Bar(
        "ready client, time of clerk-backend-api's",
        "ready",
        0.75,
        CLERK,
        figure="time",
        at_least=False,
    ),
    Bar(
        "ready client, memory of clerk-backend-api's",
        "ready",
        0.75,
        CLERK,
        figure="peak",
        at_least=False,
    ),
    Bar(
        "bulk of 1,000,000, time per id of 1,000's",
        "bulk-1000000",
        1.1,
        figure="growth",
        at_least=False,
    ),
    Bar(
        "bulk of 1,000,000, MiB added",
        "bulk-1000000",
        10,
        figure="peak",
        at_least=False,
    ),
)
