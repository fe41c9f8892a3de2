"""The eight operations with their HTTP responses, for code without an event loop."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

from clerk_async.http_info import VERIFY_ADVICE, AsyncSessionsWithHttpInfo
from clerk_async.models import ApiResponse, Cookies, Session, SessionPage, SessionStatus, Token
from clerk_async.redaction import sealed
from clerk_async.sync.loop_thread import LoopThread


class SessionsWithHttpInfo:
    """The eight operations of `SessionsApi`, each returning an `ApiResponse`."""

    def __init__(self, thread: LoopThread, operations: AsyncSessionsWithHttpInfo) -> None:
        self._thread = thread
        self._async = operations

    def list(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: SessionStatus | str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> ApiResponse[SessionPage]:
        """List one page of sessions, newest first."""
        return self._thread.call(
            self._async.list,
            client_id=client_id,
            user_id=user_id,
            status=status,
            limit=limit,
            offset=offset,
        )

    def create(
        self, user_id: str, *, active_organization_id: str | None = None
    ) -> ApiResponse[Session]:
        """Create a session, for tests: the service rejects this call on production instances."""
        return self._thread.call(
            self._async.create, user_id, active_organization_id=active_organization_id
        )

    def get(self, session_id: str) -> ApiResponse[Session]:
        """Get a session."""
        return self._thread.call(self._async.get, session_id)

    @sealed
    def refresh(
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
        return self._thread.call(
            self._async.refresh,
            session_id,
            expired_token=expired_token,
            refresh_token=refresh_token,
            request_origin=request_origin,
            request_headers=request_headers,
            format=format,
            request_originating_ip=request_originating_ip,
            suffixed_cookies=suffixed_cookies,
        )

    def revoke(self, session_id: str, *, user_id: str | None = None) -> ApiResponse[Session]:
        """Revoke a session: its user must sign in again."""
        return self._thread.call(self._async.revoke, session_id, user_id=user_id)

    @sealed
    def verify(self, session_id: str, token: str | Token) -> ApiResponse[Session]:
        """Verify a session token over the network: deprecated by Clerk, use a verifier instead."""
        warnings.warn(VERIFY_ADVICE, DeprecationWarning, stacklevel=3)
        return self._thread.call(self._async._verify, session_id, token)  # noqa: SLF001

    def create_token(
        self, session_id: str, *, expires_in_seconds: int | None = None
    ) -> ApiResponse[Token]:
        """Create a session token."""
        return self._thread.call(
            self._async.create_token, session_id, expires_in_seconds=expires_in_seconds
        )

    def create_token_from_template(
        self, session_id: str, template_name: str, *, expires_in_seconds: int | None = None
    ) -> ApiResponse[Token]:
        """Create a token with the claims of one of the instance's JWT templates."""
        return self._thread.call(
            self._async.create_token_from_template,
            session_id,
            template_name,
            expires_in_seconds=expires_in_seconds,
        )
