"""`SessionClaims` of tokens of both versions: their content, and that nobody can change it."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from token_samples import GONE, ISSUER, NOW, OURS, PARTY, Clock, claims, token

from clerk_async.tokens.claims import Actor, Organization, SessionClaims
from clerk_async.tokens.sync_verifier import TokenVerifier

VERIFIER = TokenVerifier(jwt_key=OURS.public_pem, clock=Clock(), accept_pending=True)


def verified(**changes: Any) -> SessionClaims:
    """Verify a token with these changes."""
    return VERIFIER.verify(token(claims(**changes)))


def test_standard_claims_have_typed_attributes() -> None:
    """Every claim of a version 2 token has one."""
    told = verified(pla="o:pro", fea="o:dashboard,u:beta")
    assert attrs.asdict(told, recurse=False, filter=attrs.filters.exclude("raw")) == {
        "user_id": "user_1",
        "session_id": "sess_1",
        "issuer": ISSUER,
        "issued_at": datetime.fromtimestamp(NOW, UTC),
        "expires_at": datetime.fromtimestamp(NOW + 60, UTC),
        "not_before": datetime.fromtimestamp(NOW - 10, UTC),
        "token_id": "0123456789abcdef0123",
        "authorized_party": PARTY,
        "version": 2,
        "status": "active",
        "factor_verification_age": (3, -1),
        "actor": None,
        "organization": None,
        "plan": "o:pro",
        "features": ("o:dashboard", "u:beta"),
    }


def test_a_template_token_has_few_claims() -> None:
    """A token of a JWT template names no session and may lack nearly everything."""
    made = token({"sub": "user_1", "exp": NOW + 60, "https://hasura.io/jwt/claims": {"a": [1]}})
    told = VERIFIER.verify(made)
    assert told.user_id == "user_1"
    assert told.session_id is None
    assert (told.issuer, told.issued_at, told.not_before, told.token_id) == (None,) * 4
    assert (told.version, told.status, told.factor_verification_age) == (1, None, None)
    assert (told.organization, told.plan, told.features) == (None, None, ())
    assert told.raw["https://hasura.io/jwt/claims"]["a"] == (1,)


def test_the_organization_is_read_from_version_2() -> None:
    """The documentation's worked example, with `fpm` decoded."""
    told = verified(
        fea="o:dashboard,o:teams",
        o={"id": "org_1", "slg": "acme", "rol": "admin", "per": "manage,read", "fpm": "3,2"},
    )
    expected = {"org:dashboard:manage", "org:dashboard:read", "org:teams:read"}
    assert told.organization == Organization("org_1", "acme", "org:admin", frozenset(expected))
    assert told.has_role("org:admin")
    assert told.has_permission("org:teams:read")
    assert not told.has_permission("org:teams:manage")


@pytest.mark.parametrize("role", ["org:admin", "admin"])
def test_the_organization_is_read_from_version_1(role: str) -> None:
    """The deprecated form yields the same object, even for older roles without their prefix."""
    granted = ["org:dashboard:manage", "org:teams:read"]
    told = verified(
        v=GONE,
        org_id="org_1",
        org_slug="acme",
        org_role=role,
        org_permissions=granted,
    )
    assert told.version == 1
    assert told.organization == Organization("org_1", "acme", "org:admin", frozenset(granted))
    assert told.has_permission("org:teams:read")


def test_a_version_2_token_is_not_read_as_version_1() -> None:
    """Version 1 claims in a version 2 token are custom ones, and grant nothing."""
    told = verified(org_id="org_evil", org_role="org:admin", org_permissions=["org:a:b"])
    assert told.organization is None
    assert not told.has_role("org:admin")
    assert not told.has_permission("org:a:b")


@pytest.mark.parametrize("value", [None, {}, {"id": None}, {"id": ""}, {"rol": "admin"}])
def test_an_organization_needs_an_id(value: Any) -> None:
    """Without an id there is none, whatever its role."""
    told = verified(o=value)
    assert told.organization is None
    assert not told.has_role("org:admin")


def test_the_actor_is_read() -> None:
    """In an impersonation it is the person who really acts."""
    told = verified(act={"iss": "https://dashboard.clerk.com", "sid": "sess_9", "sub": "user_9"})
    assert told.actor == Actor("user_9", "sess_9", "https://dashboard.clerk.com")


@pytest.mark.parametrize("age", [None, [], [1], [1, 2, 3], ["1", 2], [True, 1], "1,2", {}])
def test_an_invalid_factor_age_is_none(age: Any) -> None:
    """Other values are not taken for ages."""
    assert verified(fva=age).factor_verification_age is None


def test_nothing_in_claims_can_be_changed() -> None:
    """One caller can't change what the next one gets: no attribute, no nested value."""
    told = verified(o={"id": "org_1"}, roles=["user"], deep={"list": [{"a": 1}]})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        told.user_id = "user_admin"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert told.organization is not None
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        told.organization.role = "org:admin"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    raw: Any = told.raw
    with pytest.raises(TypeError):
        raw["sub"] = "user_admin"
    with pytest.raises(TypeError):
        del raw["sub"]
    with pytest.raises(TypeError):
        raw["o"]["id"] = "org_2"
    with pytest.raises(AttributeError):
        raw["roles"].append("admin")
    with pytest.raises(TypeError):
        raw["deep"]["list"][0]["a"] = 2
    assert raw["roles"] == ("user",)


