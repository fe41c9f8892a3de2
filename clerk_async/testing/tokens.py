"""The keys of a fake instance, and the tokens that they sign."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .checks import milliseconds, must_be, number
from .claims import SESSION, TEMPLATE, session_claims, template_claims, usual_claims
from .keys import SigningKey, encode_jws, make_key, read_jws
from .state import ORIGIN, FakeSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clerk_async import Actor, Organization, SessionClaims

    from .state import State

VERSIONS = (1, 2)


class Tokens:
    """What a fake instance signs, and what it signs with; `FakeClerk` is one.

    Safe to use from every thread. The first key is made when it is first needed.
    """

    def __init__(self, state: State, *, seed: int, kid: str | None) -> None:
        self._state = state
        self._keys_lock = threading.RLock()
        self._token_ids = random.Random(f"tokens {seed}")  # noqa: S311 - a seed repeats them
        self._first_kid = kid
        self._first: SigningKey | None = None
        self._current: SigningKey | None = None
        self._published: dict[str, SigningKey] = {}

    @property
    def issuer(self) -> str:
        """The `iss` of tokens signed from now on."""
        raise NotImplementedError

    # Keys

    def _keys(self) -> dict[str, SigningKey]:
        """The published keys by kid."""
        with self._keys_lock:
            if self._first is None:
                self._first = self._current = make_key(self._first_kid, "RS256", self)
                self._published[self._first.kid] = self._first
            return self._published

    def _back_to_the_first_key(self) -> None:
        with self._keys_lock:
            self._published.clear()
            if self._first is not None:
                self._current = self._published[self._first.kid] = self._first

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs from now on.

        Raises:
            RuntimeError: If cryptography is not installed.
        """
        self._keys()
        assert self._current is not None  # noqa: S101 - made with the first key
        return self._current

    @property
    def jwt_key(self) -> str:
        """The public key that verifies tokens signed from now on, as PEM.

        Raises:
            RuntimeError: If cryptography is not installed.
        """
        return self.signing_key.public_pem

    @property
    def jwk_set(self) -> dict[str, Any]:
        """The body of `GET /jwks`."""
        with self._keys_lock:
            return {"keys": [key.jwk for key in self._keys().values()]}

    def rotate_keys(
        self, *, keep_old: bool = True, kid: str | None = None, algorithm: str = "RS256"
    ) -> SigningKey:
        """Sign with a new key from now on.

        Args:
            keep_old: Whether the old keys stay in the key set.
            kid: The new key's id; made up by default.
            algorithm: RS256, ES256 or EdDSA.

        Raises:
            ValueError: If the algorithm is another one.
        """
        with self._keys_lock:
            key = self.add_key(kid=kid, algorithm=algorithm)
            self._current = key
            if not keep_old:
                for name in list(self._published):
                    if name != key.kid:
                        del self._published[name]
            return key

    def add_key(self, *, kid: str | None = None, algorithm: str = "RS256") -> SigningKey:
        """Publish one more key, which signs only what `sign(…, key=…)` is told to.

        Raises:
            ValueError: If the algorithm is none of RS256, ES256 and EdDSA.
        """
        must_be("kid", kid, str, None)
        with self._keys_lock:
            published = self._keys()
            key = make_key(kid, algorithm, self)
            published[key.kid] = key
            return key

    def remove_key(self, kid: str) -> None:
        """Take a key out of the key set.

        Raises:
            KeyError: If there is none of that id.
        """
        with self._keys_lock:
            del self._keys()[kid]

    # Tokens

    def mint(
        self,
        session: FakeSession | str,
        *,
        expires_in: int | None = None,
        issued_at: datetime | float | None = None,
        template: str | None = None,
        version: int = 2,
    ) -> str:
        """A token for a session, as its browser holds it, without a request.

        It carries the session's authorized party (`azp`). What `create_token` and
        `create_token_from_template` return does not: they come over the Backend API, from no
        origin.

        Args:
            session: The session, or its id.
            expires_in: Seconds from its issue to its expiry, negative ones too; 60 by default.
            issued_at: When it was issued: Unix seconds or an aware datetime; now by default.
            template: The JWT template, None for a session token.
            version: The version of a session token's claims, 1 or 2.

        Raises:
            KeyError: If there is no such session or template.
            TypeError: If an argument is of a wrong type.
            ValueError: If the version is unknown, or `issued_at` has no time zone.
            RuntimeError: If cryptography is not installed.
        """
        must_be("expires_in", expires_in, int, None)
        if version not in VERSIONS:
            raise ValueError(f"version must be 1 or 2, not {version!r}")
        if isinstance(issued_at, datetime):
            if issued_at.tzinfo is None:
                raise ValueError("issued_at needs a time zone: datetime(…, tzinfo=UTC)")
            issued_at = issued_at.timestamp()
        elif issued_at is not None:
            number("issued_at", issued_at)
        whose = self._state.sessions[session] if isinstance(session, str) else session
        return self._token(
            whose,
            party=whose.authorized_party,
            template=template,
            expires_in=expires_in,
            issued_at=None if issued_at is None else int(issued_at),
            version=version,
        )

    def _token(
        self,
        session: FakeSession,
        *,
        party: str | None,
        template: str | None = None,
        expires_in: int | None = None,
        issued_at: int | None = None,
        version: int = 2,
    ) -> str:
        """A token for a session and a party, which is None for what comes from no origin."""
        issued = self._state.now() // 1000 if issued_at is None else issued_at
        with self._keys_lock:
            token_id = f"{self._token_ids.getrandbits(80):020x}"
        own: Mapping[str, Any] = {}
        lifetime = session.token_lifetime
        if template is not None:
            own, lifetime = self._state.templates[template]
        ends = issued + (lifetime if expires_in is None else expires_in)
        usual = usual_claims(
            session.user_id,
            issuer=self.issuer,
            party=party,
            issued_at=issued,
            expires_at=ends,
            token_id=token_id,
        )
        if template is None:
            claims, kind = session_claims(session, usual, version), SESSION
        else:
            claims, kind = template_claims(session, usual, own), TEMPLATE
        return self.sign(claims, headers={"cat": kind, "oiat": issued})

    def expired_token(self, session: FakeSession | str, *, age: float = 120.0) -> str:
        """A browser's session token that was issued so many seconds ago, and lived for a minute."""
        return self.mint(session, issued_at=self._state.now() / 1000 - number("age", age))

    def refresh_token_for(self, session: FakeSession | str) -> str:
        """What the session's `__refresh` cookie holds.

        Raises:
            KeyError: If there is no such session.
        """
        whose = self._state.sessions[session] if isinstance(session, str) else session
        return whose.refresh_token

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
        with self._keys_lock:
            chosen = self._keys()[key] if isinstance(key, str) else key or self.signing_key
        usual = {"alg": chosen.algorithm, "kid": chosen.kid, "typ": "JWT"}
        header = {**usual, **(headers or {})}
        header = {name: value for name, value in header.items() if value is not None}
        payload = claims if isinstance(claims, bytes) else msgspec.json.encode(dict(claims))
        return encode_jws(payload, header, chosen)

    def read_token(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that a published key signed, whatever its times; else None."""
        with self._keys_lock:
            keys = dict(self._keys())
        return read_jws(token, keys)


def make_claims(
    *,
    user_id: str = "user_1",
    session_id: str | None = "sess_1",
    organization: Organization | None = None,
    organization_id: str | None = None,
    role: str | None = None,
    permissions: Iterable[str] | None = None,
    features: Iterable[str] | None = None,
    plan: str | None = None,
    status: str = "active",
    actor: Actor | Mapping[str, Any] | None = None,
    issuer: str = "https://clerk.example.com",
    issued_at: datetime | None = None,
    expires_at: datetime | None = None,
    token_id: str | None = None,
    authorized_party: str | None = ORIGIN,
    factor_verification_age: tuple[int, int] | None = (0, -1),
    version: int = 2,
    claims: Mapping[str, Any] | None = None,
) -> SessionClaims:
    """Return what a session token says, without a token: for what stands in for a verifier.

    Example:
        ```python
        app.dependency_overrides[signed_in] = lambda: make_claims(
            user_id="user_1", organization_id="org_1", permissions=["org:invoices:create"]
        )
        ```

    Args:
        user_id: Whose they are.
        session_id: The session; None as in a token made from a JWT template.
        organization: The active organization as a whole, in place of the next three.
        organization_id: The active organization's id. This and the next four are those of
            `FakeClerk.add_session`, with the same defaults.
        role: The user's role there.
        permissions: The user's permissions there.
        features: The features of the plan.
        plan: The plan.
        status: The session's status.
        actor: The impersonator: an `Actor`, or the claim itself, such as `{"sub": "user_admin"}`.
        issuer: The instance.
        issued_at: An aware datetime; now by default.
        expires_at: An aware datetime; a minute after `issued_at` by default.
        token_id: The token's own id; None for none.
        authorized_party: The origin, None for none.
        factor_verification_age: Minutes since the two factors were verified, -1 for never; None
            where the token does not tell.
        version: The version of the token's format, 1 or 2.
        claims: Custom claims, or others in place of the usual ones; None removes one.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a permission, a feature or the version is none, or a time has no time zone.
        TokenVerificationError: If no token of Clerk's could say so.
    """
    from clerk_async.tokens.claims import read_claims  # noqa: PLC0415 - a value of the client's

    if version not in VERSIONS:
        raise ValueError(f"version must be 1 or 2, not {version!r}")
    if organization is not None:
        if organization_id or role or permissions:
            raise TypeError("organization is all of organization_id, role and permissions")
        organization_id, role = organization.id, organization.role
        permissions = sorted(organization.permissions)
    issued = milliseconds(datetime.now(UTC) if issued_at is None else issued_at) // 1000
    ends = issued + 60 if expires_at is None else milliseconds(expires_at) // 1000
    if actor is not None and not isinstance(actor, Mapping):
        actor = {"sub": actor.user_id, "sid": actor.session_id, "iss": actor.issuer}
    session = FakeSession(
        id=session_id or "sess_1",
        user_id=user_id,
        client_id="client_1",
        status=status,
        created_at=issued * 1000,
        updated_at=issued * 1000,
        last_active_at=issued * 1000,
        expire_at=ends * 1000,
        abandon_at=ends * 1000,
        last_active_organization_id=organization_id,
        actor=None if actor is None else {k: v for k, v in actor.items() if v is not None},
        role=role,
        permissions=permissions,
        features=features,
        plan=plan,
    )
    ages = None if factor_verification_age is None else list(factor_verification_age)
    session.claims = {"fva": ages, **(claims or {})}
    usual = usual_claims(
        user_id,
        issuer=issuer,
        party=authorized_party,
        issued_at=issued,
        expires_at=ends,
        token_id=token_id,
    )
    said = session_claims(session, usual, version)
    if session_id is None:
        said = {name: value for name, value in said.items() if name not in {"sid", "sts"}}
    if organization is not None:
        (said if version == 1 else said["o"])["org_slug" if version == 1 else "slg"] = (
            organization.slug
        )
    for name in ("sub", "exp"):
        if name not in said:
            raise ValueError(f"every token has the claim {name}")
    return read_claims(said)
