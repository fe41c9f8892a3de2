"""Parses tokens: JWS in compact serialization (RFC 7515, section 7.1), and nothing else.

The parser is as strict as the RFC: it accepts only canonical unpadded base64url, JSON objects
without duplicate names, and no header that changes how the token is read. It never loads a key
that the header contains or links to; the `kid` only selects one of the verifier's own keys.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import attrs
import msgspec

from clerk_async.reasons import TokenVerificationReason
from clerk_async.tokens.refusals import cut, malformed, of_another_kind, refused

MAX_TOKEN_CHARS: Final = 16_384
"""Longer tokens are rejected unread: no proxy would forward them, and parsing takes time."""
_MAX_KID_CHARS: Final = 256
_SEGMENTS_AND_DOTS: Final = b".."

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
# By length modulo 4, the last characters that leave no stray bits (RFC 4648, section 3.5).
_LAST_OF: Final = {0: frozenset(_ALPHABET), 2: frozenset(b"AQgw"), 3: frozenset(_ALPHABET[::4])}
_PADDED: Final = (b'"', b'"', b'=="', b'="')

# Each would change how the token is read or supply a key (RFC 7515, section 4.1; RFC 7797;
# RFC 7516; RFC 7519, section 5.2).
_FORBIDDEN_HEADERS: Final = frozenset(
    {"b64", "crit", "cty", "enc", "epk", "jku", "jwk", "x5c", "x5u", "zip"}
)
# Clerk signs all kinds of token with the same key; the category tells them apart
# (`jwtCategories.ts` in Clerk's JavaScript SDK). The second one means no particular kind.
_SESSION_CATEGORIES: Final = frozenset({"cl_B7d4PD111AAA", "cl_I7d4PD111III"})
_MACHINE_CATEGORY: Final = "cl_B7d4PD333AAA"
_OAUTH_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068, section 2.1
_NOT_TOKENS: Final = {
    "sk_": "it is a secret key (sk_…), which must never leave the server: if it came from a "
    "browser, replace it with a new one",
    "pk_": "it is a publishable key (pk_…), which identifies no user",
    **dict.fromkeys(
        ("ak_", "m2m_", "mt_", "oat_"),
        "it looks like a machine token or API key, which this library does not verify",
    ),
}

_ABSENT: Final = object()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_bytes = msgspec.json.Decoder(bytes).decode  # base64, in half the time of binascii


class Header(NamedTuple):
    """The relevant parts of a token's header, after the checks that need no key."""

    algorithm: str
    kid: str | None
    is_session: bool
    """Whether it has a category that session tokens have."""


@attrs.define(eq=False, repr=False)
class Compact:
    """A token split into its segments; don't trust them before the signature is verified."""

    header_segment: bytes
    signing_input: bytes
    payload_segment: bytes
    signature_segment: bytes


def plain(token: object) -> str:
    """Return the token as a plain str, without what a subclass of str may override.

    Raises:
        TokenVerificationError: If `token` is not a str.
    """
    if not isinstance(token, str):
        raise malformed(f"it must be a str, not {type(token).__name__}")
    return str.__str__(token)


def parse(token: str) -> Compact:
    """Split a token at its two dots.

    Raises:
        TokenVerificationError: If it is too long or does not have three base64url segments.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise malformed(f"{len(token)} characters are more than the {MAX_TOKEN_CHARS} allowed")
    try:
        raw = token.encode("ascii")
    except UnicodeEncodeError:
        raise malformed("it contains characters outside ASCII") from None
    # One pass in C: without the characters of the alphabet, only the two dots may remain.
    if raw.translate(None, _ALPHABET) != _SEGMENTS_AND_DOTS:
        raise malformed(_what_is_wrong(token))
    signing_input, _, signature = raw.rpartition(b".")
    header, _, payload = signing_input.partition(b".")
    return Compact(header, signing_input, payload, signature)


def _what_is_wrong(token: str) -> str:
    for prefix, what in _NOT_TOKENS.items():
        if token.startswith(prefix):
            return what
    if token != token.strip():
        return "it has whitespace around it"
    dots = token.count(".")
    if dots != len(_SEGMENTS_AND_DOTS):
        return f"expected three segments, found {dots + 1} instead"
    return "it contains characters outside the base64url alphabet"


def canonical_base64url(segment: bytes) -> bytes | None:
    """Decode unpadded base64url, whose alphabet was checked; return None if it isn't canonical."""
    rest = len(segment) % 4
    if not segment:
        return b""
    if rest == 1 or segment[-1] not in _LAST_OF[rest]:
        return None
    return _decode_bytes(b'"' + segment.translate(_TO_STANDARD) + _PADDED[rest])


def json_object(segment: bytes, what: str) -> dict[str, Any]:
    """Read a segment as a JSON object with unique names at every depth.

    Raises:
        TokenVerificationError: If it is anything else.
    """
    raw = canonical_base64url(segment)
    if raw is None:
        raise malformed(f"its {what} is not canonical base64url")
    try:
        value = _decode(raw)
        # A re-encoded value has no duplicates, so equal bytes prove that the input had none. Nearly
        # all tokens pass here; the others go through a slower, stricter parser.
        if _encode(value) != raw:
            _read_strictly(raw)
    except (ValueError, msgspec.MsgspecError, RecursionError):  # no ValueError before msgspec 0.20
        raise malformed(f"its {what} is not JSON with unique names") from None
    if not isinstance(value, dict):
        raise malformed(f"its {what} is not a JSON object")
    return cast("dict[str, Any]", value)


def _read_strictly(raw: bytes) -> None:
    import json  # noqa: PLC0415 - seldom needed

    json.loads(raw, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def read_header(segment: bytes) -> Header:
    """Read the header and reject anything that Clerk's session tokens don't have.

    Raises:
        TokenVerificationError: If it is malformed, brings its own key, or belongs to a token of
            another kind.
    """
    header = json_object(segment, "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or not algorithm:
        raise refused(
            TokenVerificationReason.TOKEN_INVALID_ALGORITHM, "The token does not name an algorithm."
        )
    forbidden = _FORBIDDEN_HEADERS.intersection(header)
    if forbidden:
        raise malformed(f"its header contains {', '.join(sorted(forbidden))}")
    kind = header.get("typ")
    if kind is not None and not (isinstance(kind, str) and kind.upper() == "JWT"):
        if isinstance(kind, str) and kind.lower() in _OAUTH_TYPES:
            raise of_another_kind("it is an OAuth access token")
        raise malformed(f"its type is {cut(kind)} instead of 'JWT'")
    category = header.get("cat", _ABSENT)
    if category == _MACHINE_CATEGORY:
        raise of_another_kind("it is a machine token")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID_CHARS):
        raise malformed("its kid is not a string of reasonable length")
    if kid == "":
        raise refused(TokenVerificationReason.JWK_KID_MISMATCH, "The token's kid is empty.")
    is_session = category is _ABSENT or (
        isinstance(category, str) and category in _SESSION_CATEGORIES
    )
    return Header(algorithm, kid, is_session)
