"""A received request: one entry of `fake.requests`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Mapping


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
