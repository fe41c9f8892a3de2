"""Checks that a response belongs to its request.

A response to another call is complete and well formed, and the connection can't always tell. So we
compare what the response says with the request: the session's id, its user and client if they were
requested, and the session that a token was made for. Fields that the response lacks are not
compared.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from clerk_async.errors import ResponseDecodeError
from clerk_async.http.operations import CREATE_TOKEN_FROM_TEMPLATE
from clerk_async.http.shapes import array_of, object_of
from clerk_async.models import Cookies, Session, SessionPage, Token
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clerk_async.http.operations import Request

_SHOWN: Final = 100
_USER: Final = attrgetter("user_id")
_CLIENT: Final = attrgetter("client_id")


def confirm(value: object, request: Request, body: bytes) -> None:
    """Check that a decoded response belongs to this request; entries that can't be read, too.

    Raises:
        ResponseDecodeError: If the response is about another session, user or client.
    """
    kind = type(value)
    if kind is SessionPage:
        _compare_page(cast("SessionPage", value), request, body)
    elif kind is Session:
        session = cast("Session", value)
        _compare(request.session_id, session.id, "$.id")
        _compare(request.user_id, session.user_id, "$.user_id")
    elif request.operation is not CREATE_TOKEN_FROM_TEMPLATE:  # whose claims are the user's own
        for where, token in _session_tokens(value):
            _compare(request.session_id, _session_of(token), where)


def _compare(asked: object, found: object, where: str) -> None:
    """Raise an error if `found` differs from `asked`; skip if either is missing."""
    if asked is None or not isinstance(found, str) or not found or found == asked:
        return
    raise ResponseDecodeError(
        f"the response belongs to another request: at {where}, {asked} was expected "
        f"but {redact(found)[:_SHOWN]} found",
        json_path=where,
    )


def _compare_page(page: SessionPage, request: Request, body: bytes) -> None:
    for name, asked, owner_of in (
        ("user_id", request.user_id, _USER),
        ("client_id", request.client_id, _CLIENT),
    ):
        if asked is not None and (set(map(owner_of, page.data)) - {asked} or page.unreadable):
            for index, entry in enumerate(_entries(body)):
                _compare(asked, entry.get(name), f"$.data[{index}].{name}")


def _entries(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the raw entries of a list, including those that aren't sessions."""
    value = msgspec.json.decode(body)
    fields = object_of(value)
    for entry in array_of(value if fields is None else fields.get("data")) or ():
        yield object_of(entry) or {}


def _session_tokens(value: object) -> Iterator[tuple[str, str]]:
    """Yield each session token of a response, after its path."""
    if isinstance(value, Token):
        yield "$.jwt", value.jwt
    elif isinstance(value, Cookies):
        for index, line in enumerate(value.cookies):
            name, _, rest = line.partition("=")
            if name.startswith("__session"):
                yield f"$.cookies[{index}]", rest.partition(";")[0]


def _session_of(token: str) -> object:
    """Return the session that a token was made for, or None; this verifies nothing."""
    claims: Any = None
    with suppress(ValueError, binascii.Error, msgspec.DecodeError, RecursionError):
        _, payload, _ = token.split(".")
        claims = msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return (object_of(claims) or {}).get("sid")
