"""Plain requests to a FakeClerk with the standard library alone, without any client."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.testing import FakeClerk


@frozen
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code of Clerk."""
        code: str = self.json["errors"][0]["code"]
        return code


def call(
    fake: FakeClerk,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    key: str | None = "",
) -> Reply:
    """Send one request over a new connection; `path` is relative to the base URL."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
    try:
        sent: dict[str, str] = {"Connection": "close"}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or fake.secret_key}"
        sent.update(headers or {})
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        full = path if path.startswith("/.well-known") else f"/v1{path}"
        connection.request(method, full, body=data, headers=sent)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def get(fake: FakeClerk, path: str, **more: Any) -> Reply:
    """Send a GET."""
    return call(fake, "GET", path, **more)


def post(fake: FakeClerk, path: str, body: object = None, **more: Any) -> Reply:
    """Send a POST."""
    return call(fake, "POST", path, body, **more)
