"""Turns a response with an error status into an error, whatever its body looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from clerk_async.errors import (
    MAX_KEPT_BODY,
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ErrorDetail,
    GoneError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnprocessableEntityError,
)
from clerk_async.http.retry import parse_retry_after
from clerk_async.http.shapes import array_of, object_of
from clerk_async.redaction import ResponseHeaders, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_READ_MESSAGE: Final = 20_000
_READ_BODY: Final = 65_536
"""For a longer body, a pickled error keeps only code and message: no real error is that long."""
_SHOWN_MESSAGE: Final = 500
_ADVICE: Final[Mapping[int, str]] = {
    401: "is the secret key right, and does it belong to this instance?",
    404: "does it exist in the instance of this key?",
}
_OF_THE_KEY: Final = frozenset(
    {"authentication_invalid", "authorization_header_format_invalid", "clerk_key_invalid"}
)
_OF_A_REFRESH: Final = ("refresh_", "session_refresh_", "expired_session_token_")
"""The prefixes of codes that refuse a refresh: they are about that session, not about the key."""


_CLASS_OF_STATUS = {
    each._stands_for: each  # noqa: SLF001 - ours
    for each in (
        BadRequestError,
        AuthenticationError,
        PermissionDeniedError,
        NotFoundError,
        ConflictError,
        GoneError,
        UnprocessableEntityError,
        RateLimitedError,
    )
}
_FIRST_SERVER_STATUS: Final = 500


def error_class_for(status: int) -> type[ApiError]:
    """Return the error class for an HTTP status."""
    if status >= _FIRST_SERVER_STATUS:
        return ServerError
    return _CLASS_OF_STATUS.get(status, ApiError)


def api_error(
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    secrets: Iterable[str],
    *,
    now: float,
    path: str = "",
) -> ApiError:
    """Return the error for a response with this status, whatever its body looks like.

    Args:
        status: The HTTP status.
        body: The body; if it isn't a Clerk error, `errors` stays empty.
        headers: The headers, in lower case or in a case-insensitive mapping.
        secrets: The texts that no message or pickle of the error may contain.
        now: The current time in seconds since the epoch, for a Retry-After that is a date.
        path: The requested path, without the base URL.
    """
    secrets = tuple(secrets)
    details: list[ErrorDetail] = []
    trace: Any = None
    meta: dict[str, Any] | None = None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if (fields := object_of(value)) is not None:
        entries = array_of(fields.get("errors")) or []
        details = [_detail(entry) for entry in map(object_of, entries) if entry is not None]
        trace = fields.get("clerk_trace_id")
        meta = object_of(fields.get("meta"))
    if not isinstance(trace, str) or not trace:
        trace = headers.get("cf-ray")
    code = (_shown(details[0].code, secrets) or None) if details else None
    told = "; ".join(filter(None, map(_told, details[:3])))
    message = f"{status}: {told}" if told else f"{status} without an error message from Clerk"
    if status in _ADVICE and not _is_about_session(code, path):
        message = f"{message} ({_ADVICE[status]})"
    error = error_class_for(status)(
        _shown(message, secrets),
        status=status,
        errors=tuple(details),
        trace_id=None if trace is None else _shown(trace, secrets),
        retry_after=parse_retry_after(headers.get("Retry-After"), now),
        headers=ResponseHeaders(headers.items(), secrets),
        meta=meta,
        body=body[:MAX_KEPT_BODY],
        path=path,
    )
    error.code = code
    if len(body) > _READ_BODY:
        error._hide(secrets, errors=(), meta=None, body=b"")  # noqa: SLF001 - ours
    elif len(body) > MAX_KEPT_BODY:
        error._hide(secrets, body=b"")  # noqa: SLF001 - ours; half a secret isn't recognized
    else:
        error._hide(secrets)  # noqa: SLF001 - ours
    return error


def refuses_key(error: BaseException | None, *, of_a_refresh: bool = False) -> bool:
    """Whether the service rejected the secret key, and so will reject all further requests.

    Args:
        error: The service's error.
        of_a_refresh: Whether the call is known to be a refresh; otherwise the path decides.
    """
    if isinstance(error, AuthenticationError):
        return not _is_about_session(error.code, "/refresh" if of_a_refresh else error.path)
    return isinstance(error, PermissionDeniedError)


def _is_about_session(code: str | None, path: str) -> bool:
    """Whether a 401 means that a session can't be refreshed, rather than that the key is wrong.

    Source: https://clerk.com/docs/reference/backend-api/tag/Sessions#operation/RefreshSession
    """
    if code in _OF_THE_KEY:
        return False
    return path.endswith("/refresh") or (code or "").startswith(_OF_A_REFRESH)


def _shown(text: str, secrets: Iterable[str]) -> str:
    return redact(_beginning(text), secrets)[:_SHOWN_MESSAGE]


def _told(detail: ErrorDetail) -> str:
    text, code = _beginning(detail.long_message or detail.message), _beginning(detail.code)
    return f"{text} [{code}]".lstrip() if code else text


def _beginning(text: str) -> str:
    """Return the start of a long text, up to a whole word: half a secret isn't recognized."""
    return text if len(text) <= _READ_MESSAGE else text[:_READ_MESSAGE].rpartition(" ")[0]


def _detail(entry: dict[str, Any]) -> ErrorDetail:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    meta = entry.get("meta")
    return ErrorDetail(text("message"), text("long_message"), text("code"), object_of(meta))
