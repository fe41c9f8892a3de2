"""The form of a token: a JWS in compact serialization (RFC 7515, section 7.1), and nothing else.

Strict where the RFC is strict: unpadded base64url in its one canonical spelling, JSON objects
without duplicate names, no header that changes how the token is to be read. What the header says
about keys is never followed; it only picks, by `kid`, among the keys of the verifier.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import msgspec

from clerk_async.reasons import TokenVerificationReason
from clerk_async.tokens.refusals import cut, malformed, of_another_kind, refused

MAX_TOKEN_CHARS: Final = 16_384
"""Longer tokens are refused unread: no proxy would carry them, and reading costs time."""
_MAX_KID_CHARS: Final = 256
_SEGMENTS_AND_DOTS: Final = b".."

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
# By length modulo 4, the characters that leave no stray bits behind (RFC 4648, section 3.5).
_LAST_OF: Final = {0: frozenset(_ALPHABET), 2: frozenset(b"AQgw"), 3: frozenset(_ALPHABET[::4])}
_PADDED: Final = (b'"', b'"', b'=="', b'="')

# Each would change how the token is read, or bring its own key (RFC 7515, section 4.1; RFC 7797;
# RFC 7516; RFC 7519, section 5.2).
_FORBIDDEN_HEADERS: Final = frozenset(
    {"b64", "crit", "cty", "enc", "epk", "jku", "jwk", "x5c", "x5u", "zip"}
)
# Clerk signs tokens of all kinds with one key; their category tells them apart
# (`jwtCategories.ts` in Clerk's JavaScript SDK). The second one stands for no kind at all.
_SESSION_CATEGORIES: Final = frozenset({"cl_B7d4PD111AAA", "cl_I7d4PD111III"})
_MACHINE_CATEGORY: Final = "cl_B7d4PD333AAA"
_OAUTH_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068, section 2.1
_NOT_TOKENS: Final = {
    "sk_": "it is a secret key (sk_…), which must never leave the server: replace it by a new one "
    "if it came from a browser",
    "pk_": "it is a publishable key (pk_…), which is no user's",
    **dict.fromkeys(
        ("ak_", "m2m_", "mt_", "oat_"),
        "it looks like a machine token or API key, which this does not verify",
    ),
}

_ABSENT: Final = object()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_bytes = msgspec.json.Decoder(bytes).decode  # base64, in half the time of binascii


class Header(NamedTuple):
    """What counts of a token's header, after the checks that need no key."""

    algorithm: str
    kid: str | None
    is_session: bool
    """Whether it is of a category that session tokens have."""


class Compact:
    """A token taken apart; nothing in it is to be believed before its signature holds."""

    __slots__ = ("header_segment", "payload_segment", "signature_segment", "signing_input")

    def __init__(self, header: bytes, signing_input: bytes, payload: bytes, sig: bytes) -> None:
        self.header_segment: bytes = header
        self.signing_input: bytes = signing_input
        self.payload_segment: bytes = payload
        self.signature_segment: bytes = sig


def plain(token: object) -> str:
    """Give a token as a str proper: how a subclass compares or encodes itself decides nothing.

    Raises:
        TokenVerificationError: If it is no str at all.
    """
    if not isinstance(token, str):
        raise malformed(f"a str is needed, not {type(token).__name__}")
    return str.__str__(token)


def parse(token: str) -> Compact:
    """Take a token apart at its two dots.

    Raises:
        TokenVerificationError: If it is not three base64url segments, or too long.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise malformed(f"{len(token)} characters, at most {MAX_TOKEN_CHARS} are read")
    try:
        raw = token.encode("ascii")
    except UnicodeEncodeError:
        raise malformed("it holds characters outside ASCII") from None
    # One pass in C: whatever stays when the alphabet is taken out must be the two dots.
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
        return "there is whitespace around it"
    dots = token.count(".")
    if dots != len(_SEGMENTS_AND_DOTS):
        return f"it has {dots + 1} segments, a signed token has three"
    return "it holds characters that base64url doesn't know"


def canonical_base64url(segment: bytes) -> bytes | None:
    """Decode unpadded base64url of known alphabet; None where it is not the canonical spelling."""
    rest = len(segment) % 4
    if not segment:
        return b""
    if rest == 1 or segment[-1] not in _LAST_OF[rest]:
        return None
    return _decode_bytes(b'"' + segment.translate(_TO_STANDARD) + _PADDED[rest])


def json_object(segment: bytes, what: str) -> dict[str, Any]:
    """Read a segment as a JSON object, its names unique at every depth.

    Raises:
        TokenVerificationError: If it is anything else.
    """
    raw = canonical_base64url(segment)
    if raw is None:
        raise malformed(f"its {what} is not canonical base64url")
    try:
        value = _decode(raw)
        # Written again a value has no duplicates: equal bytes prove that none were read. That is
        # so for nearly all tokens; the others are read once more by a slower, stricter reader.
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
    """Read the header and refuse what no session token of Clerk's has.

    Raises:
        TokenVerificationError: If it is malformed, names a key of its own, or belongs to a token
            of another kind.
    """
    header = json_object(segment, "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or not algorithm:
        raise refused(
            TokenVerificationReason.TOKEN_INVALID_ALGORITHM, "The token names no algorithm."
        )
    forbidden = _FORBIDDEN_HEADERS.intersection(header)
    if forbidden:
        raise malformed(f"its header holds {', '.join(sorted(forbidden))}")
    kind = header.get("typ")
    if kind is not None and not (isinstance(kind, str) and kind.upper() == "JWT"):
        if isinstance(kind, str) and kind.lower() in _OAUTH_TYPES:
            raise of_another_kind("it is an OAuth access token")
        raise malformed(f"its type is {cut(kind)}, a session token's is 'JWT'")
    category = header.get("cat", _ABSENT)
    if category == _MACHINE_CATEGORY:
        raise of_another_kind("it is a machine token")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID_CHARS):
        raise malformed("its kid is not a string of reasonable length")
    if kid == "":
        raise refused(
            TokenVerificationReason.JWK_KID_MISMATCH,
            "The token's kid is empty, which names no key.",
        )
    is_session = category is _ABSENT or (
        isinstance(category, str) and category in _SESSION_CATEGORIES
    )
    return Header(algorithm, kid, is_session)
