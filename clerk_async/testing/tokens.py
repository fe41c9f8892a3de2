"""The fake instance's key set, and the tokens it signs.

The claims are those of https://clerk.com/docs/backend-requests/resources/session-tokens.
"""

from __future__ import annotations

import random
import threading
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from .keys import SigningKey, encode_jws, make_key, read_jws

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .state import FakeSession, State

DEFAULT_LIFETIME = 60
_NOT_BEFORE = 10  # Clerk's tokens are valid ten seconds before they are issued
V1 = 1


class Mint:
    """Holds the keys and makes tokens with them; safe to use from every thread.

    Args:
        owner: Whose keys they are: the key pairs are free for another when it is gone.
        seed: Repeats the token ids.
        kid: The first key's id; made up where it is None.
    """

    def __init__(self, owner: object, *, seed: int, kid: str | None) -> None:
        self._owner = weakref.ref(owner)
        self._lock = threading.RLock()
        self._random = random.Random(f"tokens {seed}")  # noqa: S311 - token ids that a seed repeats
        self._first_kid = kid
        self._keys: dict[str, SigningKey] = {}
        self._current: SigningKey | None = None

    @property
    def keys(self) -> dict[str, SigningKey]:
        """The published keys by kid, made now if there are none yet."""
        with self._lock:
            if self._current is None:
                self.add(self._first_kid, "RS256", sign_with_it=True)
            return dict(self._keys)

    @property
    def current(self) -> SigningKey:
        """The key that signs.

        Raises:
            RuntimeError: If cryptography is not installed.
        """
        with self._lock:
            if self._current is None:
                return self.add(self._first_kid, "RS256", sign_with_it=True)
            return self._current

    def add(self, kid: str | None, algorithm: str, *, sign_with_it: bool) -> SigningKey:
        """Publish one more key."""
        with self._lock:
            if self._current is None and not sign_with_it:
                self.add(self._first_kid, "RS256", sign_with_it=True)
            key = make_key(kid, algorithm, self._owner() or self)
            self._keys[key.kid] = key
            if sign_with_it:
                self._current = key
            return key

    def remove(self, kid: str) -> None:
        """Take a key out of the key set.

        Raises:
            KeyError: If there is none of that id.
        """
        with self._lock:
            del self._keys[kid]

    def key_set(self) -> dict[str, Any]:
        """The body of GET /jwks."""
        return {"keys": [key.jwk for key in self.keys.values()]}

    def sign(
        self,
        claims: Mapping[str, Any] | bytes,
        headers: Mapping[str, Any] | None = None,
        key: SigningKey | str | None = None,
    ) -> str:
        """A token of just these claims; see `FakeClerk.sign`."""
        with self._lock:
            chosen = self.keys[key] if isinstance(key, str) else key or self.current
        header: dict[str, Any] = {
            "alg": chosen.algorithm,
            "kid": chosen.kid,
            "typ": "JWT",
            **(headers or {}),
        }
        header = {name: value for name, value in header.items() if value is not None}
        payload = claims if isinstance(claims, bytes) else msgspec.json.encode(dict(claims))
        return encode_jws(payload, header, chosen)

    def read(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that a published key signed, whatever its times; else None."""
        return read_jws(token, self.keys)

    def new_token_id(self) -> str:
        """A fresh `jti`."""
        with self._lock:
            return f"{self._random.getrandbits(80):020x}"


def session_claims(
    session: FakeSession,
    *,
    issuer: str,
    issued_at: int,
    expires_in: int,
    token_id: str,
    version: int,
) -> dict[str, Any]:
    """The claims of a session token, of version 2 or (deprecated) 1."""
    claims: dict[str, Any] = {}
    if session.authorized_party is not None:
        claims["azp"] = session.authorized_party
    claims |= {
        "exp": issued_at + expires_in,
        "fva": [max(0, (issued_at * 1000 - session.created_at) // 60_000), -1],
        "iat": issued_at,
        "iss": issuer,
        "jti": token_id,
        "nbf": issued_at - _NOT_BEFORE,
        "sid": session.id,
        "sub": session.user_id,
    }
    organization = session.last_active_organization_id
    if session.actor is not None:
        claims["act"] = session.actor
    if version == V1:
        if organization is not None:
            claims |= {
                "org_id": organization,
                "org_slug": "acme",
                "org_role": "org:admin",
                "org_permissions": ["org:dashboard:manage", "org:dashboard:read", "org:teams:read"],
            }
    else:
        claims |= {"v": 2, "pla": "u:free", "fea": "u:basic", "sts": session.status}
        if organization is not None:
            claims |= {"pla": "o:pro", "fea": "o:dashboard,o:teams"}
            claims["o"] = {
                "id": organization,
                "slg": "acme",
                "rol": "admin",
                "per": "manage,read",
                "fpm": "3,2",
            }
    claims |= session.claims
    return {name: value for name, value in claims.items() if value is not None}


def template_claims(
    template: Mapping[str, Any],
    session: FakeSession,
    *,
    issuer: str,
    issued_at: int,
    expires_in: int,
    token_id: str,
) -> dict[str, Any]:
    """The claims of a token of a JWT template: its own ones, and no `sid`.

    https://clerk.com/docs/backend-requests/jwt-templates
    """
    claims: dict[str, Any] = _fill(dict(template), _shortcodes(session))
    claims |= {
        "exp": issued_at + expires_in,
        "iat": issued_at,
        "iss": issuer,
        "jti": token_id,
        "nbf": issued_at - _NOT_BEFORE,
        "sub": session.user_id,
    }
    if session.authorized_party is not None:
        claims["azp"] = session.authorized_party
    return claims


def mint(
    mint_: Mint,
    state: State,
    session: FakeSession,
    *,
    issuer: str,
    expires_in: int | None = None,
    template: str | None = None,
    issued_at: int | None = None,
    version: int = 2,
) -> str:
    """A token for a session, as the service signs it.

    Raises:
        KeyError: If there is no such template.
        RuntimeError: If cryptography is not installed.
    """
    issued = state.now() // 1000 if issued_at is None else issued_at
    token_id = mint_.new_token_id()
    if template is None:
        lifetime = session.token_lifetime if expires_in is None else expires_in
        claims = session_claims(
            session,
            issuer=issuer,
            issued_at=issued,
            expires_in=lifetime,
            token_id=token_id,
            version=version,
        )
    else:
        own, usual = state.templates[template]
        claims = template_claims(
            own,
            session,
            issuer=issuer,
            issued_at=issued,
            expires_in=usual if expires_in is None else expires_in,
            token_id=token_id,
        )
    return mint_.sign(claims)


def _shortcodes(session: FakeSession) -> dict[str, Any]:
    return {
        "{{user.id}}": session.user_id,
        "{{session.id}}": session.id,
        "{{org.id}}": session.last_active_organization_id,
    }


def _fill(value: Any, shortcodes: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, shortcodes) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_fill(item, shortcodes) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not isinstance(value, str):
        return value
    if value in shortcodes:
        return shortcodes[value]
    for code, text in shortcodes.items():
        value = value.replace(code, str(text))
    return value
