"""Four libraries verify six thousand tokens, good and bad: every difference is explained."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs
import jwt
import pytest
from clerk_backend_api.security import verify_token
from clerk_backend_api.security.types import VerifyTokenOptions
from joserfc import jwt as jose
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry
from token_samples import GONE, ISSUER, OTHER, OURS, PARTY, raw_token

from clerk_async import TokenVerificationError, TokenVerifier
from clerk_async.testing.keys import b64

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS: Final = 6_000
START: Final = int(time.time())
HS256: Final = b64(b'{"alg":"HS256","typ":"JWT"}')
NONE: Final = b64(b'{"alg":"none"}')


class Draft:
    """An unfinished token: its parts, and how they are combined."""

    def __init__(self, number: int) -> None:
        self.header: dict[str, Any] = {
            "alg": "RS256",
            "cat": "cl_B7d4PD111AAA",
            "kid": OURS.kid,
            "typ": "JWT",
        }
        self.claims: dict[str, Any] = {
            "azp": PARTY,
            "exp": START + 3600,
            "fva": [3, -1],
            "iat": START - 60,
            "iss": ISSUER,
            "jti": f"{number:020x}",
            "nbf": START - 70,
            "sid": f"sess_{number}",
            "sts": "active",
            "sub": f"user_{number % 7}",
            "v": 2,
        }
        self.key = OURS
        self.before: Callable[[bytes], bytes] = bytes
        self.after: Callable[[str], str] = str

    def token(self) -> str:
        """Sign it."""
        head = {name: value for name, value in self.header.items() if value is not GONE}
        claims = {name: value for name, value in self.claims.items() if value is not GONE}
        payload = self.before(json.dumps(claims).encode())
        return self.after(raw_token(json.dumps(head).encode(), payload, self.key))


@attrs.frozen
class Change:
    """One change to a token, and the parts that it touches."""

    touches: frozenset[str]
    do: Callable[[Draft], object]


def header(**fields: Any) -> Change:
    """Change the header."""
    return Change(frozenset(fields), lambda draft: draft.header.update(fields))


def claims(**fields: Any) -> Change:
    """Change the claims."""
    return Change(frozenset(fields), lambda draft: draft.claims.update(fields))


def after(change: Callable[[str], str]) -> Change:
    """Change the token after it was signed."""
    return Change(frozenset({"token"}), lambda draft: setattr(draft, "after", change))


def payload(change: Callable[[bytes], bytes], *touches: str) -> Change:
    """Change the payload's bytes before they are signed."""
    return Change(frozenset({"payload", *touches}), lambda draft: setattr(draft, "before", change))


def _of_another_key(draft: Draft) -> None:
    draft.key = OTHER


def _of_another_instance(draft: Draft) -> None:
    draft.key = OTHER
    draft.header["kid"] = OTHER.kid


def _flipped(made: str, at: int) -> str:
    character = "A" if made[at] != "A" else "B"
    return made[:at] + character + made[at + 1 :]


