"""Receives Clerk's webhooks: checks the signature, reads the event, and applies it.

Clerk signs by the rules of Standard Webhooks, under the header names of Svix
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import clerk_async
from clerk_async.errors import ConfigurationError, InvalidArgumentError, WebhookVerificationError
from clerk_async.extras import require
from clerk_async.http.shapes import Losses
from clerk_async.redaction import sealed
from clerk_async.tokens.credentials import read_credentials
from clerk_async.webhooks.events import WebhookEvent, apply_event, has_effect, read_event

if TYPE_CHECKING:
    from standardwebhooks import Webhook

SECRET_VARIABLE: Final = "CLERK_WEBHOOK_SIGNING_SECRET"  # noqa: S105 - its name
_SIGNATURE: Final = re.compile(r"v1,[A-Za-z0-9+/]{43}=")  # HMAC-SHA256, in base64
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_HOW_TO_GET_THE_BODY: Final = (
    "the body must be the raw bytes, because the signature covers them: await request.body() in "
    "FastAPI and Starlette, await request.read() in aiohttp, request.get_data() in Flask, "
    "request.body in Django"
)


class _Receiver:
    """The verification that both receivers share; it never blocks."""

    def __init__(self, signing_secret: str | Sequence[str] | None) -> None:
        require("webhooks", needed_for="webhooks need")
        self._losses = Losses()
        self._is_settled = signing_secret is not None
        self._signers = _signers(signing_secret)

    def _settled(self) -> tuple[Webhook, ...]:
        """Return what checks signatures; secrets in the environment are read here, once."""
        if not self._is_settled:
            signers = _signers(None) or self._signers
            if not signers:
                raise _no_secret()
            self._signers, self._is_settled = signers, True
        return self._signers

    def _verified(self, headers_or_request: object, body: object) -> WebhookEvent:
        if not isinstance(body, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"{_HOW_TO_GET_THE_BODY}; not {type(body).__name__}")
        signers = self._settled()
        raw = bytes(cast("bytes", body))
        headers = read_credentials(headers_or_request).headers()
        delivery_id, sent_at, signatures = (
            _only(headers, f"svix-{name}") for name in ("id", "timestamp", "signature")
        )
        if _TIMESTAMP.fullmatch(sent_at) is None:
            raise WebhookVerificationError("svix-timestamp is not a Unix time in seconds")
        # The library stops at the first malformed signature and would not read later ones.
        wellformed = [each for each in signatures.split() if _SIGNATURE.fullmatch(each)]
        signed = {
            "webhook-id": delivery_id,
            "webhook-timestamp": sent_at,
            "webhook-signature": " ".join(wellformed),
        }
        reason = "no signature of the supported kind (v1)" if not wellformed else ""
        for signer in signers if wellformed else ():
            reason = _refusal(signer, raw, signed)
            if not reason:
                break
        if reason:
            raise WebhookVerificationError(f"the webhook was refused: {reason}")
        return read_event(raw, delivery_id, float(sent_at), self._losses)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} can't be pickled: it holds a signing secret")


class AsyncWebhookReceiver(_Receiver):
    """Receives Clerk's webhooks in an async app, and denies the sessions and users that they end.

    `session.revoked`, `session.ended` and `session.removed` deny the session, `user.deleted` denies
    the user, and `session.pending` denies the session's tokens issued until then. From then on,
    verifiers created with the same client reject them; with shared state, verifiers in all
    processes do. Other events are verified and returned, but have no effect.

    Example (FastAPI):
        >>> @app.post("/webhooks/clerk")
        ... async def clerk_webhook(request: Request) -> None:
        ...     try:
        ...         event = await receiver.receive(request, await request.body())
        ...     except WebhookVerificationError as error:
        ...         raise HTTPException(400) from error

    Args:
        sessions: The client whose denials the events change.
        signing_secret: `whsec_…` from the Clerk Dashboard, or a list of two while you rotate it.
            Default: `CLERK_WEBHOOK_SIGNING_SECRET`, with a space between two secrets; it is read
            with the first webhook, and a missing one is a `ConfigurationError` then.

    Raises:
        ConfigurationError: If a secret isn't base64 or decodes to nothing, or if the extra
            `webhooks` isn't installed.
    """

    @sealed
    def __init__(
        self,
        *,
        sessions: clerk_async.AsyncSessionsApi,
        signing_secret: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(signing_secret)
        self._sessions = sessions

    @sealed
    async def receive(self, headers_or_request: object, body: bytes) -> WebhookEvent:
        """Verify a webhook, apply it, and return its event.

        Args:
            headers_or_request: The request of any framework, or its headers.
            body: The raw body, before any decoding.

        Returns:
            The event. The same event may come several times, late and in any order.

        Raises:
            WebhookVerificationError: If a header is missing or malformed, if the time is more than
                five minutes off, if no signature matches, or if the body can't be read. Respond
                with status 400.
            InvalidArgumentError: If the body isn't bytes, or if the headers can't be read.

        Source: https://clerk.com/docs/webhooks/overview
        """
        event = self._verified(headers_or_request, body)
        if has_effect(event):
            await self._sessions._change_denials(partial(apply_event, event))  # noqa: SLF001 - ours
        return event


class WebhookReceiver(_Receiver):
    """Receives Clerk's webhooks in a sync app, and denies the sessions and users that they end.

    `session.revoked`, `session.ended` and `session.removed` deny the session, `user.deleted` denies
    the user, and `session.pending` denies the session's tokens issued until then. From then on,
    verifiers created with the same client reject them; with shared state, verifiers in all
    processes do. Other events are verified and returned, but have no effect.

    Example (Flask):
        >>> @app.post("/webhooks/clerk")
        ... def clerk_webhook() -> tuple[str, int]:
        ...     try:
        ...         event = receiver.receive(request, request.get_data())
        ...     except WebhookVerificationError:
        ...         return "", 400
        ...     return "", 204

    Args:
        sessions: The client whose denials the events change.
        signing_secret: `whsec_…` from the Clerk Dashboard, or a list of two while you rotate it.
            Default: `CLERK_WEBHOOK_SIGNING_SECRET`, with a space between two secrets; it is read
            with the first webhook, and a missing one is a `ConfigurationError` then.

    Raises:
        ConfigurationError: If a secret isn't base64 or decodes to nothing, or if the extra
            `webhooks` isn't installed.
    """

    @sealed
    def __init__(
        self,
        *,
        sessions: clerk_async.SessionsApi,
        signing_secret: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(signing_secret)
        self._sessions = sessions

    @sealed
    def receive(self, headers_or_request: object, body: bytes) -> WebhookEvent:
        """Verify a webhook, apply it, and return its event.

        Args:
            headers_or_request: The request of any framework, or its headers.
            body: The raw body, before any decoding.

        Returns:
            The event. The same event may come several times, late and in any order.

        Raises:
            WebhookVerificationError: If a header is missing or malformed, if the time is more than
                five minutes off, if no signature matches, or if the body can't be read. Respond
                with status 400.
            InvalidArgumentError: If the body isn't bytes, or if the headers can't be read.

        Source: https://clerk.com/docs/webhooks/overview
        """
        event = self._verified(headers_or_request, body)
        if has_effect(event):
            self._sessions._change_denials(partial(apply_event, event))  # noqa: SLF001 - ours
        return event


def _only(headers: dict[str, list[str]], name: str) -> str:
    values = {value.strip() for value in headers.get(name, ())} - {""}
    if len(values) != 1:
        what = "is missing" if not values else "comes with several values"
        raise WebhookVerificationError(f"the header {name} {what}")
    return values.pop()


def _refusal(signer: Webhook, body: bytes, headers: dict[str, str]) -> str:
    """Return why a signature isn't accepted; an empty string if it is."""
    from standardwebhooks import WebhookVerificationError as Refused  # noqa: PLC0415 - an extra

    try:
        signer.verify(body, headers, json_parse=False)
    except Refused as refused:
        return str(refused)[:1].lower() + str(refused)[1:]
    except ValueError:  # a body that isn't UTF-8, or a header that can't be encoded
        return "the body or a header is not UTF-8"
    return ""


