"""The types of decoded JSON values, and the record of fields that can't be read."""

from __future__ import annotations

import logging
from itertools import count
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cattrs import Converter

logger: logging.Logger = logging.getLogger("clerk_async")

_FIRST_COUNT: Final = 1000


class UnreadableError(Exception):
    """A value has the wrong type; `where` is its path below the current value."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(f"expected {expected}, got {kind_of(value)}")
        self.where = where


def kind_of(value: object) -> str:
    """Return the name of a JSON value's type, with its article."""
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


def array_of(value: Any) -> list[Any] | None:
    """Return an array, or None for anything else."""
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]


def object_of(value: Any) -> dict[str, Any] | None:
    """Return an object, or None for anything else."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


class Losses:
    """The fields that could not be read, per client: logs each once, and a count now and then.

    Attributes:
        converter: Decodes these responses and notes such fields; None before the first.
    """

    def __init__(self) -> None:
        self.converter: Converter | None = None
        self._counts: dict[tuple[str, str], count[int]] = {}

    def note(self, cls: type, name: str, what: str, where: str = "") -> None:
        """Record that a field of a model could not be read, and what was wrong with it."""
        field = (cls.__name__, name)
        times = next(self._counts.setdefault(field, count(1)))  # atomic: threads share a receiver
        if times == 1:
            logger.warning("%s.%s%s can't be read and is None: %s", *field, where, what)
        elif times >= _FIRST_COUNT and times == 10 ** (len(str(times)) - 1):
            logger.warning("%s.%s could not be read %d times so far", *field, times)
