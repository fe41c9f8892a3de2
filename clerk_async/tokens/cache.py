"""Verified tokens, remembered: the same one comes back with every request for a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.tokens.claims import SessionClaims
    from clerk_async.tokens.keys import VerificationKey


@attrs.frozen
class Verified:
    """A token that passed, and what must be asked again each time it comes back."""

    key: VerificationKey
    claims: SessionClaims


class TokenCache:
    """At most `size` verified tokens; the oldest makes room. No lock: each step is atomic."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[str, Verified] = {}
        self.get: Callable[[str], Verified | None] = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, token: str, entry: Verified) -> None:
        """Remember a token that passed."""
        entries = self._entries
        if self._size < 1:
            return
        while len(entries) >= self._size and token not in entries:
            try:
                entries.pop(next(iter(entries)), None)
            except (StopIteration, RuntimeError):  # another thread made room meanwhile
                continue
        entries[token] = entry

    def drop(self, token: str) -> None:
        """Forget a token."""
        self._entries.pop(token, None)
