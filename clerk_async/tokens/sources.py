"""Where keys come from: the user, the instance's public URL, or a client.

Protocols describe the parts of a client that a verifier uses, so no client is imported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from clerk_async.errors import ConfigurationError
from clerk_async.tokens.key_set import FetchedKeys, KeySetStatus
from clerk_async.tokens.refusals import Counter, mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from clerk_async.models import Session
    from clerk_async.tokens.key_set import KeysNeeded
    from clerk_async.tokens.keys import VerificationKey

_WELL_KNOWN: Final = "/.well-known/jwks.json"


class FixedKey:
    """A key that never changes and never needs the network.

    Args:
        find: Returns the key, or None if there is none so far. The constructor calls it, to reject
            a bad key as early as possible; unless `is_settled`, it is called once more when a key
            is first needed.
        is_settled: Whether the first call's key is final.
    """

    def __init__(self, find: Callable[[], VerificationKey | None], *, is_settled: bool) -> None:
        self._find_key = find
        self._early = find()
        self._key = self._early if is_settled else None
        self._hits = Counter()

    def _settle(self) -> VerificationKey:
        key = self._find_key() or self._early
        if key is None:
            raise ConfigurationError(
                "The verifier needs keys: pass jwt_key= (the PEM from the dashboard) or set "
                "CLERK_JWT_KEY, or pass sessions= (a client) or issuer= (the instance's Frontend "
                "API URL)."
            )
        self._key = key
        return key

    def find(self, kid: str | None) -> Generator[KeysNeeded, None, VerificationKey]:
        """Return the key; compare its kid only if it has one."""
        yield from ()
        key = self._key or self._settle()
        if key.kid is not None and kid != key.kid:
            raise mismatch(kid, [key.kid])
        self._hits.add()
        return key

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Return the key if it has this id, or no id at all; else None."""
        key = self._key or self._settle()
        if key.kid is not None and key.kid != kid:
            return None
        self._hits.add()
        return key

    def knows(self, kid: str | None) -> bool:
        """Return whether the key has this id, or no id at all."""
        return (self._key or self._settle()).kid in {None, kid}

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Raise an error if there is no key; there is nothing to fetch."""
        yield from ()
        if self._key is None:
            self._settle()

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Return the key's status."""
        key = self._key or self._early
        kids = () if key is None or key.kid is None else (key.kid,)
        return KeySetStatus("jwt_key", kids, hits=self._hits.value, cached_tokens=cached_tokens)

    def forget(self) -> None:
        """Reset the count, between two tests."""
        self._hits = Counter()

    def after_fork(self) -> None:
        """Do nothing in a forked child, because there is no fetch."""


Keys: TypeAlias = FixedKey | FetchedKeys


def load_client() -> None:
    """Import the modules that `fetch_published` uses, in the calling thread.

    The fetching thread must not import anything: if Ctrl-C interrupts an import in the main thread,
    the import lock may stay held, and an import in another thread then waits forever.
    """
    for name in ("calls", "client_state", "operations", "settings", "transport"):
        import_module(f"clerk_async.http.{name}")


async def fetch_published(issuer: str) -> bytes:
    """Fetch the key set below an issuer's URL, without credentials, so that none can leak there.

    It retries as usual and does not follow redirects. It opens a new connection each time, because
    it runs only every few minutes and nothing would close a connection that it kept.

    Raises:
        ClerkError: If the key set can't be fetched.
    """
    from clerk_async.config import RetryPolicy, Timeouts, check_url  # noqa: PLC0415 - heavy
    from clerk_async.http.calls import Calls  # noqa: PLC0415
    from clerk_async.http.client_state import ClientState  # noqa: PLC0415
    from clerk_async.http.operations import Operation, Request  # noqa: PLC0415
    from clerk_async.http.settings import USER_AGENT, WireSettings  # noqa: PLC0415

    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": USER_AGENT,
    }
    request = Request(Operation("published keys", "GET", _WELL_KNOWN), _WELL_KNOWN)
    shared = ClientState(
        WireSettings(base_url=check_url("issuer", issuer), headers=headers, pool_size=1)
    )
    try:
        answer = await Calls(shared, RetryPolicy(), Timeouts()).call(request)
        return answer.body
    finally:
        await shared.aclose()


class AsyncSessionsSource(Protocol):
    """The part of a client that the async verifier uses; `AsyncSessionsApi` has all of it."""

    async def _fetch_jwks(self) -> bytes: ...

    async def get(self, session_id: str) -> Session:
        """Fetch a session."""
        ...

    @property
    def refresh(self) -> Callable[..., Coroutine[Any, Any, object]]:
        """Exchange an expired token for a new one."""
        ...


class SessionsSource(Protocol):
    """The part of a client that the sync verifier uses; `SessionsApi` has all of it."""

    def _fetch_jwks(self) -> bytes: ...

    def get(self, session_id: str) -> Session:
        """Fetch a session."""
        ...

    @property
    def refresh(self) -> Callable[..., object]:
        """Exchange an expired token for a new one."""
        ...
