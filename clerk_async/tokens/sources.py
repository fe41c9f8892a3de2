"""Where keys come from: from the user, from what an instance publishes, or through a client.

The client is described as far as a verifier looks, so that no client is known by name here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from clerk_async.errors import ConfigurationError
from clerk_async.tokens.key_set import KeySetStatus
from clerk_async.tokens.refusals import Counter, mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from clerk_async.models import Session
    from clerk_async.tokens.key_set import KeysNeeded
    from clerk_async.tokens.keys import VerificationKey

_WELL_KNOWN: Final = "/.well-known/jwks.json"


class Keys(Protocol):
    """What a verification asks of its keys: `FetchedKeys`, or the one key of `FixedKey`."""

    def find(self, kid: str | None) -> Generator[KeysNeeded, None, VerificationKey]:
        """Find the key of this id."""
        ...

    def knows(self, kid: str | None) -> bool:
        """Tell whether a key of this id is at hand."""
        ...

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Give the key of this id if there is nothing to do for it first."""
        ...

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Make the keys ready."""
        ...

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Tell the figures."""
        ...

    def after_fork(self) -> None:
        """Forget what was the parent's, in a forked child."""
        ...

    def forget(self) -> None:
        """Begin anew, between two tests."""
        ...


class FixedKey:
    """A key that never changes: no network, ever.

    Args:
        find: Returns the key, or None if there is none so far. It is called now, because a bad key
            is refused as soon as possible; and again, once, when a key is needed, unless the first
            call's counts.
        is_settled: Whether the first call's counts.
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
        """Give the key; its kid is compared only where it has one."""
        yield from ()
        key = self._key or self._settle()
        if key.kid is not None and kid != key.kid:
            raise mismatch(kid, [key.kid])
        self._hits.add()
        return key

    def at_hand(self, kid: str | None) -> VerificationKey | None:
        """Give the key of this id if there is nothing to do for it first."""
        key = self._key or self._settle()
        if key.kid is not None and key.kid != kid:
            return None
        self._hits.add()
        return key

    def knows(self, kid: str | None) -> bool:
        """Tell whether a key of this id is at hand."""
        return (self._key or self._settle()).kid in {None, kid}

    def prepare(self) -> Generator[KeysNeeded, None, None]:
        """Make the keys ready: they always are, if there are any."""
        yield from ()
        if self._key is None:
            self._settle()

    def status(self, cached_tokens: int) -> KeySetStatus:
        """Tell the figures."""
        key = self._key or self._early
        kids = () if key is None or key.kid is None else (key.kid,)
        return KeySetStatus("jwt_key", kids, hits=self._hits.value, cached_tokens=cached_tokens)

    def forget(self) -> None:
        """Begin anew, between two tests."""
        self._hits = Counter()

    def after_fork(self) -> None:
        """Forget what was the parent's, in a forked child: nothing is."""


def load_client() -> None:
    """Import what `fetch_published` uses, in the calling thread.

    Its own thread must import nothing: Ctrl-C in an import of the main thread can leave the import
    lock taken for good, and whoever imports in another thread then waits forever.
    """
    for name in ("calls", "client_state", "operations", "settings", "transport"):
        import_module(f"clerk_async.http.{name}")


async def fetch_published(issuer: str) -> bytes:
    """Fetch the key set below an issuer's URL, without any credential, so that none can leak there.

    With the usual retries; redirects are not followed. A connection of its own each time: this
    happens every few minutes, and one that is kept would have to be closed by somebody.

    Raises:
        ClerkError: If it can't be had.
    """
    from clerk_async.config import RetryPolicy, Timeouts  # noqa: PLC0415 - heavy, as the next two
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
    shared = ClientState(WireSettings(base_url=issuer, headers=headers, pool_size=1))
    try:
        answer = await Calls(shared, RetryPolicy(), Timeouts()).call(request)
        return answer.body
    finally:
        await shared.aclose()


class AsyncSessionsSource(Protocol):
    """What the async verifier asks of its client: `AsyncSessionsApi` has it all."""

    async def _fetch_jwks(self) -> bytes: ...

    async def get(self, session_id: str) -> Session:
        """Look at a session."""
        ...

    async def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, Any] | None,
        format: Literal["cookie"],  # noqa: A002 - the service's name
        suffixed_cookies: bool | None,
    ) -> object:
        """Get a new token for an expired one."""
        ...


class SessionsSource(Protocol):
    """What the sync verifier asks of its client: `SessionsApi` has it all."""

    def _fetch_jwks(self) -> bytes: ...

    def get(self, session_id: str) -> Session:
        """Look at a session."""
        ...

    def refresh(
        self,
        session_id: str,
        *,
        expired_token: str,
        refresh_token: str,
        request_origin: str,
        request_headers: Mapping[str, Any] | None,
        format: Literal["cookie"],  # noqa: A002 - the service's name
        suffixed_cookies: bool | None,
    ) -> object:
        """Get a new token for an expired one."""
        ...
