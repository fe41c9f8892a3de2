"""A token that is always valid, for code without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clerk_async.models import Token
    from clerk_async.sessions import AsyncSessionsApi
    from clerk_async.sync.loop_thread import LoopThread
    from clerk_async.tokens.token_source import AsyncTokenSource


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
