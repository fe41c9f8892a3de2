"""Redaction of secrets in values and errors that are shown, and the JSON form of values.

Only the hooks that pydantic itself calls import pydantic.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from functools import wraps
from types import FrameType, TracebackType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

REDACTED: Final = "[redacted]"
_SHORTEST_SECRET: Final = 4  # shorter texts aren't secrets and occur within plain words

# Possessive quantifiers never backtrack, and no match starts within a word: always linear time.
_KEY: Final = re.compile(r"sk_(?:live|test)_[^\s\"'<>,;&]++")
_DOTTED: Final = re.compile(r"(?<![\w-])[\w-]++(?:\.[\w-]*+)++")
_ASSIGNED: Final = re.compile(r"(?<!\w)\w++=[^\s\"'<>,;&]++")
_COOKIE: Final = re.compile(r"__(?:session|refresh|client)\w{0,64}=")
_SECRET_HEADER: Final = re.compile(
    r"cookie|authoriz|token|secret|passw|credential|signature|key\Z", re.IGNORECASE
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace each of `secrets` in `text`, and anything that looks like a key, token or cookie."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, REDACTED)
    text = _KEY.sub(REDACTED, text)
    return _ASSIGNED.sub(_without_cookie, _DOTTED.sub(_without_token, text))


def redacted_value(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return a value with each text in it redacted; values that can't contain secrets are kept.

    A body becomes empty if escapes or its encoding could hide a secret in it.
    """
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return redact(value, secrets)
    if kind is bytes:
        text = value.decode("ascii", "replace")
        is_plain = value.isascii() and "\\" not in text and "\0" not in text
        return value if is_plain and redact(text, secrets) == text else b""
    if kind is list or kind is tuple:
        items = [redacted_value(item, secrets) for item in value]
        return items if kind is list else tuple(items)
    if kind is dict:
        return {
            redacted_value(name, secrets): redacted_value(member, secrets)
            for name, member in value.items()
        }
    if hasattr(value, "_redacted"):
        return value._redacted(secrets)  # noqa: SLF001 - ours
    return value


def _without_token(words: re.Match[str]) -> str:
    before, found, _ = words[0].partition("eyJ")  # the start of every JSON Web Token
    return before + REDACTED if found else before


def _without_cookie(words: re.Match[str]) -> str:
    cookie = _COOKIE.search(words[0])
    return words[0] if cookie is None else words[0][: cookie.start()] + REDACTED


_F = TypeVar("_F", bound=Callable[..., Any])
_IS_COROUTINE_FUNCTION: Final = 0x80
_MAY_HOLD_SECRETS: Final = {
    *("aiohttp", "aiosignal", "cattrs", "clerk_async", "redis", "standardwebhooks"),
    *sys.stdlib_module_names,
}


def empty_frames(error: BaseException) -> None:
    """Drop the locals of the frames that an error went through on its way to the caller.

    Reports of errors, such as Sentry's, show locals. A user's own frames, such as those of a hook,
    keep theirs. So does what the caller was handling when it called us, which is chained too.
    """
    links: list[BaseException | None] = [error]
    passed: set[FrameType] = {error.__traceback__.tb_frame} if error.__traceback__ else set()
    for link in links:
        entry: TracebackType | None = None if link is None else link.__traceback__
        if link is None or entry is None or entry.tb_frame not in passed:
            continue
        while entry is not None:
            frame = entry.tb_frame
            passed.add(frame)
            name: str = frame.f_globals.get("__name__", "")
            if name.partition(".")[0] in _MAY_HOLD_SECRETS:
                with suppress(RuntimeError):  # it is still running: the caller itself
                    frame.clear()
            entry = entry.tb_next
        links += [link.__cause__, link.__context__]


