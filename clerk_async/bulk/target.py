"""A client as a bulk run sees it: three calls, made by the transport's usual rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.http import operations
from clerk_async.http.decode import decode_page, decode_session

if TYPE_CHECKING:
    from clerk_async.config import Endpoint, RateLimit
    from clerk_async.denials import Denials
    from clerk_async.http.calls import Calls
    from clerk_async.models import ApiResponse, Session, SessionPage
    from clerk_async.pacing.gate import Gates, Lane


class RevocationTarget:
    """Makes the calls of bulk runs, and holds what paces them; each view of a client has one.

    Each call follows the retry table like any other, but a lane paces each of its sends, retries
    included. A call has no deadline, because it may wait a long time for the window. It neither
    draws on the retry quota nor adds to it.

    Attributes:
        key_fingerprint: SHA-256, in hex, of the key and the base URL; tells instances apart in a
            journal.
        default_rate_limit: The client's rate limit, for a run without one of its own.
        pool_size: The size of the connection pool, and so the most requests at a time.
        gates: The windows of this client, which all its views share.
        denials: The client's list of what verifiers reject.

    Args:
        calls: What makes the calls.
        endpoint: The service and the key.
        rate_limit: The client's rate limit.
        pool_size: See above.
        gates: See above.
        denials: See above.
    """

    def __init__(
        self,
        calls: Calls,
        endpoint: Endpoint,
        rate_limit: RateLimit,
        pool_size: int,
        gates: Gates,
        *,
        denials: Denials,
    ) -> None:
        self._calls = calls
        self._reader = calls.shared.reader
        self.key_fingerprint: str = endpoint.fingerprint
        self.default_rate_limit = rate_limit
        self.pool_size = pool_size
        self.gates = gates
        self.denials = denials

    async def revoke(self, session_id: str, lane: Lane) -> ApiResponse[Session]:
        """POST /sessions/{id}/revoke."""
        request = operations.revoke_request(session_id)
        answer = await self._calls.call(request, pacer=lane)
        return self._reader.response(decode_session, answer, request)

    async def get(self, session_id: str, lane: Lane) -> Session:
        """GET /sessions/{id}."""
        request = operations.for_session(operations.GET, session_id)
        answer = await self._calls.call(request, pacer=lane)
        return self._reader.value(decode_session, answer, request)

    async def list_page(
        self, lane: Lane, *, user_id: str | None, client_id: str | None, limit: int, offset: int
    ) -> SessionPage:
        """GET /sessions."""
        request = operations.list_request(
            client_id=client_id, user_id=user_id, status=None, limit=limit, offset=offset
        )
        answer = await self._calls.call(request, pacer=lane)
        return self._reader.value(decode_page, answer, request)
