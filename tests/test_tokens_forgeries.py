"""Nobody gets in with a forged token: each forgery is rejected for the right reason."""

from __future__ import annotations

import gc
import hashlib
import hmac
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_samples import (
    EDWARDS,
    ELLIPTIC,
    GONE,
    ISSUER,
    NOW,
    OTHER,
    OURS,
    PARTY,
    AsyncStub,
    Clock,
    SyncStub,
    claims,
    header,
    key_set,
    raw_token,
    token,
)

from clerk_async.errors import TokenVerificationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.testing.keys import b64
from clerk_async.tokens.sync_verifier import TokenVerifier
from clerk_async.tokens.verifier import AsyncTokenVerifier

FEW = 50
"""Tokens after which everything that is created once exists."""
VERIFIER = TokenVerifier(
    jwt_key=OURS.jwk, authorized_parties=[PARTY], issuer=ISSUER, clock=Clock(), token_cache_size=8
)


def refusal(forged: Any, verifier: TokenVerifier = VERIFIER) -> Reason:
    """Verify a token, and return the reason of its rejection."""
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(forged)
    assert isinstance(forged, str) is False or len(forged) < 20 or forged not in str(caught.value)
    return caught.value.reason


def hs256(head: dict[str, Any], secret: bytes) -> str:
    """Sign with a shared secret."""
    signed = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def unsigned(algorithm: str, signature: str = "") -> str:
    """Remove the signature."""
    return f"{token(head=header(alg=algorithm)).rpartition('.')[0]}.{signature}"


def segments(forged: str) -> list[str]:
    """Split a token into its segments."""
    return forged.split(".")


GOOD = token()
HEAD, BODY, SIGNATURE = segments(GOOD)
SHORT = {**header(), "alg": "HS256"}
PEM = OURS.public_pem.encode()
STOLEN_JWK = {**OTHER.jwk, "kid": OURS.kid}


def test_the_genuine_token_is_accepted() -> None:
    """The table below proves something only if its starting point is accepted."""
    assert VERIFIER.verify(GOOD).user_id == "user_1"


