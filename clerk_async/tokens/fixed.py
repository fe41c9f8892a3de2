"""The one key that a user hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.tokens.key_set import KeySetStatus
from clerk_async.tokens.refusals import mismatch

if TYPE_CHECKING:
    from collections.abc import Generator

    from clerk_async.tokens.key_set import KeysNeeded
    from clerk_async.tokens.keys import VerificationKey


class FixedKey:
    """A key that never changes: no network, ever."""

    def __init__(self, key: VerificationKey) -> None:
        self._key = key
        self.hits: int = 0

    def find(self, kid: str | None) -> Generator[KeysNeeded, None, VerificationKey]:
        """Give the key; its kid is compared only where it has one."""
        yield from ()
        if self._key.kid is not None and kid != self._key.kid:
            raise mismatch(kid, [self._key.kid])
        self.hits += 1
        return self._key

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Give the key of this id if there is nothing to do for it first."""
        key = self._key
        if key.kid is not None and key.kid != kid:
            return None
        self.hits += 1
        return key

    def knows(self, kid: str | None) -> bool:
        """Tell whether a key of this id is at hand."""
        return self._key.kid in {None, kid}

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Make the keys ready: they always are."""
        yield from ()

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Tell the figures."""
        kids = () if self._key.kid is None else (self._key.kid,)
        return KeySetStatus("jwt_key", kids, hits=self.hits, cached_tokens=cached_tokens)
