"""The settings of an aiohttp session (headers, proxy), checked before it exists: no I/O."""

from __future__ import annotations

import re
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import attrs

from clerk_async.config import check_integer, is_loopback, split_url
from clerk_async.errors import ConfigurationError
from clerk_async.redaction import sealed
from clerk_async.version import __version__

if TYPE_CHECKING:
    import ssl

    import aiohttp

    from clerk_async.config import Endpoint

USER_AGENT: Final = f"clerk_async/{__version__}"

_OWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "clerk-api-version",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "transfer-encoding",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@attrs.frozen
class Proxy:
    """A proxy's URL without credentials, and the headers with the credentials."""

    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)


@attrs.frozen
class WireSettings:
    """The settings of an aiohttp session; the repr hides credentials.

    The base URL and the headers with the key are missing until `of` adds the endpoint.
    """

    base_url: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    pool_size: int
    client_session: aiohttp.ClientSession | None = None
    ssl_context: ssl.SSLContext | None = None
    proxy: Proxy | None = None
    trust_env: bool = True
    trace_configs: Sequence[aiohttp.TraceConfig] = ()

    def of(self, endpoint: Endpoint) -> WireSettings:
        """Return these settings with the URL and the key of an endpoint."""
        own = {
            "Authorization": f"Bearer {endpoint.secret_key}",
            "Clerk-API-Version": endpoint.api_version,
        }
        return attrs.evolve(self, base_url=endpoint.base_url, headers={**own, **self.headers})


def wire_settings(
    *,
    pool_size: int,
    client_session: aiohttp.ClientSession | None,
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    trust_env: bool,
    trace_configs: Sequence[aiohttp.TraceConfig],
    headers: Mapping[str, str] | None,
) -> WireSettings:
    """Check the arguments of the constructors, and build the headers that need no key.

    Raises:
        ConfigurationError: If an option can't be used, or would silently have no effect.
        InvalidArgumentError: If `pool_size` is not an integer above zero.
    """
    check_integer("pool_size", pool_size, low=1)
    if ssl_context is not None:
        import ssl  # noqa: PLC0415 - heavy and seldom used

        if not isinstance(ssl_context, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("ssl_context must be an ssl.SSLContext")
    if not isinstance(trace_configs, Sequence) or not all(  # pyright: ignore[reportUnnecessaryIsInstance]
        hasattr(config, "freeze") for config in trace_configs
    ):
        raise ConfigurationError("trace_configs must be a sequence of aiohttp.TraceConfig")
    if client_session is not None:
        if not hasattr(client_session, "connector"):
            raise ConfigurationError("client_session must be an aiohttp.ClientSession")
        if ssl_context is not None or trace_configs:
            raise ConfigurationError(
                "ssl_context and trace_configs must be set on the client_session that you pass"
            )
    extra = check_headers(headers)
    own = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
    if "user-agent" not in {name.lower() for name in extra}:
        own["User-Agent"] = USER_AGENT
    return WireSettings(
        base_url="",
        headers={**own, **extra},
        pool_size=pool_size,
        client_session=client_session,
        ssl_context=ssl_context,
        proxy=None if proxy is None else parse_proxy("proxy", proxy),
        trust_env=trust_env,
        trace_configs=tuple(trace_configs),
    )


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the user's extra headers; reject our own headers and invalid ones.

    Raises:
        ConfigurationError: If a name or value isn't valid in HTTP, or the client sets the header
            itself.
    """
    checked: dict[str, str] = {}
    if headers is None:
        return checked
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("headers must be a mapping of names to values")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("headers: a name is not a valid header name")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"headers: {name} is set by the client itself")
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"headers: the value of {name} is not a valid header value")
        checked[name] = value
    return checked


def parse_proxy(name: str, value: object) -> Proxy:
    """Separate a proxy's URL from its credentials, and drop its path, which has no meaning.

    Args:
        name: Where the URL comes from, for errors, which never quote the URL.
        value: The URL; without a scheme, http:// is assumed.

    Raises:
        ConfigurationError: If it isn't an http or https URL with a host.
    """
    has_no_scheme = isinstance(value, str) and "://" not in value
    parts = split_url(name, f"http://{value}" if has_no_scheme else value)
    address = parts.netloc.rpartition("@")[2]
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in login:  # RFC 7617, section 2
        raise ConfigurationError(f"{name} has a user name that contains a colon")
    headers: dict[str, str] = {}
    if parts.username is not None:
        credentials = b64encode(f"{login}:{password}".encode(errors="surrogateescape")).decode()
        headers["Proxy-Authorization"] = f"Basic {credentials}"
    return Proxy(f"{parts.scheme}://{address}", headers)


def proxy_to_use(settings: WireSettings) -> Proxy | None:
    """Return the proxy from the argument or the environment; None if there is none to use.

    Requests to this machine never use a proxy: plain http:// is allowed for them because they don't
    leave the machine, and a proxy elsewhere could not connect back.

    Raises:
        ConfigurationError: If the proxy that the environment names can't be used.
    """
    if _is_to_this_machine(settings.base_url):
        return None
    if settings.proxy is not None or settings.client_session or not settings.trust_env:
        return settings.proxy
    return proxy_of_environment(settings.base_url)


@sealed
def proxy_of_environment(base_url: str) -> Proxy | None:
    """Return the proxy that the environment names for a URL; None if there is none, or on loopback.

    Raises:
        ConfigurationError: If that proxy can't be used.
    """
    named = None if _is_to_this_machine(base_url) else _named_in_environment(base_url)
    return None if named is None else parse_proxy(*named)


def refuse_their_proxy(settings: WireSettings, session: aiohttp.ClientSession) -> None:
    """Reject a user's session that would send the key in the clear to a proxy.

    A single request can't bypass the session's proxy, whether its own or the environment's.

    Raises:
        ConfigurationError: If it would use a proxy for plain http:// to this machine.
    """
    base_url = settings.base_url
    if base_url.startswith("https:") or not _is_to_this_machine(base_url):
        return
    has_own = getattr(session, "_default_proxy", None) is not None
    if has_own or (session.trust_env and _named_in_environment(base_url) is not None):
        raise ConfigurationError(
            "the given client_session would send the secret key in the clear to a proxy, on its "
            "way to this machine: create it without proxy= and trust_env=, or add the host to "
            "NO_PROXY"
        )


def _is_to_this_machine(base_url: str) -> bool:
    return is_loopback(urlsplit(base_url).hostname or "")


def _named_in_environment(base_url: str) -> tuple[str, str] | None:
    target = urlsplit(base_url)
    if urllib.request.proxy_bypass(target.netloc):
        return None
    proxies = urllib.request.getproxies()
    for kind in (target.scheme, "all"):
        if url := proxies.get(kind):
            return f"the proxy of {kind.upper()}_PROXY", url
    return None
