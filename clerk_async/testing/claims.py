"""The claims of session tokens and of tokens made from a JWT template.

Sources: https://clerk.com/docs/guides/sessions/session-tokens and
https://clerk.com/docs/guides/sessions/jwt-templates
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from attrs import frozen

from .checks import SCOPES, is_system_permission
from .keys import unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .state import FakeSession

SESSION = "cl_B7d4PD111AAA"
"""The `cat` header of a session token, which tells it from other kinds signed with the same key."""
TEMPLATE = "cl_B7d4PD222AAA"
"""The `cat` header of a token made from a JWT template."""

_OF_SESSIONS = (SESSION, "cl_I7d4PD111III")

_SLUG = "acme"


def is_of_session(token: str) -> bool:
    """Return whether a well-formed token has a session's category, or none as older ones."""
    header = msgspec.json.decode(unb64(token.partition(".")[0]), type=dict[str, Any])
    return header.get("cat", SESSION) in _OF_SESSIONS


def usual_claims(
    user_id: str,
    *,
    issuer: str,
    party: str | None,
    issued_at: int,
    expires_at: int,
    token_id: str | None,
) -> dict[str, Any]:
    """Return the claims that every kind of token has; times are Unix seconds."""
    return {
        "azp": party,
        "exp": expires_at,
        "iat": issued_at,
        "iss": issuer,
        "jti": token_id,
        "nbf": issued_at - 10,  # Clerk's tokens are valid ten seconds before they are issued
        "sub": user_id,
    }


def session_claims(session: FakeSession, usual: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the claims of a session token of version 2 or (deprecated) 1."""
    age = max(0, (usual["iat"] * 1000 - session.created_at) // 60_000)
    claims: dict[str, Any] = {**usual, "fva": [age, -1], "sid": session.id}
    if session.actor is not None:
        claims["act"] = session.actor
    may = _told_of(session)
    claims |= _version_1(may) if version == 1 else {"sts": session.status, **_version_2(may)}
    return _without_none({**claims, **session.claims})


@frozen
class _May:
    """What the user may do: the organization's id, and the rest as in `FakeClerk.add_session`."""

    organization_id: str | None
    role: str
    permissions: tuple[str, ...]
    features: tuple[str, ...]
    plan: str


def _told_of(session: FakeSession) -> _May:
    """Return what the test set for a session, or else the defaults for a user or administrator."""
    told = (session.role, session.permissions, session.features, session.plan)
    organization = session.last_active_organization_id
    if told == (None, None, None, None):
        if organization is None:
            return _May(None, "", (), ("u:basic",), "u:free")
        granted = ("org:dashboard:manage", "org:dashboard:read", "org:teams:read")
        return _May(organization, "org:admin", granted, (), "o:pro")
    return _May(
        organization,
        session.role or "org:member",
        tuple(session.permissions or ()),
        tuple(session.features or ()),
        session.plan or "u:free",
    )


def _version_1(may: _May) -> dict[str, Any]:
    if may.organization_id is None:
        return {}
    return {
        "org_id": may.organization_id,
        "org_slug": _SLUG,
        "org_role": _in_full(may.role),
        "org_permissions": [
            _in_full(name) for name in may.permissions if not is_system_permission(name)
        ],
    }


def _version_2(may: _May) -> dict[str, Any]:
    """Return the claims of version 2, which has one permission mask per organization feature.

    The organization's features come first, so the masks pair with the same features whether a
    reader counts over all features or only over the organization's.
    """
    scope = "u" if may.organization_id is None else "o"
    features = [_scoped(feature, scope) for feature in may.features]
    claims: dict[str, Any] = {
        "v": 2,
        "pla": ",".join(_scoped(plan, scope) for plan in may.plan.split(",")),
        "fea": ",".join(features),
    }
    if may.organization_id is None:
        return claims
    granted = [_parts(name) for name in may.permissions if not is_system_permission(name)]
    theirs = [feature for feature in features if "o" in feature.partition(":")[0]]
    known = {feature.partition(":")[2] for feature in theirs}
    for feature, _ in granted:
        if feature not in known:
            known.add(feature)
            theirs.append(f"o:{feature}")
    names = sorted({permission for _, permission in granted})
    masks = [
        sum(1 << bit for bit, name in enumerate(names) if (feature, name) in granted)
        for feature in (entry.partition(":")[2] for entry in theirs)
    ]
    claims["fea"] = ",".join(theirs + [feature for feature in features if feature not in theirs])
    claims["o"] = {
        "id": may.organization_id,
        "slg": _SLUG,
        "rol": may.role.removeprefix("org:"),
        "per": ",".join(names),
        "fpm": ",".join(map(str, masks)),
    }
    return claims


def _in_full(name: str) -> str:
    return name if name.startswith("org:") else f"org:{name}"


def _parts(permission: str) -> tuple[str, str]:
    feature, _, name = permission.removeprefix("org:").partition(":")
    return feature, name


def _scoped(name: str, scope: str) -> str:
    told, _, bare = name.rpartition(":")
    return f"{SCOPES[told] if told else scope}:{bare}"


def template_claims(
    session: FakeSession, usual: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the claims of a token made from a JWT template: its own, but no `sid` and no `sts`."""
    shortcodes = {
        "{{user.id}}": session.user_id,
        "{{session.id}}": session.id,
        "{{org.id}}": session.last_active_organization_id,
    }
    claims: dict[str, Any] = _filled(dict(own), shortcodes)
    return _without_none({**claims, **usual})


def _without_none(claims: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if value is not None}


def _filled(value: Any, shortcodes: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, shortcodes) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_filled(item, shortcodes) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not isinstance(value, str):
        return value
    if value in shortcodes:
        return shortcodes[value]
    for code, text in shortcodes.items():
        value = value.replace(code, str(text))
    return value
