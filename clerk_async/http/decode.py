"""Decodes responses: from JSON to models, and to the values that methods return.

A body that exactly matches the contract is decoded straight into wire structs, which is fast. Any
other body goes through `clerk_async.http.tolerant`, field by field. A test ensures that both ways
return equal values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import attrs
import msgspec

from clerk_async.errors import ResponseDecodeError
from clerk_async.http.identity import confirm
from clerk_async.http.shapes import Losses, UnreadableError, array_of, kind_of, object_of
from clerk_async.models import (
    FIRST_MILLISECOND,
    LAST_MILLISECOND,
    ApiResponse,
    Cookies,
    Session,
    SessionActivity,
    SessionPage,
    SessionStatus,
    SessionTask,
    Token,
    UnreadableItem,
)
from clerk_async.redaction import JsonValue, ResponseHeaders, empty_frames, redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.http.operations import Request
    from clerk_async.http.transport import Answer

T = TypeVar("T")

_Time = Annotated[int, msgspec.Meta(ge=FIRST_MILLISECOND, le=LAST_MILLISECOND)]
_Id = Annotated[str, msgspec.Meta(min_length=1)]


class _SessionWire(msgspec.Struct, gc=False):  # short-lived and never in a reference cycle
    object: Literal["session"]
    id: _Id
    user_id: str
    client_id: str
    status: SessionStatus
    last_active_at: _Time
    expire_at: _Time
    abandon_at: _Time
    updated_at: _Time
    created_at: _Time
    actor: dict[str, Any] | None = None
    last_active_organization_id: str | None = None
    latest_activity: SessionActivity | None = None
    tasks: tuple[SessionTask, ...] | None = None


class _PageWire(msgspec.Struct):
    data: list[_SessionWire]
    total_count: Annotated[int, msgspec.Meta(ge=0)]


class _TokenWire(msgspec.Struct):
    object: Literal["token"]
    jwt: str


_token_decoder = msgspec.json.Decoder(_TokenWire)
_session_decoder = msgspec.json.Decoder(_SessionWire)
_page_decoder = msgspec.json.Decoder(_PageWire)
_rows_decoder = msgspec.json.Decoder(list[_SessionWire])


class _Blank(JsonValue):
    """A session that can be written to; its layout is that of `Session`."""

    __slots__ = tuple(field.name for field in attrs.fields(Session))


_new: Any = object.__new__


def _session_of(wire: _SessionWire) -> Session:
    """Return the session; the values need no check and no conversion.

    A frozen class sets each attribute through a method, which takes half of the time of decoding a
    list. So we write to a blank, and then make it a session.
    """
    session = _new(_Blank)
    session.id = wire.id
    session.status = wire.status
    session.user_id = wire.user_id
    session.client_id = wire.client_id
    session.actor = wire.actor
    session.last_active_organization_id = wire.last_active_organization_id
    session.latest_activity = wire.latest_activity
    session.tasks = wire.tasks
    session.object = wire.object
    session._last_active_at = wire.last_active_at  # noqa: SLF001 - ours
    session._expire_at = wire.expire_at  # noqa: SLF001
    session._abandon_at = wire.abandon_at  # noqa: SLF001
    session._updated_at = wire.updated_at  # noqa: SLF001
    session._created_at = wire.created_at  # noqa: SLF001
    session.__class__ = Session
    return session  # type: ignore[no-any-return]


def decode_session(body: bytes, losses: Losses | None = None) -> Session:
    """Decode a session.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or lacks a usable id or status.
    """
    try:
        return _session_of(_session_decoder.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = _load(body)
    return _structured(value, Session, value, losses)


def decode_page(body: bytes, losses: Losses | None = None) -> SessionPage:
    """Decode a list of sessions, in either of its two formats.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or has no list.
    """
    rows: list[_SessionWire] | None = None
    total: int | None = None
    try:
        if body.startswith(b"["):
            rows = _rows_decoder.decode(body)
        else:
            page = _page_decoder.decode(body)
            rows, total = page.data, page.total_count
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    if rows is None:  # outside the except block: that error has the body and must not be chained
        return _tolerant_page(_load(body), losses)
    return SessionPage(data=tuple([_session_of(wire) for wire in rows]), total_count=total)


def _tolerant_page(value: Any, losses: Losses | None) -> SessionPage:
    from clerk_async.http.tolerant import converter_for  # noqa: PLC0415 - takes time

    losses = losses or Losses()
    items, total, where = value, None, "$"
    if (body := object_of(value)) is not None:
        items, total, where = body.get("data"), body.get("total_count"), "$.data"
        if type(total) is not int or total < 0:
            losses.note(SessionPage, "total_count", f"expected a count, got {kind_of(total)}")
            total = None
    array = array_of(items)
    if array is None:
        raise _decode_error(UnreadableError("an array", items, where[1:]), None)
    converter = converter_for(losses)
    sessions: list[Session] = []
    unreadable: list[UnreadableItem] = []
    for index, item in enumerate(array):
        try:
            sessions.append(converter.structure(item, Session))
        except UnreadableError as error:
            error.where = f"{where[1:]}[{index}]{error.where}"
            unreadable.append(
                UnreadableItem(
                    index=index, session_id=_id_in(item), error=_decode_error(error, item)
                )
            )
    return SessionPage(data=tuple(sessions), total_count=total, unreadable=tuple(unreadable))


def decode_token(body: bytes, losses: Losses | None = None) -> Token:
    """Decode a token.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or has no jwt.
    """
    try:
        return Token(jwt=_token_decoder.decode(body).jwt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _structured(_load(body), Token, None, losses)


def decode_refreshed(body: bytes, losses: Losses | None = None) -> Token | Cookies:
    """Decode the response to a refresh: a token or cookies, distinguished by `object`.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or is neither a token nor cookies.
    """
    value = _load(body)
    fields = object_of(value) or {}
    kind = fields.get("object")
    is_cookies = kind == "cookies" or (kind != "token" and "cookies" in fields)
    model: type[Token | Cookies] = Cookies if is_cookies else Token
    return _structured(value, model, None, losses)


def _structured(value: Any, model: type[T], named: Any, losses: Losses | None) -> T:
    """Decode a value field by field; an error has the id of `named`, if there is one."""
    from clerk_async.http.tolerant import converter_for  # noqa: PLC0415 - takes time to import

    try:
        return converter_for(losses or Losses()).structure(value, model)
    except UnreadableError as error:
        raise _decode_error(error, named) from None


def _load(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "is empty" if not body.strip() else f"is not JSON: {redact(str(error))}"
    except RecursionError:
        what = "is nested too deeply"
    raise ResponseDecodeError(f"the response body {what}")


def _decode_error(error: UnreadableError, value: Any) -> ResponseDecodeError:
    path = f"${error.where}"
    return ResponseDecodeError(
        f"the response can't be read at {path}: {error}", json_path=path, session_id=_id_in(value)
    )


def _id_in(value: Any) -> str | None:
    """Return a session's id, or None; another object's id, such as a user's, doesn't count."""
    fields = object_of(value) or {}
    kind, session_id = fields.get("object"), fields.get("id")
    if isinstance(kind, str) and kind != "session":
        return None
    return session_id if isinstance(session_id, str) and session_id else None


class Reader:
    """Decodes the responses of one client.

    Attributes:
        secrets: The texts that no error may show.
        losses: The fields that could not be read.
    """

    def __init__(self) -> None:
        self.secrets: tuple[str, ...] = ()
        self.losses: Losses = Losses()

    def value(self, decode: Callable[[bytes, Losses], T], answer: Answer, request: Request) -> T:
        """Decode a response; errors, also those of list entries, say which call they belong to.

        Raises:
            ResponseDecodeError: If the response can't be decoded.
        """
        try:
            value = decode(answer.body, self.losses)
            found: Any = value
            if type(found) is Session and found.id == request.session_id:  # nearly always true
                return value
            confirm(found, request, answer.body)
        except ResponseDecodeError as error:
            answer.distrust()
            self._tell(error, answer, request)
            empty_frames(error)  # their locals hold the answer: a token, say
            raise
        for item in getattr(value, "unreadable", ()):  # of a page; isinstance of an ABC is slow
            self._tell(item.error, answer, request)
        return value

    def response(
        self, decode: Callable[[bytes, Losses], T], answer: Answer, request: Request
    ) -> ApiResponse[T]:
        """Decode a response, and return the value with the status, headers and attempts.

        Raises:
            ResponseDecodeError: If the response can't be decoded.
        """
        headers = ResponseHeaders(answer.headers.items())
        return ApiResponse(
            data=self.value(decode, answer, request),
            status=answer.status,
            headers=headers,
            attempts=answer.attempts,
            trace_id=headers.get("cf-ray"),
        )

    def _tell(self, error: ResponseDecodeError, answer: Answer, request: Request) -> None:
        error.status = answer.status
        if error.session_id is not None:
            error.session_id = redact(error.session_id, (*request.secrets, *self.secrets))
        error._tell_of(  # noqa: SLF001 - ours
            request.operation.method,
            request.path,
            answer.attempts,
            may_have_arrived=True,  # the service has responded
        )
