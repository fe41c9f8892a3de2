"""What reaches the fake and what it answers, as values: requests, responses, Clerk's error bodies.

Codes and statuses follow Clerk's error catalogue, https://clerk.com/docs/errors/backend-api.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@define(eq=False)
class ReceivedRequest:
    """One request as it arrived on the wire.

    The repr leaves out headers, query and body, because they may contain the key or a token.

    Attributes:
        method: The HTTP method.
        path: The path as sent, with percent-encoding and `/v1`, without the query.
        query_string: The query as sent, without its question mark.
        headers: The headers; lookups ignore the case of the name.
        body: The raw body.
        operation: `list`, `create`, `get`, `refresh`, `revoke`, `verify`, `create_token`,
            `create_token_from_template` or `jwks`; None if no operation matches.
        session_id: The session id of the path, decoded, or None.
        time: When it arrived, in seconds on the fake's monotonic clock.
        connection: The number of its connection, from 1.
        status: The status of the response; None if there is no response (yet).
        processed: Whether the fake acted on the request (a fault may have prevented that).
        ended_at: When it was answered, cut or given up, on the same clock; None before that.
    """

    method: str
    path: str
    query_string: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    operation: str | None
    session_id: str | None
    time: float
    connection: int
    body: bytes = field(default=b"", repr=False)
    status: int | None = None
    processed: bool = False
    ended_at: float | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, decoded; if a name occurs twice, the last value counts."""
        from urllib.parse import parse_qsl  # noqa: PLC0415 - not needed to handle a request

        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The body decoded as JSON, or None if there is no body.

        Raises:
            ValueError: If the body is not JSON.
        """
        if not self.body:
            return None
        return msgspec.json.decode(self.body)


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
