"""What a decoded JSON value is, in words and in types, and the error for one that is another."""

from __future__ import annotations

from types import NoneType
from typing import Any


class UnreadableError(Exception):
    """A value isn't what it should be; `where` is its path below the value in hand."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(f"expected {expected}, got {kind_of(value)}")
        self.where = where


def kind_of(value: object) -> str:
    """Say what a JSON value is."""
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
    """Give an array, or None for anything else."""
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]


def object_of(value: Any) -> dict[str, Any] | None:
    """Give an object, or None for anything else."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]
