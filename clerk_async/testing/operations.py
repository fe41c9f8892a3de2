"""The response to each operation, given the instance's state: no HTTP library, no waiting.

Statuses and codes follow the published contract of the Sessions API,
https://clerk.com/docs/reference/backend-api/tag/Sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import msgspec
from attrs import frozen

from .claims import is_of_session
from .exchange import Answer, Refusal, encode, usual_refusal
from .refresh import (
    check_refresh,
    check_refresh_body,
    cookie_suffix,
    publishable_key,
    refresh_cookies,
)
from .state import FILTERS, LIVE, FakeSession, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .settings import Settings
    from .tokens import Tokens

API_VERSIONS = ("2021-02-05", "2024-10-01", "2025-03-12", "2025-04-10", "2025-11-10", "2026-05-12")
_LAST_WITH_VERIFY = "2025-03-12"
_MAX_LIMIT = 500
_DEFAULT_LIMIT = 10
_LIFETIMES = range(30, 315_360_000 + 1)

OPERATIONS = (
    "list",
    "create",
    "get",
    "refresh",
    "revoke",
    "verify",
    "create_token",
    "create_token_from_template",
    "jwks",
)


@frozen
class Route:
    """The destination of a request: one of `OPERATIONS`, with the values from its path."""

    operation: str
    session_id: str | None = None
    template: str | None = None


@frozen
class Call:
    """The parts of a request that an operation needs."""

    route: Route
    version: str
    query: str
    body: bytes


def find_route(method: str, path: str) -> Route | Refusal:
    """Return the route for a method and a path (as sent, with `/v1`), or why there is none."""
    allowed = "POST"
    match [unquote(part) for part in path.split("/")]:
        case _ if path in {"/v1/jwks", "/.well-known/jwks.json"}:
            route, allowed = Route("jwks"), "GET"
        case ["", "v1", "sessions"] if method == "GET":
            route, allowed = Route("list"), "GET"
        case ["", "v1", "sessions"]:
            route = Route("create")
        case ["", "v1", "sessions", session_id] if session_id:
            route, allowed = Route("get", session_id), "GET"
        case ["", "v1", "sessions", session_id, "refresh" | "revoke" | "verify" as name]:
            route = Route(name, session_id)
        case ["", "v1", "sessions", session_id, "tokens"]:
            route = Route("create_token", session_id)
        case ["", "v1", "sessions", session_id, "tokens", template] if template:
            route = Route("create_token_from_template", session_id, template)
        case _:
            return usual_refusal(404)
    if route.session_id == "":
        return usual_refusal(404)
    return route if method == allowed else usual_refusal(405, Allow=allowed)


def check_version(headers: Mapping[str, str]) -> str:
    """Return the API version that a request asks for; the oldest one if it asks for none.

    Raises:
        Refusal: If there is no such version.
    """
    version = headers.get("Clerk-API-Version", API_VERSIONS[0])
    if version not in API_VERSIONS:
        raise Refusal(
            400,
            "api_version_invalid",
            "Invalid API version",
            long_message=f"The API version must be one of {', '.join(API_VERSIONS)}.",
        )
    return version


def check_key(headers: Mapping[str, str], secret_key: str) -> None:
    """Check that the bearer token is the instance's secret key.

    Raises:
        Refusal: If the header is missing or malformed, or contains another key.
    """
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refusal(
            401,
            "authorization_header_format_invalid",
            "Invalid Authorization header format",
            long_message='Must be of the form "Bearer sk_test_…" or "Bearer sk_live_…".',
        )
    if key.strip() != secret_key:
        raise Refusal(
            401,
            "clerk_key_invalid",
            "The provided Clerk Secret Key is invalid. "
            "Make sure that your Clerk Secret Key is correct.",
        )


class Operations:
    """The eight operations and the key set of one instance."""

    def __init__(self, state: State, tokens: Tokens, settings: Settings) -> None:
        self._state = state
        self._tokens = tokens
        self._settings = settings

    def answer(self, call: Call) -> Answer:
        """Carry out a request and return the response.

        Raises:
            Refusal: If the service would refuse it.
        """
        operations: dict[str, Callable[[Call], Answer]] = {
            "list": self._list,
            "create": self._create,
            "get": lambda call: encode(self._session(call).as_json()),
            "refresh": self._refresh,
            "revoke": self._revoke,
            "verify": self._verify,
            "create_token": self._create_token,
            "create_token_from_template": self._create_token,
            "jwks": lambda _: encode(self._tokens.jwk_set),
        }
        return operations[call.route.operation](call)

    def _list(self, call: Call) -> Answer:
        query = dict(parse_qsl(call.query, keep_blank_values=True))
        user_id, client_id = query.get("user_id") or None, query.get("client_id") or None
        if user_id is None and client_id is None:
            raise Refusal(
                400,
                "missing_query_parameter",
                "Missing query parameter",
                long_message="One of user_id and client_id must be given.",
            )
        status = query.get("status")
        if status is not None and status not in FILTERS:
            raise _invalid("form_param_value_invalid", "is not a session status", "status")
        limit = _integer(query, "limit", _DEFAULT_LIMIT, 1, _MAX_LIMIT)
        offset = _integer(query, "offset", 0, 0, None)
        found = self._state.list(user_id=user_id, client_id=client_id, status=status)
        page = [session.as_json() for session in found[offset : offset + limit]]
        if _boolean(query, "paginated"):
            return encode({"data": page, "total_count": len(found)})
        return encode(page)

    def _create(self, call: Call) -> Answer:
        if self._settings.production:
            raise Refusal(
                400,
                "request_invalid_for_environment",
                "Request only valid for development instances",
            )
        body = _object(call.body)
        user_id = body.get("user_id")
        if user_id is None or user_id == "":
            raise _invalid("form_param_missing", "is missing", "user_id")
        organization = body.get("active_organization_id")
        for name, value in (("user_id", user_id), ("active_organization_id", organization)):
            if not isinstance(value, str | None):
                raise _invalid("form_param_type_invalid", "must be a string", name)
        if user_id not in self._state.users:
            raise _missing("User")
        session = self._state.add(user_id=user_id, last_active_organization_id=organization)
        return encode(session.as_json())

    def _revoke(self, call: Call) -> Answer:
        with self._state.lock:
            session = self._session(call)
            if session.status in LIVE:
                session.status = "revoked"
                session.updated_at = self._state.now()
            elif self._settings.revoke_inactive != "ok":
                raise Refusal(
                    400,
                    "session_not_active",
                    "Session is not active",
                    long_message=f"The session is {session.status} and cannot be revoked.",
                )
        return encode(session.as_json())

    def _verify(self, call: Call) -> Answer:
        if call.version > _LAST_WITH_VERIFY:
            raise Refusal(
                410,
                "operation_deprecated",
                "Operation deprecated",
                long_message="Verify session tokens without a request: "
                "https://clerk.com/docs/guides/sessions/manual-jwt-verification",
            )
        session = self._session(call)
        given = _object(call.body).get("token")
        token = given if isinstance(given, str) else ""
        claims = self._tokens.read_token(token)
        if (
            claims is None
            or not is_of_session(token)
            or claims.get("sid") != session.id
            or claims.get("exp", 0) * 1000 <= self._state.now()
            or session.status not in LIVE
        ):
            raise Refusal(400, "invalid_session_token", "The session token is not valid")
        return encode(session.as_json())

    def _create_token(self, call: Call) -> Answer:
        session = self._session(call)
        template = call.route.template
        if template is not None and template not in self._state.templates:
            raise _missing("JWT template")
        if session.status not in LIVE:
            raise _missing("Active session")
        expires_in = _object(call.body).get("expires_in_seconds")
        if expires_in is not None and (
            not isinstance(expires_in, int)
            or isinstance(expires_in, bool)
            or expires_in not in _LIFETIMES
        ):
            text = f"must be an integer from {_LIFETIMES[0]} to {_LIFETIMES[-1]}"
            raise _invalid("form_param_value_invalid", text, "expires_in_seconds")
        jwt = self._tokens._token(  # noqa: SLF001 - of the same fake
            session, party=None, template=template, expires_in=expires_in
        )
        return encode({"object": "token", "jwt": jwt})

    def _refresh(self, call: Call) -> Answer:
        query = dict(parse_qsl(call.query, keep_blank_values=True))
        suffixed = _boolean(query, "suffixed_cookies")
        body = _object(call.body)
        check_refresh_body(body)
        session = check_refresh(
            body,
            call.route.session_id or "",
            self._state,
            self._tokens.read_token,
            self._settings.refresh_max_age,
        )
        session.last_active_at = session.updated_at = self._state.now()
        origin: str = body["request_origin"]
        jwt = self._tokens._token(session, party=origin)  # noqa: SLF001 - of the same fake
        if body.get("format") != "cookie":
            return encode({"object": "token", "jwt": jwt})
        key = publishable_key(self._tokens.issuer, production=self._settings.production)
        uat = self._state.client_uat(session.client_id)
        cookies = refresh_cookies(session, jwt, cookie_suffix(key), uat, suffixed=suffixed)
        return encode({"object": "cookies", "cookies": cookies})

    def _session(self, call: Call) -> FakeSession:
        session = self._state.find(call.route.session_id or "")
        if session is None:
            raise _missing("Session")
        return session


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise Refusal(400, "request_body_invalid", "The request body is invalid") from None


def _integer(
    query: Mapping[str, str], name: str, default: int, least: int, most: int | None
) -> int:
    text = query.get(name)
    if text is None:
        return default
    try:
        number = int(text) if text.isascii() and text.isdigit() else least - 1
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise _invalid("form_param_value_invalid", f"must be an integer, {limits}", name)
    return number


def _boolean(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise _invalid("form_param_value_invalid", "must be true or false", name)
    return text in {"true", "1"}


def _missing(what: str) -> Refusal:
    return Refusal(
        404, "resource_not_found", f"{what} not found", long_message=f"{what} not found."
    )


def _invalid(code: str, message: str, name: str) -> Refusal:
    return Refusal(422, code, message, long_message=f"{name} {message}", meta={"param_name": name})
