"""Which public keys are accepted, in which formats; bad ones fail at construction."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from token_samples import (
    EDWARDS,
    ELLIPTIC,
    NOW,
    OTHER,
    OURS,
    PARTY,
    AsyncStub,
    Clock,
    SyncStub,
    claims,
    header,
    token,
)

from clerk_async.errors import ConfigurationError, TokenVerificationError
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens.keys import UnusableKey, VerificationKey, read_key_set
from clerk_async.tokens.sync_verifier import TokenVerifier
from clerk_async.tokens.verifier import AsyncTokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.testing.keys import SigningKey


PEM = OURS.public_pem
BODY = "".join(PEM.splitlines()[1:-1])
PKCS1 = OURS.private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()

SPELLINGS: dict[str, Any] = {
    "as downloaded": PEM,
    "as bytes": PEM.encode(),
    "literal \\n": PEM.replace("\n", "\\n"),
    "literal \\r\\n": PEM.replace("\n", "\\r\\n"),
    "CRLF": PEM.replace("\n", "\r\n"),
    "old Mac line ends": PEM.replace("\n", "\r"),
    "no line breaks at all": PEM.replace("\n", ""),
    "spaces for line breaks": PEM.strip().replace("\n", " "),
    "without armour": BODY,
    "without armour, with line breaks": "\n".join(PEM.splitlines()[1:-1]),
    "whitespace around": f"\n\n  {PEM}\n\n",
    "quoted": f'"{PEM}"',
    "quoted, literal \\n": "'" + PEM.replace("\n", "\\n") + "'",
    "indented": textwrap.indent(PEM, "    "),
    "PKCS #1": PKCS1,
    "one word of base64": base64.b64encode(PEM.encode()).decode(),
    "one word of base64, quoted": f'"{base64.b64encode(PEM.encode()).decode()}"',
    "one word of base64, no padding": base64.b64encode(PEM.encode()).decode().rstrip("="),
    "one word of base64, for URLs": base64.urlsafe_b64encode(PEM.encode()).decode(),
    "base64 of many lines": base64.encodebytes(PEM.encode()).decode(),
    "one word of base64, literal \\n": base64.b64encode(PEM.encode()).decode() + "\\n",
    "one word of base64, CRLF within": base64.b64encode(
        PEM.replace("\n", "\r\n").encode()
    ).decode(),
    "one word of base64, literal \\n within": base64.b64encode(
        PEM.replace("\n", "\\n").encode()
    ).decode(),
    "JWK": OURS.jwk,
    "JWK without kid": {k: v for k, v in OURS.jwk.items() if k != "kid"},
    "JWK without alg and use": {k: OURS.jwk[k] for k in ("kty", "n", "e")},
    "JWK with key_ops": {**OURS.jwk, "key_ops": ["verify"]},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_format_of_a_key_verifies(spelling: str) -> None:
    """The key is accepted as the dashboard, a shell or an env file contains it."""
    verifier = TokenVerifier(jwt_key=SPELLINGS[spelling], clock=Clock())
    assert verifier.verify(token()).user_id == "user_1"


@pytest.mark.parametrize("key", [ELLIPTIC, EDWARDS], ids=lambda key: key.algorithm)
def test_other_kinds_of_keys_verify_as_pem_too(key: SigningKey) -> None:
    """The type of a PEM key implies its algorithm."""
    verifier = TokenVerifier(jwt_key=key.public_pem, clock=Clock())
    assert verifier.verify(token(key=key)).user_id == "user_1"
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(token())
    assert caught.value.reason is Reason.TOKEN_INVALID_ALGORITHM


def test_a_new_algorithm_name_is_accepted_if_the_key_set_uses_it() -> None:
    """RFC 9864 renames EdDSA; each key is still pinned to its one name."""
    renamed = TokenVerifier(jwt_key={**EDWARDS.jwk, "alg": "Ed25519"}, clock=Clock())
    new = token(key=EDWARDS, head=header(EDWARDS, alg="Ed25519"))
    assert renamed.verify(new).user_id == "user_1"
    for verifier, refused in (
        (renamed, token(key=EDWARDS)),
        (TokenVerifier(jwt_key=EDWARDS.jwk, clock=Clock()), new),
    ):
        with pytest.raises(TokenVerificationError) as caught:
            verifier.verify(refused)
        assert caught.value.reason is Reason.TOKEN_INVALID_ALGORITHM


def public_pem(private: Any) -> str:
    """Return a public key as PEM."""
    public = private.public_key()
    pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def base64url(number: int) -> str:
    """Encode a number of a JWK."""
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


PRIVATE = OURS.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
BAD: dict[str, tuple[Any, str]] = {
    "empty": ("", "not the PEM"),
    "text": ("hello", "not the PEM"),
    "truncated": (PEM[:200], "not the PEM"),
    "one character lost": (BODY[:100] + BODY[101:], "not the PEM"),
    "secret key by mistake": ("sk_live_0123456789", "not the PEM"),
    "private key": (PRIVATE, "private key"),
    "private key as one word": (base64.b64encode(PRIVATE.encode()).decode(), "private key"),
    "one word of base64, cut": (base64.b64encode(PEM.encode()).decode()[:200], "not the PEM"),
    "one word of base64, of nothing": ("LS0tLS1CRUdJTi!!!", "not the PEM"),
    "JSON text": ('{"kty": "RSA"}', "as a dict"),
    "RSA of 1024 bits": (public_pem(WEAK), "1024 bits"),
    "RSA of 1024 bits as JWK": (
        {
            "kty": "RSA",
            "n": base64url(WEAK.public_key().public_numbers().n),
            "e": "AQAB",
        },
        "1024 bits",
    ),
    "RSA of 16384 bits": ({**OURS.jwk, "n": base64url(2**16383 + 1)}, "16384 bits"),
    "RSA with an even modulus": ({**OURS.jwk, "n": base64url(2**2047 + 2)}, "small factor"),
    "RSA with a modulus of ones": ({**OURS.jwk, "n": base64url(2**2048 - 1)}, "small factor"),
    "RSA with exponent 1": ({**OURS.jwk, "e": "AQ"}, "can't be used"),
    "RSA with an even exponent": ({**OURS.jwk, "e": "Ag"}, "can't be used"),
    "P-384": (public_pem(ec.generate_private_key(ec.SECP384R1())), "not an RSA"),
    "DSA": (public_pem(dsa.generate_private_key(2048)), "not an RSA"),
    "secp256k1": (public_pem(ec.generate_private_key(ec.SECP256K1())), "not an RSA"),
    "JWK empty": ({}, "can't be used"),
    "JWK symmetric": ({"kty": "oct", "k": "AAAA"}, "symmetric"),
    "JWK private": ({**OURS.jwk, "d": "AAAA"}, "private"),
    "JWK for encryption": ({**OURS.jwk, "use": "enc"}, "not for checking"),
    "JWK for signing alone": ({**OURS.jwk, "key_ops": ["sign"]}, "not for checking"),
    "JWK of RS512": ({**OURS.jwk, "alg": "RS512"}, "RS512"),
    "JWK of HS256": ({**OURS.jwk, "alg": "HS256"}, "HS256"),
    "JWK with padding": ({**OURS.jwk, "n": OURS.jwk["n"] + "="}, "numbers"),
    "JWK with a number for n": ({**OURS.jwk, "n": 5}, "numbers"),
    "JWK without n": ({k: v for k, v in OURS.jwk.items() if k != "n"}, "numbers"),
    "JWK with a numeric kid": ({**OURS.jwk, "kid": 5}, "kid"),
    "JWK off the curve": ({**ELLIPTIC.jwk, "y": ELLIPTIC.jwk["x"]}, "numbers"),
    "JWK of another curve": ({**ELLIPTIC.jwk, "crv": "P-521"}, "P-521"),
    "JWK Ed25519 cut short": ({**EDWARDS.jwk, "x": "AAAA"}, "numbers"),
    "a list": ([PEM], "must be a PEM"),
    "a number": (5, "must be a PEM"),
}


PRIME = 2**255 - 19
TWIST = -121665 * pow(121666, -1, PRIME) % PRIME
ORDER = 2**252 + 27742317777372353535851937790883648493


def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """Add two points of the curve (RFC 8032, section 5.1.4)."""
    (x1, y1), (x2, y2) = p, q
    k = TWIST * x1 * x2 * y1 * y2 % PRIME
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, PRIME)
    return x % PRIME, y % PRIME


def small_points() -> set[tuple[int, int]]:
    """Return the eight points of small order: any point, multiplied by the prime order."""
    found: set[tuple[int, int]] = {(0, 1)}
    y = 2
    while len(found) < 8:
        square = (y * y - 1) * pow(TWIST * y * y + 1, -1, PRIME) % PRIME
        x = pow(square, (PRIME + 3) // 8, PRIME)
        if (x * x - square) % PRIME:
            x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        if (x * x - square) % PRIME == 0:
            small = (0, 1)
            for bit in f"{ORDER:b}":
                small = add(small, small)
                small = add(small, (x, y)) if bit == "1" else small
            multiple = small
            for _ in range(8):
                found.add(multiple)
                multiple = add(multiple, small)
        y += 1
    return found


def okp(y: int, sign: int) -> dict[str, Any]:
    """Make a JWK from a point."""
    raw = (y | sign << 255).to_bytes(32, "little")
    return {**EDWARDS.jwk, "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}


def test_a_key_of_small_order_is_rejected() -> None:
    """Anybody can sign for such a key: it is rejected in every format, from every source."""
    points = small_points()
    assert len(points) == 8
    spellings = {(y + n * PRIME, sign) for _, y in points for sign in (0, 1) for n in (0, 1)}
    for y, sign in spellings:
        if y >= 2**255:
            continue
        jwk = okp(y, sign)
        with pytest.raises(ConfigurationError, match="small order"):
            TokenVerifier(jwt_key=jwk)
        keys = read_key_set(msgspec.json.encode({"keys": [jwk, OURS.jwk]}), {})
        assert isinstance(keys[EDWARDS.kid], UnusableKey)
    with pytest.raises(ConfigurationError, match="canonical form"):
        TokenVerifier(jwt_key=okp(PRIME + 2, 0))
    identity = ed25519.Ed25519PublicKey.from_public_bytes(b"\1" + bytes(31))
    pem: bytes = identity.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigurationError, match="small order"):
        TokenVerifier(jwt_key=pem)


async def test_a_token_of_a_key_of_small_order_is_rejected() -> None:
    """Nobody signed it; the other keys of the set still work."""
    weak = okp(1, 0)
    stub = AsyncStub(body=msgspec.json.encode({"keys": [weak, OURS.jwk]}))
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    head, payload = header(EDWARDS), claims()
    signed = b".".join(
        base64.urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=") for part in (head, payload)
    )
    nobodys = base64.urlsafe_b64encode(b"\1" + bytes(63)).rstrip(b"=")
    with pytest.raises(TokenVerificationError, match="small order") as caught:
        await verifier.verify(f"{signed.decode()}.{nobodys.decode()}")
    assert caught.value.reason is Reason.JWK_FAILED_TO_RESOLVE
    assert (await verifier.verify(token())).user_id == "user_1"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_key_fails_at_construction(name: str) -> None:
    """Not at the first request of a user; the message says what is wrong, never the key."""
    bad, told = BAD[name]
    with pytest.raises(ConfigurationError, match=told) as caught:
        TokenVerifier(jwt_key=bad)
    assert "sk_live" not in str(caught.value)
    assert "MIIEv" not in str(caught.value)
    assert caught.value.__cause__ is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("AQabc_-= ", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "n", "e", "crv", "x", "y", "d"])


@given(
    st.sampled_from([OURS.jwk, ELLIPTIC.jwk, EDWARDS.jwk]),
    st.dictionaries(NAMES, JSON, max_size=3),
)
def test_any_key_set_is_read_or_rejected(jwk: dict[str, Any], changes: dict[str, Any]) -> None:
    """Whatever it contains, it yields keys or is unreadable; nothing else happens."""
    changed = {**jwk, **changes}
    keys = read_key_set(msgspec.json.encode({"keys": [changed, {**OURS.jwk, "kid": "good"}]}), {})
    assert isinstance(keys["good"], VerificationKey)
    try:
        TokenVerifier(jwt_key=changed)
    except ConfigurationError:
        assert [key for key in keys.values() if isinstance(key, VerificationKey)] == [keys["good"]]


def test_of_several_keys_with_one_kid_the_first_usable_one_counts() -> None:
    """Neither an unusable one before it nor a second one after it replaces it."""
    unusable, second = {**OURS.jwk, "alg": "RS512"}, {**OTHER.jwk, "kid": OURS.kid}
    keys = read_key_set(msgspec.json.encode({"keys": [unusable, OURS.jwk, second, unusable]}), {})
    key = keys[OURS.kid]
    assert isinstance(key, VerificationKey)
    assert key.source == OURS.jwk


def test_kid_counts_only_if_the_key_has_one() -> None:
    """A PEM key has no id and accepts any; a JWK with an id accepts only its own."""
    others = token(head=header(kid="ins_other"))
    none = token(head=header(kid=None))
    by_pem = TokenVerifier(jwt_key=PEM, clock=Clock())
    assert by_pem.verify(others)
    assert by_pem.verify(none)
    by_jwk = TokenVerifier(jwt_key=OURS.jwk, clock=Clock())
    for refused in (others, none):
        with pytest.raises(TokenVerificationError) as caught:
            by_jwk.verify(refused)
        assert caught.value.reason is Reason.JWK_KID_MISMATCH
    assert by_jwk.key_status().kids == (OURS.kid,)


async def test_a_fixed_key_never_goes_online() -> None:
    """With `jwt_key`, `sessions` is used only for `check_session`."""
    stub = AsyncStub()
    verifier = AsyncTokenVerifier(jwt_key=PEM, sessions=stub, clock=Clock())
    await verifier.warm_up()
    await verifier.verify(token(), check_session=True)
    with pytest.raises(TokenVerificationError):
        await verifier.verify(token(key=ELLIPTIC))
    assert stub.fetches == 0
    assert verifier.key_status().source == "jwt_key"


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "empty parties": ({"jwt_key": PEM, "authorized_parties": []}, "authorized_parties"),
    "empty party": ({"jwt_key": PEM, "authorized_parties": [""]}, "authorized_parties"),
    "parties a number": ({"jwt_key": PEM, "authorized_parties": 5}, "authorized_parties"),
    "party None": ({"jwt_key": PEM, "authorized_parties": [None]}, "authorized_parties"),
    "empty audience": ({"jwt_key": PEM, "audience": []}, "audience"),
    "empty audience string": ({"jwt_key": PEM, "audience": ""}, "audience"),
    "negative skew": ({"jwt_key": PEM, "clock_skew": -1}, "clock_skew"),
    "NaN skew": ({"jwt_key": PEM, "clock_skew": float("nan")}, "clock_skew"),
    "infinite skew": ({"jwt_key": PEM, "clock_skew": float("inf")}, "clock_skew"),
    "skew beyond floats": ({"jwt_key": PEM, "clock_skew": 10**400}, "clock_skew"),
    "skew a string": ({"jwt_key": PEM, "clock_skew": "5"}, "clock_skew"),
    "no ttl": ({"jwt_key": PEM, "key_ttl": 0}, "key_ttl"),
    "age below ttl": ({"jwt_key": PEM, "key_ttl": 10, "key_max_age": 5}, "key_max_age"),
    "negative cooldown": ({"jwt_key": PEM, "kid_cooldown": -0.1}, "kid_cooldown"),
    "negative cache": ({"jwt_key": PEM, "token_cache_size": -1}, "token_cache_size"),
    "cache a float": ({"jwt_key": PEM, "token_cache_size": 1.5}, "token_cache_size"),
    "issuer empty": ({"issuer": ""}, "issuer"),
    "issuer a host": ({"issuer": "clerk.example.com"}, "issuer"),
    "issuer a number": ({"issuer": 5}, "issuer"),
    "issuer with a user": ({"issuer": "https://me:pw@clerk.example.com"}, "issuer"),
    "issuer with a query": ({"issuer": "https://clerk.example.com?x=1"}, "issuer"),
    "issuer broken": ({"issuer": "https://[clerk"}, "issuer"),
    "issuer in plain text": ({"issuer": "http://clerk.example.com"}, "https"),
    "issuer a file": ({"issuer": "file:///etc/passwd"}, "issuer"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_fails_at_construction(name: str) -> None:
    """Each raises a ConfigurationError that names the setting."""
    options, told = SETTINGS[name]
    with pytest.raises(ConfigurationError, match=told):
        TokenVerifier(**options)
    with pytest.raises(ConfigurationError, match=told):
        AsyncTokenVerifier(**options)


def test_the_key_is_read_from_the_environment_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`CLERK_JWT_KEY` is Clerk's own variable; an error about a bad value names it."""
    monkeypatch.setenv("CLERK_JWT_KEY", PEM.replace("\n", "\\n"))
    for verifier in (TokenVerifier(clock=Clock()), AsyncTokenVerifier(clock=Clock())):
        assert verifier.key_status().source == "jwt_key"
    assert TokenVerifier(clock=Clock()).verify(token()).user_id == "user_1"
    assert TokenVerifier(sessions=SyncStub()).key_status().source == "sessions"
    assert TokenVerifier(issuer="https://clerk.example.com").key_status().source == "issuer"
    monkeypatch.setenv("CLERK_JWT_KEY", "garbage")
    with pytest.raises(ConfigurationError, match=r"^CLERK_JWT_KEY can't be used"):
        TokenVerifier()


