"""Tokens contain what a test sets on a session, in Clerk's own encoding."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_calls import get, post
from hypothesis import given
from hypothesis import strategies as st

from clerk_async import Actor, Organization, SessionClaims, TokenVerifier
from clerk_async.testing import FakeClerk, FakeSession, make_claims
from clerk_async.testing.keys import unb64

ORIGIN = "http://localhost:3000"


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims, without verification."""
    claims: dict[str, Any] = json.loads(unb64(token.split(".")[1]))
    return claims


def verified(fake: FakeClerk, session: FakeSession, *, version: int = 2) -> SessionClaims:
    """Return what a verifier reads in a browser's token."""
    verifier = TokenVerifier(jwt_key=fake.jwt_key, authorized_parties=[ORIGIN])
    return verifier.verify(fake.mint(session, version=version))


class TestSessions:
    @pytest.mark.promise("fake-claims")
    def test_an_organization_is_encoded_as_by_clerk(self, fake: FakeClerk) -> None:
        """The organization's features come first, each with the mask of its permissions."""
        session = fake.add_session(
            organization_id="org_1",
            role="org:billing",
            permissions=["org:invoices:create", "org:invoices:read", "org:teams:read"],
            features=["u:export", "o:teams", "sso"],
            plan="o:pro",
        )
        for token in (fake.mint(session), post(fake, f"/sessions/{session.id}/tokens").json["jwt"]):
            claims = claims_of(token)
            assert claims["fea"] == "o:teams,o:sso,o:invoices,u:export"
            assert claims["pla"] == "o:pro"
            assert claims["o"] == {
                "id": "org_1",
                "slg": "acme",
                "rol": "billing",
                "per": "create,read",
                "fpm": "2,0,3",
            }

    @pytest.mark.promise("fake-claims")
    @pytest.mark.parametrize("version", [1, 2])
    def test_both_versions_grant_the_same(self, fake: FakeClerk, version: int) -> None:
        """Exactly what was set, and nothing more."""
        granted = {"org:invoices:create", "org:teams:read"}
        session = fake.add_session(
            organization_id="org_1", role="accountant", permissions=granted, features=["o:sso"]
        )
        claims = verified(fake, session, version=version)
        assert claims.organization == Organization(
            "org_1", "acme", "org:accountant", frozenset(granted)
        )
        assert claims.has_role("accountant")
        assert not claims.has_permission("org:teams:create")

    def test_clerks_own_permissions_are_in_no_token(self, fake: FakeClerk) -> None:
        """Clerk leaves them out of both versions."""
        names = ["org:sys_memberships:manage", "org:invoices:read"]
        session = fake.add_session(organization_id="org_1", permissions=names)
        for version in (1, 2):
            organization = verified(fake, session, version=version).organization
            assert organization is not None
            assert organization.permissions == {"org:invoices:read"}
            assert organization.role == "org:member"

    def test_without_an_organization_the_plan_is_the_users(self, fake: FakeClerk) -> None:
        """So are the features; scopes may be written in full."""
        session = fake.add_session(plan="premium", features=["export", "user:sso"])
        claims = verified(fake, session)
        assert (claims.plan, claims.features) == ("u:premium", ("u:export", "u:sso"))
        assert claims.organization is None
        both = fake.add_session(organization_id="org_1", plan="user:free,org:pro", features=["x"])
        assert verified(fake, both).plan == "u:free,o:pro"
        assert verified(fake, both).has_feature("org:x")

    def test_an_administrator_is_the_default(self, fake: FakeClerk) -> None:
        """If only the organization is set, by either of its names."""
        for told in ({"organization_id": "org_1"}, {"last_active_organization_id": "org_1"}):
            session = fake.add_session(**told)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            claims = verified(fake, session)
            assert claims.has_role("org:admin")
            assert claims.has_permission("org:dashboard:manage")
            assert claims.has_plan("o:pro")
            body = get(fake, f"/sessions/{session.id}").json
            assert body["last_active_organization_id"] == "org_1"

    def test_permissions_of_a_session_can_change(self, fake: FakeClerk) -> None:
        """The next token has them."""
        session = fake.add_session(organization_id="org_1", role="admin", permissions=["a:b"])
        session.role, session.permissions = "org:member", ()
        claims = verified(fake, session)
        assert claims.organization == Organization("org_1", "acme", "org:member", frozenset())
        session.last_active_organization_id = None
        assert verified(fake, session).organization is None

    def test_an_activity_is_filled_in(self, fake: FakeClerk) -> None:
        """Fields that the contract requires are added; others stay absent."""
        session = fake.add_session(activity={"city": "Oslo", "browser_name": "Firefox"})
        activity = get(fake, f"/sessions/{session.id}").json["latest_activity"]
        assert activity.pop("id").startswith("activity_")
        assert activity == {
            "object": "session_activity",
            "is_mobile": False,
            "city": "Oslo",
            "browser_name": "Firefox",
        }

    @pytest.mark.parametrize(
        ("told", "error"),
        [
            ({"permissions": ["invoices"]}, ValueError),
            ({"permissions": ["org:a:b:c"]}, ValueError),
            ({"permissions": ["org:a:b,c"]}, ValueError),
            ({"permissions": ["org::b"]}, ValueError),
            ({"permissions": "org:a:b"}, TypeError),
            ({"permissions": [7]}, TypeError),
            ({"permissions": 7}, TypeError),
            ({"features": ["q:export"]}, ValueError),
            ({"features": [""]}, ValueError),
            ({"features": ["o:"]}, ValueError),
            ({"features": "export"}, TypeError),
            ({"features": [None]}, TypeError),
            ({"plan": ""}, ValueError),
            ({"plan": "o:pro,"}, ValueError),
            ({"plan": 7}, TypeError),
            ({"role": 7}, TypeError),
            ({"organization_id": 7}, TypeError),
            ({"organization_id": "org_1", "last_active_organization_id": "org_1"}, TypeError),
            ({"activity": {"town": "Oslo"}}, TypeError),
            ({"activity": "Oslo"}, TypeError),
            ({"activity": {}, "latest_activity": {}}, TypeError),
        ],
    )
    def test_invalid_claims_are_rejected(
        self, fake: FakeClerk, told: Any, error: type[Exception]
    ) -> None:
        """The error is raised where they are written."""
        with pytest.raises(error):
            fake.add_session(**told)
        assert not fake.sessions


