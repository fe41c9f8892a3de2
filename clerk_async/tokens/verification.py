"""Verifying one token, step by step, without any I/O.

A verification is a generator: it yields what it needs from outside (keys to be fetched, a session
to be looked up) and receives the result, so the async and the sync verifier share every rule.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

import attrs

from clerk_async.errors import (
    ClerkError,
    ConfigurationError,
    InvalidArgumentError,
    KeysUnavailableError,
    TokenVerificationError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.claims import SessionClaims, Shared, read_claims
from clerk_async.tokens.denied import GONE, max_age_of
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
from clerk_async.tokens.refusals import (
    Tally,
    cut,
    malformed,
    of_another_kind,
    refused,
    wrong_algorithm,
)
from clerk_async.tokens.rules import check_flag, pending
from clerk_async.under_test import on_reset

if TYPE_CHECKING:
    from clerk_async.tokens.denied import DenialCheck, LookUps
    from clerk_async.tokens.rules import Rules
    from clerk_async.tokens.sources import Keys

T = TypeVar("T")

_MAX_HEADERS: Final = 64
_NO_SESSION: Final = (None, "")


class SessionNeeded(NamedTuple):
    """A request to look up a session; the result is its status, `GONE` if there is no session.

    Attributes:
        session_id: The session.
        max_age: How old the status may be, in seconds. All callers that need one at the same time
            share one lookup, unless this is 0.
    """

    session_id: str
    max_age: float


class RefreshNeeded(NamedTuple):
    """A request to refresh a token; the result is the service's Set-Cookie lines."""

    session_id: str
    user_id: str
    expired_token: str
    refresh_token: str
    request_origin: str
    request_headers: Mapping[str, list[str]]
    suffixed_cookies: bool | None

    def __repr__(self) -> str:
        return f"RefreshNeeded({self.session_id!r})"  # the tokens are secret

    def sent_by(self, refresh: Callable[..., T]) -> T:
        """Call a client's `refresh` with these arguments."""
        arguments = self._asdict()
        del arguments["user_id"]
        return refresh(format="cookie", **arguments)

    @property
    def shared_by(self) -> tuple[str, str, str]:
        """The key of requests that can share one refresh."""
        return (self.expired_token, self.refresh_token, self.request_origin)


Need: TypeAlias = KeysNeeded | SessionNeeded | RefreshNeeded
Steps: TypeAlias = Generator[Need, Any, T]


@attrs.define(eq=False, repr=False)
class Examined:
    """A genuine token that passed all rules except expiry and access; some are cached."""

    token: str
    key: VerificationKey
    payload: dict[str, Any]
    is_session: bool = attrs.field(kw_only=True)
    claims: SessionClaims | None = None


