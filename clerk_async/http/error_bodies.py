"""What an answer with an error status means, whatever its body looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from clerk_async.errors import ErrorDetail, error_class_for
from clerk_async.http.retry import parse_retry_after
from clerk_async.http.shapes import array_of, object_of
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clerk_async.errors import ApiError

_READ_MESSAGE: Final = 20_000
_SHOWN_MESSAGE: Final = 500
_ADVICE: Final[Mapping[int, str]] = {
    401: "is the secret key right, and of this instance?",
    404: "does it exist in the instance of this key?",
}
_OF_A_REFRESH: Final = ("refresh_", "session_refresh_", "expired_session_token_")
"""How codes begin that refuse a refresh: they tell of that session, not of the key."""


def api_error(
    status: int, body: bytes, headers: Mapping[str, str], secrets: Iterable[str], now: float
) -> ApiError:
    """Make the error that an answer with this status means, whatever its body looks like.

    Args:
        status: The HTTP status.
        body: The body; one that is no Clerk error leaves `errors` empty.
        headers: For Retry-After and cf-ray, looked up in lower case or as a case-blind mapping.
        secrets: What must not stand in the message.
        now: The time in seconds since the epoch, for a Retry-After that is a date.
    """
    details: list[ErrorDetail] = []
    trace_id: str | None = None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if (fields := object_of(value)) is not None:
        entries = array_of(fields.get("errors")) or []
        details = [_detail(entry) for entry in map(object_of, entries) if entry is not None]
        trace = fields.get("clerk_trace_id")
        trace_id = trace if isinstance(trace, str) and trace else None
    told = "; ".join(filter(None, map(_told, details[:3])))
    message = f"{status}: {told}" if told else f"{status} without an error of the service's"
    is_about_session = details and details[0].code.startswith(_OF_A_REFRESH)
    if status in _ADVICE and not is_about_session:
        message = f"{message} ({_ADVICE[status]})"
    return error_class_for(status)(
        redact(message, secrets)[:_SHOWN_MESSAGE],
        status=status,
        errors=tuple(details),
        trace_id=trace_id or headers.get("cf-ray"),
        retry_after=parse_retry_after(headers.get("Retry-After"), now),
    )


def _told(detail: ErrorDetail) -> str:
    text, code = _beginning(detail.long_message or detail.message), _beginning(detail.code)
    return f"{text} [{code}]".lstrip() if code else text


def _beginning(text: str) -> str:
    """Give what is read of a text: up to a whole word, as no half of a secret is known for one."""
    return text if len(text) <= _READ_MESSAGE else text[:_READ_MESSAGE].rpartition(" ")[0]


def _detail(entry: dict[str, Any]) -> ErrorDetail:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    meta = entry.get("meta")
    return ErrorDetail(
        text("message"),
        text("long_message"),
        text("code"),
        object_of(meta),
    )