NAMES = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
FAKE = FakeClerk(issuer="https://clerk.example.com")


@given(
    permissions=st.lists(st.tuples(NAMES, NAMES), max_size=6, unique=True),
    features=st.lists(st.tuples(st.sampled_from(["o", "u", "uo"]), NAMES), max_size=5, unique=True),
)
def test_all_permissions_survive_the_round_trip(
    permissions: list[tuple[str, str]], features: list[tuple[str, str]]
) -> None:
    """Whatever features are beside them."""
    granted = {f"org:{feature}:{name}" for feature, name in permissions}
    claims = make_claims(
        organization_id="org_1",
        role="org:member",
        permissions=granted,
        features=[f"{scope}:{feature}" for scope, feature in features],
    )
    assert claims.organization is not None
    assert claims.organization.permissions == granted


class TestMakeClaims:
    @pytest.mark.promise("fake-claims")
    def test_made_claims_equal_those_of_a_token(self, fake: FakeClerk) -> None:
        """As a verifier would read it, including raw claims."""
        told: Any = {
            "organization_id": "org_1",
            "role": "org:billing",
            "permissions": ["org:invoices:create"],
            "features": ["o:sso"],
            "plan": "o:pro",
        }
        session = fake.add_session(user_id="user_1", session_id="sess_1", **told)
        verifier = TokenVerifier(jwt_key=fake.jwt_key, authorized_parties=[ORIGIN])
        real = verifier.verify(fake.mint(session))
        assert isinstance(real.issued_at, datetime)
        made = make_claims(
            user_id="user_1",
            issuer=fake.issuer,
            issued_at=real.issued_at,
            token_id=real.token_id,
            **told,
        )
        assert made == real
        assert made.to_dict() == real.to_dict()

    def test_everything_has_a_default(self) -> None:
        """A test names only what it is about."""
        claims = make_claims()
        assert isinstance(claims, SessionClaims)
        assert (claims.user_id, claims.session_id, claims.status) == ("user_1", "sess_1", "active")
        assert claims.issued_at is not None
        assert claims.expires_at - claims.issued_at == timedelta(minutes=1)
        assert abs(claims.issued_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert claims.organization is None

    def test_every_claim_can_be_set(self) -> None:
        """By its own name."""
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        organization = Organization("org_7", "seven", "org:owner", frozenset({"org:a:b"}))
        claims = make_claims(
            user_id="user_7",
            session_id="sess_7",
            organization=organization,
            features=["u:export"],
            status="pending",
            actor=Actor("user_admin", None, None),
            issued_at=moment,
            expires_at=moment + timedelta(hours=1),
            authorized_party=None,
            factor_verification_age=None,
            claims={"email": "a@b.c", "jti": "7"},
        )
        assert claims.organization == organization
        assert claims.raw["o"]["slg"] == "seven"
        assert claims.actor == Actor("user_admin", None, None)
        assert (claims.issued_at, claims.status) == (moment, "pending")
        assert (claims.authorized_party, claims.factor_verification_age) == (None, None)
        assert (claims.raw["email"], claims.token_id) == ("a@b.c", "7")
        assert claims.needs_reverification("lax")
        first = make_claims(organization=organization, version=1)
        assert (first.version, first.organization) == (1, organization)
        assert make_claims(session_id=None).session_id is None

    @pytest.mark.parametrize(
        ("told", "error"),
        [
            ({"user_id": 7}, TypeError),
            ({"user_id": ""}, ValueError),
            ({"version": 3}, ValueError),
            ({"issued_at": datetime(2026, 1, 1)}, ValueError),  # noqa: DTZ001 - it is rejected
            ({"issued_at": "now"}, TypeError),
            ({"permissions": ["read"]}, ValueError),
            ({"claims": {"sub": None}}, ValueError),
            ({"claims": "email"}, TypeError),
            ({"nonsense": 1}, TypeError),
        ],
    )
    def test_invalid_claims_are_rejected(self, told: Any, error: type[Exception]) -> None:
        """The error says what is wrong."""
        with pytest.raises(error):
            make_claims(**told)
