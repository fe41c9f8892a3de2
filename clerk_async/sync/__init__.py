"""`SessionsApi`: the same client for code without an event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clerk_async.sync.client import SessionsApi

__all__ = ["SessionsApi"]


def __getattr__(name: str) -> Any:
    # On first use: if importing a package imports its modules, two threads that import one of each
    # first wait for each other, and Python ends the import of one with a _DeadlockError.
    if name != "SessionsApi":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("clerk_async.sync.client").SessionsApi
