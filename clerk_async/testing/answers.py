"""Responses of the service as values: status, body and headers; and Clerk's error bodies.

Codes and statuses follow Clerk's error catalogue, https://clerk.com/docs/errors/backend-api.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import define, field, frozen

JSON = "application/json"

#: The default error code and message for each status.
ERRORS_BY_STATUS: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request is not valid."),
    401: ("authentication_invalid", "Invalid authentication"),
    403: ("authorization_invalid", "You are not authorized to perform this request"),
    404: ("resource_not_found", "not found"),
    405: ("method_not_allowed", "method not allowed"),
    409: ("resource_locked", "The resource is locked, please try again"),
    410: ("operation_deprecated", "This operation is deprecated"),
    422: ("form_param_value_invalid", "is invalid"),
    429: ("too_many_requests", "Too many requests. Please try again in a bit."),
    500: ("internal_clerk_error", "Oops, an unexpected error occurred"),
    502: ("bad_gateway", "Bad gateway"),
    503: ("service_unavailable", "Service unavailable"),
    504: ("gateway_timeout", "Gateway timeout"),
}


@frozen
class Answer:
    """An HTTP response: status, body, extra headers, and the content type (None for none)."""

    status: int
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(factory=dict[str, str], repr=False)
    content_type: str | None = JSON


@define(eq=False)
class Refusal(Exception):  # noqa: N818 - it is a response that operations raise to end early
    """An error response to an operation, with Clerk's status, code and message."""

    status: int
    code: str
    message: str
    long_message: str | None = field(default=None, kw_only=True)
    meta: dict[str, Any] | None = field(default=None, kw_only=True)
    headers: dict[str, str] = field(factory=dict[str, str], kw_only=True)


def usual_refusal(status: int, code: str | None = None, **headers: str) -> Refusal:
    """Return the usual refusal with a status, with another code if one is given."""
    usual, message = ERRORS_BY_STATUS.get(status, ("unexpected_error", "Unexpected error"))
    return Refusal(status, code or usual, message, headers=headers)


def encode(value: Any) -> Answer:
    """Return a response with a JSON value."""
    return Answer(200, msgspec.json.encode(value))


def refuse(refusal: Refusal, trace_id: str) -> Answer:
    """Return the response for a refusal: one error, and the trace id for Clerk's support."""
    long_message = refusal.message if refusal.long_message is None else refusal.long_message
    error: dict[str, Any] = {
        "message": refusal.message,
        "long_message": long_message,
        "code": refusal.code,
    }
    if refusal.meta is not None:
        error["meta"] = refusal.meta
    body = msgspec.json.encode({"errors": [error], "clerk_trace_id": trace_id})
    return Answer(refusal.status, body, refusal.headers)
