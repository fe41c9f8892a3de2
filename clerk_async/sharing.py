"""What a client has in common with the other processes of its key: the limit and the denials.

Without shared state it has its own of each, and nothing of `clerk_async.shared` is loaded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from clerk_async.config import SHARE_ALONE, SHARE_TOGETHER, SHARED_STATE_VARIABLE
from clerk_async.denials import Denials
from clerk_async.pacing.gate import Gates
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from clerk_async.config import Endpoint, RateLimit
    from clerk_async.http.client_state import ClientState
    from clerk_async.shared.link import Link
    from clerk_async.shared.state import SharedState, SharedStatus


class AsyncSharing:
    """What a client gets from its list of denials, and from a state that it shares."""

    _shared: ClientState
    _rate_limit: RateLimit
    _link: Link | None
    _denials: Denials
    _gates: Gates

    def _share(
        self,
        shared_state: str | SharedState | None,
        endpoint: Endpoint,
        rate_limit: RateLimit | None,
    ) -> None:
        """Take part in a shared state where there is one; no I/O.

        Args:
            shared_state: What the client was told; None means that the environment counts.
            endpoint: Whose limit it is.
            rate_limit: What the client was told; None means a part of the key's own.

        Raises:
            ConfigurationError: If the shared state can't be used.
        """
        is_shared = shared_state is not None or bool(os.environ.get(SHARED_STATE_VARIABLE))
        share = SHARE_TOGETHER if is_shared else SHARE_ALONE
        self._rate_limit = rate_limit or endpoint.key_limit.share(share)
        if is_shared:
            from clerk_async.shared.link import link_to  # noqa: PLC0415 - only for who shares

            self._link = link_to(shared_state, endpoint.fingerprint, self._rate_limit)
            self._denials = self._link.denials
            self._gates = Gates(make=self._link.gate)
        else:
            self._link = None
            self._denials = Denials()
            self._gates = Gates()
        on_reset(self._denials.forget)

    def shared_status(self) -> SharedStatus:
        """Return what this process knows of the state it shares; no I/O.

        Without `shared_state` it is not connected, and tells of this process alone.
        """
        from clerk_async.shared.state import SharedStatus  # noqa: PLC0415 - on first use

        if self._link is not None:
            return self._link.status(self._shared.brake())
        return SharedStatus(
            connected=False,
            age=None,
            processes=1,
            used=self._gates.gate(self._rate_limit).used(),
            limit=self._rate_limit.count,
            paused_for=self._shared.brake(),
            denied=len(self._denials),
        )
