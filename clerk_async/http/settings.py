"""What a session is made of, checked before there is one: no I/O, no aiohttp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from clerk_async.config import Endpoint, check_headers, check_integer
from clerk_async.errors import ConfigurationError
from clerk_async.http.proxies import Proxy, parse_proxy
from clerk_async.version import __version__

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    import aiohttp

USER_AGENT = f"clerk_async/{__version__}"


@attrs.frozen
class WireSettings:
    """What a session is made of; its repr hides what may hold credentials."""

    base_url: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    pool_size: int
    client_session: aiohttp.ClientSession | None = None
    ssl_context: ssl.SSLContext | None = None
    proxy: Proxy | None = None
    trust_env: bool = True
    trace_configs: Sequence[aiohttp.TraceConfig] = ()


def wire_settings(
    endpoint: Endpoint,
    *,
    pool_size: int,
    client_session: aiohttp.ClientSession | None,
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    trust_env: bool,
    trace_configs: Sequence[aiohttp.TraceConfig],
    headers: Mapping[str, str] | None,
) -> WireSettings:
    """Check what the constructors take, and put the headers of every request together.

    Raises:
        ConfigurationError: If an option can't be used, or would silently have no effect.
        InvalidArgumentError: If `pool_size` is no integer above zero.
    """
    check_integer("pool_size", pool_size, low=1)
    if ssl_context is not None:
        import ssl  # noqa: PLC0415 - heavy, and seldom asked for

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
                "ssl_context and trace_configs belong to the client_session that you hand in"
            )
    extra = check_headers(headers)
    own = {
        "Authorization": f"Bearer {endpoint.secret_key}",
        "Clerk-API-Version": endpoint.api_version,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
    }
    if "user-agent" not in {name.lower() for name in extra}:
        own["User-Agent"] = USER_AGENT
    return WireSettings(
        base_url=endpoint.base_url,
        headers={**own, **extra},
        pool_size=pool_size,
        client_session=client_session,
        ssl_context=ssl_context,
        proxy=None if proxy is None else parse_proxy("proxy", proxy),
        trust_env=trust_env,
        trace_configs=tuple(trace_configs),
    )
