"""Webhook events: the envelope and its session, read as tolerantly as API responses."""

from __future__ import annotations

import logging
from collections.abc import Mapping  # noqa: TC003 - type hints of WebhookEvent resolve
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

from clerk_async.errors import WebhookVerificationError
from clerk_async.http.shapes import UnreadableError
from clerk_async.models import LAST_MILLISECOND, Session
from clerk_async.tokens.claims import thawed

if TYPE_CHECKING:
    from clerk_async.denials.table import Denials
    from clerk_async.http.shapes import Losses

_LOGGER: Final = logging.getLogger("clerk_async.webhooks")
_EFFECTIVE: Final = frozenset(
    {"session.revoked", "session.ended", "session.removed", "session.pending", "user.deleted"}
)
_FIRST_IN_MILLISECONDS: Final = 100_000_000_000
"""A timestamp from here on counts milliseconds: as seconds, it would lie beyond the year 5000."""


@attrs.frozen(kw_only=True)
class WebhookEvent:
    """A verified event.

    Attributes:
        type: What happened, such as `session.revoked` or `user.deleted`.
        time: When it happened, an aware UTC datetime. Events may come late, twice and in any order:
            this time counts, not that of the delivery.
        id: The delivery's id (`svix-id`). A repeat has the same id, so you can recognize repeats.
        instance_id: The Clerk instance, such as `ins_…`; None if the event doesn't say.
        data: The subject of the event, as received; read-only at every level.
        session: The session of a session event; None for other events, or if it can't be read.

    Source: https://clerk.com/docs/webhooks/overview
    """

    type: str
    time: datetime
    id: str
    instance_id: str | None
    data: Mapping[str, Any] = attrs.field(repr=False, hash=False)
    session: Session | None = attrs.field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        fields = attrs.asdict(self, recurse=False)
        return {**fields, "data": thawed(self.data)}  # a read-only mapping can't be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "data": _read_only(state["data"])}.items():
            object.__setattr__(self, name, value)


def read_event(body: bytes, delivery_id: str, sent_at: float, losses: Losses) -> WebhookEvent:
    """Read a body whose signature has been verified.

    Args:
        body: The raw body.
        delivery_id: The `svix-id`.
        sent_at: The `svix-timestamp` in Unix seconds, used if the event's own time can't be read.
        losses: Records session fields that can't be read.

    Raises:
        WebhookVerificationError: If the body is not a JSON object with a type and data.
    """
    try:
        envelope: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope = None  # the error contains the body, and must not be chained
    if not isinstance(envelope, dict):
        raise WebhookVerificationError("the body of the webhook is not a JSON object")
    fields = cast("dict[str, Any]", envelope)
    kind, data, instance_id = fields.get("type"), fields.get("data"), fields.get("instance_id")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise WebhookVerificationError("the body of the webhook lacks its type or its data")
    members = cast("dict[str, Any]", data)
    return WebhookEvent(
        type=kind,
        time=_time_of(fields.get("timestamp"), sent_at),
        id=delivery_id,
        instance_id=instance_id if isinstance(instance_id, str) else None,
        data=cast("Mapping[str, Any]", _read_only(members)),
        session=_session_of(members, losses) if kind.startswith("session.") else None,
    )


def _time_of(timestamp: object, sent_at: float) -> datetime:
    # Clerk's documentation shows milliseconds, and the examples of its OpenAPI file seconds.
    if type(timestamp) is int and 0 < timestamp <= LAST_MILLISECOND:
        seconds = timestamp / 1000 if timestamp >= _FIRST_IN_MILLISECONDS else timestamp
        return datetime.fromtimestamp(seconds, UTC)
    _LOGGER.warning("a webhook has no readable timestamp: the time of its delivery is used")
    return datetime.fromtimestamp(sent_at, UTC)


def _session_of(data: dict[str, Any], losses: Losses) -> Session | None:
    from clerk_async.http.tolerant import converter_for  # noqa: PLC0415 - takes time to import

    try:
        return converter_for(losses).structure(data, Session)
    except UnreadableError as error:
        _LOGGER.warning("the session of a webhook can't be read: %s", error)
        return None


def _read_only(value: object) -> object:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return MappingProxyType({name: _read_only(member) for name, member in members.items()})
    if isinstance(value, list):
        return tuple(_read_only(item) for item in cast("list[object]", value))
    return value


def has_effect(event: WebhookEvent) -> bool:
    """Whether an event denies anything."""
    return event.type in _EFFECTIVE


def apply_event(event: WebhookEvent, denials: Denials) -> None:
    """Deny the session or user that an event ends, as of the event's own time.

    A late or repeated event never undoes an `allow` that came after it.
    """
    subject = event.data.get("id")
    if not isinstance(subject, str) or not subject:
        _LOGGER.warning("a webhook of type %s has no id, and so no effect", event.type)
        return
    happened_at = event.time.timestamp()
    if event.type == "user.deleted":
        denials.deny_user(subject, happened_at=happened_at)
    elif event.type == "session.pending":
        # No event says when the user has completed the pending task, so later tokens must pass.
        denials.deny_sessions([subject], issued_until=happened_at, happened_at=happened_at)
    else:
        denials.deny_sessions([subject], happened_at=happened_at)
