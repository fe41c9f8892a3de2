"""Code that mocks aiohttp with aioresponses works with the client; our own tests use the real wire.

aioresponses enforces neither timeouts nor connection pools, and can't simulate broken connections.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from clients import Time
from yarl import URL

from clerk_async import AsyncSessionsApi, ConnectError, ConnectionLostError, NotFoundError

URL_OF = "https://api.clerk.com/v1/sessions/sess_1"
SESSION: dict[str, Any] = {"id": "sess_1", "status": "active", "object": "session"}


@pytest.mark.promise("aioresponses")
async def test_a_mocked_response_is_read(mocked: Any) -> None:
    """A success is returned, with the request that was made."""
    mocked.get(URL_OF, payload=SESSION)
    async with AsyncSessionsApi("sk_test_mocked") as sessions:
        assert (await sessions.get("sess_1")).status == "active"
    assert list(mocked.requests) == [("GET", URL(URL_OF))]


async def test_a_mocked_error_is_raised(mocked: Any) -> None:
    """An error status raises its error."""
    mocked.post(f"{URL_OF}/revoke", status=404, payload={"errors": [{"code": "x"}]})
    async with AsyncSessionsApi("sk_test_mocked") as sessions:
        with pytest.raises(NotFoundError):
            await sessions.revoke("sess_1")


async def test_mocked_failures_are_retried(mocked: Any) -> None:
    """Exceptions of aiohttp and temporary statuses are retried as on the wire."""
    time = Time()
    mocked.get(URL_OF, exception=aiohttp.ServerDisconnectedError())
    mocked.get(URL_OF, status=503)
    mocked.get(URL_OF, payload=SESSION)
    async with AsyncSessionsApi("sk_test_mocked") as sessions:
        time.hand_to(sessions)
        response = await sessions.with_http_info.get("sess_1")
    assert response.attempts == 3
    assert len(time.slept) == 2


@pytest.mark.parametrize(
    ("exception", "kind", "may_have_arrived"),
    [
        (aiohttp.ClientConnectorError(Mock(), OSError("no")), ConnectError, False),
        (aiohttp.ClientOSError(104, "reset"), ConnectionLostError, True),
        (aiohttp.ServerDisconnectedError(), ConnectionLostError, True),
        (aiohttp.ClientPayloadError("cut"), ConnectionLostError, True),
        (ConnectionResetError(104, "reset"), ConnectionLostError, True),
        (aiohttp.ClientConnectionResetError("closing"), ConnectionLostError, True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_low_level_exceptions_are_mapped_to_errors(
    mocked: Any,
    exception: Exception,
    kind: type[ConnectionLostError | ConnectError],
    may_have_arrived: bool,
) -> None:
    """`create` is not retried after a reset, because it may have arrived."""
    mocked.post("https://api.clerk.com/v1/sessions", exception=exception, repeat=True)
    time = Time()
    async with AsyncSessionsApi("sk_test_mocked") as sessions:
        time.hand_to(sessions)
        with pytest.raises(kind) as caught:
            await sessions.create("user_1")
    assert caught.value._may_have_arrived is may_have_arrived
    assert caught.value.attempts == (1 if may_have_arrived else 3)
