"""The tolerant decoder: one cattrs converter with strict hooks.

It coerces nothing. An optional field that can't be read becomes None, and the session is kept. This
module is imported only when a body deviates from the contract, because importing cattrs is slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin, get_type_hints

import attrs
from cattrs.preconf.msgspec import make_converter

from clerk_async.http.shapes import UnreadableError, array_of, object_of
from clerk_async.models import (
    FIRST_MILLISECOND,
    LAST_MILLISECOND,
    Cookies,
    Session,
    SessionActivity,
    SessionStatus,
    SessionTask,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cattrs import Converter

    from clerk_async.http.shapes import Losses


def _exactly(expected: type, name: str, value: Any, _: Any) -> Any:
    if type(value) is not expected:
        raise UnreadableError(name, value)
    return value


def _id(value: Any, _: Any) -> str:
    if type(value) is not str or not value:
        raise UnreadableError("an id", value)
    return value


def _status(value: Any, _: Any) -> SessionStatus:
    if type(value) is not str or not value:
        raise UnreadableError("a status", value)
    return SessionStatus(value)


def _time(value: Any, _: Any) -> int:
    if type(value) is not int or not FIRST_MILLISECOND <= value <= LAST_MILLISECOND:
        raise UnreadableError("Unix milliseconds within the years 1 to 9999", value)
    return value


_REQUIRED: Final[Mapping[type, frozenset[str]]] = {
    Session: frozenset({"id", "status"}),
    SessionTask: frozenset({"key"}),
    Token: frozenset({"jwt"}),
    Cookies: frozenset({"cookies"}),
}
_OBJECTS: Final[Mapping[type, str]] = {Session: "session", Token: "token", Cookies: "cookies"}
"""The value that `object` must have, if the response has that field."""
_NULLABLE: Final = frozenset({"actor", "last_active_organization_id", "latest_activity", "tasks"})
"""Fields that may be null or missing according to the contract, so this isn't logged."""


def converter_for(losses: Losses) -> Converter:
    """Return the converter that records unreadable fields in `losses`, created on first use."""
    converter = losses.converter
    if converter is None:
        converter = make_converter(detailed_validation=False)
        converter.register_structure_hook(str, partial(_exactly, str, "a string"))
        converter.register_structure_hook(bool, partial(_exactly, bool, "a boolean"))
        converter.register_structure_hook(int, _time)  # every integer of a model is a time
        converter.register_structure_hook(SessionStatus, _status)
        for model in (SessionTask, SessionActivity, Session, Token, Cookies):
            converter.register_structure_hook(model, _object_hook(model, converter, losses))
        losses.converter = converter  # now, because other threads use it as soon as it is there
    return converter


def _object_hook(cls: type[Any], converter: Converter, losses: Losses) -> Callable[[Any, Any], Any]:
    """Build the hook of one model: required fields must be valid, others fall back to None."""
    required = _REQUIRED.get(cls, frozenset())
    kinds = get_type_hints(cls)  # attrs has them only as unresolved strings
    fields = [
        (field.name.lstrip("_"), field.alias, _hook_of(field.name, kinds[field.name], converter))
        for field in attrs.fields(cls)
    ]
    is_activity = cls is SessionActivity
    expected = _OBJECTS.get(cls)

    def structure(value: Any, _: Any) -> Any:
        body = object_of(value)
        if body is None:
            raise UnreadableError("an object", value)
        kind = body.get("object")
        if expected is not None and isinstance(kind, str) and kind != expected:
            raise UnreadableError(f'"{expected}"', kind, ".object")
        arguments: dict[str, Any] = {}
        for name, alias, hook in fields:
            found = body.get(name)
            if found is None and name not in required:
                arguments[alias] = None
                if name not in _NULLABLE and not is_activity:
                    losses.note(cls, name, "null" if name in body else "missing")
                continue
            try:
                arguments[alias] = hook(found, None)
            except UnreadableError as error:
                if name in required:
                    error.where = f".{name}{error.where}"
                    raise
                arguments[alias] = None
                losses.note(cls, name, str(error), error.where)
        return cls(**arguments)

    return structure


def _hook_of(name: str, kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Return the hook that reads a field of this type; None has been handled already."""
    if name == "id" and kind is str:
        return _id
    if NoneType in get_args(kind):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is tuple:
        return partial(_tuple_of, converter.get_structure_hook(get_args(kind)[0]))
    if get_origin(kind) is Mapping:
        return partial(_exactly, dict, "an object")
    return converter.get_structure_hook(kind)


def _tuple_of(hook: Callable[[Any, Any], Any], value: Any, _: Any) -> tuple[Any, ...]:
    array = array_of(value)
    if array is None:
        raise UnreadableError("an array", value)
    items: list[Any] = []
    for index, item in enumerate(array):
        try:
            items.append(hook(item, None))
        except UnreadableError as error:
            error.where = f"[{index}]{error.where}"
            raise
    return tuple(items)
