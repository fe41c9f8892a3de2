"""The methods of a sync client for denials, shared state and token sources."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import clerk_async
from clerk_async.models import Token
from clerk_async.sync.loop_thread import LoopThread
from clerk_async.tokens.token_source import AsyncTokenSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.denials.table import Denials
    from clerk_async.sessions import AsyncSessionsApi
    from clerk_async.shared.link import Link


class Sharing:
    """`clerk_async.sharing.AsyncSharing` for code without an event loop."""

    if TYPE_CHECKING:  # so that users' tools can resolve the type hints of a client
        _async: AsyncSessionsApi
        _thread: LoopThread

    def deny(
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
        self._thread.call(
            self._async.deny,
            session_id=session_id,
            user_id=user_id,
            everyone=everyone,
            signed_in_before=signed_in_before,
        )

    def allow(
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
        self._thread.call(
            self._async.allow,
            session_id=session_id,
            user_id=user_id,
            everyone=everyone,
            signed_in_before=signed_in_before,
        )

    def shared_status(self) -> clerk_async.SharedStatus:
        """Return what this process knows about the shared state; does no I/O.

        Without `shared_state`, `connected` is False and the rest covers this process alone.
        """
        return self._async.shared_status()

    @property
    def _denials(self) -> Denials:
        return self._async._denials  # noqa: SLF001 - wraps it

    @property
    def _link(self) -> Link | None:
        return self._async._link  # noqa: SLF001 - wraps it

    def _start_link(self) -> None:
        self._thread.call(self._async._start_link)  # noqa: SLF001 - wraps that method

    def _catch_up(self) -> None:
        self._thread.call(self._async._catch_up)  # noqa: SLF001 - wraps that method

    def _change_denials(self, change: Callable[[Denials], object]) -> None:
        self._thread.call(self._async._change_denials, change)  # noqa: SLF001 - wraps that method


class TokenSource:
    """The tokens of one session: `source.token()` returns a valid one.

    `SessionsApi.token_source` creates it. After three quarters of a token's lifetime it sends one
    request for a new one, however many threads ask.
    """

    def __init__(self, thread: LoopThread, source: AsyncTokenSource) -> None:
        self._thread = thread
        self._source = source

    def token(self) -> Token:
        """Return a token that stays valid for at least 5 seconds (or a tenth of its lifetime).

        The first call creates a token, and so does the first call after three quarters of its
        lifetime; concurrent calls wait for the same request. If the service can't be reached then,
        or responds with a 429 or a 5xx, the old token is returned as long as it is valid.

        Raises:
            NotFoundError: If the session no longer exists.
            ClerkError: As for `create_token` and `create_token_from_template`.
        """
        return self._source._fresh() or self._thread.call(self._source.token)  # noqa: SLF001 - wraps it

    def __repr__(self) -> str:
        return repr(self._source).replace("Async", "", 1)


class TokenSources:
    """The part of a sync client that creates token sources."""

    if TYPE_CHECKING:
        _async: AsyncSessionsApi
        _thread: LoopThread

    def token_source(
        self, session_id: str, template: str | None = None, *, expires_in_seconds: int | None = None
    ) -> TokenSource:
        """Return a source of valid tokens for a session, for calls to other services.

        `source.token()` returns a `Token` and renews it before it expires, once for all
        callers. No request is sent until the first call.

        Example:
            >>> source = sessions.token_source("sess_1", "custom_hasura")
            >>> token = source.token()
            >>> headers = {"Authorization": f"Bearer {token.jwt}"}

        Args:
            session_id: The session.
            template: A JWT template, such as `custom_hasura`; None for session tokens.
            expires_in_seconds: The lifetime of each token, 30 to 315360000; the default is the
                service's 60, or the template's own.

        Raises:
            InvalidArgumentError: If an argument is invalid.
        """
        source = self._async.token_source(
            session_id, template, expires_in_seconds=expires_in_seconds
        )
        return TokenSource(self._thread, source)
