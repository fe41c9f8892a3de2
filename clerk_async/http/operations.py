"""The service's operations as a table, and the argument checks that run before any I/O.

The table follows Clerk's Backend API (https://clerk.com/docs/reference/backend-api/tag/Sessions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import attrs
import msgspec

from clerk_async.config import VERIFY_API_VERSION, check_integer
from clerk_async.errors import InvalidArgumentError
from clerk_async.models import Token
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_BOUNDS: Final = (1, 500)
LIFETIME_BOUNDS: Final = (30, 315360000)
"""The shortest and the longest lifetime of a token, in seconds."""

_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9_.~-]+")


class RetryClass(Enum):
    """What a retry of an operation may do; `clerk_async.http.retry` decides by it."""

    SAFE = "a retry changes nothing, or has the same effect again"
    CREATES = "a retry could create a second session"
    CONSUMES = "a retry is rejected, because the first request used the token up"


@attrs.frozen
class Operation:
    """One row of the table: method, path, what a retry may do, and the API version if pinned.

    The service's rate limit counts every operation for which `is_limited` is true.
    """

    name: str
    method: str
    head: str
    tail: str = ""
    retry: RetryClass = RetryClass.SAFE
    api_version: str | None = None
    is_limited: bool = True


# The path is `head` alone, or `head`, the session's id and `tail`.
LIST: Final = Operation("list", "GET", "/sessions")
CREATE: Final = Operation("create", "POST", "/sessions", retry=RetryClass.CREATES)
GET: Final = Operation("get", "GET", "/sessions/")
REFRESH: Final = Operation("refresh", "POST", "/sessions/", "/refresh", retry=RetryClass.CONSUMES)
REVOKE: Final = Operation("revoke", "POST", "/sessions/", "/revoke")
VERIFY: Final = Operation("verify", "POST", "/sessions/", "/verify", api_version=VERIFY_API_VERSION)
CREATE_TOKEN: Final = Operation("create_token", "POST", "/sessions/", "/tokens")
CREATE_TOKEN_FROM_TEMPLATE: Final = Operation(
    "create_token_from_template", "POST", "/sessions/", "/tokens/"
)
JWKS: Final = Operation("jwks", "GET", "/jwks", is_limited=False)

OPERATIONS: Final[Mapping[str, Operation]] = {
    row.name: row
    for row in (
        LIST,
        CREATE,
        GET,
        REFRESH,
        REVOKE,
        VERIFY,
        CREATE_TOKEN,
        CREATE_TOKEN_FROM_TEMPLATE,
        JWKS,
    )
}


class Request:
    """The request of one call, the same for each attempt."""

    __slots__ = (
        "body",
        "client_id",
        "headers",
        "operation",
        "path",
        "query",
        "secrets",
        "session_id",
        "user_id",
    )

    def __init__(
        self,
        operation: Operation,
        path: str,
        query: str = "",
        body: Mapping[str, Any] | None = None,
        *,
        session_id: object = None,
    ) -> None:
        self.operation: Operation = operation
        self.path: str = path
        self.query: str = query
        self.body: Mapping[str, Any] | None = body
        self.secrets: tuple[str, ...] = ()
        # The response must be about these, if it names any.
        self.session_id: object = session_id
        self.user_id: object = None
        self.client_id: object = None
        # Only the headers that differ from the client's.
        self.headers: dict[str, str] | None = None
        if body is not None:
            self.headers = {"Content-Type": "application/json"}
            if operation.api_version is not None:
                self.headers["Clerk-API-Version"] = operation.api_version

    def encoded_body(self) -> bytes | None:
        """Return the body as JSON."""
        return None if self.body is None else msgspec.json.encode(self.body)

    def __repr__(self) -> str:
        return f"Request({self.operation.name}, {redact(self.path)!r})"


def path_segment(name: str, value: object) -> str:
    """Encode `value` as one path segment; reject a value that could leave the segment.

    A path such as `/sessions/../users/user_1` would be normalized on the way, and reach another
    resource with the secret key.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a str, not {type(value).__name__}")
    if _PLAIN_SEGMENT.fullmatch(value):
        if value in {".", ".."}:
            raise InvalidArgumentError(f"{name} must not be {value!r}")
        return value
    if not value:
        raise InvalidArgumentError(f"{name} is empty")
    for character in value:
        if character in "/\\?#" or character.isspace() or not character.isprintable():
            raise InvalidArgumentError(
                f"{name} contains {character!a}: slashes, ?, #, "
                "whitespace and control characters aren't allowed"
            )
    return quote(value, safe="")


def check_session_id(value: object) -> str:
    """Return a session's id, encoded for a path.

    Raises:
        InvalidArgumentError: If it isn't a str, is empty, `.` or `..`, or contains a slash, `?`,
            `#`, whitespace or a control character.
    """
    return path_segment("session_id", value)


def for_session(operation: Operation, session_id: object, **body: Any) -> Request:
    """Build a request for one session; leave out parameters that are None."""
    segment = path_segment("session_id", session_id)
    return Request(
        operation,
        f"{operation.head}{segment}{operation.tail}",
        body={name: value for name, value in body.items() if value is not None} or None,
        session_id=session_id,
    )