def test_claims_can_be_compared_pickled_and_copied() -> None:
    """They are values: equal, hashable, and can be passed to another process."""
    told = verified(custom={"a": [1, {"b": None}]})
    again = pickle.loads(pickle.dumps(told))  # noqa: S301 - made here
    assert again == told
    assert hash(again) == hash(told)
    assert copy.deepcopy(told) == told
    assert again.raw["custom"]["a"][1]["b"] is None


FULL: dict[str, Any] = {
    "act": {"sub": "user_9", "sid": "sess_9", "iss": "https://dashboard.clerk.com"},
    "fea": "o:dashboard,u:beta",
    "o": {"id": "org_1", "slg": "acme", "rol": "admin", "per": "manage,read", "fpm": "3"},
    "pla": "u:free,o:pro",
    "roles": ["a", {"b": [1]}],
}


def test_claims_become_json() -> None:
    """`to_dict` uses the names of the attributes, ISO times, and the raw claims."""
    told = verified(**FULL)
    data = told.to_dict()
    assert data == {
        "user_id": "user_1",
        "session_id": "sess_1",
        "issuer": ISSUER,
        "issued_at": "2027-01-15T08:00:00.000Z",
        "expires_at": "2027-01-15T08:01:00.000Z",
        "not_before": "2027-01-15T07:59:50.000Z",
        "token_id": "0123456789abcdef0123",
        "authorized_party": PARTY,
        "version": 2,
        "status": "active",
        "factor_verification_age": [3, -1],
        "actor": {
            "user_id": "user_9",
            "session_id": "sess_9",
            "issuer": "https://dashboard.clerk.com",
        },
        "organization": {
            "id": "org_1",
            "slug": "acme",
            "role": "org:admin",
            "permissions": ["org:dashboard:manage", "org:dashboard:read"],
        },
        "plan": "u:free,o:pro",
        "features": ["o:dashboard", "u:beta"],
        "raw": claims(**FULL),
    }
    assert json.loads(json.dumps(data)) == data
    assert list(data) == [field.name for field in attrs.fields(SessionClaims)]
    data["raw"]["roles"].append("admin")
    assert told.to_dict() == verified(**FULL).to_dict()


def test_sparse_claims_become_json() -> None:
    """A missing claim is null, and an early time is still an ISO one."""
    made = VERIFIER.verify(token({"sub": "user_1", "exp": NOW + 1, "iat": 0}))
    data = made.to_dict()
    assert (data["issued_at"], data["not_before"]) == ("1970-01-01T00:00:00.000Z", None)
    assert (data["organization"], data["actor"], data["features"]) == (None, None, [])
    assert data["factor_verification_age"] is None
    assert data["raw"] == {"sub": "user_1", "exp": NOW + 1, "iat": 0}


def test_claims_work_in_pydantic() -> None:
    """As a field, in lists and alone they serialize as `to_dict` does, with a schema."""
    pydantic: Any = pytest.importorskip("pydantic")
    told = verified(**FULL)
    adapter = pydantic.TypeAdapter(list[SessionClaims])
    assert adapter.dump_python([told], mode="json") == [told.to_dict()]
    assert json.loads(adapter.dump_json([told])) == [told.to_dict()]
    made = pydantic.create_model(
        "Me", claims=(SessionClaims, ...), other=(SessionClaims | None, None)
    )
    assert made(claims=told).model_dump(mode="json")["claims"] == told.to_dict()
    schema = made.model_json_schema(mode="serialization")
    described = schema["properties"]["claims"]
    assert list(described["properties"]) == list(told.to_dict()) == described["required"]
    with pytest.raises(pydantic.ValidationError):
        made(claims=told.to_dict())


def test_claims_are_a_fastapi_response() -> None:
    """Annotated as the return type, they need no helper, and OpenAPI shows them."""
    fastapi: Any = pytest.importorskip("fastapi")
    client_of: Any = pytest.importorskip("fastapi.testclient").TestClient
    app = fastapi.FastAPI()
    told = verified(**FULL)

    def me() -> SessionClaims:
        return told

    def everybody() -> list[SessionClaims]:
        return [told]

    me.__annotations__["return"] = SessionClaims
    everybody.__annotations__["return"] = list[SessionClaims]
    app.get("/me")(me)
    app.get("/everybody")(everybody)
    client = client_of(app)
    assert client.get("/me").json() == told.to_dict()
    assert client.get("/everybody").json() == [told.to_dict()]
    answer = client.get("/openapi.json").json()["paths"]["/me"]["get"]["responses"]["200"]
    assert "organization" in answer["content"]["application/json"]["schema"]["properties"]


def test_the_repr_shows_no_custom_claims() -> None:
    """They may contain anything, so our log lines leave them out."""
    assert "hunter2" not in repr(verified(custom="hunter2"))
