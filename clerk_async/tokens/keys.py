"""Public keys: turns a PEM, a JWK or a key set (RFC 7517) into keys that check signatures.

Each key works with exactly one algorithm. The key's type and `alg` determine it, never a token:
RS256 for RSA keys, ES256 for P-256 keys, and EdDSA for Ed25519 keys (RFC 9864 and some key sets
call it Ed25519).
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import attrs
import msgspec

from clerk_async.errors import ConfigurationError
from clerk_async.extras import SERIALIZATION, require
from clerk_async.tokens.jose import canonical_base64url
from clerk_async.tokens.refusals import cut

ALGORITHMS: Final = frozenset({"Ed25519", "EdDSA", "ES256", "RS256"})
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192  # checking a signature with a larger key would take milliseconds
_MIN_RSA_EXPONENT: Final = 3
_SMALL_PRIMES: Final = 2305567963945518424753102147331756070  # the product of all below 100
_ES256_COORDINATE: Final = 32
_ED25519_KEY_BYTES: Final = 32
_ED25519_PRIME: Final = 2**255 - 19
_ED25519_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_ED25519_SMALL: Final = frozenset(
    {0, 1, _ED25519_PRIME - 1, _ED25519_ORDER_8, _ED25519_PRIME - _ED25519_ORDER_8}
)
"""The y of all points of small order; for those keys anyone can forge signatures."""
_NEEDED_FOR: Final = "Verifying session tokens needs"
_WRAPPED_PEM: Final = "LS0tLS1CRUdJTi"  # -----BEGIN, base64-encoded

Check = Callable[[bytes, bytes], bool]
"""Returns whether a signature (first) by this key over the data (second) is valid."""


@attrs.define(eq=False, repr=False)
class VerificationKey:
    """A public key, ready to check signatures; compared by identity, because it is parsed once."""

    kid: str | None
    algorithm: str
    is_signed_by: Check
    source: Mapping[str, Any] | None = None


class UnusableKey(NamedTuple):
    """A key of the set that this library can't or won't use, and the reason."""

    kid: str
    why: str


class KeySetUnreadableError(Exception):
    """The key set can't be read; this error never leaves this package."""


class _UnusableKeyError(Exception):
    pass


def require_cryptography() -> None:
    """Load cryptography when the first verifier is created, rather than on import.

    Raises:
        ConfigurationError: If the extra `jwt` is not installed or can't be loaded.
    """
    require("jwt", needed_for=_NEEDED_FOR)


def key_from(
    jwt_key: str | bytes | Mapping[str, Any], *, named: str = "jwt_key"
) -> VerificationKey:
    r"""Return a verifier's only key, from a PEM or a JWK; error messages call it `named`.

    A PEM may lack its line breaks, contain `\n` as two characters, have CRLF line endings, lack its
    BEGIN and END lines, or be base64-encoded as a whole, because dashboards, shells and env files
    do all of that.

    Raises:
        ConfigurationError: If it is not a usable public key.
    """
    require_cryptography()
    if isinstance(jwt_key, bytes):
        jwt_key = jwt_key.decode("ascii", "replace")
    try:
        if isinstance(jwt_key, str):
            return _from_pem(jwt_key)
        if isinstance(cast("object", jwt_key), Mapping):
            return _from_jwk(jwt_key)
    except _UnusableKeyError as error:
        raise ConfigurationError(f"{named} can't be used: {error}.") from None
    raise ConfigurationError(
        f"jwt_key must be a PEM (str) or a JWK (dict), not {type(jwt_key).__name__}."
    )


_ARMOUR = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def _from_pem(text: str) -> VerificationKey:
    require("jwt", SERIALIZATION, needed_for=_NEEDED_FOR)
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - heavy
        load_pem_public_key,
    )

    text = _without_escapes(text)
    if text.startswith(_WRAPPED_PEM):
        text = _without_escapes(_unwrapped(text))
    if text.startswith("{"):
        raise _UnusableKeyError("it is JSON; pass a JWK as a dict")
    armoured = _ARMOUR.search(text)
    label, body = armoured.groups() if armoured else ("PUBLIC KEY", text)
    if "PRIVATE" in label:
        raise _UnusableKeyError("it is a private key; pass the public key")
    body = "".join(body.split())
    pem = f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"
    try:
        binascii.a2b_base64(body, strict_mode=True)
        public = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):  # binascii.Error and UnicodeError are ValueErrors
        raise _UnusableKeyError(
            "it is not the PEM of a public key; copy all of it from the dashboard's API keys page"
        ) from None
    return _ready(public, kid=None, source=None)


def _without_escapes(text: str) -> str:
    return text.replace("\\r", "").replace("\\n", "\n").strip().strip("\"'").strip()


def _unwrapped(text: str) -> str:
    """Decode a PEM that was base64-encoded into one word; return other text unchanged."""
    word = "".join(text.split()).rstrip("=").translate(_FROM_URL)
    try:
        return binascii.a2b_base64(word + "=" * (-len(word) % 4), strict_mode=True).decode("ascii")
    except ValueError:
        return text


def _from_jwk(jwk: Mapping[str, Any]) -> VerificationKey:
    if "d" in jwk or jwk.get("kty") == "oct":
        raise _UnusableKeyError("it is a private or symmetric key; pass the public key")
    use, operations = jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if use != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableKeyError("it is not for checking signatures")
    kid = jwk.get("kid")
    if not (kid is None or (isinstance(kid, str) and kid)):
        raise _UnusableKeyError("its kid is not a string")
    try:
        public = _public_key(jwk)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise _UnusableKeyError("its numbers do not form a public key") from None
    key = _ready(public, kid=kid, source=dict(jwk))
    algorithm = jwk.get("alg", key.algorithm)
    if algorithm == "Ed25519" and key.algorithm == "EdDSA":
        key.algorithm = algorithm
        return key
    if algorithm != key.algorithm:
        raise _UnusableKeyError(
            f"its alg is {cut(algorithm)}, but for a key of its type it must be {key.algorithm}"
        )
    return key


