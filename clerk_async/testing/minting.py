"""The part of FakeClerk that signs: its keys, and tokens without a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .tokens import Mint, mint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from .keys import SigningKey
    from .state import FakeSession, State


class Minting:
    """The keys of a fake instance and what they sign; see `FakeClerk`."""

    def __init__(self, state: State, *, seed: int, kid: str | None) -> None:
        self._state = state
        self._mint = Mint(self, seed=seed, kid=kid)

    @property
    def issuer(self) -> str:
        """The `iss` of tokens signed from now on."""
        raise NotImplementedError

    def _find(self, session: FakeSession | str) -> FakeSession:
        return self._state.sessions[session] if isinstance(session, str) else session

    @property
    def jwk_set(self) -> dict[str, Any]:
        """The body of `GET /jwks`."""
        return self._mint.key_set()

    @property
    def jwt_key(self) -> str:
        """The public key that verifies tokens signed from now on, as PEM.

        Raises:
            RuntimeError: If cryptography is not installed.
        """
        return self._mint.current.public_pem

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs from now on."""
        return self._mint.current

    def mint(
        self,
        session: FakeSession | str,
        *,
        expires_in: int | None = None,
        issued_at: datetime | float | None = None,
        template: str | None = None,
        version: int = 2,
    ) -> str:
        """A token for a session, as `create_token` gives it, without a request.

        Args:
            session: The session, or its id.
            expires_in: Seconds from its issue to its expiry, negative ones too; 60 by default.
            issued_at: When it was issued: Unix seconds or a datetime; now by default.
            template: The JWT template, None for a session token.
            version: The version of a session token's claims, 1 or 2.

        Raises:
            KeyError: If there is no such session or template.
            RuntimeError: If cryptography is not installed.
        """
        if issued_at is not None:
            issued_at = issued_at if isinstance(issued_at, int | float) else issued_at.timestamp()
        return mint(
            self._mint,
            self._state,
            self._find(session),
            issuer=self.issuer,
            expires_in=expires_in,
            template=template,
            issued_at=None if issued_at is None else int(issued_at),
            version=version,
        )

    def expired_token(self, session: FakeSession | str, *, age: float = 120.0) -> str:
        """A session token that was issued so many seconds ago, and lived for a minute."""
        return self.mint(session, issued_at=self._state.now() / 1000 - age)

    def refresh_token_for(self, session: FakeSession | str) -> str:
        """What the session's `__refresh` cookie holds.

        Raises:
            KeyError: If there is no such session.
        """
        return self._find(session).refresh_token

    def sign(
        self,
        claims: Mapping[str, Any] | bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        key: SigningKey | str | None = None,
    ) -> str:
        """A token of just these claims, forged as a test needs it.

        Args:
            claims: The claims, or the payload's bytes as they are.
            headers: Header fields over the usual `alg`, `kid` and `typ`; None removes one.
            key: The key, or the kid of a published one; the current one by default. It signs
                with its own algorithm, whatever the header says.

        Raises:
            KeyError: If no published key has that kid.
            RuntimeError: If cryptography is not installed.
        """
        return self._mint.sign(claims, headers, key)

    def rotate_keys(
        self, *, keep_old: bool = True, kid: str | None = None, algorithm: str = "RS256"
    ) -> SigningKey:
        """Sign with a new key from now on.

        Args:
            keep_old: Do the old keys stay in the key set?
            kid: The new key's id; made up by default.
            algorithm: RS256, ES256 or EdDSA.
        """
        old = list(self._mint.keys)
        key = self._mint.add(kid, algorithm, sign_with_it=True)
        if not keep_old:
            for name in old:
                if name != key.kid:
                    self._mint.remove(name)
        return key

    def add_key(self, *, kid: str | None = None, algorithm: str = "RS256") -> SigningKey:
        """Publish one more key, which signs only what `sign(…, key=…)` is told to."""
        return self._mint.add(kid, algorithm, sign_with_it=False)

    def remove_key(self, kid: str) -> None:
        """Take a key out of the key set.

        Raises:
            KeyError: If there is none of that id.
        """
        self._mint.remove(kid)
