"""The claims of a verified session token, typed and the same for token versions 1 and 2.

Source: https://clerk.com/docs/guides/sessions/session-tokens
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType, NoneType
from typing import Any, Final, TypeAlias, cast

import attrs

from clerk_async.redaction import json_of
from clerk_async.tokens.access import (
    granted_permissions,
    is_entitled,
    needs_reverification,
    reverification_error,
    with_org,
)
from clerk_async.tokens.refusals import malformed

_LAST_SECOND: Final = 253_402_300_799  # the end of the year 9999, the last that datetime supports
_VERSION_2: Final = 2
_TEXTS: Final = ("sid", "iss", "jti", "azp", "sts", "pla", "fea")
_TEXTS_OF_AN_ORGANIZATION: Final = ("id", "slg", "rol", "per", "fpm")
_TEXT_OR_NONE: Final = frozenset({str, NoneType})
_MAX_SHARED: Final = 256
_CONTAINERS: Final = frozenset({dict, list})


@attrs.frozen
class Actor:
    """The impersonator, who acts as the user (claim `act`).

    Attributes:
        user_id: The impersonator's user id, or None.
        session_id: The impersonator's session id, or None.
        issuer: The issuer that vouches for the impersonator, or None.
    """

    user_id: str | None
    session_id: str | None
    issuer: str | None


@attrs.frozen
class Organization:
    """The active organization, and what the user may do in it.

    Attributes:
        id: The organization's id.
        slug: The organization's slug, or None.
        role: The user's role, such as `org:admin` for both versions of the token, or None.
        permissions: The user's permissions, in the form `org:feature:permission`. Clerk leaves
            system permissions (`org:sys_…`) out of session tokens.
    """

    id: str
    slug: str | None
    role: str | None
    permissions: frozenset[str]


@attrs.frozen
class SessionClaims:
    """The claims of a verified session token; frozen, because callers may share one object.

    Attributes:
        user_id: The user's id (`sub`).
        session_id: The session's id (`sid`); None in tokens made from a JWT template.
        issuer: The instance's Frontend API URL (`iss`), or None.
        issued_at: When the token was issued (`iat`), in UTC, or None.
        expires_at: When the token expires (`exp`), in UTC.
        not_before: When the token becomes valid (`nbf`), in UTC, or None.
        token_id: The token's id (`jti`), or None.
        authorized_party: The origin that the token was issued for (`azp`), or None.
        version: The version of the token's format (`v`); 1 if the token has none.
        status: The session's status (`sts`), such as `active` or `pending`, or None.
        factor_verification_age: Minutes since the first and the second factor were verified
            (`fva`), -1 for never; None if the token lacks them.
        actor: The impersonator (`act`), or None.
        organization: The active organization, or None.
        plan: The plans, each with its scope, such as `u:free`, or `u:free,o:pro` with an active
            organization (`pla`), or None; check with `has_plan`.
        features: The features, each with its scope, such as `o:dashboard` or, for both the
            organization and the user, `uo:export` (`fea`); check with `has_feature`.
        raw: All claims, including custom ones, read-only at every depth (lists become tuples).
    """

    user_id: str
    session_id: str | None
    issuer: str | None
    issued_at: datetime | None
    expires_at: datetime
    not_before: datetime | None
    token_id: str | None
    authorized_party: str | None
    version: int
    status: str | None
    factor_verification_age: tuple[int, int] | None
    actor: Actor | None
    organization: Organization | None
    plan: str | None
    features: tuple[str, ...]
    raw: Mapping[str, Any] = attrs.field(repr=False, hash=False)

    def has_role(self, role: str) -> bool:
        """Return whether the user has this role in the active organization.

        Args:
            role: The role, such as `org:admin` or `admin`, which mean the same.
        """
        return (
            self.organization is not None
            and self.organization.role is not None
            and with_org(role) == self.organization.role
        )

    def has_permission(self, permission: str) -> bool:
        """Return whether the user has this permission in the active organization.

        Args:
            permission: The permission, such as `org:invoices:create` or `invoices:create`, which
                are the same.
        """
        return (
            self.organization is not None and with_org(permission) in self.organization.permissions
        )

    def has_plan(self, plan: str) -> bool:
        """Return whether the user or the active organization has this plan.

        With an active organization, a token may list both plans, as in `u:free,o:pro`.

        Args:
            plan: The plan. `pro` matches the user's and the organization's plan, `org:pro` (or
                `o:pro`) only the organization's, `user:pro` (or `u:pro`) only the user's.

        Source: https://clerk.com/docs/guides/secure/authorization-checks
        """
        return self.plan is not None and is_entitled(self.plan.split(","), plan)

    def has_feature(self, feature: str) -> bool:
        """Return whether a plan of the user or of the active organization has this feature.

        Args:
            feature: The feature, such as `export`; with a scope, as for `has_plan`, `org:export`
                (or `o:export`) or `user:export` (or `u:export`).

        Source: https://clerk.com/docs/guides/secure/authorization-checks
        """
        return is_entitled(self.features, feature)

    def needs_reverification(self, reverification: str | Mapping[str, str | float]) -> bool:
        """Return whether the user must reverify before doing something sensitive.

        `factor_verification_age` decides. A factor is fresh if it was verified fewer minutes ago
        than the limit. If the user has no second factor, the first one counts; if the token has no
        ages, the result is always True. If the result is True, respond with status 403 and
        `reverification_error`: Clerk's front end then asks the user and repeats the request.

        Args:
            reverification: A preset: `strict_mfa` (both factors within 10 minutes), `strict` (the
                second factor within 10 minutes), `moderate` (60 minutes) or `lax` (a day, 1440
                minutes). Or a mapping, as in Clerk's JavaScript SDK: `level`, one of
                `first_factor`, `second_factor` and `multi_factor`, and `afterMinutes`, a number
                greater than 0.

        Raises:
            InvalidArgumentError: If `reverification` is neither.

        Source: https://clerk.com/docs/guides/secure/reverification
        """
        return needs_reverification(self.factor_verification_age, reverification)

    @staticmethod
    def reverification_error(reverification: str | Mapping[str, str | float]) -> dict[str, Any]:
        """Return the body of the 403 that makes Clerk's front end ask the user to reverify."""
        return reverification_error(reverification)

    def to_dict(self) -> dict[str, Any]:
        """Return the claims as a dict of JSON-ready values, keyed by attribute name.

        Times are ISO 8601 in UTC with milliseconds and `Z`; permissions are sorted; `raw` holds
        the claims as they are in the token.
        """
        actor, organization = self.actor, self.organization
        return {name: json_of(getattr(self, name)) for name in _JSON_PROPERTIES} | {
            "actor": None if actor is None else attrs.asdict(actor),
            "organization": None
            if organization is None
            else {**attrs.asdict(organization), "permissions": sorted(organization.permissions)},
            "raw": self._thawed_raw(),
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, Any]:
        """Make pydantic serialize claims with `to_dict`, as in the response of a FastAPI route.

        A core schema is a plain dict, so pydantic need not be installed. Pydantic cannot create
        claims from data: only a verifier creates them.
        https://docs.pydantic.dev/latest/concepts/types/#customizing-validation-with-__get_pydantic_core_schema__
        """
        serialization = {"type": "function-plain", "function": cls.to_dict, "when_used": "json"}
        return {"type": "is-instance", "cls": cls, "serialization": serialization}

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> dict[str, Any]:
        """Describe what `to_dict` returns, for OpenAPI."""
        return {
            "title": cls.__name__,
            "type": "object",
            "properties": copy.deepcopy(_JSON_PROPERTIES),  # pydantic modifies what it receives
            "required": list(_JSON_PROPERTIES),
        }

    def _thawed_raw(self) -> dict[str, Any]:
        return cast("dict[str, Any]", thawed(self.raw))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy can't be pickled or copied, but the dict behind it can.
        return (read_claims, (self._thawed_raw(),))


