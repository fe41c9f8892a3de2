"""Signing keys of a fake instance, and its own JWS (RFC 7515) code, so tests can make forgeries.

cryptography comes with the `jwt` extra and is imported for the first token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

import msgspec
from attrs import field, frozen

from clerk_async.extras import SERIALIZATION, trouble_with

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ALGORITHMS = ("RS256", "ES256", "EdDSA")
_COORDINATE = 32  # bytes of a number on P-256


class CryptographyMissingError(RuntimeError):
    """A token or key is needed, but cryptography is not installed or can't be loaded."""


@frozen(eq=False)
class SigningKey:
    """A key pair of a fake instance.

    Attributes:
        kid: The key id in its tokens and in the key set.
        algorithm: RS256, ES256 or EdDSA.
        jwk: The public key as the key set publishes it (RFC 7517).
        public_pem: The public key as PEM.
        private: cryptography's private key.
    """

    kid: str
    algorithm: str
    jwk: dict[str, str] = field(repr=False)
    public_pem: str = field(repr=False)
    private: Any = field(repr=False)


_FREE: dict[str, list[PrivateKeyTypes]] = {name: [] for name in ALGORITHMS}
"""Key pairs are generated once per process and reused, because that takes 0.1 seconds. Two fakes
that exist at the same time never share one, because they are different instances."""
_FREE_LOCK = threading.Lock()


def _lend(algorithm: str, borrower: object) -> PrivateKeyTypes:
    free = _FREE[algorithm]
    with _FREE_LOCK:
        pair = free.pop() if free else None
    if pair is None:
        pair = _generate(algorithm)
    weakref.finalize(borrower, free.append, pair).atexit = False
    return pair


def make_key(kid: str | None, algorithm: str, borrower: object) -> SigningKey:
    """Return a key pair for the lifetime of the borrower; by default, its kid is a hash of it.

    Raises:
        ValueError: If the algorithm is not RS256, ES256 or EdDSA.
        CryptographyMissingError: If cryptography is not installed or can't be loaded.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
    trouble = trouble_with("jwt", SERIALIZATION)
    if trouble:
        raise CryptographyMissingError(f"FakeClerk's tokens and keys need {trouble}")
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    private = _lend(algorithm, borrower)
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    if kid is None:
        kid = f"ins_{hashlib.sha256(pem.encode('ascii')).hexdigest()[:27]}"
    jwk = {"use": "sig", "kid": kid, "alg": algorithm, **_public_numbers(public)}
    return SigningKey(kid=kid, algorithm=algorithm, jwk=jwk, public_pem=pem, private=private)


def encode_jws(payload: bytes, header: Mapping[str, Any], key: SigningKey) -> str:
    """Return a compact JWS of any header and payload, signed with the key's own algorithm."""
    head = b64(msgspec.json.encode(dict(header)))
    signed = f"{head}.{b64(payload)}"
    return f"{signed}.{b64(sign_bytes(signed.encode('ascii'), key))}"


def sign_bytes(data: bytes, key: SigningKey) -> bytes:
    """Return the signature over the data, in the form that JWS requires."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, padding, utils  # noqa: PLC0415

    if key.algorithm == "RS256":
        signature: bytes = key.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return signature
    if key.algorithm == "ES256":
        der = key.private.sign(data, ec.ECDSA(hashes.SHA256()))
        numbers = utils.decode_dss_signature(der)
        return b"".join(number.to_bytes(_COORDINATE, "big") for number in numbers)
    ed25519: bytes = key.private.sign(data)
    return ed25519


def read_jws(token: str, keys: Mapping[str, SigningKey]) -> dict[str, Any] | None:
    """Return the claims of a token that one of these keys signed; None for any other text."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - RFC 7515, 3.1: header, payload, signature
        return None
    try:
        header = msgspec.json.decode(unb64(parts[0]), type=dict[str, Any])
        claims = msgspec.json.decode(unb64(parts[1]), type=dict[str, Any])
        signature = unb64(parts[2])
    except (ValueError, binascii.Error):
        return None
    key = keys.get(str(header.get("kid")))
    if key is None or header.get("alg") != key.algorithm:
        return None
    return claims if _verifies(f"{parts[0]}.{parts[1]}".encode(), signature, key) else None


def b64(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    """Decode unpadded base64url."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _verifies(data: bytes, signature: bytes, key: SigningKey) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, padding, utils  # noqa: PLC0415

    public = key.private.public_key()
    try:
        if key.algorithm == "RS256":
            public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        elif key.algorithm == "ES256":
            r = int.from_bytes(signature[:_COORDINATE], "big")
            s = int.from_bytes(signature[_COORDINATE:], "big")
            public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        else:
            public.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _generate(algorithm: str) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def _public_numbers(public: Any) -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        x, y = (b64(part.to_bytes(_COORDINATE, "big")) for part in (point.x, point.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}


def _number(number: int) -> str:
    return b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))
