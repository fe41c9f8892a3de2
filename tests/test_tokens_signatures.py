"""A token is exactly one string: no other signature and no other encoding is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from token_samples import EDWARDS, ELLIPTIC, OURS, PARTY, Clock, claims, token

from clerk_async.errors import TokenVerificationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.testing.keys import b64, unb64
from clerk_async.tokens.sync_verifier import TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable


def refusal(forged: str, verifier: TokenVerifier) -> Reason:
    """Verify a token, and return the reason of its rejection."""
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(forged)
    return caught.value.reason


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"\0" * 63, b"\0" * 65])
def test_degenerate_elliptic_signatures_are_rejected(signature: bytes) -> None:
    """ES256 signatures of zeros, of too large numbers and of wrong lengths."""
    verifier = TokenVerifier(jwt_key=ELLIPTIC.jwk, clock=Clock(), authorized_parties=[PARTY])
    forged = f"{token(key=ELLIPTIC).rpartition('.')[0]}.{b64(signature)}"
    assert refusal(forged, verifier) is Reason.TOKEN_INVALID_SIGNATURE


def test_an_elliptic_signature_needs_its_leading_zeros() -> None:
    """A coordinate without its leading zero is the same number, but a second encoding."""
    verifier = TokenVerifier(jwt_key=ELLIPTIC.jwk, clock=Clock(), authorized_parties=[PARTY])
    for n in range(10_000):
        genuine = token(claims(jti=str(n)), key=ELLIPTIC)
        signed, _, last = genuine.rpartition(".")
        signature = unb64(last)
        if signature[32] == 0:
            break
    else:
        raise AssertionError
    assert verifier.verify(genuine)
    forged = f"{signed}.{b64(signature[:32] + signature[33:])}"
    assert refusal(forged, verifier) is Reason.TOKEN_INVALID_SIGNATURE


ORDER_OF_ED25519 = 2**252 + 27742317777372353535851937790883648493


def as_der(signature: bytes) -> bytes:
    """Encode an ES256 signature as OpenSSL does."""
    return encode_dss_signature(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    )


def beyond_order(signature: bytes) -> bytes:
    """Add the group order to the second half, which doesn't change the equation."""
    scalar = int.from_bytes(signature[32:], "little") + ORDER_OF_ED25519
    return signature[:32] + scalar.to_bytes(32, "little")


def beyond_modulus(signature: bytes) -> bytes:
    """Add the modulus, which doesn't change the equation."""
    modulus = int.from_bytes(unb64(OURS.jwk["n"]), "big")
    return (int.from_bytes(signature, "big") + modulus).to_bytes(257, "big")


@pytest.mark.parametrize(
    ("key", "spelled"),
    [(OURS, beyond_modulus), (ELLIPTIC, as_der), (EDWARDS, beyond_order)],
    ids=["RS256", "ES256", "EdDSA"],
)
def test_a_signature_has_one_encoding(key: Any, spelled: Callable[[bytes], bytes]) -> None:
    """The same numbers in another encoding than the algorithm's standard are rejected."""
    verifier = TokenVerifier(jwt_key=key.jwk, clock=Clock(), authorized_parties=[PARTY])
    signed, _, signature = token(key=key).rpartition(".")
    assert verifier.verify(f"{signed}.{signature}")
    forged = f"{signed}.{b64(spelled(unb64(signature)))}"
    assert refusal(forged, verifier) is Reason.TOKEN_INVALID_SIGNATURE


@pytest.mark.promise("forgeries")
@pytest.mark.parametrize("key", [OURS, ELLIPTIC, EDWARDS], ids=lambda key: key.algorithm)
def test_a_token_with_a_flipped_bit_is_rejected(key: Any) -> None:
    """Every character counts, with each of its bits."""
    verifier = TokenVerifier(jwt_key=key.jwk, clock=Clock(), authorized_parties=[PARTY])
    genuine = token(key=key)
    verifier.verify(genuine)
    for place, character in enumerate(genuine):
        for bit in range(7):
            forged = genuine[:place] + chr(ord(character) ^ 1 << bit) + genuine[place + 1 :]
            refusal(forged, verifier)


@pytest.mark.parametrize("last", [OURS, ELLIPTIC, EDWARDS], ids=lambda key: key.algorithm)
def test_a_token_has_one_encoding(last: Any) -> None:
    """Unused bits at the end of base64url make no second token; a list of used ones would leak."""
    verifier = TokenVerifier(jwt_key=last.jwk, clock=Clock(), authorized_parties=[PARTY])
    genuine = token(key=last)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for character in alphabet.replace(genuine[-1], ""):
        assert refusal(genuine[:-1] + character, verifier) is Reason.TOKEN_INVALID_SIGNATURE
