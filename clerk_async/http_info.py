"""The eight operations, each returning its value together with the HTTP response."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from clerk_async.denials.table import Denials
from clerk_async.errors import GoneError, NotFoundError
from clerk_async.http import operations
from clerk_async.http.calls import Calls
from clerk_async.http.decode import decode_page, decode_refreshed, decode_session, decode_token
from clerk_async.models import ApiResponse, Cookies, Session, SessionPage, SessionStatus, Token
from clerk_async.redaction import sealed

if TYPE_CHECKING:
    from clerk_async.http.shapes import Losses

VERIFY_ADVICE: Final = (
    "verify is deprecated by Clerk and was removed in API version 2025-04-10: verify session "
    "tokens without the network instead, with AsyncTokenVerifier or TokenVerifier"
)


class AsyncSessionsWithHttpInfo:
    """The eight operations of `AsyncSessionsApi`, each returning an `ApiResponse`."""

    def __init__(self, calls: Calls, denials: Denials) -> None:
        self._calls = calls
        self._denials = denials
        self._reader = calls.shared.reader

    async def _ask(
        self, request: operations.Request, decode: Callable[[bytes, Losses], Any]
    ) -> ApiResponse[Any]:
        return self._reader.response(decode, await self._calls.call(request), request)

    async def list(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: SessionStatus | str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> ApiResponse[SessionPage]:
        """List one page of sessions, newest first."""
        request = operations.list_request(
            client_id=client_id, user_id=user_id, status=status, limit=limit, offset=offset
        )
        return await self._ask(request, decode_page)

    async def create(
        self, user_id: str, *, active_organization_id: str | None = None
    ) -> ApiResponse[Session]:
        """Create a session, for tests: the service rejects this call on production instances."""
        request = operations.create_request(user_id, active_organization_id)
        return await self._ask(request, decode_session)

    async def get(self, session_id: str) -> ApiResponse[Session]:
        """Get a session."""
        return await self._ask(operations.for_session(operations.GET, session_id), decode_session)

    @sealed
    async def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, str | Sequence[str]] | None = None,
        format: Literal["token", "cookie"] | None = "token",  # noqa: A002 - the service's own name
        request_originating_ip: str | None = None,
        suffixed_cookies: bool | None = None,
    ) -> ApiResponse[Token | Cookies]:
        """Refresh a session with an expired session token and its refresh token."""
        request = operations.refresh_request(
            session_id,
            expired_token=expired_token,
            refresh_token=refresh_token,
            request_origin=request_origin,
            request_headers=request_headers,
            format=format,
            request_originating_ip=request_originating_ip,
            suffixed_cookies=suffixed_cookies,
        )
        return await self._ask(request, decode_refreshed)

    async def revoke(self, session_id: str, *, user_id: str | None = None) -> ApiResponse[Session]:
        """Revoke a session: its user must sign in again."""
        if user_id is not None:
            await self._check_owner(session_id, user_id)
        try:
            response = await self._ask(operations.revoke_request(session_id), decode_session)
        except NotFoundError:
            self._denials.deny_revoked(session_id)
            raise
        self._denials.deny_revoked(session_id)
        return response

    async def _check_owner(self, session_id: str, user_id: str) -> None:
        operations.path_segment("user_id", user_id)
        found = await self.get(session_id)
        if found.data.user_id != user_id:
            raise NotFoundError(
                f"404: user {user_id} has no session {session_id}",
                method="GET",
                path=operations.for_session(operations.GET, session_id).path,
                attempts=found.attempts,
            )

    def verify(
        self, session_id: str, token: str | Token
    ) -> Coroutine[Any, Any, ApiResponse[Session]]:
        """Verify a session token over the network: deprecated by Clerk, use a verifier instead."""
        warnings.warn(VERIFY_ADVICE, DeprecationWarning, stacklevel=2)
        return self._verify(session_id, token)

    @sealed
    async def _verify(self, session_id: str, token: str | Token) -> ApiResponse[Session]:
        request = operations.verify_request(session_id, token)
        try:
            return await self._ask(request, decode_session)
        except (GoneError, NotFoundError) as error:
            error.args = (f"{error.args[0]} ({VERIFY_ADVICE})",)
            raise

    async def create_token(
        self, session_id: str, *, expires_in_seconds: int | None = None
    ) -> ApiResponse[Token]:
        """Create a session token."""
        request = operations.token_request(session_id, expires_in_seconds)
        return await self._ask(request, decode_token)

    async def create_token_from_template(
        self, session_id: str, template_name: str, *, expires_in_seconds: int | None = None
    ) -> ApiResponse[Token]:
        """Create a token with the claims of one of the instance's JWT templates."""
        request = operations.template_token_request(session_id, template_name, expires_in_seconds)
        return await self._ask(request, decode_token)