def test_unchecked_parties_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    """Omitting `authorized_parties` is logged once, not for every token."""
    caplog.set_level(logging.WARNING, "clerk_async.tokens")
    verifier = TokenVerifier(jwt_key=PEM, clock=Clock())
    for n in range(3):
        verifier.verify(token(claims(jti=str(n), azp="https://anything.example")))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "authorized_parties" in caplog.text
    caplog.clear()
    TokenVerifier(jwt_key=PEM, authorized_parties=[PARTY], clock=Clock())
    assert not caplog.records


def test_a_single_name_needs_no_list() -> None:
    """A party or audience given as a str means that name, not its letters."""
    verifier = TokenVerifier(jwt_key=PEM, authorized_parties=PARTY, audience="api", clock=Clock())
    assert verifier.verify(token(claims(aud="api")))
    with pytest.raises(TokenVerificationError):
        verifier.verify(token(claims(aud="a")))


def test_time_errors_give_the_seconds() -> None:
    """Expiry and clock errors give the difference, which distinguishes skew from attack."""
    verifier = TokenVerifier(jwt_key=PEM, clock=Clock())
    for changes, told in (
        ({"exp": NOW - 30}, "expired 30 s ago"),
        ({"nbf": NOW + 42}, "42 s ahead"),
        ({"iat": NOW + 99}, "99 s ahead"),
    ):
        with pytest.raises(TokenVerificationError, match=told):
            verifier.verify(token(claims(**changes)))


