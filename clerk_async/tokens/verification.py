"""Verifying one token, step by step, without any I/O.

A verification is a generator: it yields what it needs from outside (a fetch of keys, a look at a
session) and gets the answer back, so that the async and the sync verifier share every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import attrs

from clerk_async.errors import ConfigurationError, NotFoundError, TokenVerificationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.claims import SessionClaims, read_claims
from clerk_async.tokens.jose import (
    Compact,
    Header,
    canonical_base64url,
    json_object,
    parse,
    plain,
    read_header,
)
from clerk_async.tokens.key_set import KeySetStatus, KeysNeeded
from clerk_async.tokens.keys import ALGORITHMS, VerificationKey
from clerk_async.tokens.refusals import cut, malformed, refused

if TYPE_CHECKING:
    from clerk_async.tokens.rules import Rules

T = TypeVar("T")

_MAX_HEADERS: Final = 64


@attrs.frozen
class SessionNeeded:
    """A look at a session is needed: the answer is the session."""

    session_id: str


@attrs.frozen(repr=False)
class RefreshNeeded:
    """A new token is needed: the answer is the service's Set-Cookie lines."""

    session_id: str
    user_id: str
    expired_token: str
    refresh_token: str
    request_origin: str
    request_headers: Mapping[str, list[str]]

    @property
    def shared_by(self) -> tuple[str, str, str]:
        """What requests have in common that one refresh will do for."""
        return (self.expired_token, self.refresh_token, self.request_origin)


Need: TypeAlias = KeysNeeded | SessionNeeded | RefreshNeeded
Steps: TypeAlias = Generator[Need, Any, T]


class Keys(Protocol):
    """Where keys come from: see `clerk_async.tokens.key_set`."""

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


@attrs.define(repr=False, eq=False)
class Examined:
    """A token whose signature holds and whose claims pass, expiry not yet looked at."""

    token: str
    key: VerificationKey
    payload: Mapping[str, Any]
    claims: SessionClaims | None = None


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


