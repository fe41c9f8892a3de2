"""What a request carries: its tokens, its cookies and where it came from.

Reads any framework's request by what all of them have, and imports none: a mapping or a list of
headers, an object with `.headers` (Starlette, FastAPI, Litestar, aiohttp, Flask, Django, httpx,
requests, http.server), a WSGI environ or an ASGI scope.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import urlsplit

import attrs

from clerk_async.config import is_loopback
from clerk_async.errors import InvalidArgumentError

_MAX_SESSION_COOKIES: Final = 16
_SESSION_COOKIE = re.compile(r"__session(?:_([A-Za-z0-9_-]{8}))?")
_REFRESH_COOKIE = re.compile(r"__refresh(?:_([A-Za-z0-9_-]{8}))?")
_COOKIE_LENGTH: Final = len("cookie")
_AUTHORIZATION_LENGTH: Final = len("authorization")
_KEPT_BACK: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@attrs.frozen(repr=False)
class SessionCookie:
    """A session cookie; the suffix tells the instance, where several share a domain."""

    token: str
    suffix: str | None


@attrs.define(repr=False, eq=False)
class Credentials:
    """What a request carries; what is seldom needed is only read when it is asked for.

    Attributes:
        request: The request, in whatever shape it came.
        bearer: The token of the Authorization header, or None.
        cookies: The Cookie header; several are joined.
    """

    request: object
    bearer: str | None
    cookies: str

    def session_cookies(self) -> list[SessionCookie]:
        """Give the session cookies, in the order of the header."""
        found = _cookies_like(_SESSION_COOKIE, self.cookies)
        return [SessionCookie(value, suffix) for suffix, value in found][:_MAX_SESSION_COOKIES]

    def refresh_token_for(self, suffix: str | None) -> str | None:
        """Give the refresh token that belongs to a session cookie of this suffix."""
        tokens: dict[str | None, str] = {}
        for name, value in _cookies_like(_REFRESH_COOKIE, self.cookies):
            tokens.setdefault(name, value)
        found = tokens.get(suffix) or tokens.get(None)
        if found is None and len(tokens) == 1:
            return next(iter(tokens.values()))
        return found

    def method(self) -> str | None:
        """Tell the method, if the request has one: a mapping of headers has not."""
        method = _detail(self.request, "method", "REQUEST_METHOD", "method")
        return None if method is None else method.upper()

    def headers(self) -> dict[str, list[str]]:
        """Give the headers by their names in lower case, without those that hold secrets."""
        headers: dict[str, list[str]] = {}
        with suppress(TypeError, ValueError):  # a header that is no text ends the list
            for raw_name, raw_value in _headers_of(self.request):
                name = _text(raw_name).lower()
                values = _texts(raw_value)
                if values and name not in _KEPT_BACK:
                    headers.setdefault(name, []).extend(values)
        return headers


def read_credentials(request: object) -> Credentials:
    """Read what a request carries.

    Raises:
        InvalidArgumentError: If this is nothing that headers can be read from.
    """
    bearer: str | None = None
    cookies: list[str] = []
    try:
        for name, value in _headers_of(request):
            length = len(name)  # keeps all but the two from being looked at any closer
            if length == _COOKIE_LENGTH and _text(name).lower() == "cookie":
                cookies += _texts(value)
            elif length == _AUTHORIZATION_LENGTH and _text(name).lower() == "authorization":
                bearer = bearer or _bearer(_texts(value))
    except (TypeError, ValueError):
        raise _no_request(request) from None
    return Credentials(request, bearer, "; ".join(cookies))


def session_cookie_of(line: str) -> SessionCookie | None:
    """Give the session cookie that a Set-Cookie line sets, if it is one."""
    found = _cookies_like(_SESSION_COOKIE, line.partition(";")[0])
    return SessionCookie(found[0][1], found[0][0]) if found else None


def _bearer(values: Iterable[str]) -> str | None:
    """Find the first bearer token; the scheme's case counts for nothing (RFC 9110, 11.1)."""
    for value in values:
        scheme, _, token = value.strip(" \t").partition(" ")
        token = token.lstrip(" ")
        if token and scheme.lower() == "bearer":
            return token
    return None


def _cookies_like(pattern: re.Pattern[str], header: str) -> list[tuple[str | None, str]]:
    """Find cookies by their names; gives the suffix and the value of each."""
    found: list[tuple[str | None, str]] = []
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        match = pattern.fullmatch(name.strip(" \t"))
        if match is None:
            continue
        value = value.strip(" \t")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if value:
            found.append((match[1], value))
    return found


def _headers_of(request: object) -> Iterable[tuple[Any, Any]]:
    """Give the headers as pairs; names and values may be bytes, values lists."""
    source = _header_source(request)
    environ = cast("Mapping[str, object]", source)
    if isinstance(source, Mapping) and _is_environ(environ):
        return _environ_headers(environ)
    items = getattr(environ, "items", None)
    return cast("Iterable[tuple[Any, Any]]", items() if callable(items) else source)


def _header_source(request: object) -> object:
    # Attributes first: Starlette's and aiohttp's requests are mappings too, of other things.
    for name in ("headers", "META", "environ"):
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
    """Give headers, a WSGI environ or an ASGI scope; None for a request that is an object."""
    if isinstance(request, Mapping) and not hasattr(cast("object", request), "headers"):
        return cast("Mapping[str, object]", request)
    return None


def _no_request(request: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"no headers can be read from {type(request).__name__}: hand over the request, its "
        "headers, a WSGI environ or an ASGI scope"
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError


def _texts(value: object) -> list[str]:
    if value is None:  # what `.get` gives of a header that is not there
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
    """Read one detail of a request, wherever its framework keeps it."""
    mapping = _plain_mapping(request)
    if mapping is not None:
        value = mapping.get(environ) or (mapping.get(scope) if "type" in mapping else None)
    else:
        value = getattr(request, attribute, None)
    return value if isinstance(value, str) else None


def origin_for(party: str | None, credentials: Credentials) -> str | None:
    """Tell a request's origin: the one that its token was made for, if it is among the possible."""
    origins = tuple(_origins(credentials.request, credentials.headers()))
    return party if party in origins or not origins else origins[0]


def _origins(request: object, headers: Mapping[str, list[str]]) -> Iterator[str]:
    """Tell the origins, as Clerk's JavaScript SDK does: forwarded headers, then the URL."""

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
        with suppress(ValueError):  # an URL is often made from a Host header, which holds anything
            parts = urlsplit(str(url))
            scheme = scheme or parts.scheme or None
            host = host or parts.netloc or None
    if host is not None:
        if scheme is None:
            scheme = "http" if is_loopback(_hostname(host)) else "https"
        yield _without_default_port(f"{scheme}://{host}".lower())
    origin = first("origin")
    if origin is not None and origin != "null":
        yield origin


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a Host header may hold anything
        return ""


def _without_default_port(origin: str) -> str:
    if origin.startswith("https://"):
        return origin.removesuffix(":443")
    return origin.removesuffix(":80")
