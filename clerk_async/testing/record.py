"""What arrived: one entry of `fake.requests`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Mapping


@define(eq=False)
class ReceivedRequest:
    """One request as it arrived on the wire.

    Headers, query and body are left out of the repr: they may hold the key or a token.

    Attributes:
        method: The HTTP method.
        path: The path as it was sent, percent-encoding and `/v1` included, without the query.
        query_string: The query as it was sent, without its question mark.
        headers: The headers; looking one up ignores the case of its name.
        body: The raw body.
        operation: `list`, `create`, `get`, `refresh`, `revoke`, `verify`, `create_token`,
            `create_token_from_template`, `jwks`; None where nothing of Clerk's matches.
        session_id: The session id of the path, decoded, or None.
        time: When it arrived, in seconds of the fake's monotonic clock.
        connection: The number of the connection it came through, from 1.
        status: The status it was answered with; None while, or because, there is no answer.
        processed: Whether the fake acted on it (a fault may have kept it from that).
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
        """The query's parameters, decoded (the last one of a name that comes twice)."""
        from urllib.parse import parse_qsl  # noqa: PLC0415 - kept off the path of every request

        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The body decoded as JSON; None where there is no body.

        Raises:
            ValueError: If the body is not JSON.
        """
        if not self.body:
            return None
        return msgspec.json.decode(self.body)
