"""Checks of what tests hand in: a wrong value is an error where it is set, not in the server.

There it would become a 500, and the client would send the request again and again.
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
"""How the scope of a feature or plan may be spelled, and how tokens spell it."""


def must_be(name: str, value: T, *kinds: type | None) -> T:
    """The value, if it is of one of these types; bool is no int, and None is told by itself.

    Raises:
        TypeError: If it is of another.
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
    """The value, if it is a finite number within its limits.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of its limits.
    """
    must_be(name, value, int, float)
    if not (math.isfinite(value) and least <= value <= most):
        limits = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(
            f"{name} must be {'finite' if least == -math.inf else limits}, not {value}"
        )
    return value


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """The value, if it is a known one.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
    return value


def function(name: str, value: T) -> T:
    """The value, if it can be called.

    Raises:
        TypeError: If it can't.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a mapping that JSON can carry.

    Raises:
        TypeError: If it is none.
    """
    must_be(name, value, Mapping)
    try:
        msgspec.json.encode(dict(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{name} must be what JSON can carry: {error}") from None
    return dict(value)


def milliseconds(time: datetime | int) -> int:
    """A time as Clerk writes it: an aware datetime, or Unix milliseconds.

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
    """Refuse what is no permission: `org:feature:permission`, or without its `org:`.

    Raises:
        TypeError: If it is no text.
        ValueError: If it has not these parts.
    """
    parts = must_be("a permission", name, str).removeprefix("org:").split(":")
    is_whole = len(parts) == 2 and all(parts) and "," not in name  # noqa: PLR2004 - feature, name
    if not is_whole and not is_system_permission(name):
        raise ValueError(f"a permission is such as org:invoices:create, not {name!r}")


def check_entitlement(name: str) -> None:
    """Refuse what is no feature and no plan, such as `o:export` or `export`.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty, or its scope is unknown.
    """
    scope, colon, bare = must_be("a feature or plan", name, str).rpartition(":")
    if not bare or "," in bare or (colon and scope not in SCOPES):
        raise ValueError(f"a feature or plan is such as export, o:export or u:export, not {name!r}")


def is_system_permission(name: str) -> bool:
    """Whether a permission is one of Clerk's own, which are in no session token."""
    return name.removeprefix("org:").startswith("sys_")


Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]
"""A check as attrs runs it, when a value is made and when it is assigned."""


def validator(check: Callable[[str, Any], object]) -> Validator:
    """A check of a name and a value, for attrs."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        check(attribute.name, value)

    return validate


def of(*kinds: type | None) -> Validator:
    """The check that a value is of one of these types."""
    return validator(lambda name, value: must_be(name, value, *kinds))


def within(*kinds: type | None, least: float = 0.0, most: float = math.inf) -> Validator:
    """The check that a value is a number of one of these types, or None, within its limits."""

    def check(name: str, value: Any) -> None:
        if must_be(name, value, *kinds) is not None:
            number(name, value, least=least, most=most)

    return validator(check)