Shared: TypeAlias = dict[tuple[str, str, str], frozenset[str]]
"""Permissions decoded before; most members of an organization have the same ones."""


def read_claims(payload: dict[str, Any], shared: Shared | None = None) -> SessionClaims:
    """Build typed claims from the payload of a token that has passed the signature and `Rules`.

    This function checks types, not rules. It takes over the payload and freezes it. It looks up
    decoded permissions in `shared`, and adds new ones.

    Raises:
        TokenVerificationError: If a claim that access depends on has the wrong type.
    """
    get = payload.get
    version = get("v", 1)
    if type(version) is not int:
        raise malformed("its version is not an integer")
    texts = _texts(payload, _TEXTS)
    session_id, issuer, token_id, party, status, plan, features = texts
    issued_at, expires_at, not_before = get("iat"), get("exp"), get("nbf")
    factors, actor = get("fva"), get("act")
    organization = _organization(payload, version, features or "", shared)
    try:
        raw = _freeze(payload)
    except RecursionError:
        raise malformed("its claims are nested too deeply") from None
    return SessionClaims(
        payload["sub"],
        session_id,
        issuer,
        None if issued_at is None else _moment(issued_at),
        _moment(expires_at),
        None if not_before is None else _moment(not_before),
        token_id,
        party,
        version,
        status,
        None if factors is None else _factor_verification_age(factors),
        None if actor is None else _actor(actor),
        organization,
        plan,
        tuple(features.split(",")) if features else (),
        raw,
    )


_STRING: Final = {"type": "string"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}  # older FastAPI refuses a list of types


