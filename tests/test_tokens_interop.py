"""Two independent libraries agree with us in both directions: PyJWT and joserfc."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt as jose_jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from token_samples import EDWARDS, ELLIPTIC, ISSUER, NOW, OURS, PARTY, Clock, claims

from clerk_async import TokenVerifier

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk, SigningKey

# RFC 9864 renames EdDSA; joserfc warns about the old name, which Clerk's key sets use.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

ALGORITHMS = ("RS256", "ES256", "EdDSA")
KEYS = [OURS, ELLIPTIC, EDWARDS]


@pytest.fixture(params=ALGORITHMS)
def signing(request: pytest.FixtureRequest, fake: FakeClerk) -> FakeClerk:
    """Yield a fake that signs with each algorithm in turn."""
    if request.param != "RS256":
        fake.rotate_keys(algorithm=request.param)
    return fake


def minted(fake: FakeClerk) -> str:
    """Mint a token with every claim."""
    return fake.mint(fake.add_session(user_id="user_1", last_active_organization_id="org_1"))


def test_pyjwt_verifies_tokens_of_the_fake(signing: FakeClerk) -> None:
    """A token of the fake is a real JWT, not one that only we accept."""
    made = minted(signing)
    keys = jwt.PyJWKSet.from_dict(signing.jwk_set)
    head = jwt.get_unverified_header(made)
    told = jwt.decode(made, keys[head["kid"]], algorithms=[head["alg"]], issuer=signing.issuer)
    assert told == _thawed(TokenVerifier(jwt_key=signing.jwt_key).verify(made).raw)


def test_joserfc_verifies_tokens_of_the_fake(signing: FakeClerk) -> None:
    """The same with a second library."""
    made = minted(signing)
    keys: Any = signing.jwk_set
    headers = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    told = jose_jwt.decode(made, KeySet.import_key_set(keys), registry=headers)
    jose_jwt.JWTClaimsRegistry(now=int(time.time())).validate(told.claims)
    assert told.claims == _thawed(TokenVerifier(jwt_key=signing.jwt_key).verify(made).raw)


def _pem(key: SigningKey) -> str:
    pem: bytes = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_we_verify_tokens_signed_by_pyjwt(key: SigningKey) -> None:
    """A token signed by PyJWT is accepted here."""
    made = jwt.encode(claims(), _pem(key), algorithm=key.algorithm, headers={"kid": key.kid})
    verifier = TokenVerifier(
        jwt_key=key.jwk, issuer=ISSUER, authorized_parties=[PARTY], clock=Clock()
    )
    assert verifier.verify(made).expires_at.timestamp() == NOW + 60


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_we_verify_tokens_signed_by_joserfc(key: SigningKey) -> None:
    """A token signed by joserfc is accepted here."""
    kinds: dict[str, Any] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}
    private = kinds[key.algorithm].import_key(_pem(key))
    head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    made = jose_jwt.encode(head, claims(), private, algorithms=[key.algorithm])
    verifier = TokenVerifier(
        jwt_key=key.jwk, issuer=ISSUER, authorized_parties=[PARTY], clock=Clock()
    )
    assert verifier.verify(made).user_id == "user_1"


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_thawed(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if hasattr(value, "items"):
        return {name: _thawed(item) for name, item in value.items()}
    return value