FORGERIES: dict[str, tuple[Any, Reason]] = {
    # algorithms
    "alg none": (unsigned("none"), Reason.TOKEN_INVALID_ALGORITHM),
    "alg None": (unsigned("None"), Reason.TOKEN_INVALID_ALGORITHM),
    "alg NONE": (unsigned("NONE"), Reason.TOKEN_INVALID_ALGORITHM),
    "alg none, signature kept": (unsigned("none", SIGNATURE), Reason.TOKEN_INVALID_ALGORITHM),
    "alg empty": (unsigned(""), Reason.TOKEN_INVALID_ALGORITHM),
    "alg missing": (token(head=header(alg=GONE)), Reason.TOKEN_INVALID_ALGORITHM),
    "alg a list": (token(head=header(alg=["RS256"])), Reason.TOKEN_INVALID_ALGORITHM),
    "alg in lower case": (token(head=header(alg="rs256")), Reason.TOKEN_INVALID_ALGORITHM),
    "HS256 keyed with the PEM": (hs256(SHORT, PEM), Reason.TOKEN_INVALID_ALGORITHM),
    "HS256 keyed with the stripped PEM": (
        hs256(SHORT, PEM.strip()),
        Reason.TOKEN_INVALID_ALGORITHM,
    ),
    "HS256 keyed with n": (hs256(SHORT, OURS.jwk["n"].encode()), Reason.TOKEN_INVALID_ALGORITHM),
    "RS512": (token(head=header(alg="RS512")), Reason.TOKEN_INVALID_ALGORITHM),
    "PS256": (token(head=header(alg="PS256")), Reason.TOKEN_INVALID_ALGORITHM),
    "ES256 claimed for an RSA key": (
        token(head=header(alg="ES256")),
        Reason.TOKEN_INVALID_ALGORITHM,
    ),
    "a real ES256 signature under an RSA kid": (
        token(key=ELLIPTIC, head=header(ELLIPTIC, kid=OURS.kid)),
        Reason.TOKEN_INVALID_ALGORITHM,
    ),
    "a real EdDSA signature under an RSA kid": (
        token(key=EDWARDS, head=header(EDWARDS, kid=OURS.kid)),
        Reason.TOKEN_INVALID_ALGORITHM,
    ),
    # headers that supply or change keys
    "embedded jwk": (
        token(key=OTHER, head=header(jwk=STOLEN_JWK)),
        Reason.TOKEN_INVALID,
    ),
    "jku": (token(key=OTHER, head=header(jku="https://evil.example/jwks")), Reason.TOKEN_INVALID),
    "x5u": (token(key=OTHER, head=header(x5u="https://evil.example/x")), Reason.TOKEN_INVALID),
    "x5c": (token(key=OTHER, head=header(x5c=["MIIB"])), Reason.TOKEN_INVALID),
    "jwk in a token of ours": (token(head=header(jwk=OURS.jwk)), Reason.TOKEN_INVALID),
    "crit": (token(head=header(crit=["exp"])), Reason.TOKEN_INVALID),
    "crit, empty": (token(head=header(crit=[])), Reason.TOKEN_INVALID),
    "b64=false": (token(head=header(b64=False)), Reason.TOKEN_INVALID),
    "b64=false, critical": (token(head=header(b64=False, crit=["b64"])), Reason.TOKEN_INVALID),
    "compressed": (token(head=header(zip="DEF")), Reason.TOKEN_INVALID),
    "content of another kind": (token(head=header(cty="JWT")), Reason.TOKEN_INVALID),
    "ephemeral key": (token(head=header(epk=OURS.jwk)), Reason.TOKEN_INVALID),
    # key ids
    "kid empty": (token(head=header(kid="")), Reason.JWK_KID_MISMATCH),
    "kid missing": (token(head=header(kid=GONE)), Reason.JWK_KID_MISMATCH),
    "kid a number": (token(head=header(kid=1)), Reason.TOKEN_INVALID),
    "kid a path": (token(head=header(kid="../../dev/null")), Reason.JWK_KID_MISMATCH),
    "kid of another instance": (token(key=OTHER), Reason.JWK_KID_MISMATCH),
    "kid huge": (token(head=header(kid="k" * 5000)), Reason.TOKEN_INVALID),
    "our kid, another's signature": (
        token(key=OTHER, head=header(kid=OURS.kid)),
        Reason.TOKEN_INVALID_SIGNATURE,
    ),
    # tokens of other kinds
    "machine token of the same instance": (
        token(head=header(cat="cl_B7d4PD333AAA")),
        Reason.TOKEN_TYPE_MISMATCH,
    ),
    "machine subject": (token(claims(sub="mch_1")), Reason.TOKEN_TYPE_MISMATCH),
    "OAuth access token": (token(head=header(typ="at+jwt")), Reason.TOKEN_TYPE_MISMATCH),
    "OAuth access token, long": (
        token(head=header(typ="application/at+jwt")),
        Reason.TOKEN_TYPE_MISMATCH,
    ),
    "opaque API key": ("ak_0123456789abcdef", Reason.TOKEN_INVALID),
    "secret key": ("sk_test_0123456789abcdef", Reason.TOKEN_INVALID),
    "publishable key": ("pk_test_0123456789abcdef", Reason.TOKEN_INVALID),
    "nested JWT": (
        raw_token(json.dumps(header(cty="JWT")).encode(), GOOD.encode()),
        Reason.TOKEN_INVALID,
    ),
    "nested JWT without cty": (
        raw_token(json.dumps(header()).encode(), GOOD.encode()),
        Reason.TOKEN_INVALID,
    ),
    "JWE": (b64(b'{"alg":"RSA-OAEP","enc":"A256GCM"}') + ".a.b.c.d", Reason.TOKEN_INVALID),
    "JWE header on three segments": (
        token(head=header(alg="RSA-OAEP", enc="A256GCM")),
        Reason.TOKEN_INVALID,
    ),
    # form
    "not a string": (None, Reason.TOKEN_INVALID),
    "bytes": (GOOD.encode(), Reason.TOKEN_INVALID),
    "a list": ([GOOD], Reason.TOKEN_INVALID),
    "empty": ("", Reason.TOKEN_INVALID),
    "two dots alone": ("..", Reason.TOKEN_INVALID),
    "two segments": (f"{HEAD}.{BODY}", Reason.TOKEN_INVALID),
    "four segments": (f"{GOOD}.{SIGNATURE}", Reason.TOKEN_INVALID),
    "duplicate segment": (f"{HEAD}.{HEAD}.{BODY}.{SIGNATURE}", Reason.TOKEN_INVALID),
    "header and payload swapped": (
        f"{BODY}.{HEAD}.{SIGNATURE}",
        Reason.TOKEN_INVALID_ALGORITHM,
    ),
    "payload of another token": (
        f"{HEAD}.{segments(token(claims(sub='user_2')))[1]}.{SIGNATURE}",
        Reason.TOKEN_INVALID_SIGNATURE,
    ),
    "signature of another token": (
        f"{HEAD}.{BODY}.{segments(token(claims(sub='user_2')))[2]}",
        Reason.TOKEN_INVALID_SIGNATURE,
    ),
    "signature missing": (f"{HEAD}.{BODY}.", Reason.TOKEN_INVALID_SIGNATURE),
    "signature too short": (GOOD[:-4], Reason.TOKEN_INVALID_SIGNATURE),
    "signature too long": (f"{GOOD}AAAA", Reason.TOKEN_INVALID_SIGNATURE),
    "signature with a zero byte in front": (
        f"{HEAD}.{BODY}.AA{SIGNATURE}",
        Reason.TOKEN_INVALID_SIGNATURE,
    ),
    "huge": (f"{HEAD}.{'A' * 2_000_000}.{SIGNATURE}", Reason.TOKEN_INVALID),
    "huge but signed": (token(claims(custom="x" * 20_000)), Reason.TOKEN_INVALID),
    "space in front": (f" {GOOD}", Reason.TOKEN_INVALID),
    "newline behind": (f"{GOOD}\n", Reason.TOKEN_INVALID),
    "newline within": (f"{HEAD}.{BODY[:8]}\n{BODY[8:]}.{SIGNATURE}", Reason.TOKEN_INVALID),
    "padding on the signature": (f"{GOOD}==", Reason.TOKEN_INVALID),
    "padding on the payload": (f"{HEAD}.{BODY}=.{SIGNATURE}", Reason.TOKEN_INVALID),
    "standard base64": (GOOD.replace("-", "+").replace("_", "/"), Reason.TOKEN_INVALID),
    "a null byte": (f"{GOOD}\0", Reason.TOKEN_INVALID),
    "letters outside ASCII": (f"{GOOD}é", Reason.TOKEN_INVALID),
    "quoted": (f'"{GOOD}"', Reason.TOKEN_INVALID),
    "with its scheme": (f"Bearer {GOOD}", Reason.TOKEN_INVALID),
    "header not JSON": (raw_token(b"alg=RS256", b"{}"), Reason.TOKEN_INVALID),
    "header a list": (raw_token(b'["RS256"]', b"{}"), Reason.TOKEN_INVALID),
    "header with a byte order mark": (
        raw_token(b"\xef\xbb\xbf" + json.dumps(header()).encode(), json.dumps(claims()).encode()),
        Reason.TOKEN_INVALID,
    ),
    # JSON tricks, all with a valid signature
    "payload not JSON": (token(b"sub=user_1"), Reason.TOKEN_INVALID),
    "payload a list": (token(b"[1,2]"), Reason.TOKEN_INVALID),
    "payload empty": (token(b""), Reason.TOKEN_INVALID),
    "payload deep": (token(b"[" * 11_000), Reason.TOKEN_INVALID),
    "payload not UTF-8": (token(b'{"sub":"\xff"}'), Reason.TOKEN_INVALID),
    "payload with trailing text": (
        token(msgspec.json.encode(claims()) + b"{}"),
        Reason.TOKEN_INVALID,
    ),
    "NaN as exp": (token(json.dumps(claims(exp=float("nan"))).encode()), Reason.TOKEN_INVALID),
    "Infinity as exp": (token(json.dumps(claims(exp=float("inf"))).encode()), Reason.TOKEN_INVALID),
    "duplicate sub": (
        token(msgspec.json.encode(claims())[:-1] + b',"sub":"user_admin"}'),
        Reason.TOKEN_INVALID,
    ),
    "duplicate sub, escaped": (
        token(msgspec.json.encode(claims())[:-1] + b',"s\\u0075b":"user_admin"}'),
        Reason.TOKEN_INVALID,
    ),
    "duplicate deep down": (
        token(msgspec.json.encode(claims())[:-1] + b',"o":{"id":"a","id":"b"}}'),
        Reason.TOKEN_INVALID,
    ),
    "duplicate alg": (
        raw_token(
            json.dumps(header()).encode()[:-1] + b',"alg":"RS256"}', json.dumps(claims()).encode()
        ),
        Reason.TOKEN_INVALID,
    ),
    # claims, all with a valid signature
    "sub missing": (token(claims(sub=GONE)), Reason.TOKEN_INVALID),
    "sub empty": (token(claims(sub="")), Reason.TOKEN_INVALID),
    "sub null": (token(claims(sub=None)), Reason.TOKEN_INVALID),
    "sub a number": (token(claims(sub=1)), Reason.TOKEN_INVALID),
    "sid a list": (token(claims(sid=["sess_1"])), Reason.TOKEN_INVALID),
    "sts a list": (token(claims(sts=["pending"])), Reason.TOKEN_INVALID),
    "act a string": (token(claims(act="user_2")), Reason.TOKEN_INVALID),
    "o a list": (token(claims(o=["org_1"])), Reason.TOKEN_INVALID),
    "v a string": (token(claims(v="2")), Reason.TOKEN_INVALID),
    "exp missing": (token(claims(exp=GONE)), Reason.TOKEN_INVALID),
    "exp null": (token(claims(exp=None)), Reason.TOKEN_INVALID),
    "exp a string": (token(claims(exp=str(NOW + 60))), Reason.TOKEN_INVALID),
    "exp a float": (token(claims(exp=NOW + 60.5)), Reason.TOKEN_INVALID),
    "exp a whole float": (token(claims(exp=NOW + 60.0)), Reason.TOKEN_INVALID),
    "exp true": (token(claims(exp=True)), Reason.TOKEN_INVALID),
    "exp a list": (token(claims(exp=[NOW + 60])), Reason.TOKEN_INVALID),
    "exp far beyond the calendar": (token(claims(exp=10**15)), Reason.TOKEN_INVALID),
    "exp of hundreds of digits": (
        token(json.dumps(claims(exp=10**400)).encode()),
        Reason.TOKEN_INVALID,
    ),
    "exp negative": (token(claims(exp=-1)), Reason.TOKEN_EXPIRED),
    "exp zero": (token(claims(exp=0)), Reason.TOKEN_EXPIRED),
    "expired": (token(claims(exp=NOW - 5)), Reason.TOKEN_EXPIRED),
    "nbf a string": (token(claims(nbf="1")), Reason.TOKEN_INVALID),
    "nbf null": (token(claims(nbf=None)), Reason.TOKEN_INVALID),
    "iat null": (token(claims(iat=None)), Reason.TOKEN_INVALID),
    "nbf a float": (token(claims(nbf=1.5)), Reason.TOKEN_INVALID),
    "nbf negative": (token(claims(nbf=-1)), Reason.TOKEN_INVALID),
    "nbf soon": (token(claims(nbf=NOW + 6)), Reason.TOKEN_NOT_ACTIVE_YET),
    "nbf far in the future": (token(claims(nbf=10**15)), Reason.TOKEN_NOT_ACTIVE_YET),
    "iat a string": (token(claims(iat="1")), Reason.TOKEN_INVALID),
    "iat a float": (token(claims(iat=NOW + 0.5)), Reason.TOKEN_INVALID),
    "iat negative": (token(claims(iat=-1)), Reason.TOKEN_INVALID),
    "iat soon": (token(claims(iat=NOW + 6)), Reason.TOKEN_IAT_IN_THE_FUTURE),
    "iat far in the future": (
        token(json.dumps(claims(iat=10**400)).encode()),
        Reason.TOKEN_IAT_IN_THE_FUTURE,
    ),
    "azp missing": (token(claims(azp=GONE)), Reason.TOKEN_INVALID_AUTHORIZED_PARTIES),
    "azp null": (token(claims(azp=None)), Reason.TOKEN_INVALID_AUTHORIZED_PARTIES),
    "azp empty": (token(claims(azp="")), Reason.TOKEN_INVALID_AUTHORIZED_PARTIES),
    "azp another's": (
        token(claims(azp="https://evil.example")),
        Reason.TOKEN_INVALID_AUTHORIZED_PARTIES,
    ),
    "azp ours and more": (
        token(claims(azp=f"{PARTY}.evil")),
        Reason.TOKEN_INVALID_AUTHORIZED_PARTIES,
    ),
    "azp in capitals": (token(claims(azp=PARTY.upper())), Reason.TOKEN_INVALID_AUTHORIZED_PARTIES),
    "azp a list": (token(claims(azp=[PARTY])), Reason.TOKEN_INVALID_AUTHORIZED_PARTIES),
    "issuer missing": (token(claims(iss=GONE)), Reason.TOKEN_INVALID_ISSUER),
    "issuer another's": (
        token(claims(iss="https://clerk.evil.example")),
        Reason.TOKEN_INVALID_ISSUER,
    ),
    "issuer with a slash": (token(claims(iss=f"{ISSUER}/")), Reason.TOKEN_INVALID_ISSUER),
    "issuer a list": (token(claims(iss=[ISSUER])), Reason.TOKEN_INVALID_ISSUER),
    "session pending": (token(claims(sts="pending")), Reason.SESSION_PENDING),
}


