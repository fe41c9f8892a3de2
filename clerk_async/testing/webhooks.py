"""The events that a fake instance signs and sends, as Clerk does through Svix.

The envelope and the events: https://clerk.com/docs/guides/development/webhooks/overview. The
signature: https://www.standardwebhooks.com, with Svix's header names.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import msgspec
from attrs import define, field

from .checks import json_object, milliseconds, must_be, number
from .gauges import Gauges
from .state import FakeSession, State

Message: TypeAlias = tuple[dict[str, str], bytes]
"""The headers and body of one request."""

SESSION_EVENTS = (
    "session.created",
    "session.pending",
    "session.ended",
    "session.removed",
    "session.revoked",
)
_TIMEOUT = 15.0
"""Seconds that a receiver may take; Svix waits equally long."""
_TAKEN = frozenset(range(200, 300))


@define(eq=False)
class Delivery:
    """An event that `FakeClerk.send_webhooks_to` sends.

    Attributes:
        type: The event's type, such as `session.revoked`.
        url: The receiver's URL.
        headers: The headers of the last attempt, including the signature.
        body: The body.
        is_done: Whether the last attempt has been made.
        status: The status of the last response; None if there was none (yet).
        error: Why the receiver could not be reached; None otherwise.
        attempts: The number of attempts so far.
    """

    type: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    is_done: bool = False
    status: int | None = None
    error: str | None = None
    attempts: int = 0


class Webhooks:
    """The webhook events of a fake instance; a base of `FakeClerk`."""

    _gauges: Gauges

    def __init__(self, state: State, *, seed: int) -> None:
        self._state = state
        self._event_ids = random.Random(f"webhooks {seed}")  # noqa: S311 - opens nothing but fakes
        self._signing_key = self._event_ids.randbytes(24)
        self._receiver: str | None = None
        self._deliveries: list[Delivery] = []
        self._outbox: deque[Delivery] = deque()
        self._delivering: asyncio.Task[None] | None = None
        self._retry_after: tuple[float, ...] = ()
        self._retrying: set[asyncio.Task[None]] = set()

    def _call_in_loop(self, function: Callable[[], object]) -> bool:
        raise NotImplementedError

    @property
    def webhook_secret(self) -> str:
        """The secret that signs events: `whsec_…`, as for `CLERK_WEBHOOK_SIGNING_SECRET`."""
        return f"whsec_{base64.b64encode(self._signing_key).decode('ascii')}"

    @property
    def instance_id(self) -> str:
        """The id of the instance in its events."""
        return f"ins_{hashlib.sha256(self._signing_key).hexdigest()[:27]}"

    @property
    def deliveries(self) -> list[Delivery]:
        """What `send_webhooks_to` sends, oldest first: a list that grows and that you may clear."""
        return self._deliveries

    def webhook(
        self,
        type: str,  # noqa: A002 - the envelope's own name
        session: FakeSession | str | None = None,
        *,
        user_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        happened_at: datetime | int | None = None,
        sent_at: datetime | int | None = None,
        message_id: str | None = None,
        secret: str | None = None,
    ) -> Message:
        """Return the headers and body of an event, as Clerk signs and sends it.

        Example:
            ```python
            headers, body = fake.webhook("session.revoked", session)
            headers, body = fake.webhook("user.deleted", user_id="user_1")
            ```

        Args:
            type: The event's type: a session event, `user.deleted`, or any other with its `data`.
            session: The session of a session event, or its id. The event has the status that
                its type names, whatever the session's status is.
            user_id: The user, for `user.deleted`.
            data: Other data than the usual.
            happened_at: The event's own time: an aware datetime or Unix milliseconds; now by
                default.
            sent_at: The time of the delivery, which the signature covers, likewise.
            message_id: The delivery's id; a new one by default. A repeated delivery has the same.
            secret: Another signing secret (`whsec_…`), as during a rotation.

        Raises:
            KeyError: If there is no such session.
            TypeError: If an argument has the wrong type, or one that the event needs is missing.
            ValueError: If a time has no time zone, or the secret is malformed.
        """
        if data is None:
            data = self._usual_data(type, session, user_id)
        now = self._state.now()
        happened = now if happened_at is None else milliseconds(happened_at)
        sent = now if sent_at is None else milliseconds(sent_at)
        body = msgspec.json.encode(
            {
                "data": json_object("data", data),
                "event_attributes": {
                    "http_request": {"client_ip": "203.0.113.7", "user_agent": "FakeClerk"}
                },
                "instance_id": self.instance_id,
                "object": "event",
                "timestamp": happened,
                "type": must_be("type", type, str),
            }
        )
        if message_id is None:
            message_id = f"msg_{self._event_ids.getrandbits(128):032x}"
        return _signed(body, message_id, sent // 1000, self._key_of(secret)), body

    def _usual_data(
        self, type_: str, session: FakeSession | str | None, user_id: str | None
    ) -> dict[str, Any]:
        if type_ == "user.deleted":
            if user_id is None:
                raise TypeError("user.deleted needs user_id=")
            return {"object": "user", "id": must_be("user_id", user_id, str), "deleted": True}
        if type_ not in SESSION_EVENTS:
            raise TypeError(f"{type_} needs data=: only session events and user.deleted are known")
        if session is None:
            raise TypeError(f"{type_} needs a session")
        whose = self._state.sessions[session] if isinstance(session, str) else session
        told = whose.as_json()
        if type_ != "session.created":
            told["status"] = type_.removeprefix("session.")
        return {**told, "user": _user(whose)}

    def _key_of(self, secret: str | None) -> bytes:
        if secret is None:
            return self._signing_key
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (AttributeError, binascii.Error):
            raise ValueError("secret must be whsec_ and base64") from None

    # Sending

    def send_webhooks_to(self, url: str | None, *, retry_after: Iterable[float] = ()) -> None:
        """Send an event for each change of state from now on, one after the other; None: stop.

        `session.created` and `session.pending` are sent for a session that is added with that
        status, by a request or a test; `session.revoked`, `session.ended`, `session.removed` and
        `session.pending` for a session that changes to it; `user.deleted` for a removed user.
        `deliveries` shows the result of each, and `wait_for` wakes up when one is done.

        Args:
            url: The receiver's URL.
            retry_after: Seconds after which to resend an event that did not get a 2xx, one number
                for each retry. A retry has the same id, is signed anew, and follows the events
                that were sent in the meantime. Clerk's begin with 5 and 300; the default is none.

        Raises:
            TypeError: If `retry_after` has something that is not a number.
            ValueError: If the URL is not http or https, or a number is negative.
        """
        waits = tuple(number("retry_after", each, least=0) for each in retry_after)
        if url is not None:
            parts = urlsplit(must_be("url", url, str))
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"url must be that of a receiver, not {url!r}")
        self._receiver, self._retry_after = url, waits
        self._state.on_event = None if url is None else self._send

    def _send(self, type_: str, session: FakeSession | None, user_id: str | None) -> None:
        url = self._receiver
        if url is None:
            return
        headers, body = self.webhook(type_, session, user_id=user_id)
        delivery = Delivery(type_, url, headers, body)
        self._deliveries.append(delivery)
        self._outbox.append(delivery)
        if not self._call_in_loop(self._begin_to_deliver):
            self._outbox.clear()
            delivery.is_done, delivery.error = True, "the fake is not running"

    def _forget_webhooks(self) -> None:
        self.send_webhooks_to(None)
        self._outbox.clear()
        self._deliveries.clear()
        if self._retrying:
            self._call_in_loop(self._stop_retrying)

    def _stop_retrying(self) -> None:
        for task in tuple(self._retrying):
            task.cancel()

    def _begin_to_deliver(self) -> None:
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.get_running_loop().create_task(self._deliver_all())

    async def _deliver_all(self) -> None:
        while self._outbox:
            await self._deliver(self._outbox.popleft())

    async def _deliver(self, delivery: Delivery) -> None:
        """Send it once; if that fails and a retry is left, another task sends it again."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        delivery.attempts += 1
        delivery.status = delivery.error = None
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(delivery.url, data=delivery.body, headers=delivery.headers) as answer,
            ):
                delivery.status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            delivery.error = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            self._end(delivery, "the fake was stopped")
            raise
        waits = self._retry_after[delivery.attempts - 1 :]
        if delivery.status in _TAKEN or not waits:
            self._end(delivery, delivery.error)
        else:
            task = asyncio.get_running_loop().create_task(self._deliver_again(delivery, waits[0]))
            self._retrying.add(task)
            task.add_done_callback(self._retrying.discard)

    async def _deliver_again(self, delivery: Delivery, wait: float) -> None:
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self._end(delivery, "the fake was stopped")
            raise
        now = self._state.now() // 1000
        delivery.headers = _signed(
            delivery.body, delivery.headers["svix-id"], now, self._signing_key
        )
        await self._deliver(delivery)

    def _end(self, delivery: Delivery, error: str | None) -> None:
        delivery.is_done, delivery.error = True, error
        self._gauges.tell()


