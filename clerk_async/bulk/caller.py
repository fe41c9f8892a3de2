"""A client as a bulk run sees it: the three calls, made through the transport's own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clerk_async.http import operations
from clerk_async.http.decode import decode_page, decode_session, decoded, with_info

if TYPE_CHECKING:
    from clerk_async.config import Endpoint, RateLimit
    from clerk_async.http.calls import Calls
    from clerk_async.models import ApiResponse, Session, SessionPage
    from clerk_async.pacing.gate import Gates
    from clerk_async.pacing.window import Pacer

DEFAULT_SHARE: Final = 0.8
"""The part of a key's limit that a bulk run takes, so that the live product keeps a fifth."""


class CallerTarget:
    """Makes the calls of bulk runs; one for each view of a client."""

    def __init__(
        self,
        calls: Calls,
        endpoint: Endpoint,
        rate_limit: RateLimit | None,
        pool_size: int,
        gates: Gates,
    ) -> None:
        self._calls = calls
        self.key_fingerprint: str = endpoint.fingerprint
        self.default_rate_limit: RateLimit = rate_limit or endpoint.key_limit.share(DEFAULT_SHARE)
        self.pool_size = pool_size
        self.gates = gates

    async def revoke(self, session_id: str, *, pacer: Pacer) -> ApiResponse[Session]:
        """POST /sessions/{id}/revoke."""
        request = operations.revoke_request(session_id)
        answer = await self._calls.call(request, pacer=pacer)
        return with_info(decode_session, answer, request)

    async def get(self, session_id: str, *, pacer: Pacer) -> Session:
        """GET /sessions/{id}."""
        request = operations.for_session(operations.GET, session_id)
        answer = await self._calls.call(request, pacer=pacer)
        return decoded(decode_session, answer, request)

    async def list_page(
        self,
        *,
        user_id: str | None,
        client_id: str | None,
        status: str | None,
        limit: int,
        offset: int,
        pacer: Pacer,
    ) -> SessionPage:
        """GET /sessions."""
        request = operations.list_request(
            client_id=client_id, user_id=user_id, status=status, limit=limit, offset=offset
        )
        answer = await self._calls.call(request, pacer=pacer)
        return decoded(decode_page, answer, request)