def _public_key(jwk: Mapping[str, Any]) -> object:
    """Build the key of RFC 7518, section 6, or of RFC 8037."""
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415 - heavy
        ec,
        ed25519,
        rsa,
    )

    kind, curve = jwk["kty"], jwk.get("crv")
    if kind == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    if kind == "EC" and curve == "P-256":
        x, y = _number(jwk["x"]), _number(jwk["y"])
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    if kind == "OKP" and curve == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk["x"]))
    raise _UnusableKeyError(f"its type {cut(kind)} with curve {cut(curve)} is not supported")


def _octets(text: str) -> bytes:
    octets = canonical_base64url(text.encode("ascii")) if _is_base64url(text) else None
    if not octets:
        raise ValueError
    return octets


_FROM_URL: Final = str.maketrans("-_", "+/")
_is_base64url = re.compile(r"[A-Za-z0-9_-]+").fullmatch


def _number(text: str) -> int:
    return int.from_bytes(_octets(text), "big")


def _ready(public: object, *, kid: str | None, source: Mapping[str, Any] | None) -> VerificationKey:
    """Pin a key to its one algorithm."""
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415 - heavy
        ec,
        ed25519,
        padding,
        rsa,
    )
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - heavy

    if isinstance(public, rsa.RSAPublicKey):
        if not _MIN_RSA_BITS <= public.key_size <= _MAX_RSA_BITS:
            raise _UnusableKeyError(
                f"its RSA key has {public.key_size} bits; "
                f"{_MIN_RSA_BITS} to {_MAX_RSA_BITS} are accepted"
            )
        numbers = public.public_numbers()
        if numbers.e < _MIN_RSA_EXPONENT:
            raise _UnusableKeyError("its RSA exponent is too small")
        if math.gcd(numbers.n, _SMALL_PRIMES) != 1:
            raise _UnusableKeyError("its RSA modulus has a small factor: anyone could sign for it")
        return VerificationKey(
            kid, "RS256", _checker(public.verify, padding.PKCS1v15(), SHA256()), source
        )
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        is_signed_by_der = _checker(public.verify, ec.ECDSA(SHA256()))
        return VerificationKey(kid, "ES256", _es256(is_signed_by_der), source)
    if isinstance(public, ed25519.Ed25519PublicKey):
        _check_order(public.public_bytes_raw())
        return VerificationKey(kid, "EdDSA", _checker(public.verify), source)
    raise _UnusableKeyError("it is not an RSA, P-256 or Ed25519 key")


def _check_order(point: bytes) -> None:
    """Reject a key of small order, which the check of RFC 8032, section 5.1.7 would accept."""
    y = int.from_bytes(point, "little") & (2**255 - 1)  # the highest bit is the sign of x
    if y % _ED25519_PRIME in _ED25519_SMALL:
        raise _UnusableKeyError("its Ed25519 key has a small order: anyone could sign for it")
    if y >= _ED25519_PRIME:
        raise _UnusableKeyError("its Ed25519 key is not in canonical form")


def _checker(verify: Callable[..., object], *how: object) -> Check:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - heavy

    def is_signed_by(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data, *how)
        except InvalidSignature:
            return False
        return True

    return is_signed_by


def _es256(is_signed_by_der: Check) -> Check:
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415 - heavy
        encode_dss_signature,
    )

    def is_signed_by(signature: bytes, data: bytes) -> bool:
        # r and s are concatenated (RFC 7518, section 3.4), not DER. Without the length check, a
        # signature that lacks a leading zero of s would be a second form of the same signature.
        if len(signature) != 2 * _ES256_COORDINATE:
            return False
        r = int.from_bytes(signature[:_ES256_COORDINATE], "big")
        s = int.from_bytes(signature[_ES256_COORDINATE:], "big")
        return is_signed_by_der(encode_dss_signature(r, s), data)

    return is_signed_by


def read_key_set(
    body: bytes, known: Mapping[str, VerificationKey | UnusableKey]
) -> dict[str, VerificationKey | UnusableKey]:
    """Read the response of a JWKS endpoint; a key that did not change stays the same object.

    Keys without a `kid` are left out, because no token could name them. An unusable key does not
    affect the others.

    Raises:
        KeySetUnreadableError: If `body` is not a key set, or has no usable key.
    """
    try:
        entries = cast("list[object]", msgspec.json.decode(body)["keys"])
        jwks = [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]
    except (ValueError, msgspec.MsgspecError, TypeError, KeyError, RecursionError):
        raise KeySetUnreadableError("the response is not a JSON Web Key Set") from None
    keys: dict[str, VerificationKey | UnusableKey] = {}
    for jwk in jwks:
        kid = jwk.get("kid")
        if isinstance(kid, str) and kid and not isinstance(keys.get(kid), VerificationKey):
            keys[kid] = _same_or_new(kid, jwk, known.get(kid))
    if not any(isinstance(key, VerificationKey) for key in keys.values()):
        raise KeySetUnreadableError("the key set has no usable key")
    return keys


def _same_or_new(
    kid: str, jwk: dict[str, Any], before: VerificationKey | UnusableKey | None
) -> VerificationKey | UnusableKey:
    if isinstance(before, VerificationKey) and before.source == jwk:
        return before
    try:
        return _from_jwk(jwk)
    except _UnusableKeyError as error:
        return UnusableKey(kid, str(error))
