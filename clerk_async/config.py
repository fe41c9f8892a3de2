"""Settings: the value objects that users pass, and how arguments and environment combine.

An argument overrides the environment (`CLERK_SECRET_KEY`, `CLERK_API_URL`), which overrides the
default.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

import attrs
from attrs.validators import optional

from clerk_async.errors import ConfigurationError, InvalidArgumentError
from clerk_async.redaction import sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_API_VERSION: Final = "2026-05-12"
VERIFY_API_VERSION: Final = "2025-03-12"
"""The last version that still has `verify`."""
DEFAULT_BASE_URL: Final = "https://api.clerk.com/v1"
DEFAULT_POOL_SIZE: Final = 128
"""What a bulk run's concurrency reaches when it doubles from 16; macOS allows 256 open files."""
SHARED_STATE_VARIABLE: Final = "CLERK_ASYNC_SHARED_STATE"

_LIVE_KEY_PREFIX: Final = "sk_live_"
_PRINTABLE = re.compile(r"[!-\[\]-~]*")  # ASCII without a backslash
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")
_OLD_IPV4 = re.compile(r"(?:0[xX][0-9a-fA-F]+|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]+|[0-9]+)){0,3}")


def check_number(name: str, value: object, *, zero_is_allowed: bool = True) -> float:
    """Return a finite number that isn't negative; reject anything else, booleans too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(f"{name} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero_is_allowed):
        bound = "at least 0" if zero_is_allowed else "more than 0"
        raise InvalidArgumentError(f"{name} must be a finite number, {bound}")
    return number


def check_integer(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return an integer within bounds; reject anything else, booleans and floats too."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(f"{name} must be an integer, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidArgumentError(f"{name} must be {bound}, not {value}")
    return value


def checked(
    check: Callable[..., object], **bounds: Any
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return an attrs validator that calls `check` with an attribute's name and value."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check(attribute.name, value, **bounds)

    return validate


_SECONDS = checked(check_number)
_POSITIVE_SECONDS = checked(check_number, zero_is_allowed=False)
_POSITIVE_SECONDS_OR_NONE: Any = optional(_POSITIVE_SECONDS)
_POSITIVE_INTEGER = checked(check_integer, low=1)


@attrs.frozen
class Timeouts:
    """How long one attempt may take, in seconds; None means no limit.

    Waiting for a free connection in the pool counts only against `RetryPolicy.deadline`.

    Attributes:
        connect: Time to connect: DNS lookup, TCP, proxy and TLS.
        attempt: Time from a free connection to the last byte of the body, including `connect`.

    Raises:
        InvalidArgumentError: If a value is not a finite number above zero.
    """

    connect: float | None = attrs.field(default=5.0, validator=_POSITIVE_SECONDS_OR_NONE)
    attempt: float | None = attrs.field(default=15.0, validator=_POSITIVE_SECONDS_OR_NONE)


@attrs.frozen
class RetryPolicy:
    """When and how often to retry a failed call; all times in seconds.

    The wait before retry n is random, uniform between 0 and `base_delay * 2 ** (n - 1)`, capped at
    `max_delay` (full jitter). If the service sends `Retry-After`, the client waits that long or up
    to a tenth longer, never less.

    Attributes:
        attempts: The most requests per call, including the first; 1 turns retries off.
        deadline: The limit for the whole call: queue, attempts and waits. None means no limit.
        base_delay: The longest wait before the first retry.
        max_delay: The longest wait before any retry, unless the service sends `Retry-After`.
        max_retry_after: If `Retry-After` exceeds this, the error is raised at once, with the value.

    Raises:
        InvalidArgumentError: If a value is not a finite number in its range.
    """

    attempts: int = attrs.field(default=3, validator=_POSITIVE_INTEGER)
    deadline: float | None = attrs.field(default=30.0, validator=_POSITIVE_SECONDS_OR_NONE)
    base_delay: float = attrs.field(default=0.25, validator=_SECONDS)
    max_delay: float = attrs.field(default=8.0, validator=_SECONDS)
    max_retry_after: float = attrs.field(default=120.0, validator=_SECONDS)


@attrs.frozen
class RateLimit:
    """A rate limit: `count` requests within any window of `per` seconds.

    Clerk's own limits are 1000 per 10 s for a production instance and 100 per 10 s for a
    development one (https://clerk.com/docs/backend-requests/resources/rate-limits).

    Attributes:
        count: The number of requests, at least 1.
        per: The length of the window in seconds.

    Raises:
        InvalidArgumentError: If `count` is not an integer above zero, or `per` is not a finite
            number above zero.
    """

    count: int = attrs.field(validator=_POSITIVE_INTEGER)
    per: float = attrs.field(default=10.0, validator=_POSITIVE_SECONDS)

    def share(self, fraction: float) -> RateLimit:
        """Return a fraction of this limit, at least one request per window.

        Args:
            fraction: A number above 0 and up to 1.

        Raises:
            InvalidArgumentError: If `fraction` is outside that range.
        """
        part = check_number("fraction", fraction, zero_is_allowed=False)
        if part > 1:
            raise InvalidArgumentError("fraction must be at most 1")
        return RateLimit(max(1, int(self.count * part + 1e-9)), self.per)


PRODUCTION_LIMIT: Final = RateLimit(1000, per=10.0)
DEVELOPMENT_LIMIT: Final = RateLimit(100, per=10.0)
SHARE_ALONE: Final = 0.8
"""The share of a key's limit that bulk runs use, so that the live product keeps a fifth."""
SHARE_TOGETHER: Final = 0.9
"""The same with shared state, which also counts the product's calls against the limit."""


@attrs.frozen
class Endpoint:
    """The service's URL and version, and the secret key, which the repr hides."""

    secret_key: str = attrs.field(repr=False)
    base_url: str
    api_version: str

    @property
    def key_limit(self) -> RateLimit:
        """The rate limit that Clerk sets for this kind of key."""
        is_live = self.secret_key.startswith(_LIVE_KEY_PREFIX)
        return PRODUCTION_LIMIT if is_live else DEVELOPMENT_LIMIT

    @property
    def fingerprint(self) -> str:
        """A hash that distinguishes instances without revealing the key."""
        return hashlib.sha256(b"clerk_async\0" + self.secret_key.encode()).hexdigest()


def check_timeouts(timeout: object) -> Timeouts:
    """Return `Timeouts`, made from seconds for one attempt if need be."""
    if isinstance(timeout, Timeouts):
        return timeout
    return Timeouts(attempt=check_number("timeout", timeout, zero_is_allowed=False))


def check_policy(policy: object) -> RetryPolicy:
    """Return a retry policy; reject anything else."""
    if not isinstance(policy, RetryPolicy):
        raise InvalidArgumentError(f"retry must be a RetryPolicy, not {type(policy).__name__}")
    return policy


def check_limit(limit: object) -> RateLimit | None:
    """Return a rate limit or None; reject anything else."""
    if limit is not None and not isinstance(limit, RateLimit):
        raise InvalidArgumentError(f"rate_limit must be a RateLimit, not {type(limit).__name__}")
    return limit


class LateEndpoint:
    """A client's endpoint, resolved on first use, so that an app can be imported without a key.

    A key passed as an argument settles the endpoint at once. Otherwise the first call of `settled`
    reads the environment, once. If the key has left the environment since the client was created,
    the client still uses it.

    Args:
        secret_key: The key; None means the environment's.
        base_url: The URL; None means the environment's, or Clerk's.
        api_version: The version of the API.
        allow_insecure: Whether a base URL may be http:// on a host other than this machine.

    Raises:
        ConfigurationError: If an argument or the present environment can't be used.
    """

    def __init__(
        self,
        secret_key: str | None,
        base_url: str | None,
        api_version: str,
        *,
        allow_insecure: bool,
    ) -> None:
        self._find = partial(
            _find_endpoint, secret_key, base_url, api_version, allow_insecure=allow_insecure
        )
        self._endpoint = self._find(os.environ)
        self._is_settled = secret_key is not None

    def settled(self) -> Endpoint:
        """Return the endpoint, which never changes after the first call.

        Raises:
            ConfigurationError: If there is no key, or the environment can't be used.
        """
        if not self._is_settled:
            found = self._find(os.environ)
            self._endpoint = found if found.secret_key else self._endpoint
            if not self._endpoint.secret_key:
                raise ConfigurationError(
                    "no secret key: pass secret_key or set CLERK_SECRET_KEY "
                    '(find it under "API keys" in the Clerk Dashboard)'
                )
            self._is_settled = True
        return self._endpoint

    @property
    def base_url(self) -> str:
        """The URL that calls go to, as far as known by now; for reprs, so it never raises."""
        with suppress(ConfigurationError):
            return (self._endpoint if self._is_settled else self._find(os.environ)).base_url
        return self._endpoint.base_url


@sealed
def _find_endpoint(
    secret_key: str | None,
    base_url: str | None,
    api_version: str,
    environ: Mapping[str, str],
    *,
    allow_insecure: bool,
) -> Endpoint:
    """Combine arguments and environment into an endpoint; its key is empty if there is none.

    Raises:
        ConfigurationError: If the key is unusable, or the URL can't be used safely.
    """
    if secret_key is None:
        secret_key = environ.get("CLERK_SECRET_KEY") or None
    key = "" if secret_key is None else _check_key(secret_key)
    if base_url is None:
        from_environment = environ.get("CLERK_API_URL")
        if from_environment:
            url = _check_base_url("CLERK_API_URL", from_environment, allow_insecure=allow_insecure)
            base_url = url if urlsplit(url).path else f"{url}/v1"
        else:
            base_url = DEFAULT_BASE_URL
    else:
        base_url = _check_base_url("base_url", base_url, allow_insecure=allow_insecure)
    if not isinstance(api_version, str) or not _VERSION.fullmatch(api_version):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("api_version must look like 2026-05-12")
    return Endpoint(key, base_url, api_version)


def _check_key(secret_key: object) -> str:
    if not isinstance(secret_key, str):
        raise ConfigurationError(f"secret_key must be a str, not {type(secret_key).__name__}")
    key = secret_key.strip()
    if not key:
        raise ConfigurationError("secret_key is empty")
    if key.startswith("pk_"):
        raise ConfigurationError("this is a publishable key (pk_…); a secret key starts with sk_")
    if not all("!" <= character <= "~" for character in key):
        raise ConfigurationError("secret_key contains whitespace, control or non-ASCII characters")
    return key


def _check_base_url(name: str, value: object, *, allow_insecure: bool) -> str:
    url = check_url(name, value)
    if not allow_insecure and is_in_the_clear(url):
        raise ConfigurationError(
            f"{name} is http://, which would send the secret key in the clear: "
            "use https://, or pass allow_insecure=True if you must"
        )
    return url


def split_url(name: str, value: object) -> SplitResult:
    """Split an http or https URL; no error quotes it, because it may contain a password.

    Raises:
        ConfigurationError: If it isn't a URL with such a scheme, an ASCII host, and, if it has a
            port, one from 1 to 65535.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a URL as a str, not {type(value).__name__}")
    parts = port = None
    with suppress(ValueError):  # which may quote the password
        split = urlsplit(value)
        port, parts = split.port, split
    if parts is None or port == 0 or not _PRINTABLE.fullmatch(parts.netloc.rpartition("@")[2]):
        raise ConfigurationError(
            f"{name} is not a valid URL: its host must be ASCII, and its port from 1 to 65535"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{name} must be a URL with http:// or https:// and a host")
    return parts


def check_url(name: str, value: object) -> str:
    """Check a URL below which requests are sent; return it in its usual form, without a last slash.

    Proxies and Redis have other rules, because their URLs may have credentials and more: see
    `clerk_async.http.settings.parse_proxy` and `clerk_async.shared.state`.

    Raises:
        ConfigurationError: If it has no http or https scheme, no host, an invalid port,
            credentials, a query or a fragment, or characters that must be percent-encoded.
    """
    parts = split_url(name, value.strip() if isinstance(value, str) else value)
    text = str(value).strip()
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} must not contain credentials")
    if "?" in text or "#" in text:
        raise ConfigurationError(f"{name} must not have a query or a fragment")
    if not _PRINTABLE.fullmatch(text):
        raise ConfigurationError(f"{name} is not a valid URL (non-ASCII must be percent-encoded)")
    host = parts.netloc.partition(":")[0]  # aiohttp understands only the usual form of an address
    netloc = parts.netloc.replace(host, _usual_address(host), 1) if host else parts.netloc
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def is_in_the_clear(url: str) -> bool:
    """Whether others could read or change what is sent to a URL, or what comes from there."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback, however it is spelled."""
    if is_localhost(host):
        return True
    try:
        address = ipaddress.ip_address(_usual_address(host))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _usual_address(host: str) -> str:
    """Return an IPv4 address in dotted form; the system also accepts 127.1 and 0x7f000001."""
    text = host.removesuffix(".")
    if not _OLD_IPV4.fullmatch(text):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        return host


def is_localhost(host: str) -> bool:
    """Whether a name means this machine (RFC 6761, section 6.3)."""
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")