class Verification:
    """The rules, the keys and the memory of one verifier."""

    def __init__(
        self,
        *,
        rules: Rules,
        keys: Keys,
        cache_size: int,
        can_look_up: bool,
        clock: Callable[[], float],
    ) -> None:
        self.rules = rules
        self.keys = keys
        self.can_look_up = can_look_up
        self._cache = TokenCache(cache_size)
        self._headers: dict[bytes, Header] = {}
        self._clock = clock

    def at_once(self, token: str) -> SessionClaims | None:
        """Verify a token if its key is at hand, as it nearly always is; else None.

        Raises:
            TokenVerificationError: If it is refused.
        """
        examined = self.examine_at_once(token)
        return None if examined is None else self.accept(examined)

    def examine_at_once(self, token: str) -> Examined | None:
        """Do what `examine` does, without steps, if the key is at hand; else None.

        Raises:
            TokenVerificationError: If the token is refused.
        """
        if type(token) is not str:
            token = plain(token)
        entry = self._cache.get(token)
        if entry is not None and self.keys.at_hand(entry.key.kid) is entry.key:
            return self._again(token, entry)
        parts = parse(token)
        header = self._header_of(parts)
        key = self.keys.at_hand(header.kid)
        return None if key is None else self._check(token, parts, header, key)

    def verify(self, token: str, *, check_session: bool) -> Steps[SessionClaims]:
        """Verify a token, and its session with the service where that is asked for.

        Raises:
            TokenVerificationError: If it is refused.
            KeysUnavailableError: If the keys to check it with can't be had.
            ClerkError: If the session can't be looked up.
        """
        examined = yield from self.examine(token)
        claims = self.accept(examined)
        if check_session:
            yield from self.check_session(claims)
        return claims

    def examine(self, token: str) -> Steps[Examined]:
        """Check everything about a token but its expiry.

        Raises:
            TokenVerificationError: If it is refused.
            KeysUnavailableError: If the keys to check it with can't be had.
        """
        if type(token) is not str:
            token = plain(token)
        parts = parse(token)
        header = self._header_of(parts)
        key = yield from self.keys.find(header.kid)
        entry = self._cache.get(token)
        if entry is not None and entry.key is key:
            return self._again(token, entry)
        return self._check(token, parts, header, key)

    def _header_of(self, parts: Compact) -> Header:
        header = self._headers.get(parts.header_segment)
        if header is None:
            header = read_header(parts.header_segment)
            if header.algorithm not in ALGORITHMS:
                raise _wrong_algorithm(header.algorithm)
        return header

    def _again(self, token: str, entry: Verified) -> Examined:
        """Check the claims of a token whose signature was checked before."""
        try:
            self.rules.check(entry.claims.raw, self._clock())
        except TokenVerificationError:
            self._cache.drop(token)
            raise
        return Examined(token, entry.key, entry.claims.raw, entry.claims)

    def _check(self, token: str, parts: Compact, header: Header, key: VerificationKey) -> Examined:
        if key.algorithm != header.algorithm:
            raise _wrong_algorithm(header.algorithm)
        signature = canonical_base64url(parts.signature_segment)
        if signature is None or not key.is_signed_by(signature, parts.signing_input):
            raise refused(
                Reason.TOKEN_INVALID_SIGNATURE,
                "The signature does not belong to this token: it was altered, or signed with "
                "another key.",
            )
        if len(self._headers) < _MAX_HEADERS:  # only headers that a signature vouches for
            self._headers[parts.header_segment] = header
        payload = json_object(parts.payload_segment, "payload")
        self.rules.check(payload, self._clock())
        return Examined(token, key, payload)

    def accept(self, examined: Examined) -> SessionClaims:
        """Check the expiry of a token that passed all else, and remember it.

        Raises:
            TokenVerificationError: If it has expired, or a claim can't be read.
        """
        try:
            self.rules.check_expiry(examined.payload.get("exp"), self._clock())
        except TokenVerificationError:
            self._cache.drop(examined.token)
            raise
        if examined.claims is not None:
            return examined.claims
        claims = read_claims(examined.payload)
        self._cache.put(examined.token, Verified(examined.key, claims))
        return claims

    def check_session(self, claims: SessionClaims) -> Steps[None]:
        """Ask the service whether the session is still alive.

        Raises:
            TokenVerificationError: If it is not.
            ConfigurationError: If the verifier has no client to ask with.
            ClerkError: If the service can't be asked.
        """
        if not self.can_look_up:
            raise ConfigurationError(
                "check_session and refresh_if_expired ask the service: hand the verifier a "
                "client with sessions=."
            )
        if claims.session_id is None:
            raise malformed(
                "it names no session (made from a JWT template?), so none can be checked"
            )
        try:
            session = yield SessionNeeded(claims.session_id)
        except NotFoundError:
            raise refused(
                Reason.SESSION_INACTIVE, "The token's session no longer exists."
            ) from None
        status = session.status
        if status == "active" or (status == "pending" and self.rules.accept_pending):
            return
        raise refused(
            Reason.SESSION_PENDING if status == "pending" else Reason.SESSION_INACTIVE,
            f"The token's session is {cut(str(status))}: the user must sign in again.",
        )

    def has_key_of(self, token: str) -> bool:
        """Tell whether the key that a token names is at hand."""
        try:
            return self.keys.knows(read_header(parse(token).header_segment).kid)
        except TokenVerificationError:
            return False

    def status(self) -> KeySetStatus:
        """Tell the figures of the keys and of the tokens remembered."""
        return self.keys.status(len(self._cache))


def _wrong_algorithm(algorithm: str) -> TokenVerificationError:
    return refused(
        Reason.TOKEN_INVALID_ALGORITHM,
        f"The token says that it is signed with {cut(algorithm)}, which its key is not for.",
    )
