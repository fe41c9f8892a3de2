"""Reads a request: its tokens, its cookies and its origin.

It reads requests of any framework by their common interfaces and imports no framework: a mapping
or a list of headers, an object with `.headers` (Starlette, FastAPI, Litestar, aiohttp, Flask,
Django, httpx, requests, http.server), a WSGI environ or an ASGI scope.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import attrs

from clerk_async.errors import InvalidArgumentError

_MAX_SESSION_COOKIES: Final = 16
_SESSION, _CLIENT_UAT, _REFRESH = _OWN_COOKIES = "__session", "__client_uat", "__refresh"
_SUFFIXED = re.compile(r"(__session|__client_uat|__refresh)_([A-Za-z0-9_-]{8})")
_BLANKS: Final = " \t"
_SECONDS = re.compile(r"[0-9]{1,32}")
_COOKIE_LENGTH: Final = len("cookie")
_AUTHORIZATION_LENGTH: Final = len("authorization")
_KEPT_BACK: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class SessionCookie(NamedTuple):
    """A session token and what the request's other cookies say about it.

    Attributes:
        token: The token.
        suffix: The suffix of its cookie, which identifies the instance if several share a domain.
        client_uat: When the browser last signed in, in Unix seconds, or 0 if it has signed out
            (from the cookie `__client_uat` with the same suffix, else the plain one); None if
            there is no valid one, or if the token did not come from a cookie.
    """

    token: str
    suffix: str | None = None
    client_uat: int | None = None


@attrs.define(repr=False, eq=False)
class Credentials:
    """The credentials of a request; details that are seldom needed are read on demand.

    Attributes:
        request: The request, as the caller passed it.
        bearer: The token of the Authorization header, or None.
        cookies: The Cookie header; several are joined.
        authorization: The first non-empty Authorization header, stripped, or None.
    """

    request: object
    bearer: str | None
    cookies: str
    authorization: str | None = None

    def session_tokens(self) -> Sequence[SessionCookie]:
        """Return the bearer token, else the session cookies' tokens in the header's order."""
        if self.bearer is not None:
            return (SessionCookie(self.bearer),)
        sessions: list[tuple[str, str | None]] = []
        signed_in_at: dict[str | None, int] = {}
        for name, suffix, value in _own_cookies(self.cookies):
            if name == _SESSION:
                sessions.append((value, suffix))
            elif name == _CLIENT_UAT and suffix not in signed_in_at and _SECONDS.fullmatch(value):
                signed_in_at[suffix] = int(value)
        plain = signed_in_at.get(None)
        return [
            SessionCookie(token, suffix, signed_in_at.get(suffix, plain))
            for token, suffix in sessions[:_MAX_SESSION_COOKIES]
        ]

    def what_is_missing(self) -> str:
        """Return a message that says why this request carries no session token."""
        missing = "The request carries no session token: "
        header = self.authorization
        if header is None:
            return (
                f"{missing}neither an Authorization header with the Bearer scheme nor a __session "
                "cookie."
            )
        if header.lower() == "bearer":
            return f"{missing}its Authorization header has the Bearer scheme but no token."
        if " " in header:
            return f"{missing}its Authorization header has a scheme other than Bearer."
        key = " (and it is a secret key, not a token)" if header.startswith("sk_") else ""
        return (
            f"{missing}its Authorization header has a value without a scheme{key}; send it as "
            "`Bearer <token>`."
        )

    def refresh_token_for(self, suffix: str | None) -> str | None:
        """Return the refresh token for a session cookie with this suffix."""
        tokens: dict[str | None, str] = {}
        for name, its_suffix, value in _own_cookies(self.cookies):
            if name == _REFRESH:
                tokens.setdefault(its_suffix, value)
        found = tokens.get(suffix) or tokens.get(None)
        if found is None and len(tokens) == 1:
            return next(iter(tokens.values()))
        return found

    def method(self) -> str | None:
        """Return the method, or None if the request has none, such as a mapping of headers."""
        method = _detail(self.request, "method", "REQUEST_METHOD", "method")
        return None if method is None else method.upper()

    def headers(self) -> dict[str, list[str]]:
        """Return the headers, keyed by lowercase name, without those that hold secrets."""
        headers: dict[str, list[str]] = {}
        with suppress(TypeError, ValueError):  # reading ends at a header that is not text
            for raw_name, raw_value in _headers_of(self.request):
                name = _text(raw_name).lower()
                values = _texts(raw_value)
                if values and name not in _KEPT_BACK:
                    headers.setdefault(name, []).extend(values)
        return headers


def read_credentials(request: object) -> Credentials:
    """Read the credentials of a request.

    Raises:
        InvalidArgumentError: If headers can't be read from `request`.
    """
    bearer: str | None = None
    cookies: list[str] = []
    authorization: str | None = None
    try:
        for name, value in _headers_of(request):
            length = len(name)  # skips nearly all other headers at little cost
            if length == _COOKIE_LENGTH and _text(name).lower() == "cookie":
                cookies += _texts(value)
            elif length == _AUTHORIZATION_LENGTH and _text(name).lower() == "authorization":
                for text in _texts(value):
                    bearer = bearer or _bearer(text)
                    authorization = authorization or text.strip(" \t")
    except (TypeError, ValueError):
        raise _no_request(request) from None
    return Credentials(request, bearer, "; ".join(cookies), authorization or None)


def session_cookie_of(line: str) -> SessionCookie | None:
    """Return the session cookie that a Set-Cookie line sets, or None if it sets another cookie."""
    for name, suffix, value in _own_cookies(line.partition(";")[0]):
        return SessionCookie(value, suffix) if name == _SESSION else None
    return None


def _bearer(value: str) -> str | None:
    """Return a bearer token; the scheme is case-insensitive (RFC 9110, section 11.1)."""
    scheme, _, token = value.strip(" \t").partition(" ")
    token = token.lstrip(" ")
    return token if token and scheme.lower() == "bearer" else None


def _own_cookies(header: str) -> list[tuple[str, str | None, str]]:
    """Return Clerk's cookies as tuples of the name without suffix, the suffix, and the value."""
    found: list[tuple[str, str | None, str]] = []
    for pair in header.split(";"):
        if not pair.lstrip(_BLANKS).startswith("__"):
            continue
        name, _, value = pair.partition("=")
        name, value, suffix = name.strip(_BLANKS), value.strip(_BLANKS), None
        if name not in _OWN_COOKIES:
            match = _SUFFIXED.fullmatch(name)
            if match is None:
                continue
            name, suffix = match.groups()
        if value[:1] == '"' == value[-1:] and len(value) > 1:
            value = value[1:-1]
        if value:
            found.append((name, suffix, value))
    return found


