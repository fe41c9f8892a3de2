"""What a verifier is handed, as far as it looks: knows no client by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.models import Session


class AsyncSessionsSource(Protocol):
    """What the async verifier asks of its client: `AsyncSessionsApi` has it all."""

    async def _fetch_jwks(self) -> bytes: ...

    async def get(self, session_id: str) -> Session:
        """Look at a session."""
        ...

    async def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, Any] | None,
        format: Literal["cookie"],  # noqa: A002 - the service's name
    ) -> object:
        """Get a new token for an expired one."""
        ...


class SessionsSource(Protocol):
    """What the sync verifier asks of its client: `SessionsApi` has it all."""

    def _fetch_jwks(self) -> bytes: ...

    def get(self, session_id: str) -> Session:
        """Look at a session."""
        ...

    def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, Any] | None,
        format: Literal["cookie"],  # noqa: A002 - the service's name
    ) -> object:
        """Get a new token for an expired one."""
        ...
