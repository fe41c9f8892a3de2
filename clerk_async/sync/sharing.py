"""What the threads of a sync client share: denials, the state of other processes, and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from clerk_async.denials import Denials
    from clerk_async.models import Token
    from clerk_async.sessions import AsyncSessionsApi
    from clerk_async.shared.link import Link
    from clerk_async.shared.state import SharedStatus
    from clerk_async.sync.loop_thread import LoopThread
    from clerk_async.tokens.token_source import AsyncTokenSource


class Sharing:
    """The same as `clerk_async.sharing.AsyncSharing`, for code without an event loop."""

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
        """Refuse session tokens before they expire, without asking the service.

        Verifiers made with this client refuse them from now on; with shared state, those of all
        processes do so within milliseconds. The sessions themselves stay alive at the service: a
        live session gets a new token each minute, so a user's denial belongs with `revoke_all`.

        Name exactly one of a session, a user and everyone:

        - A session: every one of its tokens is refused.
        - A user, or everyone: tokens issued up to now are refused.
        - A user, or everyone, with `signed_in_before`: tokens of older sign-ins are refused,
          whenever they were issued, until `allow`. Any other denial expires after an hour, or the
          `keep` of the shared state.

        Args:
            session_id: The session.
            user_id: The user.
            everyone: Whether it is about all users.
            signed_in_before: An aware datetime. The moment of a sign-in is the token's `iat` less
                the minutes in its `fva`, and one minute less, because `fva` counts whole minutes; a
                token without `fva` is refused. Clerk documents `fva`
                (https://clerk.com/docs/guides/sessions/session-tokens); whether anything but a
                sign-in or a re-verification moves it has not been tried with the live service.

        Raises:
            InvalidArgumentError: If none or several of the three are given, if one of them can't be
                used, or if `signed_in_before` comes with a session.
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
        """Take denials back: all that were made until now for a session, a user or everyone.

        It ends nothing but what was denied here: a session that was revoked stays revoked. To allow
        everyone leaves the denials of single users and sessions in force.

        Args:
            session_id: The session.
            user_id: The user.
            everyone: Whether it is about all users.
            signed_in_before: Checked and otherwise ignored, so that the arguments of a `deny` fit:
                both kinds of denial are taken back.

        Raises:
            InvalidArgumentError: If none or several of the three are given, if one of them can't be
                used, or if `signed_in_before` comes with a session.
        """
        self._thread.call(
            self._async.allow,
            session_id=session_id,
            user_id=user_id,
            everyone=everyone,
            signed_in_before=signed_in_before,
        )

    def shared_status(self) -> SharedStatus:
        """Return what this process knows of the state it shares; no I/O.

        Without `shared_state` it is not connected, and tells of this process alone.
        """
        return self._async.shared_status()

    @property
    def _denials(self) -> Denials:
        return self._async._denials  # noqa: SLF001 - the shell of it

    @property
    def _link(self) -> Link | None:
        return self._async._link  # noqa: SLF001 - the shell of it

    def _start_link(self) -> None:
        self._thread.call(self._async._start_link)  # noqa: SLF001 - the shell of that method

    def _catch_up(self) -> None:
        self._thread.call(self._async._catch_up)  # noqa: SLF001 - the shell of that method

    def _change_denials(self, change: Callable[[Denials], object]) -> None:
        self._thread.call(self._async._change_denials, change)  # noqa: SLF001 - the shell of that method


class TokenSource:
    """The tokens of one session: `source.token()` returns one that is valid.

    `SessionsApi.token_source` makes it. The token is renewed after three quarters of its
    lifetime, by one request however many threads ask.
    """

    def __init__(self, thread: LoopThread, source: AsyncTokenSource) -> None:
        self._thread = thread
        self._source = source

    def token(self) -> Token:
        """Return a token that is valid, for 5 more seconds at the least (a tenth of a short life).

        The first call creates one, and so does the first call after three quarters of its lifetime;
        those that come meanwhile wait for it too. If the service can't be reached then, or answers
        with a 429 or a 5xx, the old token is returned as long as it is valid.

        Raises:
            NotFoundError: If the session is gone.
            ClerkError: As `create_token` and `create_token_from_template` raise it.
        """
        return self._source._fresh() or self._thread.call(self._source.token)  # noqa: SLF001 - the shell of it

    def __repr__(self) -> str:
        return repr(self._source).replace("Async", "", 1)


class TokenSources:
    """What makes the token sources of a sync client."""

    if TYPE_CHECKING:
        _async: AsyncSessionsApi
        _thread: LoopThread

    def token_source(
        self, session_id: str, template: str | None = None, *, expires_in_seconds: int | None = None
    ) -> TokenSource:
        """Return a source of valid tokens for a session, for calls to other services.

        Its `source.token()` returns a `Token`, renewed ahead of its expiry, once for all that
        ask. Nothing is sent until then.

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
            InvalidArgumentError: If an argument can't be used.
        """
        source = self._async.token_source(
            session_id, template, expires_in_seconds=expires_in_seconds
        )
        return TokenSource(self._thread, source)