@pytest.mark.promise("forgeries")
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_rejected(name: str) -> None:
    """Each forgery of the table is rejected with its own reason."""
    forged, reason = FORGERIES[name]
    assert refusal(forged) is reason


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forgery_is_rejected_by_the_async_verifier_too(name: str) -> None:
    """Both verifiers have the same rules: fetched keys reject what a fixed key rejects."""
    forged, reason = FORGERIES[name]
    verifier = AsyncTokenVerifier(
        sessions=AsyncStub(), authorized_parties=[PARTY], issuer=ISSUER, clock=Clock()
    )
    with pytest.raises(TokenVerificationError) as caught:
        await verifier.verify(forged)
    assert caught.value.reason is reason


@pytest.mark.promise("forgeries")
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'], ids=["list", "object", "both"])
@pytest.mark.parametrize("place", ["payload", "header"])
def test_deep_nesting_never_crashes(place: str, opening: str) -> None:
    """However deep custom claims or headers are, the token is accepted or rejected as usual."""
    closing = opening[::-1].translate(str.maketrans("[{", "]}", '":a'))
    outcomes: list[Reason | None] = []
    for depth in (10, 200, *range(320, 345), *range(490, 510), 700, *range(980, 1005), 1800):
        deep = f',"x":{opening * depth}1{closing * depth}}}'.encode()
        head, payload = json.dumps(header()).encode(), json.dumps(claims()).encode()
        forged = (
            raw_token(head, payload[:-1] + deep)
            if place == "payload"
            else raw_token(head[:-1] + deep, payload)
        )
        try:
            VERIFIER.verify(forged)
            outcomes.append(None)
        except TokenVerificationError as error:
            outcomes.append(error.reason)
    assert outcomes[:2] == [None, None]
    assert set(outcomes) <= {None, Reason.TOKEN_INVALID}


