"""What a client shares with the other processes of its key: the rate limit and the denials.

Without shared state, it has its own limit and denials and doesn't load `clerk_async.shared`.
"""

from __future__ import annotations

import os
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import clerk_async
from clerk_async.config import SHARE_ALONE, SHARE_TOGETHER, SHARED_STATE_VARIABLE
from clerk_async.denials.table import Denials
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import check_session_id, path_segment
from clerk_async.pacing.gate import Gates
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.config import Endpoint, LateEndpoint, RateLimit
    from clerk_async.http.client_state import ClientState
    from clerk_async.shared.link import Link


class AsyncSharing:
    """The methods of a client for denials and shared state."""

    if TYPE_CHECKING:  # so that users' tools can resolve the type hints of a client
        _shared: ClientState
        _late_endpoint: LateEndpoint
        _own_limit: RateLimit | None
        _link: Link | None
        _denials: Denials
        _gates: Gates

    def _share(
        self,
        shared_state: str | clerk_async.SharedState | None,
        endpoint: LateEndpoint,
        rate_limit: RateLimit | None,
    ) -> None:
        """Join the shared state if there is one; does no I/O.

        Args:
            shared_state: The client's argument; None means to use the environment.
            endpoint: The endpoint that the limit belongs to.
            rate_limit: The client's argument; None means a share of the key's own limit.

        Raises:
            ConfigurationError: If the shared state can't be used.
        """
        self._late_endpoint, self._own_limit = endpoint, rate_limit
        if shared_state is not None or os.environ.get(SHARED_STATE_VARIABLE):
            from clerk_async.shared.link import Link  # noqa: PLC0415 - only if state is shared
            from clerk_async.shared.state import resolve_shared_state  # noqa: PLC0415 - likewise

            state = resolve_shared_state(shared_state)
            self._link = Link(state, partial(_in_common, endpoint, rate_limit))
            self._denials = self._link.denials
            self._gates = Gates(make=self._link.gate)
        else:
            self._link = None
            self._denials = Denials()
            self._gates = Gates()
        on_reset(self._denials.forget)

    @property
    def _endpoint(self) -> Endpoint:
        """The service's URL and the key.

        Raises:
            ConfigurationError: If there is no key.
        """
        return self._late_endpoint.settled()

    @property
    def _rate_limit(self) -> RateLimit:
        """The limit of bulk runs: the client's own, else a share of the key's.

        Raises:
            ConfigurationError: If there is no key.
        """
        share = SHARE_ALONE if self._link is None else SHARE_TOGETHER
        return self._own_limit or self._endpoint.key_limit.share(share)

    async def deny(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        everyone: bool = False,
        signed_in_before: datetime | None = None,
    ) -> None:
        """Reject session tokens before they expire, without a call to the service.

        Verifiers made with this client reject them from now on; with shared state, the verifiers of
        all processes do so within milliseconds. The sessions themselves stay live at the service. A
        live session gets a new token every minute, so call `revoke_all` too if you deny a user.

        Pass exactly one of a session, a user and everyone:

        - A session: all of its tokens are rejected.
        - A user, or everyone: tokens issued up to now are rejected. A user's denial covers sessions
          in which they impersonate others, which `revoke_all` doesn't list among the user's own.
        - A user, or everyone, with `signed_in_before`: tokens of older sign-ins are rejected, no
          matter when they were issued, until you call `allow`. Any other denial expires after an
          hour, or after the `keep` of the shared state.

        Args:
            session_id: The session.
            user_id: The user.
            everyone: Whether to deny all users.
            signed_in_before: An aware datetime. The time of a sign-in is the token's `iat` minus
                the minutes in its `fva`, minus one more minute because `fva` counts whole minutes.
                A token without `fva` is rejected. Clerk documents `fva`
                (https://clerk.com/docs/guides/sessions/session-tokens); we have not tested with the
                live service whether anything but a sign-in or a re-verification changes it.

        Raises:
            InvalidArgumentError: If not exactly one of the three is given, if an argument can't be
                used, or if `signed_in_before` is passed with a session.
        """
        before = _checked(session_id, user_id, signed_in_before, everyone=everyone)
        if before is not None:
            self._denials.cut_off_sign_ins(user_id, before=before)
        elif session_id is not None:
            self._denials.deny_sessions((session_id,))
        else:
            self._denials.deny_user(user_id, issued_until=self._denials.now())
        await self._tell_denials()

    async def allow(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        everyone: bool = False,
        signed_in_before: datetime | None = None,
    ) -> None:
        """Withdraw all denials made so far for a session, a user or everyone.

        A revoked session stays revoked. If you allow everyone, the denials of individual users
        and sessions stay in force.

        Args:
            session_id: The session.
            user_id: The user.
            everyone: Whether to withdraw a denial of all users.
            signed_in_before: Checked but otherwise ignored, so that you can pass the arguments of a
                `deny` call: both kinds of denial are withdrawn.

        Raises:
            InvalidArgumentError: If not exactly one of the three is given, if an argument can't be
                used, or if `signed_in_before` is passed with a session.
        """
        _checked(session_id, user_id, signed_in_before, everyone=everyone)
        if session_id is not None:
            self._denials.allow_sessions((session_id,))
        else:
            self._denials.allow_user(user_id)
        await self._tell_denials()

    async def _tell_denials(self) -> None:
        if self._link is not None:
            await self._link.told()

    async def _start_link(self) -> None:
        if self._link is not None:
            self._link.start()

    async def _catch_up(self) -> None:
        if self._link is not None:
            await self._link.caught_up()

    async def _change_denials(self, change: Callable[[Denials], object]) -> None:
        change(self._denials)
        if self._link is not None:
            self._link.start()

    def shared_status(self) -> clerk_async.SharedStatus:
        """Return what this process knows about the shared state; does no I/O.

        Without `shared_state`, `connected` is False and the rest covers this process alone.
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


def _in_common(endpoint: LateEndpoint, limit: RateLimit | None) -> tuple[str, RateLimit]:
    """Return the fingerprint of a client's instance, and the limit that its processes share."""
    settled = endpoint.settled()
    return settled.fingerprint, limit or settled.key_limit.share(SHARE_TOGETHER)


def _checked(
    session_id: str | None,
    user_id: str | None,
    signed_in_before: datetime | None,
    *,
    everyone: bool,
) -> float | None:
    """Check the arguments of `deny` or `allow`; return the time of `signed_in_before`, if any."""
    if not isinstance(everyone, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - of untyped callers
        raise InvalidArgumentError(f"everyone must be True or False, not {everyone!r}")
    if (session_id is not None) + (user_id is not None) + everyone != 1:
        raise InvalidArgumentError("pass exactly one of session_id, user_id and everyone=True")
    if session_id is not None:
        check_session_id(session_id)
    if user_id is not None:
        path_segment("user_id", user_id)
    if signed_in_before is None:
        return None
    if not isinstance(signed_in_before, datetime) or signed_in_before.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance] - of untyped callers
        raise InvalidArgumentError("signed_in_before must be a datetime with a time zone")
    if session_id is not None:
        raise InvalidArgumentError("signed_in_before needs user_id or everyone=True")
    return signed_in_before.timestamp()
