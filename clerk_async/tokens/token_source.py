"""A source of valid tokens for one session, which renews them before they expire.

A token's lifetime is read from its own `iat` and `exp`, so this machine's clock and the service's
may differ. The signature is not checked, because the token comes directly from the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from clerk_async.errors import (
    ClerkError,
    RateLimitedError,
    ResponseDecodeError,
    ServerError,
    TokenVerificationError,
    TransportError,
    WrongLoopError,
)
from clerk_async.http.daemon import running_loop
from clerk_async.http.operations import template_token_request, token_request
from clerk_async.models import Token
from clerk_async.redaction import redact
from clerk_async.tokens.jose import json_object, parse
from clerk_async.under_test import monotonic, on_reset, wall_clock

RENEWED_AT: Final = 0.75
"""The fraction of its lifetime after which a token is renewed."""
PATIENCE: Final = 1.0
"""Seconds to wait for a new token while the old one is still valid."""
RETRY_AFTER: Final = 1.0
"""Seconds between two attempts to renew a token that is still valid."""
_SPARED: Final = (5.0, 0.1)
"""A token is not returned in its last 5 seconds, or in the last tenth of its lifetime if that is
shorter, because it still has to be sent somewhere and checked there."""

_PASSING: Final = (TransportError, ServerError, RateLimitedError, ResponseDecodeError)


@attrs.frozen
class _Held:
    token: Token = attrs.field(repr=False)
    lifetime: float
    at: float
    at_wall: float

    @property
    def left(self) -> float:
        """Seconds until the token must no longer be returned; never positive if that is unknown."""
        seconds, part = _SPARED
        return self.lifetime - self.age - min(seconds, self.lifetime * part)

    @property
    def age(self) -> float:
        """Seconds since the token was requested; while a machine sleeps, one clock may stop."""
        return max(monotonic() - self.at, wall_clock() - self.at_wall)


def _lifetime(token: Token) -> float:
    """Return a token's lifetime in seconds, or 0 if the token does not say."""
    try:
        payload = json_object(parse(token.jwt).payload_segment, "payload")
    except TokenVerificationError:
        return 0.0
    expiry, issued = payload.get("exp"), payload.get("iat", wall_clock())
    if type(expiry) not in {int, float} or type(issued) not in {int, float}:
        return 0.0
    return max(0.0, float(expiry - issued))


class AsyncTokenSource:
    """The tokens of one session: `await source.token()` returns a valid one.

    `AsyncSessionsApi.token_source` creates it. After three quarters of a token's lifetime it sends
    one request for a new one, however many tasks ask.
    """

    def __init__(
        self,
        session_id: str,
        template: str | None,
        create: Callable[[], Coroutine[Any, Any, Token]],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._session_id = session_id
        self._template = template
        self._create = create
        self._patience = patience
        self._held: _Held | None = None
        self._renewal: asyncio.Task[Token] | None = None
        self._retry_at: float = 0.0
        on_reset(self._forget)

    async def token(self) -> Token:
        """Return a token that stays valid for at least 5 seconds (or a tenth of its lifetime).

        The first call creates a token, and so does the first call after three quarters of its
        lifetime; concurrent calls wait for the same request. If the service can't be reached then,
        or responds with a 429 or a 5xx, the old token is returned as long as it is valid.

        Raises:
            NotFoundError: If the session no longer exists.
            ClerkError: As for `create_token` and `create_token_from_template`.
        """
        fresh = self._fresh()
        if fresh is not None:
            return fresh
        held = self._held
        if held is None or held.left <= 0:
            return await asyncio.shield(self._renewed())
        if monotonic() >= self._retry_at:
            renewal = self._renewed()
            await asyncio.wait([renewal], timeout=self._patience)
            error = renewal.exception() if renewal.done() and not renewal.cancelled() else None
            if error is not None and not isinstance(error, _PASSING):
                raise error
        return (self._held or held).token

    def _fresh(self) -> Token | None:
        """Return the current token, unless it is time to renew it."""
        held = self._held
        return held.token if held and held.age < held.lifetime * RENEWED_AT else None

    def _renewed(self) -> asyncio.Task[Token]:
        """Return the renewal in flight, or start one; all tasks share it."""
        loop, renewal = running_loop(), self._renewal
        if renewal is None or renewal.done() or renewal.get_loop() is not loop:
            # A separate task, because a caller that gives up must not end it for the others.
            renewal = loop.create_task(self._renew(), name="clerk_async: renewing a token")
            # Retrieve the error, because all callers may have given up.
            renewal.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._renewal = renewal
        return renewal

    async def _renew(self) -> Token:
        at, at_wall = monotonic(), wall_clock()
        try:
            token = await self._create()
        except ClerkError as error:
            self._retry_at = monotonic() + RETRY_AFTER
            if not isinstance(error, (*_PASSING, WrongLoopError)):
                self._held = None
            raise
        self._held = _Held(token, _lifetime(token), at, at_wall)
        return token

    def _forget(self) -> None:
        """Forget everything, between two tests."""
        self._held = self._renewal = None
        self._retry_at = 0.0

    def __repr__(self) -> str:
        template = "" if self._template is None else f", template {self._template!r}"
        return redact(f"<{type(self).__name__} of session {self._session_id!r}{template}>")


class AsyncTokenSources:
    """The part of a client that creates token sources."""

    if TYPE_CHECKING:
        create_token: Callable[..., Coroutine[Any, Any, Token]]
        create_token_from_template: Callable[..., Coroutine[Any, Any, Token]]

    def token_source(
        self, session_id: str, template: str | None = None, *, expires_in_seconds: int | None = None
    ) -> AsyncTokenSource:
        """Return a source of valid tokens for a session, for calls to other services.

        `await source.token()` returns a `Token` and renews it before it expires, once for all
        callers. No request is sent until the first call.

        Example:
            >>> source = sessions.token_source("sess_1", "custom_hasura")
            >>> token = await source.token()
            >>> headers = {"Authorization": f"Bearer {token.jwt}"}

        Args:
            session_id: The session.
            template: A JWT template, such as `custom_hasura`; None for session tokens.
            expires_in_seconds: The lifetime of each token, 30 to 315360000; the default is the
                service's 60, or the template's own.

        Raises:
            InvalidArgumentError: If an argument is invalid.
        """
        if template is None:
            token_request(session_id, expires_in_seconds)  # checks the arguments
            create = partial(self.create_token, session_id, expires_in_seconds=expires_in_seconds)
        else:
            template_token_request(session_id, template, expires_in_seconds)
            create = partial(
                self.create_token_from_template,
                session_id,
                template,
                expires_in_seconds=expires_in_seconds,
            )
        return AsyncTokenSource(session_id, template, create)