def _signers(given: str | Sequence[str] | None) -> tuple[Webhook, ...]:
    """Return one for each secret; none if none is given and the environment has none."""
    values = os.environ.get(SECRET_VARIABLE, "") if given is None else given
    if isinstance(values, str):
        secrets: list[str] = values.split()
    else:
        secrets = list(values) if isinstance(values, Iterable) else [values]  # pyright: ignore[reportUnnecessaryIsInstance] - of untyped callers
    if not all(isinstance(each, str) for each in secrets):  # pyright: ignore[reportUnnecessaryIsInstance] - likewise
        raise ConfigurationError("signing_secret must be a str, or a list of them")
    if given is not None and not secrets:
        raise _no_secret()
    return tuple(map(_signer, secrets))


def _no_secret() -> ConfigurationError:
    return ConfigurationError(
        f"no signing secret: set {SECRET_VARIABLE} or pass signing_secret (you find it under "
        '"Webhooks" in the Clerk Dashboard; it begins with whsec_)'
    )


def _signer(secret: str) -> Webhook:
    from standardwebhooks import Webhook  # noqa: PLC0415 - an extra

    encoded = secret.strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigurationError(
            "a signing secret must be whsec_ and then base64, as the Clerk Dashboard shows it"
        )
    return Webhook(key)