class TokenCache:
    """At most `size` verified tokens; a new one evicts the oldest.

    It takes no lock, because an interruption could keep one held forever. Instead, each entry has
    one of `size` places; an interruption may lose a place.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._entries: dict[str, Examined] = {}
        self._free: deque[None] = deque()
        self._taken = count(1).__next__
        self.get: Callable[[str], Examined | None] = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Examined) -> None:
        """Cache a verified token."""
        self.drop(entry.token)
        if self._has_place() and self._entries.setdefault(entry.token, entry) is not entry:
            self._free.append(None)  # another thread has cached it in the meantime

    def _has_place(self) -> bool:
        """Take a place: a freed one, an unused one, or that of the oldest entry."""
        with suppress(IndexError):
            self._free.pop()
            return True
        is_taken, entries = self._taken() <= self.size, self._entries
        while entries and not is_taken:
            with suppress(StopIteration, RuntimeError):  # another thread has removed an entry
                is_taken = entries.pop(next(iter(entries)), None) is not None
        return is_taken

    def drop(self, token: str) -> None:
        """Remove a token."""
        if self._entries.pop(token, None) is not None:
            self._free.append(None)


class Verification:
    """The rules, keys and caches of one verifier."""

    def __init__(
        self,
        *,
        rules: Rules,
        keys: Keys,
        cache_size: int,
        can_look_up: bool,
        clock: Callable[[], float],
        look_ups: LookUps,
        denial_check: DenialCheck | None,
    ) -> None:
        self.rules = rules
        self._look_ups = look_ups
        self.denial_check = denial_check
        self.keys = keys
        self.can_look_up = can_look_up
        self.tally: Tally = Tally()
        self._cache = TokenCache(cache_size)
        self._headers: dict[bytes, Header] = {}
        self._shared: Shared = {}
        self._clock = clock
        _alive.add(self)
        on_reset(self.forget)

    def at_once(self, token: str, *, accept_pending: bool | None) -> SessionClaims | None:
        """Verify a token if its key is available without a fetch (it nearly always is), else None.

        Raises:
            TokenVerificationError: If the token is rejected.
            InvalidArgumentError: If `accept_pending` is invalid.
        """
        if accept_pending is not None:
            check_flag("accept_pending", accept_pending, error=InvalidArgumentError)
        try:
            examined = self.examine_at_once(token, session_only=False)
            if examined is None:
                return None
            claims = self.accept(examined, accept_pending=accept_pending)
        except TokenVerificationError as error:
            self.tally.refuse(error.reason, error)
            raise
        self.tally.accept()
        return claims

    def verify(
        self, token: str, *, check_session: float, accept_pending: bool | None
    ) -> Steps[SessionClaims]:
        """Verify a token, and look up its session if asked to.

        Raises:
            TokenVerificationError: If the token is rejected.
            KeysUnavailableError: If the keys can't be fetched.
            InvalidArgumentError: If `check_session` or `accept_pending` is invalid.
            ClerkError: If the session can't be looked up.
        """
        max_age = max_age_of(check_session)
        if accept_pending is not None:
            check_flag("accept_pending", accept_pending, error=InvalidArgumentError)
        try:
            examined = yield from self.examine(token, session_only=False)
            claims = self.accept(examined, accept_pending=accept_pending)
            if max_age is not None:
                yield from self.check_session(claims, max_age, accept_pending=accept_pending)
        except ConfigurationError:
            raise
        except ClerkError as error:
            self.tally.refuse(reason_of(error), error)
            raise
        self.tally.accept()
        return claims

    def examine_at_once(self, token: str, *, session_only: bool) -> Examined | None:
        """Do what `examine` does if the key is available without a fetch; else return None.

        Raises:
            TokenVerificationError: If the token is rejected.
        """
        if type(token) is not str:
            token = plain(token)
        entry = self._cache.get(token)
        if entry is not None and self.keys.at_hand(entry.key.kid) is entry.key:
            return self._again(entry, session_only=session_only)
        parts = parse(token)
        header = self._header_of(parts)
        key = self.keys.at_hand(header.kid)
        if key is None:
            return None
        return self._check(token, parts, header, key, session_only=session_only)

    def examine(self, token: str, *, session_only: bool) -> Steps[Examined]:
        """Check everything about a token except its expiry and what it gives access to.

        Args:
            token: The token.
            session_only: Whether to reject tokens of any other kind, such as a JWT template's.

        Raises:
            TokenVerificationError: If the token is rejected.
            KeysUnavailableError: If the keys can't be fetched.
        """
        if type(token) is not str:
            token = plain(token)
        parts = parse(token)
        header = self._header_of(parts)
        try:
            key = yield from self.keys.find(header.kid)
        except KeysUnavailableError:
            if self.denial_check is not None:
                self.denial_check.check_unverified(parts.payload_segment, self.rules, self._clock())
            raise
        entry = self._cache.get(token)
        if entry is not None and entry.key is key:
            return self._again(entry, session_only=session_only)
        return self._check(token, parts, header, key, session_only=session_only)

    def _header_of(self, parts: Compact) -> Header:
        header = self._headers.get(parts.header_segment)
        if header is None:
            header = read_header(parts.header_segment)
            if header.algorithm not in ALGORITHMS:
                raise wrong_algorithm(header.algorithm)
        return header

    def _again(self, entry: Examined, *, session_only: bool) -> Examined:
        """Check the claims of a token whose signature was verified before."""
        if session_only and not entry.is_session:
            raise _other_kind(entry.payload)
        try:
            self.rules.check(entry.payload, self._clock())
        except TokenVerificationError:
            self._cache.drop(entry.token)
            raise
        return entry

    def _check(
        self,
        token: str,
        parts: Compact,
        header: Header,
        key: VerificationKey,
        *,
        session_only: bool,
    ) -> Examined:
        if key.algorithm != header.algorithm:
            raise wrong_algorithm(header.algorithm)
        signature = canonical_base64url(parts.signature_segment)
        if signature is None or not key.is_signed_by(signature, parts.signing_input):
            raise refused(
                Reason.TOKEN_INVALID_SIGNATURE,
                "The signature does not match this token: the token was altered or signed with "
                "another key.",
            )
        if len(self._headers) < _MAX_HEADERS:  # only headers with a valid signature
            self._headers[parts.header_segment] = header
        payload = json_object(parts.payload_segment, "payload")
        is_session = header.is_session and payload.get("sid") not in _NO_SESSION
        if session_only and not is_session:
            raise _other_kind(payload)
        self.rules.check(payload, self._clock())
        return Examined(token, key, payload, is_session=is_session)

    def accept(self, examined: Examined, *, accept_pending: bool | None) -> SessionClaims:
        """Check what a genuine token gives access to, and cache the token.

        Raises:
            TokenVerificationError: If it has expired, its origin is not authorized, or a claim
                can't be read; if it was denied; or, checked last, if its session is pending.
            ConfigurationError: If the function that recognizes parties can't be used.
        """
        try:
            self.rules.check_access(examined.payload, self._clock())
        except TokenVerificationError:
            self._cache.drop(examined.token)
            raise
        claims = examined.claims
        if claims is None:
            claims = examined.claims = read_claims(examined.payload, self._shared)
            self._cache.put(examined)
        if self.denial_check is not None:
            self.denial_check.check(examined.payload)
        if claims.status == "pending" and not self._accepts_pending(accept_pending):
            raise pending()  # last, because it must be the only reason: see `pending_claims`
        return claims

    def _accepts_pending(self, accept_pending: bool | None) -> bool:
        return self.rules.accept_pending if accept_pending is None else accept_pending

    def check_session(
        self, claims: SessionClaims, max_age: float, *, accept_pending: bool | None
    ) -> Steps[None]:
        """Ask the service whether the session is alive, unless a recent answer is known.

        Raises:
            TokenVerificationError: If it is not.
            ConfigurationError: If the verifier has no client.
            ClerkError: If the session can't be looked up.
        """
        if not self.can_look_up:
            raise ConfigurationError(
                "check_session and refresh_if_expired ask the service: pass the verifier a "
                "client with sessions=."
            )
        if claims.session_id is None:
            raise malformed(
                "it names no session (was it made from a JWT template?), so none can be checked"
            )
        session_id = claims.session_id
        status = self._look_ups.status(session_id, max_age)
        if status is None:
            status = yield SessionNeeded(session_id, max_age)
        if status == GONE:
            raise refused(Reason.SESSION_INACTIVE, "The token's session no longer exists.")
        if status == "active" or (status == "pending" and self._accepts_pending(accept_pending)):
            if self.denial_check is not None:  # again: a denial may have come in the meantime
                self.denial_check.check(claims.raw)
            return
        raise refused(
            Reason.SESSION_PENDING if status == "pending" else Reason.SESSION_INACTIVE,
            f"The token's session is {cut(status)}: the user must sign in again.",
        )

    def has_key_of(self, token: str) -> bool:
        """Return whether the key that a token names is in the key set."""
        try:
            return self.keys.knows(read_header(parse(token).header_segment).kid)
        except TokenVerificationError:
            return False

    def status(self) -> KeySetStatus:
        """Return the status of the keys and the token cache, and the counts of all results."""
        return attrs.evolve(
            self.keys.status(len(self._cache)),
            accepted=self.tally.accepted,
            refused=self.tally.refused,
        )

    def forget(self) -> None:
        """Forget everything, between two tests."""
        self._cache = TokenCache(self._cache.size)
        self.keys.forget()
        self.tally = Tally()


_alive: weakref.WeakSet[Verification] = weakref.WeakSet()
"""To reset after a fork. There is only one hook, because a registered hook can't be removed."""


def _in_child() -> None:
    for verification in list(_alive):
        verification.keys.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def reason_of(error: ClerkError) -> Reason:
    """Return why a token does not count; if it is another error, the check itself failed."""
    return (
        error.reason if isinstance(error, TokenVerificationError) else Reason.SESSION_CHECK_FAILED
    )


def _other_kind(payload: Mapping[str, Any]) -> TokenVerificationError:
    named = "names no session" if payload.get("sid") in _NO_SESSION else "has another category"
    return of_another_kind(
        f"it {named}, like one made from a JWT template; `verify` accepts such tokens, but they "
        "sign nobody in"
    )