_MOMENT: Final = {"type": "string", "format": "date-time"}
_TEXT: Final = _or_null(_STRING)
_TIME: Final = _or_null(_MOMENT)
_STRINGS: Final = {"type": "array", "items": _STRING}
_ACTOR: Final = {"user_id": _TEXT, "session_id": _TEXT, "issuer": _TEXT}
_ORGANIZATION: Final = {"id": _STRING, "slug": _TEXT, "role": _TEXT, "permissions": _STRINGS}
_JSON_PROPERTIES: Final[dict[str, dict[str, Any]]] = {
    "user_id": _STRING,
    "session_id": _TEXT,
    "issuer": _TEXT,
    "issued_at": _TIME,
    "expires_at": _MOMENT,
    "not_before": _TIME,
    "token_id": _TEXT,
    "authorized_party": _TEXT,
    "version": {"type": "integer"},
    "status": _TEXT,
    "factor_verification_age": _or_null({"type": "array", "items": {"type": "integer"}}),
    "actor": _or_null({"type": "object", "properties": _ACTOR}),
    "organization": _or_null({"type": "object", "properties": _ORGANIZATION}),
    "plan": _TEXT,
    "features": _STRINGS,
    "raw": {"type": "object", "additionalProperties": True},
}


def _moment(seconds: object) -> datetime:
    """Convert a NumericDate (RFC 7519, section 2) in whole seconds to a datetime."""
    if type(seconds) is not int or not 0 <= seconds <= _LAST_SECOND:
        raise malformed("one of its times is not a whole number of seconds in a valid range")
    return datetime.fromtimestamp(seconds, UTC)


def _texts(claims: Mapping[str, Any], names: tuple[str, ...]) -> list[str | None]:
    texts = list(map(claims.get, names))
    if not _TEXT_OR_NONE.issuperset(map(type, texts)):
        for name in names:
            _text(claims, name)
    return texts


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or isinstance(value, str):
        return value
    raise malformed(f"its claim {name} is not a string")


def _factor_verification_age(value: object) -> tuple[int, int] | None:
    if not isinstance(value, list):
        return None
    ages = cast("list[object]", value)
    if len(ages) != 2 or not all(type(age) is int for age in ages):  # noqa: PLR2004 - two factors
        return None
    first, second = cast("list[int]", ages)
    return (first, second)


def _actor(value: object) -> Actor:
    if not isinstance(value, dict):
        raise malformed("its claim act is not an object")
    act = cast("dict[str, Any]", value)
    return Actor(_text(act, "sub"), _text(act, "sid"), _text(act, "iss"))


def _organization(
    payload: Mapping[str, Any], version: int, features: str, shared: Shared | None
) -> Organization | None:
    if version < _VERSION_2:
        organization_id = _text(payload, "org_id")
        if not organization_id:
            return None
        granted = payload.get("org_permissions")
        return Organization(
            organization_id,
            _text(payload, "org_slug"),
            _role(_text(payload, "org_role")),
            frozenset(entry for entry in cast("list[object]", granted) if isinstance(entry, str))
            if isinstance(granted, list)
            else frozenset(),
        )
    value = payload.get("o")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise malformed("its claim o is not an object")
    texts = _texts(cast("dict[str, Any]", value), _TEXTS_OF_AN_ORGANIZATION)
    organization_id, slug, role, permissions, feature_map = texts
    if not organization_id:
        return None
    folded = (features, permissions or "", feature_map or "")
    return Organization(organization_id, slug, _role(role), _permissions(folded, shared))


def _permissions(folded: tuple[str, str, str], shared: Shared | None) -> frozenset[str]:
    granted = None if shared is None else shared.get(folded)
    if granted is None:
        granted = frozenset(granted_permissions(*folded))
        if shared is not None:
            if len(shared) >= _MAX_SHARED:
                shared.clear()
            shared[folded] = granted
    return granted


def _role(role: str | None) -> str | None:
    return role and (with_org(role) if ":" in role else f"org:{role}")


def _freeze(members: dict[str, Any]) -> Mapping[str, Any]:
    """Freeze the claims in place, because no other code holds them yet."""
    for name in [name for name, value in members.items() if type(value) in _CONTAINERS]:
        members[name] = _frozen(members[name])
    return MappingProxyType(members)


def _frozen(value: object) -> object:
    if type(value) is dict:
        return _freeze(cast("dict[str, Any]", value))
    if type(value) is list:
        return tuple(map(_frozen, cast("list[object]", value)))
    return value


def thawed(value: object) -> object:
    """Return a copy that can be changed and pickled."""
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {name: thawed(member) for name, member in members.items()}
    if isinstance(value, tuple):
        return [thawed(item) for item in cast("tuple[object, ...]", value)]
    return value