def _hs256(made: str) -> str:
    import hashlib  # noqa: PLC0415 - for one forgery
    import hmac  # noqa: PLC0415

    signed = f"{HS256}.{made.split('.')[1]}"
    mac = hmac.digest(OURS.public_pem.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{b64(mac)}"


def _noncanonical(made: str) -> str:
    # 256 bytes leave four bits of the last character unused, so its neighbour encodes the same
    # bytes.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return made[:-1] + alphabet[alphabet.index(made[-1]) + 1]


CHANGES: Final[dict[str, Change]] = {
    "nothing": claims(),
    "custom claims": claims(role="admin", deep={"a": [1, {"b": None}]}),
    "an organization": claims(
        fea="o:teams", o={"id": "org_1", "rol": "admin", "per": "read", "fpm": "1"}
    ),
    "version 1": claims(v=GONE, org_id="org_1", org_role="org:admin", org_permissions=[]),
    "no category": header(cat=GONE),
    "no type": header(typ=GONE),
    "type in lower case": header(typ="jwt"),
    "unknown header": header(oiat=START - 100, x="y"),
    "an audience": claims(aud="https://api.example.com"),
    "no nbf": claims(nbf=GONE),
    "no iat": claims(iat=GONE),
    "expired": claims(exp=START - 60),
    "no exp": claims(exp=GONE),
    "exp null": claims(exp=None),
    "exp a fraction": claims(exp=START + 3600.5),
    "exp a string": claims(exp=str(START + 3600)),
    "exp true": claims(exp=True),
    "exp beyond the calendar": claims(exp=10**15),
    "nbf soon": claims(nbf=START + 3000),
    "nbf a fraction": claims(nbf=START - 60.5),
    "nbf a string": claims(nbf=str(START - 60)),
    "nbf null": claims(nbf=None),
    "iat in the future": claims(iat=START + 3000),
    "iat a fraction": claims(iat=START - 60.5),
    "iat null": claims(iat=None),
    "another party": claims(azp="https://evil.example"),
    "no party": claims(azp=GONE),
    "party a list": claims(azp=[PARTY]),
    "no sub": claims(sub=GONE),
    "sub empty": claims(sub=""),
    "sub a number": claims(sub=5),
    "sub null": claims(sub=None),
    "a machine's sub": claims(sub="mch_1"),
    "sid a list": claims(sid=["sess_1"]),
    "pending": claims(sts="pending"),
    "machine token": header(cat="cl_B7d4PD333AAA"),
    "template token": header(cat="cl_B7d4PD222AAA"),
    "OAuth token": header(typ="at+jwt"),
    "alg none": after(lambda made: f"{NONE}.{made.split('.')[1]}."),
    "alg HS256 of the public key": after(_hs256),
    "alg RS512 claimed": header(alg="RS512"),
    "no alg": header(alg=GONE),
    "another key": Change(frozenset({"key"}), _of_another_key),
    "another key, its own kid": Change(frozenset({"key", "kid"}), _of_another_instance),
    "no kid": header(kid=GONE),
    "kid a number": header(kid=5),
    "kid empty": header(kid=""),
    "critical headers": header(crit=["exp"]),
    "critical headers, none": header(crit=[]),
    "b64 false": header(b64=False),
    "a URL of keys": header(jku="https://evil.example/jwks.json"),
    "a key of its own": header(jwk=OTHER.jwk),
    "a certificate": header(x5c=["MIIB"]),
    "compressed": header(zip="DEF"),
    "nested": header(cty="JWT"),
    "sub twice": payload(lambda raw: raw[:-1] + b', "sub": "user_admin"}', "sub"),
    "payload a list": payload(lambda _: b'["user_1"]'),
    "payload not JSON": payload(lambda _: b"user_1"),
    "payload not UTF-8": payload(lambda raw: raw[:-1] + b', "x": "\xff"}'),
    "payload with NaN": payload(lambda raw: raw[:-1] + b', "x": NaN}'),
    "payload changed": after(lambda made: _flipped(made, made.index(".") + 20)),
    "signature changed": after(lambda made: _flipped(made, len(made) - 40)),
    "signature cut": after(lambda made: made[:-8]),
    "no signature": after(lambda made: made.rpartition(".")[0] + "."),
    "signature of another spelling": after(_noncanonical),
    "padding": after(lambda made: made + "=="),
    "a newline behind": after(lambda made: made + "\n"),
    "a blank in front": after(lambda made: " " + made),
    "a newline within": after(lambda made: made[:30] + "\n" + made[30:]),
    "standard base64": after(lambda made: made.replace("-", "+").replace("_", "/")),
    "two segments": after(lambda made: made.rpartition(".")[0]),
    "four segments": after(lambda made: made + ".x"),
}

_ours = TokenVerifier(jwt_key=OURS.public_pem, authorized_parties=[PARTY], token_cache_size=0)
_public: Any = OURS.private.public_key()
_jose_key = RSAKey.import_key(OURS.public_pem)
_jose_headers = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
_jose_rules = jose.JWTClaimsRegistry(
    leeway=5,
    exp={"essential": True},
    sub={"essential": True},
    azp={"essential": True, "value": PARTY},
)
_options = VerifyTokenOptions(jwt_key="x", authorized_parties=[PARTY])
_options.jwt_key = OURS.public_pem  # with line breaks its own PEM parser fails


def _by_pyjwt(made: str) -> None:
    told = jwt.decode(
        made,
        _public,
        algorithms=["RS256"],
        leeway=5,
        options={"require": ["exp", "sub"], "verify_aud": False},
    )
    if told.get("azp") != PARTY:
        raise PermissionError


def _by_joserfc(made: str) -> None:
    _jose_rules.validate(jose.decode(made, _jose_key, registry=_jose_headers).claims)


JUDGES: Final[dict[str, Callable[[str], object]]] = {
    "PyJWT": _by_pyjwt,
    "joserfc": _by_joserfc,
    "clerk-backend-api": lambda made: verify_token(made, _options),
}


def accepts(judge: Callable[[str], object], made: str) -> bool:
    """Return whether a library accepts a token, whatever it raises otherwise."""
    try:
        judge(made)
    except Exception:  # noqa: BLE001 - as many kinds as there are libraries
        return False
    return True


def we_accept(made: str) -> bool:
    """Return whether we accept it; only our own error counts as a rejection."""
    try:
        _ours.verify(made)
    except TokenVerificationError:
        return False
    return True


ALL: Final = frozenset(JUDGES)
TWO: Final = frozenset({"PyJWT", "clerk-backend-api"})
CLERKS: Final = frozenset({"clerk-backend-api"})
JOSERFC: Final = frozenset({"joserfc"})

WE_REFUSE: Final[dict[str, tuple[frozenset[str], str]]] = {
    "no exp": (CLERKS, "a token without an expiry would be valid forever"),
    "no sub": (CLERKS, "a token without a user signs nobody in"),
    "sub empty": (TWO, "a token whose user has no id signs nobody in"),
    "exp a fraction": (ALL, "times are whole seconds, as Clerk writes them"),
    "exp a string": (
        TWO,
        "a time is a number (RFC 7519, section 2), and nothing is converted to one",
    ),
    "exp beyond the calendar": (ALL, "no datetime can represent its expiry"),
    "nbf a fraction": (ALL, "times are whole seconds"),
    "nbf a string": (TWO, "a time is a number"),
    "iat a fraction": (ALL, "times are whole seconds"),
    "party a list": (JOSERFC, "a party is a string; a list that contains ours is not accepted"),
    "a machine's sub": (ALL, "a machine is not a user"),
    "machine token": (ALL, "the category says that it is a machine token"),
    "OAuth token": (ALL, "an access token is for an API, not for a session (RFC 9068)"),
    "sid a list": (ALL, "access must not depend on a claim of a wrong type"),
    "pending": (ALL, "a session with open tasks is accepted only with accept_pending"),
    "kid empty": (ALL, "a key id, if present, must name a key"),
    "critical headers, none": (JOSERFC, "the list must not be empty (RFC 7515, section 4.1.11)"),
    "a URL of keys": (ALL, "no token of Clerk names keys; one that does is suspicious"),
    "a key of its own": (TWO, "likewise"),
    "a certificate": (ALL, "likewise"),
    "compressed": (ALL, "a compressed payload would be a different one"),
    "nested": (ALL, "Clerk makes no nested tokens"),
    "sub twice": (ALL, "with duplicate names it is undefined which counts (RFC 8725, section 2.4)"),
    "payload with NaN": (ALL, "NaN is not JSON (RFC 8259, section 6)"),
    "padding": (TWO, "base64url has no padding (RFC 7515, section 2)"),
}
"""What others accept: which libraries do, and why we do not."""
WE_ACCEPT: Final[dict[str, tuple[frozenset[str], str]]] = {
    "an audience": (CLERKS, "`aud` counts only if an audience is asked for"),
}
"""What others reject: which libraries do, and why we do not."""


def _is_good(change: str) -> bool:
    draft = Draft(0)
    CHANGES[change].do(draft)
    return we_accept(draft.token())


GOOD: Final = [name for name in CHANGES if _is_good(name)]


def drafted(number: int, random_: random.Random) -> tuple[str, list[str]]:
    """Make a token with one or two changes, and name them."""
    among = GOOD if random_.random() < 0.3 else list(CHANGES)
    names = random_.sample(among, random_.choice([1, 2, 2]))
    first = CHANGES[names[0]]
    if len(names) > 1 and first.touches & CHANGES[names[1]].touches:
        names.pop()
    draft = Draft(number)
    for name in names:
        CHANGES[name].do(draft)
    return draft.token(), names


@pytest.mark.slow
@pytest.mark.promise("judges")
def test_every_difference_between_four_libraries_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If another library accepts what we reject, or the reverse, the table has the reason."""
    random_ = random.Random(6_000)
    found: Counter[tuple[str, str]] = Counter()
    accepted = 0
    for number in range(TOKENS):
        made, names = drafted(number, random_)
        ours = we_accept(made)
        accepted += ours
        for name, judge in JUDGES.items():
            if accepts(judge, made) is ours:
                continue
            rows = WE_ACCEPT if ours else WE_REFUSE
            blamed = [each for each in names if each in rows and name in rows[each][0]]
            alone = [each for each in names if each not in [*blamed, *GOOD]]
            assert blamed, (name, names, ours)
            assert ours or not alone, (name, names)
            found.update((each, name) for each in blamed)
    table = [f"{TOKENS} tokens, {accepted} accepted by us; where others differ:"]
    for rows, verb in ((WE_REFUSE, "accepts"), (WE_ACCEPT, "refuses")):
        for change, (judges, why) in rows.items():
            who = ", ".join(f"{judge} {verb} {found[change, judge]}" for judge in sorted(judges))
            table.append(f"  {change}: {who}; {why}")
            assert all(found[change, judge] for judge in judges), change
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(table) + "\n")
    assert accepted > TOKENS / 4