class Odd(str):
    """A str subclass with its own comparison, hash and encoding."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return 0

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return GOOD.encode(encoding, errors)


def test_a_str_subclass_counts_as_its_text() -> None:
    """Frameworks mark strings with their own classes, which make no difference."""
    stub = SyncStub()
    for verifier in (VERIFIER, TokenVerifier(sessions=stub, clock=Clock())):
        assert verifier.verify(Odd(GOOD)).user_id == "user_1"
        assert verifier.verify(Odd(GOOD)).user_id == "user_1"
        assert refusal(Odd(f"{HEAD}.{BODY}.AAAA"), verifier) is Reason.TOKEN_INVALID_SIGNATURE
        assert refusal(Odd(), verifier) is Reason.TOKEN_INVALID


AUDIENCES: dict[str, tuple[Any, bool]] = {
    "ours": ("api", True),
    "ours in a list": (["web", "api"], True),
    "missing": (GONE, False),
    "another's": ("web", False),
    "empty list": ([], False),
    "empty string": ("", False),
    "null": (None, False),
    "a number": (1, False),
    "an object": ({"api": True}, False),
    "a list with a number": (["api", 1], False),
    "a list in a list": ([["api"]], False),
    "ours as a part": ("api.evil", False),
    "ours in one string": ("api web", False),
}


@pytest.mark.parametrize("name", AUDIENCES)
def test_audience_must_match(name: str) -> None:
    """If `audience` is given, `aud` must be it or contain it."""
    audience, passes = AUDIENCES[name]
    verifier = TokenVerifier(
        jwt_key=OURS.jwk, audience=["api"], authorized_parties=[PARTY], clock=Clock()
    )
    forged = token(claims(aud=audience))
    if passes:
        assert verifier.verify(forged).user_id == "user_1"
    else:
        assert refusal(forged, verifier) is Reason.TOKEN_INVALID_AUDIENCE


@pytest.mark.parametrize("name", AUDIENCES)
def test_aud_is_ignored_without_audience(name: str) -> None:
    """Without `audience`, an `aud` of any shape is accepted."""
    assert VERIFIER.verify(token(claims(aud=AUDIENCES[name][0])))


@pytest.mark.promise("forgeries")
@pytest.mark.parametrize("key", [OURS, ELLIPTIC, EDWARDS], ids=lambda key: key.algorithm)
def test_each_algorithm_is_pinned_to_its_key(key: Any) -> None:
    """With keys of three kinds in the set, a token is accepted only with its key's algorithm."""
    stub = SyncStub(body=key_set(OURS, ELLIPTIC, EDWARDS))
    verifier = TokenVerifier(sessions=stub, clock=Clock(), authorized_parties=[PARTY])
    assert verifier.verify(token(key=key)).user_id == "user_1"
    for algorithm in {"RS256", "ES256", "EdDSA"} - {key.algorithm}:
        forged = token(key=key, head=header(key, alg=algorithm))
        assert refusal(forged, verifier) is Reason.TOKEN_INVALID_ALGORITHM


