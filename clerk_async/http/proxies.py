"""Which proxy a client goes through, and with what credentials: no I/O, no aiohttp."""

from __future__ import annotations

import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from clerk_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class Proxy:
    """A proxy's address without credentials, and the headers that hold them."""

    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)


def parse_proxy(name: str, value: object) -> Proxy:
    """Take the credentials out of a proxy's URL.

    Args:
        name: Where the URL comes from, for errors, which never quote it.
        value: The URL; without a scheme it counts as http://.

    Raises:
        ConfigurationError: If it is no http or https URL with a host.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a URL as a str, not {type(value).__name__}")
    parts: SplitResult | None
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts = host = None
    if parts is None:  # outside the except block: that error may quote the password
        raise ConfigurationError(f"{name} is not a URL")
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(f"{name} must be an http or https URL with a host")
    address = parts.netloc.rpartition("@")[2]
    if not all("!" <= character <= "~" for character in address):
        raise ConfigurationError(f"{name} has a host that is no ASCII name or address")
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in login:  # RFC 7617, section 2
        raise ConfigurationError(f"{name} holds a user name with a colon in it")
    headers: dict[str, str] = {}
    if parts.username is not None:
        credentials = b64encode(f"{login}:{password}".encode(errors="surrogateescape")).decode()
        headers["Proxy-Authorization"] = f"Basic {credentials}"
    return Proxy(f"{parts.scheme}://{address}", headers)


def proxy_of_environment(base_url: str) -> Proxy | None:
    """Find the proxy that the environment names for a URL; None where it names none.

    Raises:
        ConfigurationError: If what it names can't be used.
    """
    target = urlsplit(base_url)
    if urllib.request.proxy_bypass(target.netloc):
        return None
    proxies = urllib.request.getproxies()
    for kind in (target.scheme, "all"):
        if url := proxies.get(kind):
            return parse_proxy(f"the proxy of {kind.upper()}_PROXY", url)
    return None
