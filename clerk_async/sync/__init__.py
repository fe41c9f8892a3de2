"""The same client for code without an event loop: `SessionsApi`."""

from clerk_async.sync.client import SessionsApi

__all__ = ["SessionsApi"]
