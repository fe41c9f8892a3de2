"""`SessionsApi`: the same client for code without an event loop."""

from clerk_async.sync.client import SessionsApi

__all__ = ["SessionsApi"]
