"""The refresh operation's checks, in order; each failure is a 401 with its own code.

https://clerk.com/docs/reference/backend-api/tag/Sessions#operation/RefreshSession
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .claims import is_of_session
from .exchange import Refusal
from .state import LIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import FakeSession, State

_PARAMETERS = frozenset(
    {
        "expired_token",
        "refresh_token",
        "request_origin",
        "request_headers",
        "format",
        "request_originating_ip",
    }
)
_REQUIRED = ("expired_token", "refresh_token", "request_origin")


def check_refresh_body(body: dict[str, Any]) -> None:
    """Reject a malformed body with 400.

    Raises:
        Refusal: If something is missing, unknown or of the wrong type.
    """
    for name in _REQUIRED:
        if body.get(name) is None:
            raise _malformed("form_param_missing", "is missing", name)
        if not isinstance(body[name], str):
            raise _malformed("form_param_type_invalid", "must be a string", name)
    for name in body:
        if name not in _PARAMETERS:
            raise _malformed("form_param_unknown", "is not a valid parameter", name)
    if body.get("format", "token") not in {"token", "cookie", None}:
        raise _malformed("form_param_value_invalid", "must be token or cookie", "format")
    if not isinstance(body.get("request_headers"), dict | None):
        raise _malformed("form_param_type_invalid", "must be an object", "request_headers")
    if not isinstance(body.get("request_originating_ip"), str | None):
        raise _malformed("form_param_type_invalid", "must be a string", "request_originating_ip")


def check_refresh(
    body: dict[str, Any],
    session_id: str,
    state: State,
    read_token: Callable[[str], dict[str, Any] | None],
    max_age: float,
) -> FakeSession:
    """Return the session to refresh, and mark its expired token as consumed.

    Raises:
        Refusal: If a check fails, with 401 and the check's code.
    """
    origin: str = body["request_origin"]
    if not _is_origin(origin):
        raise _refused("refresh_request_origin_invalid", "the request origin is not an origin")
    claims = read_token(body["expired_token"])
    if claims is None:
        raise _refused("expired_session_token_invalid", "the expired token is not valid")
    _check_claims(claims, origin, session_id)
    session = _check_session(claims, body, session_id, state)
    _check_age(claims, state.now() / 1000, max_age)
    token_id = str(claims.get("jti", body["expired_token"]))
    with state.lock:
        if token_id in state.consumed:
            raise _refused(
                "session_refresh_expired_session_token_consumed",
                "the expired token has been used for a refresh already",
            )
        state.consumed.add(token_id)
    return session


def _check_claims(claims: dict[str, Any], origin: str, session_id: str) -> None:
    party = claims.get("azp")
    if party is None:
        raise _refused("expired_session_token_missing_azp", "the expired token has no azp")
    if party != origin:
        raise _refused(
            "refresh_request_origin_azp_mismatch", "the request origin is not the token's azp"
        )
    if claims.get("sid") is None:
        raise _refused("expired_session_token_missing_sid", "the expired token has no sid")
    if claims["sid"] != session_id:
        raise _refused("refresh_sid_mismatch", "the expired token is of another session")


def _check_session(
    claims: dict[str, Any], body: dict[str, Any], session_id: str, state: State
) -> FakeSession:
    session = state.find(session_id)
    if session is None:
        raise _refused("session_refresh_session_not_found", "there is no such session")
    if session.user_id not in state.users:
        raise _refused("session_refresh_user_not_found", "the session's user is gone")
    if session.status not in LIVE:
        raise _refused("session_refresh_inactive_session", "the session is not active")
    if body["refresh_token"] != session.refresh_token:
        raise _refused("refresh_token_not_found", "there is no such refresh token")
    if claims.get("act") is not None:
        raise _refused(
            "session_refresh_session_token_ineligible", "an impersonated session is not refreshed"
        )
    if not is_of_session(body["expired_token"]):
        raise _refused(
            "session_refresh_session_token_ineligible", "the expired token is of another kind"
        )
    return session


def _check_age(claims: dict[str, Any], now: float, max_age: float) -> None:
    if "iat" not in claims:
        raise _refused(
            "session_refresh_expired_session_token_missing_iat", "the expired token has no iat"
        )
    issued = claims["iat"]
    if not isinstance(issued, int | float) or isinstance(issued, bool):
        raise _refused(
            "session_refresh_cannot_determine_session_token_age", "the token's iat is not a time"
        )
    if now - issued > max_age:
        raise _refused(
            "session_refresh_expired_session_token_too_old", "the expired token is too old"
        )


def refresh_cookies(
    session: FakeSession, jwt: str, suffix: str, client_uat: int, *, suffixed: bool
) -> list[str]:
    """Return the Set-Cookie lines of a refresh that asked for cookies, with or without the suffix.

    The refresh token's cookie always has the suffix, because Clerk's SDKs look for no other.
    """
    attributes = "Path=/; Max-Age=31536000; Secure; SameSite=Lax"
    its = f"_{suffix}" if suffixed else ""
    return [
        f"__session{its}={jwt}; {attributes}",
        f"__refresh_{suffix}={session.refresh_token}; {attributes}; HttpOnly",
        f"__client_uat{its}={client_uat}; {attributes}",
    ]


def publishable_key(issuer: str, *, production: bool) -> str:
    """Return the key for a front end; it contains the host of the Frontend API."""
    host = issuer.partition("://")[2] or issuer
    encoded = base64.b64encode(f"{host}$".encode()).decode("ascii")
    return f"pk_{'live' if production else 'test'}_{encoded}"


def cookie_suffix(key: str) -> str:
    """Return the suffix of an instance's cookies, for instances that share a domain.

    Clerk's SDKs compute it from the publishable key: the first eight characters of its SHA-1 in
    base64url.
    """
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest)[:8].decode("ascii")


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and port != 0
        and not (parts.path or parts.query or parts.fragment)
    )


def _refused(code: str, message: str) -> Refusal:
    return Refusal(401, code, message)


def _malformed(code: str, message: str, name: str) -> Refusal:
    return Refusal(400, code, message, meta={"param_name": name})