def test_two_verifiers_share_nothing() -> None:
    """Instance A never accepts a token of instance B, whoever verified it before."""
    same_id = {**OTHER.jwk, "kid": OURS.kid}
    ours = TokenVerifier(jwt_key=OURS.jwk, clock=Clock(), authorized_parties=[PARTY])
    others = TokenVerifier(jwt_key=same_id, clock=Clock(), authorized_parties=[PARTY])
    forged = token(key=OTHER, head=header(OTHER, kid=OURS.kid))
    assert others.verify(forged)
    assert refusal(forged, ours) is Reason.TOKEN_INVALID_SIGNATURE
    assert ours.verify(GOOD)
    assert refusal(GOOD, others) is Reason.TOKEN_INVALID_SIGNATURE


# --- generated ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
CLAIM_NAMES = st.sampled_from([*sorted(claims()), "o", "act", "fea", "pla", "org_id", "custom"])


@given(st.text(max_size=400))
def test_any_text_is_rejected_cleanly(text: str) -> None:
    """Any text raises a TokenVerificationError."""
    refusal(text)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_signed_bytes_are_rejected_cleanly(head: bytes, payload: bytes) -> None:
    """Even with a valid signature, bytes that are not a token raise a TokenVerificationError."""
    refusal(raw_token(head, payload))


