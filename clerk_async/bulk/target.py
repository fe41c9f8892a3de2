"""What a bulk run needs of a client: the three calls, and the facts that pace and name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from clerk_async.config import RateLimit
    from clerk_async.models import ApiResponse, Session, SessionPage
    from clerk_async.pacing.gate import Gates
    from clerk_async.pacing.window import Pacer


class RevocationTarget(Protocol):
    """A client as the bulk engine sees it.

    Every call goes through the transport's retry table, with each physical send (repeats too) let
    out by `pacer`; it neither asks nor feeds the retry quota, and has no deadline of its own (it
    may wait for the window for long). Errors are the library's own, with `attempts` and
    `_may_have_arrived`.
    """

    @property
    def key_fingerprint(self) -> str:
        """SHA-256, in hex, of the key and the base URL; tells instances apart in a journal."""
        ...

    @property
    def default_rate_limit(self) -> RateLimit:
        """The client's explicit limit as it is, else that of the key's kind with a share of 0.8."""
        ...

    @property
    def pool_size(self) -> int:
        """Connections at most, which is also the most that a run sends at once."""
        ...

    @property
    def gates(self) -> Gates:
        """The windows of this client, shared by all its views: `Gates()` made once."""
        ...

    async def revoke(self, session_id: str, *, pacer: Pacer) -> ApiResponse[Session]:
        """POST /sessions/{id}/revoke."""
        ...

    async def get(self, session_id: str, *, pacer: Pacer) -> Session:
        """GET /sessions/{id}."""
        ...

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
        ...