async def test_accept_pending_accepts_pending_sessions() -> None:
    """Without it the reason says that the session is pending."""
    pending = token(claims(sts="pending"))
    stub = AsyncStub(sessions={"sess_1": "pending"})
    welcome = AsyncTokenVerifier(sessions=stub, accept_pending=True, clock=Clock())
    assert (await welcome.verify(pending, check_session=True)).status == "pending"
    with pytest.raises(TokenVerificationError) as caught:
        await AsyncTokenVerifier(sessions=stub, clock=Clock()).verify(pending)
    assert caught.value.reason is Reason.SESSION_PENDING


def test_repr_shows_no_key_and_no_token() -> None:
    """A verifier in a log or traceback shows nothing secret."""
    verifier = TokenVerifier(sessions=SyncStub(), clock=Clock())
    verifier.verify(token())
    assert repr(verifier) == "<TokenVerifier with keys from sessions>"
    assert token().split(".")[1] not in repr(verifier._verification.__dict__)


@pytest.mark.promise("no-pickled-clients")
@pytest.mark.parametrize("shared", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_verifier_can_not_be_pickled_or_copied(shared: Callable[[object], object]) -> None:
    """As for clients, the error says that each process makes its own."""
    for verifier in (TokenVerifier(jwt_key=PEM), AsyncTokenVerifier(sessions=AsyncStub())):
        with pytest.raises(TypeError, match="make one in each process"):
            shared(verifier)


def test_a_missing_extra_is_named() -> None:
    """Without cryptography the error names the missing extra and how to install it."""
    program = """
        import sys
        sys.modules["cryptography"] = None
        from clerk_async.errors import ConfigurationError
        from clerk_async.tokens.sync_verifier import TokenVerifier
        try:
            TokenVerifier(jwt_key="whatever")
        except ConfigurationError as error:
            assert "pip install 'clerk-async[jwt]'" in str(error), error
        else:
            raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_a_program_that_only_verifies_imports_little() -> None:
    """It imports neither the client nor asyncio and TLS until something needs them."""
    program = f"""
        import sys
        import msgspec  # before 0.20, it imports json
        before = set(sys.modules)
        from clerk_async import TokenVerifier
        verifier = TokenVerifier(jwt_key={OURS.public_pem!r}, authorized_parties=[{PARTY!r}],
                                 clock=lambda: {NOW})
        assert verifier.verify({token()!r}).user_id == "user_1"
        heavy = {{"aiohttp", "anyio", "cattrs", "asyncio", "ssl", "_ssl", "socket", "email",
                 "json"}}
        ours = {{"clerk_async.http", "clerk_async.models", "clerk_async.config",
                "clerk_async.tokens.requests", "clerk_async.sync", "clerk_async.pacing"}}
        print(sorted((heavy | ours) & set(sys.modules) - before))
        state = verifier.authenticate_request({{"authorization": {"Bearer " + token()!r}}})
        assert state.is_signed_in
        print(sorted(heavy & set(sys.modules) - before))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.splitlines() == ["[]", "[]"]


def test_importing_the_verifier_does_not_import_cryptography() -> None:
    """The first verifier imports the heavy parts."""
    program = "import sys, clerk_async.tokens.verifier; assert 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
