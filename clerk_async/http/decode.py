"""What an answer means: statuses to errors, bodies to models, with one cattrs converter.

A body that is just what the contract says is decoded straight into wire structs, which is fast. Any
other goes through strict hooks that coerce nothing and give up one field rather than the session.
Both ways lead to equal values; a test holds them together.
"""

from __future__ import annotations

import logging
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final

import attrs
import msgspec
from cattrs.preconf.msgspec import make_converter

from clerk_async.errors import ErrorDetail, ResponseDecodeError, error_class_for, redact
from clerk_async.http.retry import parse_retry_after
from clerk_async.models import (
    FIRST_MILLISECOND,
    LAST_MILLISECOND,
    Cookies,
    Session,
    SessionActivity,
    SessionPage,
    SessionStatus,
    SessionTask,
    Token,
    UnreadableItem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clerk_async.errors import ApiError

__all__ = ["api_error", "decode_page", "decode_refreshed", "decode_session", "decode_token"]

logger = logging.getLogger("clerk_async")

_SHOWN_MESSAGE: Final = 500
_ADVICE: Final[Mapping[int, str]] = {
    401: "is the secret key right, and of this instance?",
    404: "does it exist in the instance of this key?",
}

# --- the contract, as structs ------------------------------------------------------------------

_Time = Annotated[int, msgspec.Meta(ge=FIRST_MILLISECOND, le=LAST_MILLISECOND)]
_Id = Annotated[str, msgspec.Meta(min_length=1)]


class _SessionWire(msgspec.Struct):
    object: str
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


_session_decoder = msgspec.json.Decoder(_SessionWire)
_page_decoder = msgspec.json.Decoder(_PageWire)


def _session_of(wire: _SessionWire) -> Session:
    return Session(
        id=wire.id,
        status=wire.status,
        user_id=wire.user_id,
        client_id=wire.client_id,
        actor=wire.actor,
        last_active_organization_id=wire.last_active_organization_id,
        latest_activity=wire.latest_activity,
        tasks=wire.tasks,
        object=wire.object,
        last_active_at=wire.last_active_at,
        expire_at=wire.expire_at,
        abandon_at=wire.abandon_at,
        updated_at=wire.updated_at,
        created_at=wire.created_at,
    )


# --- the tolerant way: strict hooks ------------------------------------------------------------

Milliseconds = int | None
"""How models write the type of a time; told from other integers by the field's converter."""


class _UnreadableError(Exception):
    """A value isn't what it should be; `where` is its path below the value in hand."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(f"expected {expected}, got {_kind(value)}")
        self.where = where


def _kind(value: object) -> str:
    names: dict[type, str] = {
        NoneType: "null",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "nothing")


def _array(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _exactly(expected: type, name: str, value: Any, _: Any) -> Any:
    if type(value) is not expected:
        raise _UnreadableError(name, value)
    return value


def _id(value: Any, _: Any) -> str:
    if type(value) is not str or not value:
        raise _UnreadableError("an id", value)
    return value


def _status(value: Any, _: Any) -> SessionStatus:
    if type(value) is not str or not value:
        raise _UnreadableError("a status", value)
    return SessionStatus(value)


def _time(value: Any, _: Any) -> int:
    if type(value) is not int or not FIRST_MILLISECOND <= value <= LAST_MILLISECOND:
        raise _UnreadableError("Unix milliseconds within the years 1 to 9999", value)
    return value


_REQUIRED: Final[Mapping[type, frozenset[str]]] = {
    Session: frozenset({"id", "status"}),
    SessionTask: frozenset({"key"}),
    Token: frozenset({"jwt"}),
    Cookies: frozenset({"cookies"}),
}
_NULLABLE: Final = frozenset({"actor", "last_active_organization_id", "latest_activity", "tasks"})
"""What the contract lets come as null or not at all, so that it's not worth a log line."""


def _object_hook(cls: type[Any]) -> Callable[[Any, Any], Any]:
    """Build the hook of one model: required fields must be right, others fall back to None."""
    required = _REQUIRED.get(cls, frozenset())
    fields = [(field.name.lstrip("_"), field.alias, _hook_of(field)) for field in attrs.fields(cls)]
    is_activity = cls is SessionActivity

    def structure(value: Any, _: Any) -> Any:
        body = _object(value)
        if body is None:
            raise _UnreadableError("an object", value)
        arguments: dict[str, Any] = {}
        for name, alias, hook in fields:
            found = body.get(name)
            if found is None and name not in required:
                arguments[alias] = None
                if name not in _NULLABLE and not is_activity:
                    _log_lost(cls, name, "null" if name in body else "missing")
                continue
            try:
                arguments[alias] = hook(found, None)
            except _UnreadableError as error:
                if name in required:
                    error.where = f".{name}{error.where}"
                    raise
                arguments[alias] = None
                _log_lost(cls, f"{name}{error.where}", str(error))
        return cls(**arguments)

    return structure


def _log_lost(cls: type, field: str, what: str) -> None:
    logger.warning("%s.%s can't be read and is None: %s", cls.__name__, field, what)


def _tuple_of(hook: Callable[[Any, Any], Any], value: Any, _: Any) -> tuple[Any, ...]:
    array = _array(value)
    if array is None:
        raise _UnreadableError("an array", value)
    items: list[Any] = []
    for index, item in enumerate(array):
        try:
            items.append(hook(item, None))
        except _UnreadableError as error:
            error.where = f"[{index}]{error.where}"
            raise
    return tuple(items)


_text = partial(_exactly, str, "a string")
converter = make_converter(detailed_validation=False)
converter.register_structure_hook(str, _text)
converter.register_structure_hook(bool, partial(_exactly, bool, "a boolean"))
converter.register_structure_hook(int, _time)  # every integer of a model is a time
converter.register_structure_hook(SessionStatus, _status)


def _hook_of(field: attrs.Attribute[Any]) -> Callable[[Any, Any], Any]:
    kind = str(field.type)
    if field.name == "id" and kind == "str":
        return _id
    if kind.startswith("tuple[SessionTask"):
        return partial(_tuple_of, converter.get_structure_hook(SessionTask))
    if kind.startswith("tuple[str"):
        return partial(_tuple_of, _text)
    if kind.startswith("Mapping"):
        return partial(_exactly, dict, "an object")
    simple: dict[str, type] = {
        "str": str,
        "bool": bool,
        "int": int,
        "SessionStatus": SessionStatus,
        "SessionActivity": SessionActivity,
    }
    return converter.get_structure_hook(simple[kind.removesuffix(" | None")])


for _model in (SessionTask, SessionActivity, Session, Token, Cookies):
    converter.register_structure_hook(_model, _object_hook(_model))


# --- what the transport's callers use ----------------------------------------------------------


def decode_session(body: bytes) -> Session:
    """Read a session.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or has no usable id and status.
    """
    try:
        return _session_of(_session_decoder.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = _load(body)
    try:
        return converter.structure(value, Session)
    except _UnreadableError as error:
        raise _decode_error(error, value) from None


def decode_page(body: bytes) -> SessionPage:
    """Read a list of sessions, in either of its two shapes.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or holds no list.
    """
    try:
        page = _page_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        page = None
    if page is None:  # outside the except block: that error holds the body, and must not be chained
        return _tolerant_page(_load(body))
    return SessionPage(data=tuple(map(_session_of, page.data)), total_count=page.total_count)


def _tolerant_page(value: Any) -> SessionPage:
    items, total, where = value, None, "$"
    if (body := _object(value)) is not None:
        items, total, where = body.get("data"), body.get("total_count"), "$.data"
        if type(total) is not int or total < 0:
            _log_lost(SessionPage, "total_count", f"expected a count, got {_kind(total)}")
            total = None
    array = _array(items)
    if array is None:
        raise _decode_error(_UnreadableError("an array", items, where[1:]), None)
    sessions: list[Session] = []
    unreadable: list[UnreadableItem] = []
    for index, item in enumerate(array):
        try:
            sessions.append(converter.structure(item, Session))
        except _UnreadableError as error:
            error.where = f"{where[1:]}[{index}]{error.where}"
            trouble = _decode_error(error, item)
            unreadable.append(
                UnreadableItem(index=index, session_id=trouble.session_id, error=trouble)
            )
    return SessionPage(data=tuple(sessions), total_count=total, unreadable=tuple(unreadable))


def decode_token(body: bytes) -> Token:
    """Read a token.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or has no jwt.
    """
    value = _load(body)
    try:
        return converter.structure(value, Token)
    except _UnreadableError as error:
        raise _decode_error(error, None) from None


def decode_refreshed(body: bytes) -> Token | Cookies:
    """Read the answer to a refresh: a token or cookies, told apart by `object`.

    Raises:
        ResponseDecodeError: If the body isn't JSON, or is neither.
    """
    value = _load(body)
    fields = _object(value) or {}
    kind = fields.get("object")
    is_cookies = kind == "cookies" or (kind != "token" and "cookies" in fields)
    model: type[Token | Cookies] = Cookies if is_cookies else Token
    try:
        return converter.structure(value, model)
    except _UnreadableError as error:
        raise _decode_error(error, None) from None


def _load(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "is empty" if not body.strip() else f"is not JSON: {redact(str(error))}"
    except RecursionError:
        what = "is nested too deeply"
    raise ResponseDecodeError(f"the body of the answer {what}")


def _decode_error(error: _UnreadableError, value: Any) -> ResponseDecodeError:
    path = f"${error.where}"
    session_id = (_object(value) or {}).get("id")
    return ResponseDecodeError(
        f"the answer can't be read at {path}: {error}",
        json_path=path,
        session_id=session_id if isinstance(session_id, str) and session_id else None,
    )


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
    if (fields := _object(value)) is not None:
        entries = _array(fields.get("errors")) or []
        details = [_detail(entry) for entry in map(_object, entries) if entry is not None]
        trace = fields.get("clerk_trace_id")
        trace_id = trace if isinstance(trace, str) and trace else None
    told = "; ".join(
        f"{detail.long_message or detail.message} [{detail.code}]" for detail in details[:3]
    )
    message = f"{status}: {told}" if told else f"{status} without an error of the service's"
    if status in _ADVICE and not (details and status == 401 and "refresh" in details[0].code):  # noqa: PLR2004
        message = f"{message} ({_ADVICE[status]})"
    return error_class_for(status)(
        redact(message[:_SHOWN_MESSAGE], secrets),
        status=status,
        errors=tuple(details),
        trace_id=trace_id or headers.get("cf-ray"),
        retry_after=parse_retry_after(headers.get("Retry-After"), now),
    )


def _detail(entry: dict[str, Any]) -> ErrorDetail:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    meta = entry.get("meta")
    return ErrorDetail(
        text("message"),
        text("long_message"),
        text("code"),
        _object(meta),
    )
