"""Tokens, keys, clocks and key sources for the tests of verification; nothing here goes online."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from clerk_async.errors import ClerkError, ConnectError, NotFoundError
from clerk_async.models import Cookies, Session, SessionStatus
from clerk_async.testing.keys import SigningKey, b64, encode_jws, make_key, sign_bytes

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

NOW = 1_800_000_000
ISSUER = "https://clerk.example.com"
PARTY = "https://app.example.com"


class _Instance:
    """The owner of the key pairs."""


_HERE = _Instance()
OURS = make_key("ins_ours", "RS256", _HERE)
OTHER = make_key("ins_other", "RS256", _HERE)
ELLIPTIC = make_key("ins_elliptic", "ES256", _HERE)
EDWARDS = make_key("ins_edwards", "EdDSA", _HERE)
GONE = object()
"""Marks a claim or header to be left out."""


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a fresh token (at NOW) as Clerk makes them, with changes."""
    standard = {
        "azp": PARTY,
        "exp": NOW + 60,
        "fva": [3, -1],
        "iat": NOW,
        "iss": ISSUER,
        "jti": "0123456789abcdef0123",
        "nbf": NOW - 10,
        "sid": "sess_1",
        "sts": "active",
        "sub": "user_1",
        "v": 2,
    }
    return {name: value for name, value in {**standard, **changes}.items() if value is not GONE}


def header(key: SigningKey = OURS, **changes: Any) -> dict[str, Any]:
    """Return the header of a token as Clerk makes it, with changes."""
    standard = {"alg": key.algorithm, "cat": "cl_B7d4PD111AAA", "kid": key.kid, "typ": "JWT"}
    return {name: value for name, value in {**standard, **changes}.items() if value is not GONE}


def token(
    payload: Mapping[str, Any] | bytes | None = None,
    *,
    key: SigningKey = OURS,
    head: Mapping[str, Any] | None = None,
) -> str:
    """Sign a token with any payload and header."""
    payload = claims() if payload is None else payload
    raw = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return encode_jws(raw, header(key) if head is None else head, key)


def raw_token(head: bytes, payload: bytes, key: SigningKey = OURS) -> str:
    """Sign segments as they are, however odd."""
    signed = f"{b64(head)}.{b64(payload)}"
    return f"{signed}.{b64(sign_bytes(signed.encode(), key))}"


def key_set(*keys: SigningKey) -> bytes:
    """Return the body of a JWKS endpoint."""
    return msgspec.json.encode({"keys": [key.jwk for key in keys]})


class Clock:
    """A clock that moves only when told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@attrs.define
class Service:
    """The common part of both stub clients: the responses, and the recorded requests."""

    body: bytes = attrs.field(factory=lambda: key_set(OURS))
    error: Exception | None = None
    fetches: int = 0
    sessions: dict[str, str] = attrs.field(factory=lambda: {"sess_1": "active"})
    lookup_error: ClerkError | None = None
    cookies: tuple[str, ...] = ()
    refresh_error: ClerkError | None = None
    refreshes: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])

    def fetched(self) -> bytes:
        """Count a fetch of the keys, and return its response."""
        self.fetches += 1
        if self.error is not None:
            raise self.error
        return self.body

    def goes_down(self) -> None:
        """Refuse connections from now on."""
        self.error = ConnectError("connection refused")

    def comes_back(self) -> None:
        """Respond again."""
        self.error = None

    def looked_up(self, session_id: str) -> Session:
        """Return the response to a get."""
        if self.lookup_error is not None:
            raise self.lookup_error
        if session_id not in self.sessions:
            raise NotFoundError("no such session", status=404)
        return Session(id=session_id, status=SessionStatus(self.sessions[session_id]))

    def refreshed(self, session_id: str, body: dict[str, Any]) -> Cookies:
        """Return the response to a refresh."""
        self.refreshes.append({"session_id": session_id, **body})
        if self.refresh_error is not None:
            raise self.refresh_error
        return Cookies(cookies=self.cookies)


class AsyncStub(Service):
    """An async client without a network; `gate` delays fetches."""

    gate: asyncio.Event | None = None

    async def _fetch_jwks(self) -> bytes:
        answer = self.fetched() if self.error is None else b""
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        return self.fetched() if self.error is not None else answer

    async def get(self, session_id: str) -> Session:
        """Get a session."""
        return self.looked_up(session_id)

    async def refresh(self, session_id: str, **body: Any) -> Cookies:
        """Refresh a session."""
        return self.refreshed(session_id, body)


class SyncStub(Service):
    """A sync client without a network; `gate` delays fetches."""

    gate: threading.Event | None = None

    def _fetch_jwks(self) -> bytes:
        if self.gate is not None:
            self.gate.wait(10)
        return self.fetched()

    def get(self, session_id: str) -> Session:
        """Get a session."""
        return self.looked_up(session_id)

    def refresh(self, session_id: str, **body: Any) -> Cookies:
        """Refresh a session."""
        return self.refreshed(session_id, body)


async def until(condition: Any) -> None:
    """Run the loop until something has happened."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