def _headers_of(request: object) -> Iterable[tuple[Any, Any]]:
    """Return the headers as pairs; names and values may be bytes, and values may be lists."""
    headers = getattr(request, "headers", None)
    if headers is None:
        headers = _header_source(request)
        if isinstance(headers, Mapping) and _is_environ(cast("Mapping[str, object]", headers)):
            return _environ_headers(cast("Mapping[str, object]", headers))
    items = getattr(cast("object", headers), "items", None)
    return cast("Iterable[tuple[Any, Any]]", items() if callable(items) else headers)


def _header_source(request: object) -> object:
    for name in ("META", "environ"):
        source = getattr(request, name, None)
        if source is not None:
            return source
    mapping = _plain_mapping(request)
    if mapping is not None and "type" in mapping:  # ASGI
        headers = mapping.get("headers")
        is_scope = isinstance(headers, Iterable) and not isinstance(headers, str | bytes)
        return cast("Iterable[object]", headers) if is_scope else mapping
    if isinstance(request, str | bytes) or not isinstance(request, Iterable):
        raise _no_request(request)
    return cast("object", request)


def _plain_mapping(request: object) -> Mapping[str, object] | None:
    """Return a request that is a mapping: headers, a WSGI environ or an ASGI scope; else None."""
    if isinstance(request, Mapping) and not hasattr(cast("object", request), "headers"):
        return cast("Mapping[str, object]", request)
    return None


def _no_request(request: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"headers can't be read from {type(request).__name__}: pass the request, its "
        "headers, a WSGI environ or an ASGI scope"
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError


def _texts(value: object) -> list[str]:
    if value is None:  # what `.get` returns for a missing header
        return []
    if isinstance(value, list | tuple):
        return [_text(one) for one in cast("list[object]", value)]
    return [_text(value)]


def _is_environ(source: Mapping[str, object]) -> bool:
    return "REQUEST_METHOD" in source or "wsgi.version" in source or "HTTP_COOKIE" in source


def _environ_headers(environ: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if isinstance(value, str) and _text(name).startswith("HTTP_"):
            yield name[5:].replace("_", "-").lower(), value


def _detail(request: object, attribute: str, environ: str, scope: str) -> str | None:
    """Return one detail of a request, by the name its kind of request has for it, or None."""
    mapping = _plain_mapping(request)
    if mapping is not None:
        value = mapping.get(environ) or (mapping.get(scope) if "type" in mapping else None)
    else:
        value = getattr(request, attribute, None)
    return value if isinstance(value, str) else None


def origin_for(party: str | None, credentials: Credentials) -> str | None:
    """Return `party` if it is among the request's possible origins, else the first of these."""
    origins = tuple(_origins(credentials.request, credentials.headers()))
    return party if party in origins or not origins else origins[0]


def _origins(request: object, headers: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield possible origins as Clerk's JavaScript SDK does: forwarded headers, then the URL."""
    from clerk_async.config import is_loopback  # noqa: PLC0415 - heavy, seldom needed

    def first(name: str) -> str | None:
        value = headers.get(name, [""])[0].split(",")[0].strip()
        return value or None

    host = first("x-forwarded-host") or first("host")
    scheme = (
        first("cloudfront-forwarded-proto")
        or first("x-forwarded-proto")
        or _detail(request, "scheme", "wsgi.url_scheme", "scheme")
    )
    url = None if _plain_mapping(request) is not None else getattr(request, "url", None)
    if url is not None:
        with suppress(ValueError):  # a URL is often built from a Host header, which may be invalid
            parts = urlsplit(str(url))
            scheme = scheme or parts.scheme or None
            host = host or parts.netloc or None
    if host is not None:
        if scheme is None:
            scheme = "http" if is_loopback(_hostname(host)) else "https"
        url = f"{scheme}://{host}".lower()
        yield url.removesuffix(":443" if url.startswith("https://") else ":80")
    origin = first("origin")
    if origin is not None and origin != "null":
        yield origin


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a Host header may be invalid
        return ""
