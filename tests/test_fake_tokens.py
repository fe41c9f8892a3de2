"""FakeClerk's tokens are real: other libraries verify them, and it reads what they sign."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fake_calls import get, post
from joserfc import jwt as jose
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from clerk_async.testing import FakeClerk
from clerk_async.testing.keys import b64, unb64

SESSION_CLAIMS = {"exp", "fva", "iat", "iss", "jti", "nbf", "sid", "sub"}
VERSION_2_CLAIMS = {*SESSION_CLAIMS, "fea", "pla", "sts", "v"}
NOW = 1_800_000_000
TEMPLATE = "tokens/custom_hasura"


@pytest.fixture
def fake() -> Any:
    """Yield a fake with a frozen clock."""
    with FakeClerk(clock=lambda: NOW) as fake:
        yield fake


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims, without verification."""
    header, claims, _ = token.split(".")
    return json.loads(unb64(header)), json.loads(unb64(claims))


class TestSessionTokens:
    def test_a_version_2_token_has_its_claims(self, fake: FakeClerk) -> None:
        session = fake.add_session(user_id="user_1", created_at=(NOW - 300) * 1000)
        token = post(fake, f"/sessions/{session.id}/tokens").json["jwt"]
        header, claims = parts(token)
        assert (header["alg"], header["typ"]) == ("RS256", "JWT")
        assert header["kid"] == fake.signing_key.kid
        assert set(claims) == VERSION_2_CLAIMS
        assert (claims["iat"], claims["nbf"], claims["exp"]) == (NOW, NOW - 10, NOW + 60)
        assert (claims["sub"], claims["sid"], claims["v"]) == ("user_1", session.id, 2)
        assert claims["iss"] == fake.issuer == f"http://127.0.0.1:{fake.port}"
        assert claims["fva"] == [5, -1]
        assert claims["sts"] == "active"

    def test_a_token_has_organization_actor_and_custom_claims(self, fake: FakeClerk) -> None:
        session = fake.add_session(
            last_active_organization_id="org_1",
            actor={"sub": "user_admin", "sid": "sess_admin", "iss": "https://x"},
            claims={"email": "a@b.c", "fva": None},
            authorized_party=None,
            status="pending",
        )
        _, claims = parts(fake.mint(session))
        assert claims["o"] == {
            "id": "org_1",
            "slg": "acme",
            "rol": "admin",
            "per": "manage,read",
            "fpm": "3,2",
        }
        assert claims["fea"] == "o:dashboard,o:teams"
        assert claims["act"]["sub"] == "user_admin"
        assert (claims["email"], claims["sts"]) == ("a@b.c", "pending")
        assert "fva" not in claims
        assert "azp" not in claims

    def test_a_version_1_token_has_its_claims(self, fake: FakeClerk) -> None:
        session = fake.add_session(last_active_organization_id="org_1")
        _, claims = parts(fake.mint(session, version=1))
        organization = {"org_id", "org_slug", "org_role", "org_permissions"}
        assert set(claims) == SESSION_CLAIMS | organization | {"azp"}
        assert (claims["org_id"], claims["org_role"]) == ("org_1", "org:admin")
        assert "org:teams:read" in claims["org_permissions"]
        assert "org_id" not in parts(fake.mint(fake.add_session(), version=1))[1]

    @pytest.mark.parametrize("path", ["tokens", "tokens/custom_hasura"])
    @pytest.mark.parametrize("lifetime", [30, 315_360_000])
    def test_expires_in_seconds_sets_the_lifetime(
        self, fake: FakeClerk, path: str, lifetime: int
    ) -> None:
        session = fake.add_session()
        body = {"expires_in_seconds": lifetime}
        token = post(fake, f"/sessions/{session.id}/{path}", body).json["jwt"]
        assert parts(token)[1]["exp"] == NOW + lifetime

    def test_every_token_has_a_unique_id(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        assert len({parts(fake.mint(session))[1]["jti"] for _ in range(50)}) == 50

    def test_tokens_can_be_minted_for_any_time(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        at = datetime(2026, 1, 1, tzinfo=UTC)
        claims = parts(fake.mint(session.id, issued_at=at, expires_in=-5))[1]
        assert (claims["iat"], claims["exp"]) == (at.timestamp(), at.timestamp() - 5)
        assert parts(fake.expired_token(session, age=90))[1]["exp"] == NOW - 30
        with pytest.raises(KeyError):
            fake.mint("sess_no")
        with pytest.raises(ValueError, match="time zone"):
            fake.mint(session, issued_at=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(ValueError, match="1 or 2"):
            fake.mint(session, version=3)


class TestKinds:
    """Kinds of tokens are distinguished as by the service."""

    @pytest.mark.promise("fake-not-kinder")
    @pytest.mark.parametrize(
        ("path", "template", "category"),
        [("tokens", None, "cl_B7d4PD111AAA"), (TEMPLATE, "custom_hasura", "cl_B7d4PD222AAA")],
    )
    def test_the_header_has_the_kind_and_the_original_issue_time(
        self, fake: FakeClerk, path: str, template: str | None, category: str
    ) -> None:
        """Session tokens and template tokens each have a category; one key signs both."""
        session = fake.add_session()
        made = post(fake, f"/sessions/{session.id}/{path}").json["jwt"]
        for token in (made, fake.mint(session, template=template)):
            header, _ = parts(token)
            assert (header["cat"], header["oiat"]) == (category, NOW)
            assert header["kid"] == fake.signing_key.kid

    @pytest.mark.promise("fake-not-kinder")
    @pytest.mark.parametrize(("path", "template"), [("tokens", None), (TEMPLATE, "custom_hasura")])
    def test_only_a_browsers_tokens_have_an_authorized_party(
        self, fake: FakeClerk, path: str, template: str | None
    ) -> None:
        """The Backend API knows no origin."""
        session = fake.add_session(authorized_party="https://app.example.com")
        made = parts(post(fake, f"/sessions/{session.id}/{path}").json["jwt"])[1]
        minted = parts(fake.mint(session, template=template))[1]
        assert "azp" not in made
        assert minted.pop("azp") == "https://app.example.com"
        assert set(minted) == set(made)

    @pytest.mark.promise("fake-not-kinder")
    def test_a_template_token_has_no_session_and_no_status(self, fake: FakeClerk) -> None:
        """Neither one made for a browser nor one of the Backend API."""
        session = fake.add_session(status="pending", last_active_organization_id="org_1")
        for token in (
            fake.mint(session, template="custom_hasura"),
            post(fake, f"/sessions/{session.id}/{TEMPLATE}").json["jwt"],
        ):
            assert not {"sid", "sts", "v", "o", "fva", "fea", "pla"} & set(parts(token)[1])


class TestTemplates:
    def test_a_template_token_has_custom_claims_and_no_sid(self, fake: FakeClerk) -> None:
        session = fake.add_session(user_id="user_1")
        token = post(fake, f"/sessions/{session.id}/tokens/custom_hasura").json["jwt"]
        claims = parts(token)[1]
        assert "sid" not in claims
        assert claims["https://hasura.io/jwt/claims"]["x-hasura-user-id"] == "user_1"
        assert claims["sub"] == "user_1"

    def test_templates_can_be_added(self, fake: FakeClerk) -> None:
        session = fake.add_session(user_id="user_1", last_active_organization_id="org_1")
        template = {
            "aud": ["a", "{{org.id}}"],
            "who": "user {{user.id}} in {{session.id}}",
            "level": 7,
        }
        fake.add_template("mine/ü", template, lifetime=900)
        claims = parts(post(fake, f"/sessions/{session.id}/tokens/mine%2F%C3%BC").json["jwt"])[1]
        assert claims["aud"] == ["a", "org_1"]
        assert claims["who"] == f"user user_1 in {session.id}"
        assert (claims["level"], claims["exp"]) == (7, NOW + 900)
        with pytest.raises(KeyError):
            fake.mint(session, template="none")

    def test_a_template_can_not_give_a_token_an_authorized_party(self, fake: FakeClerk) -> None:
        """The name is reserved, and the Backend API knows no origin."""
        session = fake.add_session(user_id="user_1")
        fake.add_template("mine", {"azp": "https://app.example.com", "sub": "user_2"})
        claims = parts(post(fake, f"/sessions/{session.id}/tokens/mine").json["jwt"])[1]
        assert "azp" not in claims
        assert claims["sub"] == "user_1"


# joserfc warns that RFC 9864 calls it Ed25519; Clerk's key sets say EdDSA.
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
class TestOtherLibraries:
    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    def test_pyjwt_and_joserfc_verify_what_it_signs(
        self, fake_clerk: FakeClerk, algorithm: str
    ) -> None:
        fake_clerk.rotate_keys(algorithm=algorithm)
        session = fake_clerk.add_session()
        token = post(fake_clerk, f"/sessions/{session.id}/tokens").json["jwt"]
        by_pem = jwt.decode(token, fake_clerk.jwt_key, algorithms=[algorithm])
        assert by_pem["sid"] == session.id
        published = get(fake_clerk, "/jwks").json
        keys = jwt.PyJWKSet.from_dict(published)
        by_set = jwt.decode(token, keys[fake_clerk.signing_key.kid].key, algorithms=[algorithm])
        assert by_set == by_pem
        key_set = KeySet.import_key_set(published)
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)  # cat and oiat
        assert jose.decode(token, key_set, registry=registry).claims == by_pem

    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    def test_it_reads_tokens_signed_by_other_libraries(
        self, fake_clerk: FakeClerk, algorithm: str
    ) -> None:
        key = fake_clerk.rotate_keys(algorithm=algorithm)
        session = fake_clerk.add_session()
        claims = parts(fake_clerk.mint(session))[1]
        kinds: dict[str, Any] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        header = {"alg": algorithm, "kid": key.kid}
        made = [
            jwt.encode(claims, key.private, algorithm=algorithm, headers={"kid": key.kid}),
            jose.encode(header, claims, kinds[algorithm].import_key(pem), algorithms=[algorithm]),
        ]
        for token in made:
            reply = post(fake_clerk, f"/sessions/{session.id}/verify", {"token": token})
            assert reply.status == 200
            forged = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBB")
            reply = post(fake_clerk, f"/sessions/{session.id}/verify", {"token": forged})
            assert reply.code == "invalid_session_token"


class TestKeys:
    def test_the_public_key_set_needs_no_secret_key(self, fake_clerk: FakeClerk) -> None:
        public = get(fake_clerk, "/.well-known/jwks.json", key=None)
        assert public.status == 200
        assert public.json == get(fake_clerk, "/jwks").json == fake_clerk.jwk_set
        (key,) = public.json["keys"]
        assert set(key) == {"kty", "use", "kid", "alg", "n", "e"}

    def test_rotation_keeps_or_drops_the_old_key(self, fake_clerk: FakeClerk) -> None:
        old = fake_clerk.signing_key
        new = fake_clerk.rotate_keys()
        assert fake_clerk.signing_key is new
        assert fake_clerk.jwt_key == new.public_pem != old.public_pem
        assert {key["kid"] for key in fake_clerk.jwk_set["keys"]} == {old.kid, new.kid}
        last = fake_clerk.rotate_keys(keep_old=False, kid="ins_mine")
        assert [key["kid"] for key in fake_clerk.jwk_set["keys"]] == [last.kid] == ["ins_mine"]

    def test_the_same_kid_can_get_another_key(self, fake_clerk: FakeClerk) -> None:
        old = fake_clerk.signing_key
        new = fake_clerk.rotate_keys(keep_old=False, kid=old.kid)
        assert (new.kid, new.jwk == old.jwk) == (old.kid, False)
        assert fake_clerk.jwk_set == {"keys": [new.jwk]}

    def test_additional_keys_sign_only_if_told(self, fake_clerk: FakeClerk) -> None:
        more = fake_clerk.add_key(kid="ins_more", algorithm="ES256")
        session = fake_clerk.add_session()
        assert fake_clerk.signing_key is not more
        for key in (more, "ins_more"):
            header, claims = parts(fake_clerk.sign({"sub": "x"}, key=key))
            assert (header["alg"], header["kid"], claims) == ("ES256", "ins_more", {"sub": "x"})
        assert parts(fake_clerk.mint(session))[0]["kid"] != "ins_more"
        fake_clerk.remove_key("ins_more")
        with pytest.raises(KeyError):
            fake_clerk.remove_key("ins_more")
        with pytest.raises(KeyError):
            fake_clerk.sign({}, key="ins_more")

    def test_two_instances_never_share_a_key(self) -> None:
        first, second = FakeClerk(), FakeClerk()
        assert first.jwt_key != second.jwt_key
        assert first.signing_key.kid != second.signing_key.kid
        same = FakeClerk(kid=first.signing_key.kid)
        assert same.signing_key.kid == first.signing_key.kid
        assert same.jwt_key != first.jwt_key

    def test_key_pairs_are_reused(self) -> None:
        with FakeClerk() as first:
            post(first, f"/sessions/{first.add_session().id}/tokens")
            pem = first.jwt_key
        del first  # without the garbage collector
        assert FakeClerk().jwt_key == pem

    def test_unknown_algorithms_are_rejected(self, fake_clerk: FakeClerk) -> None:
        with pytest.raises(ValueError, match="RS256, ES256, EdDSA"):
            fake_clerk.add_key(algorithm="HS256")

    def test_the_issuer_can_be_set(self, fake_clerk: FakeClerk) -> None:
        session = fake_clerk.add_session()
        fake_clerk.issuer = "https://clerk.example.com"
        assert parts(fake_clerk.mint(session))[1]["iss"] == "https://clerk.example.com"
        assert parts(FakeClerk(issuer="https://x").mint(session))[1]["iss"] == "https://x"


class TestSign:
    def test_headers_can_be_added_changed_and_removed(self, fake_clerk: FakeClerk) -> None:
        token = fake_clerk.sign(
            {"sub": "x"}, headers={"alg": "none", "typ": None, "crit": ["b64"], "b64": False}
        )
        header, claims = parts(token)
        assert header.keys() == {"alg", "kid", "crit", "b64"}
        assert header["alg"] == "none"
        assert claims == {"sub": "x"}

    def test_the_payload_can_be_any_bytes(self, fake_clerk: FakeClerk) -> None:
        payload = b'{"sub": 1, "sub": 2, "exp": NaN}'
        assert unb64(fake_clerk.sign(payload).split(".")[1]) == payload
        key = jwt.PyJWK.from_dict(fake_clerk.jwk_set["keys"][0])
        assert jwt.api_jws.decode(fake_clerk.sign(payload), key, algorithms=["RS256"]) == payload

    def test_base64url_has_no_padding(self) -> None:
        for length in range(5):
            data = bytes(range(250, 250 + length))
            assert "=" not in b64(data)
            assert unb64(b64(data)) == data
