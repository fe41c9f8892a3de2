"""What a token says: the claims of session tokens, and of those made from a JWT template.

https://clerk.com/docs/guides/sessions/session-tokens and
https://clerk.com/docs/guides/sessions/jwt-templates
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .state import FakeSession

SESSION = "cl_B7d4PD111AAA"
"""The `cat` of a session token: the header tells the kinds of token apart, as one key signs all."""
TEMPLATE = "cl_B7d4PD222AAA"
"""The `cat` of a token made from a JWT template."""


def session_claims(session: FakeSession, usual: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The claims of a session token, of version 2 or (deprecated) 1."""
    age = max(0, (usual["iat"] * 1000 - session.created_at) // 60_000)
    claims: dict[str, Any] = {**usual, "fva": [age, -1], "sid": session.id}
    organization = session.last_active_organization_id
    if session.actor is not None:
        claims["act"] = session.actor
    if version == 1:
        if organization is not None:
            claims |= {
                "org_id": organization,
                "org_slug": "acme",
                "org_role": "org:admin",
                "org_permissions": ["org:dashboard:manage", "org:dashboard:read", "org:teams:read"],
            }
    else:
        claims |= {"v": 2, "pla": "u:free", "fea": "u:basic", "sts": session.status}
        if organization is not None:
            claims |= {"pla": "o:pro", "fea": "o:dashboard,o:teams"}
            claims["o"] = {
                "id": organization,
                "slg": "acme",
                "rol": "admin",
                "per": "manage,read",
                "fpm": "3,2",
            }
    claims |= session.claims
    return _told(claims)


def template_claims(
    session: FakeSession, usual: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """The claims of a token made from a JWT template: its own ones; no `sid` and no `sts`."""
    shortcodes = {
        "{{user.id}}": session.user_id,
        "{{session.id}}": session.id,
        "{{org.id}}": session.last_active_organization_id,
    }
    claims: dict[str, Any] = _filled(dict(own), shortcodes)
    return claims | _told(usual)


def _told(claims: Mapping[str, Any]) -> dict[str, Any]:
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