def revoke_request(session_id: object) -> Request:
    """Build the request of `revoke`, which has no body."""
    path = f"/sessions/{path_segment('session_id', session_id)}/revoke"
    return Request(REVOKE, path, session_id=session_id)


def list_request(
    *, client_id: object, user_id: object, status: object, limit: object, offset: object
) -> Request:
    """Build the request of `list`, in the form whose response includes the total count."""
    query: list[str] = []
    for name, value in (("client_id", client_id), ("user_id", user_id), ("status", status)):
        if value is not None:
            text = check_text(name, getattr(value, "value", value))
            is_plain = _PLAIN_SEGMENT.fullmatch(text)
            query.append(f"{name}={text if is_plain else quote(text, safe='')}")
    query.append("paginated=true")
    if limit is not None:
        low, high = LIMIT_BOUNDS
        query.append(f"limit={check_integer('limit', limit, low=low, high=high):d}")
    if offset is not None:
        query.append(f"offset={check_integer('offset', offset, low=0):d}")
    request = Request(LIST, LIST.head, "&".join(query))
    request.user_id, request.client_id = user_id, client_id
    return request


def create_request(user_id: object, active_organization_id: object) -> Request:
    """Build the request of `create`."""
    body = {"user_id": check_text("user_id", user_id)}
    if active_organization_id is not None:
        body["active_organization_id"] = check_text(
            "active_organization_id", active_organization_id
        )
    request = Request(CREATE, CREATE.head, body=body)
    request.user_id = body["user_id"]
    return request


def token_request(session_id: object, expires_in_seconds: object) -> Request:
    """Build the request of `create_token`."""
    lifetime = _lifetime(expires_in_seconds)
    return for_session(CREATE_TOKEN, session_id, expires_in_seconds=lifetime)


def template_token_request(
    session_id: object, template_name: object, expires_in_seconds: object
) -> Request:
    """Build the request of `create_token_from_template`."""
    lifetime = _lifetime(expires_in_seconds)
    request = for_session(CREATE_TOKEN_FROM_TEMPLATE, session_id, expires_in_seconds=lifetime)
    request.path += path_segment("template_name", template_name)
    return request


def _lifetime(seconds: object) -> int | None:
    low, high = LIFETIME_BOUNDS
    return (
        None
        if seconds is None
        else check_integer("expires_in_seconds", seconds, low=low, high=high)
    )


def verify_request(session_id: object, token: object) -> Request:
    """Build the request of `verify`, which has its own API version."""
    text = check_text("token", token.jwt if isinstance(token, Token) else token)
    request = for_session(VERIFY, session_id, token=text)
    request.secrets = (text,)
    return request


def refresh_request(
    session_id: object,
    *,
    expired_token: object,
    refresh_token: object,
    request_origin: object,
    request_headers: object,
    format: object,  # noqa: A002 - the service's own name
    request_originating_ip: object,
    suffixed_cookies: object,
) -> Request:
    """Build the request of `refresh`.

    `suffixed_cookies` is a query parameter that Clerk's JavaScript SDK sends but the published API
    description doesn't list.
    """
    expired = check_text("expired_token", expired_token)
    refresh = check_text("refresh_token", refresh_token)
    if format not in (None, "token", "cookie"):  # a tuple, so that unhashable values are rejected
        raise InvalidArgumentError('format must be "token" or "cookie"')
    if not (suffixed_cookies is None or isinstance(suffixed_cookies, bool)):
        raise InvalidArgumentError("suffixed_cookies must be True, False or None")
    ip = request_originating_ip
    headers = _headers(request_headers)
    request = for_session(
        REFRESH,
        session_id,
        expired_token=expired,
        refresh_token=refresh,
        request_origin=check_text("request_origin", request_origin),
        request_headers=headers,
        format=format,
        request_originating_ip=None if ip is None else check_text("request_originating_ip", ip),
    )
    if suffixed_cookies is not None:
        request.query = f"suffixed_cookies={'true' if suffixed_cookies else 'false'}"
    request.secrets = (expired, refresh, *_secret_headers(headers))
    return request


def check_text(name: str, value: object) -> str:
    """Return a string that isn't empty and has only printable characters; reject anything else."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a str, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgumentError(f"{name} is empty")
    if not value.isprintable():
        raise InvalidArgumentError(f"{name} contains control characters")
    return value


def _headers(headers: object) -> Mapping[str, list[str]] | None:
    """Return headers in the service's format: each name maps to a list of values."""
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError("request_headers must be a mapping")
    checked: dict[str, list[str]] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(name, str) or not isinstance(values, list | tuple):
            raise InvalidArgumentError("request_headers must map names to a str or a list of them")
        texts = [text for text in cast("list[object]", values) if isinstance(text, str)]
        if len(texts) != len(values) or not all(map(_is_utf8, (name, *texts))):  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidArgumentError("request_headers: a name or value can't be sent as UTF-8")
        checked[name] = texts
    return checked


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _secret_headers(headers: Mapping[str, list[str]] | None) -> Iterator[str]:
    for name, values in (headers or {}).items():
        if name.lower() in {"authorization", "cookie", "proxy-authorization"}:
            yield from values
