"""The keys that an instance publishes: fetched without any credential, so none can leak there."""

from __future__ import annotations

from typing import Final

from clerk_async.config import RetryPolicy, Timeouts
from clerk_async.http.calls import Calls, Shared
from clerk_async.http.operations import Operation, Request
from clerk_async.http.settings import USER_AGENT, WireSettings

_WELL_KNOWN: Final = "/.well-known/jwks.json"
_KEYS: Final = Operation("published keys", "GET", _WELL_KNOWN)
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": USER_AGENT,
}


async def fetch_published(issuer: str) -> bytes:
    """Fetch the key set below an issuer's URL, with the usual retries, redirects not followed.

    A connection of its own each time: this happens every few minutes, and one that is kept would
    have to be closed by somebody.

    Raises:
        ClerkError: If it can't be had.
    """
    shared = Shared(WireSettings(base_url=issuer, headers=_HEADERS, pool_size=1), secret_key="")
    try:
        answer = await Calls(shared, RetryPolicy(), Timeouts()).call(Request(_KEYS, _WELL_KNOWN))
        return answer.body
    finally:
        await shared.aclose()