@given(st.dictionaries(CLAIM_NAMES, JSON, max_size=3))
def test_claims_of_any_type_never_crash(changes: dict[str, Any]) -> None:
    """Signed claims of any type are accepted or rejected; no other error is raised."""
    forged = token(json.dumps({**claims(), **changes}).encode())
    try:
        accepted = VERIFIER.verify(forged)
    except TokenVerificationError:
        return
    assert accepted.user_id
    assert accepted.authorized_party == PARTY
    assert accepted.expires_at.timestamp() > NOW - 5


@given(st.dictionaries(st.sampled_from([*sorted(header()), "crit", "jwk", "x"]), JSON, max_size=3))
def test_headers_of_any_type_never_crash(changes: dict[str, Any]) -> None:
    """Signed headers of any type are accepted only with our key, algorithm and kind."""
    forged = raw_token(json.dumps({**header(), **changes}).encode(), json.dumps(claims()).encode())
    try:
        VERIFIER.verify(forged)
    except TokenVerificationError:
        return
    told = {**header(), **changes}
    assert (told["alg"], told["kid"]) == ("RS256", OURS.kid)
    assert not {"crit", "jwk"} & told.keys()


@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=255))
def test_a_token_with_one_replaced_character_is_rejected(place: int, character: str) -> None:
    """No other character in any position makes a second valid token."""
    forged = GOOD[:place] + character + GOOD[place + 1 :]
    if forged != GOOD:
        refusal(forged)


