"""Checks of the values that tests pass: a wrong value raises an error where it is set.

Otherwise it would become a 500 in the server, and the client would retry the request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    import attrs

T = TypeVar("T")

SCOPES = {"o": "o", "org": "o", "u": "u", "user": "u", "uo": "uo", "ou": "ou"}
"""The ways to write the scope of a feature or plan, and the form that tokens use."""


def must_be(name: str, value: T, *kinds: type | None) -> T:
    """Return the value if it has one of these types; a bool is not an int here.

    Raises:
        TypeError: If it has another type.
    """
    for kind in kinds:
        if kind is None:
            if value is None:
                return value
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    known = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
    raise TypeError(f"{name} must be {known}, not {type(value).__name__}")


def number(name: str, value: float, *, least: float = -math.inf, most: float = math.inf) -> float:
    """Return the value if it is a finite number within its limits.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is outside its limits.
    """
    must_be(name, value, int, float)
    if not (math.isfinite(value) and least <= value <= most):
        limits = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(
            f"{name} must be {'finite' if least == -math.inf else limits}, not {value}"
        )
    return value


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return the value if it is one of the known ones.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
    return value


def function(name: str, value: T) -> T:
    """Return the value if it is callable.

    Raises:
        TypeError: If it is not.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a mapping that can be encoded as JSON.

    Raises:
        TypeError: If it is not a mapping, or can't be encoded as JSON.
    """
    must_be(name, value, Mapping)
    try:
        msgspec.json.encode(dict(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{name} must be JSON-encodable: {error}") from None
    return dict(value)


def milliseconds(time: datetime | int) -> int:
    """Return a time as Clerk's Unix milliseconds, from an aware datetime or milliseconds.

    Raises:
        TypeError: If it is neither.
        ValueError: If a datetime has no time zone.
    """
    if not isinstance(time, datetime):
        return must_be("a session's time", time, datetime, int)
    if time.tzinfo is None:
        raise ValueError("a session's time needs a time zone: datetime(…, tzinfo=UTC)")
    return round(time.timestamp() * 1000)


def check_permission(name: str) -> None:
    """Check the form of a permission: `org:feature:permission`, with or without `org:`.

    Raises:
        TypeError: If it is not a str.
        ValueError: If it does not have these parts.
    """
    parts = must_be("a permission", name, str).removeprefix("org:").split(":")
    is_whole = len(parts) == 2 and all(parts) and "," not in name  # noqa: PLR2004 - feature, name
    if not is_whole and not is_system_permission(name):
        raise ValueError(f"a permission must be like org:invoices:create, not {name!r}")


def check_entitlement(name: str) -> None:
    """Check the form of a feature or plan, such as `o:export` or `export`.

    Raises:
        TypeError: If it is not a str.
        ValueError: If it is empty or its scope is unknown.
    """
    scope, colon, bare = must_be("a feature or plan", name, str).rpartition(":")
    if not bare or "," in bare or (colon and scope not in SCOPES):
        raise ValueError(f"a feature or plan is like export, o:export or u:export, not {name!r}")


def is_system_permission(name: str) -> bool:
    """Return whether a permission is one of Clerk's own, which session tokens never contain."""
    return name.removeprefix("org:").startswith("sys_")


Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]
"""A check that attrs runs when an object is created and when the attribute is assigned."""


def validator(check: Callable[[str, Any], object]) -> Validator:
    """Return an attrs validator that calls `check` with the attribute's name and value."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        check(attribute.name, value)

    return validate


def of(*kinds: type | None) -> Validator:
    """Return a validator that requires one of these types."""
    return validator(lambda name, value: must_be(name, value, *kinds))


def within(*kinds: type | None, least: float = 0.0, most: float = math.inf) -> Validator:
    """Return a validator that requires a number of one of these types, within limits, or None."""

    def check(name: str, value: Any) -> None:
        if must_be(name, value, *kinds) is not None:
            number(name, value, least=least, most=most)

    return validator(check)
