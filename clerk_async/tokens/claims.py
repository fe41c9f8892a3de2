"""What a verified session token says, typed; version 1 and 2 of the token read alike.

The claims: https://clerk.com/docs/guides/sessions/session-tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from clerk_async.tokens.refusals import malformed

_LAST_SECOND: Final = 253_402_300_799  # the end of the year 9999, where datetime ends
_VERSION_2: Final = 2
_FACTORS: Final = 2
_CONTAINERS: Final = frozenset({dict, list})


@attrs.frozen
class Actor:
    """Who acts as the user: the impersonator of claim `act`.

    Attributes:
        user_id: The impersonator's user id, if told.
        session_id: The impersonator's session id, if told.
        issuer: Who vouches for the impersonator, if told.
    """

    user_id: str | None
    session_id: str | None
    issuer: str | None


@attrs.frozen
class Organization:
    """The active organization, and what the user may do in it.

    Attributes:
        id: The organization's id.
        slug: Its slug, or None.
        role: The user's role, spelled `org:admin` for both versions of the token, or None.
        permissions: Permissions, spelled `org:feature:permission`. Clerk leaves the system
            permissions (`org:sys_…`) out of session tokens.
    """

    id: str
    slug: str | None
    role: str | None
    permissions: frozenset[str]


@attrs.frozen
class SessionClaims:
    """What a verified session token says; frozen, as one object may serve many callers.

    Attributes:
        user_id: The user's id (`sub`).
        session_id: The session's id (`sid`); None in tokens made from a JWT template.
        issuer: The instance's Frontend API URL (`iss`), or None.
        issued_at: When the token was made (`iat`), UTC, or None.
        expires_at: When it ends (`exp`), UTC.
        not_before: From when it is valid (`nbf`), UTC, or None.
        token_id: The token's own id (`jti`), or None.
        authorized_party: The origin it was made for (`azp`), or None.
        version: The version of the token's format (`v`); 1 where it tells none.
        status: The session's status (`sts`), such as `active` or `pending`, or None.
        factor_verification_age: Minutes since the first and the second factor were verified
            (`fva`), -1 for never; None where the token does not tell.
        actor: The impersonator (`act`), or None.
        organization: The active organization, or None.
        plan: The plan, with its scope, such as `o:pro` (`pla`), or None.
        features: The features, with their scopes, such as `o:dashboard` (`fea`).
        raw: All claims, custom ones too, read-only at every depth (lists are tuples).
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
        """Tell whether the user has this role in the active organization.

        Args:
            role: Spelled in full, such as `org:admin`.
        """
        return self.organization is not None and self.organization.role == role

    def has_permission(self, permission: str) -> bool:
        """Tell whether the user has this permission in the active organization.

        Args:
            permission: Spelled in full, such as `org:invoices:create`.
        """
        return self.organization is not None and permission in self.organization.permissions

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a mapping can't be pickled or copied; what it shows can.
        return (read_claims, (_thawed(self.raw),))


def read_claims(payload: Mapping[str, Any]) -> SessionClaims:
    """Type the claims of a token whose signature and rules hold (`Rules`); no rule stands here.

    Raises:
        TokenVerificationError: If a claim that access depends on has a wrong type.
    """
    get = payload.get
    version = get("v", 1)
    if type(version) is not int:
        raise malformed("its version is not an integer")
    features = _text(payload, "fea")
    try:
        raw = _frozen(payload)
    except RecursionError:
        raise malformed("its claims are nested too deeply") from None
    return SessionClaims(
        payload["sub"],
        _text(payload, "sid"),
        _text(payload, "iss"),
        _moment_or_none(get("iat")),
        _moment(payload["exp"]),
        _moment_or_none(get("nbf")),
        _text(payload, "jti"),
        _text(payload, "azp"),
        version,
        _text(payload, "sts"),
        _factor_verification_age(get("fva")),
        _actor(get("act")),
        _organization(payload, version, features or ""),
        _text(payload, "pla"),
        tuple(features.split(",")) if features else (),
        raw,
    )


def _moment_or_none(seconds: object) -> datetime | None:
    return None if seconds is None else _moment(seconds)


def _moment(seconds: object) -> datetime:
    """Turn a NumericDate (RFC 7519, section 2) of whole seconds into a datetime."""
    if type(seconds) is not int or not 0 <= seconds <= _LAST_SECOND:
        raise malformed("a time in it is not an integer of seconds that a calendar knows")
    return datetime.fromtimestamp(seconds, UTC)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or isinstance(value, str):
        return value
    raise malformed(f"its claim {name} is not a string")


def _factor_verification_age(value: object) -> tuple[int, int] | None:
    if not isinstance(value, list):
        return None
    ages = cast("list[object]", value)
    if len(ages) != _FACTORS or not all(type(age) is int for age in ages):
        return None
    first, second = cast("list[int]", ages)
    return (first, second)


def _actor(value: object) -> Actor | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise malformed("its claim act is not an object")
    act = cast("dict[str, Any]", value)
    return Actor(_text(act, "sub"), _text(act, "sid"), _text(act, "iss"))


def _organization(payload: Mapping[str, Any], version: int, features: str) -> Organization | None:
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
    organization = cast("dict[str, Any]", value)
    organization_id = _text(organization, "id")
    if not organization_id:
        return None
    return Organization(
        organization_id,
        _text(organization, "slg"),
        _role(_text(organization, "rol")),
        frozenset(
            granted_permissions(
                features, _text(organization, "per") or "", _text(organization, "fpm") or ""
            )
        ),
    )


def _role(role: str | None) -> str | None:
    return role if not role or role.startswith("org:") else f"org:{role}"


def granted_permissions(features: str, permissions: str, feature_map: str) -> list[str]:
    """Unfold the permissions of a version 2 token.

    The n-th number of `feature_map` belongs to the n-th of all `features`; its bits, the least
    significant first, say which of `permissions` are granted. Only features whose scope holds `o`
    belong to the organization. What is no plain number grants nothing.
    """
    names = permissions.split(",")
    granted: list[str] = []
    for entry, digits in zip(features.split(","), feature_map.split(","), strict=False):
        scope, _, feature = entry.partition(":")
        if "o" not in scope or not feature or not (digits.isascii() and digits.isdigit()):
            continue
        try:
            bits = int(digits)
        except ValueError:  # more digits than Python reads
            continue
        for name in names:
            if bits & 1 and name:
                granted.append(f"org:{feature}:{name}")
            bits >>= 1
    return granted


def _frozen(members: Mapping[str, Any]) -> Mapping[str, Any]:
    view = dict(members)
    for name, value in members.items():
        if type(value) in _CONTAINERS:
            view[name] = _frozen_value(value)
    return MappingProxyType(view)


def _frozen_value(value: object) -> object:
    if type(value) is dict:
        return _frozen(cast("dict[str, Any]", value))
    if type(value) is list:
        return tuple(map(_frozen_value, cast("list[object]", value)))
    return value


def _thawed(value: object) -> object:
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {name: _thawed(member) for name, member in members.items()}
    if isinstance(value, tuple):
        return [_thawed(item) for item in cast("tuple[object, ...]", value)]
    return value