def _signed(body: bytes, message_id: str, sent_at: int, key: bytes) -> dict[str, str]:
    signed = f"{message_id}.{sent_at}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii")
    return {
        "content-type": "application/json",
        "svix-id": message_id,
        "svix-timestamp": str(sent_at),
        "svix-signature": f"v1,{signature}",
    }


def _user(session: FakeSession) -> dict[str, Any]:
    """Return the user of a session event; the fake knows nothing about them but the id."""
    return {
        "object": "user",
        "id": session.user_id,
        **dict.fromkeys(_NOTHING.split()),
        **dict.fromkeys(_FALSE.split(), False),
        **dict.fromkeys(_TRUE.split(), True),
        **{name: [] for name in _NONE_OF.split()},
        **{name: {} for name in ("public_metadata", "private_metadata", "unsafe_metadata")},
        **dict.fromkeys(_TIMES.split(), session.created_at),
    }


_NOTHING = """
    external_id username first_name last_name primary_email_address_id primary_phone_number_id
    primary_web3_wallet_id mfa_enabled_at mfa_disabled_at lockout_expires_in_seconds
    verification_attempts_remaining legal_accepted_at create_organizations_limit
"""
_FALSE = "has_image two_factor_enabled totp_enabled backup_code_enabled banned locked"
_TRUE = "password_enabled delete_self_enabled create_organization_enabled"
_NONE_OF = """
    email_addresses phone_numbers web3_wallets passkeys external_accounts saml_accounts
    enterprise_accounts
"""
_TIMES = "created_at updated_at last_sign_in_at last_active_at"