def sealed(function: _F) -> _F:
    """Make a function that takes secrets show none of them in the frames of an error it raises."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            empty_frames(error)
            raise

    @wraps(function)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            empty_frames(error)
            raise

    is_async = cast("Any", function).__code__.co_flags & _IS_COROUTINE_FUNCTION
    return cast("_F", call_async if is_async else call)


class ResponseHeaders(Mapping[str, str]):
    """The response headers, case-insensitive by name; maps each name to its first value.

    The repr hides cookies and other values that are secret by their name or their shape.
    """

    __slots__ = ("_pairs", "_shown")

    def __init__(
        self, pairs: Iterable[tuple[str, str]], secrets: Iterable[str] | None = None
    ) -> None:
        """Store the headers.

        Args:
            pairs: Names and values, in the order of the response.
            secrets: More texts that the repr must not show; None if none are known.
        """
        self._pairs = tuple(pairs)
        self._shown = None if secrets is None else _shown(self._pairs, secrets)

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for key, value in self._pairs:
            if key.lower() == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for key, _ in self._pairs))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._pairs})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResponseHeaders):
            return self._pairs == other._pairs
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as with every mapping

    def __reduce__(self) -> tuple[Any, ...]:
        return (ResponseHeaders, (self._pairs,))

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return all values of a header that may occur more than once."""
        wanted = name.lower()
        return tuple(value for key, value in self._pairs if key.lower() == wanted)

    def _redacted(self, secrets: Iterable[str]) -> ResponseHeaders:
        return ResponseHeaders(_shown(self._shown or self._pairs, secrets))

    def __repr__(self) -> str:
        return f"ResponseHeaders({list(self._shown or _shown(self._pairs, ()))!r})"


def _shown(pairs: Iterable[tuple[str, str]], secrets: Iterable[str]) -> tuple[tuple[str, str], ...]:
    secrets = tuple(secrets)
    return tuple(
        (redact(key, secrets), REDACTED if _SECRET_HEADER.search(key) else redact(value, secrets))
        for key, value in pairs
    )


class JsonValue:
    """A frozen attrs value that can be serialized to JSON.

    FastAPI and pydantic serialize it as `to_dict` returns it: as the return value of a route, in a
    list, and as a field of a model. pydantic accepts instances only, so no request body can become
    one.
    """

    # here and not in `Session`, so that a class with the same attributes has the same layout
    __slots__ = ("__weakref__",)

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON-ready data, as `clerk-async --json` prints it.

        Names are the service's. Times are ISO 8601 strings in UTC, with milliseconds and `Z`.
        """
        fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(type(self))  # type: ignore[arg-type]
        names = [field.name.lstrip("_") for field in fields]
        return {name: json_of(getattr(self, name)) for name in names}

    @classmethod
    def _json_types(cls) -> dict[str, Any]:
        """Return the types of the entries of `to_dict`, by name."""
        hints = get_type_hints(cls)
        return {
            field.name.lstrip("_"): datetime | None
            if field.name.startswith("_")
            else hints[field.name]
            for field in attrs.fields(cls)  # type: ignore[arg-type]
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # noqa: PLC0415 - pydantic is there: it calls this

        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.to_dict(),
                return_schema=handler.generate_schema(_shape_of(cls)),
                when_used="json",
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return handler(schema["serialization"]["return_schema"])


def json_of(value: Any) -> Any:
    """Return the value of an attribute as JSON-ready data."""
    told = value
    if isinstance(value, JsonValue):
        told = value.to_dict()
    elif isinstance(value, StrEnum):
        told = value.value
    elif isinstance(value, datetime):
        told = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    elif isinstance(value, tuple):
        told = [json_of(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return told


_shapes: dict[type, Any] = {}
"""One per class: pydantic names each in a schema, and two of the same class would collide."""


def _shape_of(cls: type[JsonValue]) -> Any:
    """Return a `TypedDict` for the result of `to_dict`, named after the class."""
    shape = _shapes.get(cls)
    if shape is None:
        from typing_extensions import TypedDict  # noqa: PLC0415 - comes with pydantic

        make: Any = TypedDict
        types = {name: _json_type(kind) for name, kind in cls._json_types().items()}
        shape = make(cls.__name__, types)
        shape.__module__ = cls.__module__
        shape.__doc__ = (cls.__doc__ or "").partition("\n")[0]
        _shapes[cls] = shape
    return shape


def _json_type(kind: Any) -> Any:
    """Return the type that a value has in JSON."""
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin in {Union, UnionType}:
            found: Any = Union[tuple(map(_json_type, arguments))]  # noqa: UP007 - made of a tuple
        case origin if origin is tuple:
            found = list[_json_type(arguments[0])]  # type: ignore[misc]
        case origin if origin is Mapping:
            found = dict[str, Any]
        case _:
            found = _plain_json_type(kind)
    return found


def _plain_json_type(kind: Any) -> Any:
    if kind is datetime:
        from pydantic import WithJsonSchema  # noqa: PLC0415 - see the hooks

        return Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    if not isinstance(kind, type) or issubclass(kind, StrEnum):
        return str if isinstance(kind, type) else kind
    if issubclass(kind, JsonValue):
        return _shape_of(kind)
    return kind  # pyright: ignore[reportUnknownVariableType]