@pytest.mark.parametrize("offset", [-3600, 0, 4, 5, 6, 3600])
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_nbf_and_iat_are_exact(offset: int, claim: str) -> None:
    """A token is accepted from five seconds before `nbf` and `iat`, not a second earlier."""
    made = token(claims(**{claim: NOW + offset}))
    if offset <= 5:
        assert VERIFIER.verify(made)
    else:
        early = {"nbf": Reason.TOKEN_NOT_ACTIVE_YET, "iat": Reason.TOKEN_IAT_IN_THE_FUTURE}
        assert refusal(made) is early[claim]


@given(st.integers(-120, 120))
def test_expiry_is_exact(offset: int) -> None:
    """A token is accepted until five seconds after `exp`, not a second longer."""
    made = token(claims(exp=NOW + offset))
    if offset > -5:
        assert VERIFIER.verify(made).expires_at.timestamp() == NOW + offset
    else:
        assert refusal(made) is Reason.TOKEN_EXPIRED


def kept() -> int:
    """Count the bytes that stay allocated."""
    gc.collect()
    gc.collect()  # free-threaded Python frees some objects only in the second collection
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.promise("forgeries")
def test_forgeries_use_no_memory() -> None:
    """Unsigned headers, each a different one of 4 kB, leave memory unchanged."""
    good = token().partition(".")[2]
    verifier = TokenVerifier(jwt_key=OURS.jwk, authorized_parties=[PARTY], clock=Clock())
    before = 0
    tracemalloc.start()
    try:
        for number in range(500):
            if number == FEW:
                before = kept()
            head = json.dumps(header(filling=f"{number:04}" * 1000)).encode()
            assert refusal(f"{b64(head)}.{good}", verifier) is Reason.TOKEN_INVALID_SIGNATURE
        grown = kept() - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000  # keeping one in ten would need more
