"""SharedState, which connects the processes of a key, and the status that each of them sees."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs

from clerk_async.config import SHARED_STATE_VARIABLE, check_number
from clerk_async.denials.table import DEFAULT_KEEP
from clerk_async.errors import ConfigurationError
from clerk_async.extras import Late, require
from clerk_async.redaction import sealed

if TYPE_CHECKING:
    import redis.asyncio as redis_asyncio
else:
    redis_asyncio = Late("redis.asyncio")

DEFAULT_TIMEOUT: Final = 0.25
_SCHEMES: Final = ("redis", "rediss", "unix")
_NAMESPACE: Final = re.compile(r"[!-z|~]{1,200}")


class SharedState:
    """A Redis server through which all processes that use one secret key share their state.

    They share one rate limit, pause together on a 429, and reject at once what any of them denied.
    Requires Redis 6.2 or later, or Valkey, and the extra `redis`.

    Anyone who can write to that Redis can sign people out and slow the calls down, so protect it
    like a session store. Nobody can sign in through it: tokens are still verified as usual. It
    never contains a secret key, token or cookie, only ids of sessions and users, and a hash of the
    key that tells instances apart.

    While Redis is down, nothing hangs and nothing is lost: each process continues with its share of
    the limit and the denials that it knows, and informs the others when Redis is back.

    Example:
        >>> shared = SharedState("rediss://:password@cache:6379/0", namespace="production")
        >>> sessions = AsyncSessionsApi("sk_test_…", shared_state=shared)

    Args:
        url: A `redis://`, `rediss://` (TLS) or `unix://` URL, with any options that redis-py
            understands; None if a `client` is given. Never shown in full.
        namespace: The name of the instance in Redis; default: a hash of the secret key. Set it if
            processes with an old and a new key should share state during a key rotation.
        timeout: Seconds that a command may take; after two that take longer, Redis counts as down.
        keep: Seconds that a denial is kept, which must be longer than any token lives. Use the same
            value in all processes.
        client: Your own client of `redis.asyncio`, if a URL is not enough: a `RedisCluster`, or
            one from Sentinel's `master_for`. It must belong to the event loop that makes the calls.
            We never close it.

    Raises:
        ConfigurationError: If the URL can't be used, the extra is missing, or the client is not a
            redis-py client for asyncio.
        InvalidArgumentError: If a number is out of its range.
    """

    __slots__ = ("_client", "_url", "keep", "namespace", "timeout")

    @sealed
    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        keep: float = DEFAULT_KEEP,
        client: redis_asyncio.Redis | None = None,
    ) -> None:
        require("redis", needed_for="shared_state needs")  # only its users pay for the import
        if (url is None) == (client is None):
            raise ConfigurationError("SharedState takes either a URL or a client")
        if url is not None:
            _check_url(url)
        elif not callable(getattr(client, "execute_command", None)) or not _is_asyncio(client):
            raise ConfigurationError("client must be a client of redis.asyncio")
        if namespace is not None and not (
            isinstance(namespace, str) and _NAMESPACE.fullmatch(namespace)  # pyright: ignore[reportUnnecessaryIsInstance]
        ):
            raise ConfigurationError(
                "namespace must be 1 to 200 visible ASCII characters without braces"
            )
        self._url = url
        self._client: Any = client
        self.namespace: str | None = namespace
        self.timeout: float = check_number("timeout", timeout, zero_is_allowed=False)
        self.keep: float = check_number("keep", keep, zero_is_allowed=False)

    def __repr__(self) -> str:
        where = "client=…" if self._url is None else repr(_without_secrets(self._url))
        return (
            f"SharedState({where}, namespace={self.namespace!r}, timeout={self.timeout:g}, "
            f"keep={self.keep:g})"
        )

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a SharedState can't be pickled or copied: it may contain a password")

    def open_client(self) -> tuple[Any, bool]:
        """Return a redis-py client for the running event loop, and whether we must close it."""
        if self._url is None:
            return self._client, False
        return _make_client(self._url), True


@attrs.frozen
class SharedStatus:
    """What one process knows about the shared state, for a health page.

    Attributes:
        connected: Whether Redis answers. Always False without `shared_state`.
        age: Seconds since Redis last answered; None if it never has.
        processes: How many processes use the key, including this one, as far as it knows.
        used: How many places of the window are taken, by all processes together.
        limit: How many places there are for all processes, for bulk runs and single calls together.
        paused_for: Seconds until calls go out again after a 429; 0 if they are not paused.
        denied: How many denials this process knows.
    """

    connected: bool
    age: float | None
    processes: int
    used: int
    limit: int
    paused_for: float
    denied: int


def resolve_shared_state(shared_state: str | SharedState | None) -> SharedState:
    """Return the shared state that the argument or, if it is None, the environment names.

    Raises:
        ConfigurationError: If it can't be used.
    """
    if isinstance(shared_state, SharedState):
        return shared_state
    if shared_state is None:
        shared_state = os.environ.get(SHARED_STATE_VARIABLE)
    if not isinstance(shared_state, str):
        kind = type(shared_state).__name__
        raise ConfigurationError(f"shared_state must be a URL or a SharedState, not {kind}")
    return SharedState(shared_state)


def _check_url(url: object) -> None:
    """Reject a URL that redis-py can't use, without repeating it: it may contain a password.

    Unlike `clerk_async.config.check_url`, it allows what redis-py allows: credentials, a database
    and options.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"shared_state must be a URL, not {type(url).__name__}")
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES or "://" not in url:
        raise ConfigurationError("shared_state must be a redis://, rediss:// or unix:// URL")
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.path if scheme == "unix" else parts.hostname)
        is_sound = is_complete and parts.port != 0 and not re.search(r"[^!-~]", url)
        # opens no connection, but checks whether one could be made
        _make_client(url).connection_pool.make_connection()
    except Exception:  # noqa: BLE001 - whatever redis-py finds wrong with it
        is_sound = False
    if not is_sound:
        raise ConfigurationError("shared_state is not a URL that redis-py can use")


def _make_client(url: str) -> Any:
    import redis  # noqa: PLC0415 - an extra
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    # Don't tell Redis the library's name: that costs round trips, and its version disk reads.
    name: dict[str, Any] = {"lib_name": None, "lib_version": None}
    if hasattr(redis, "DriverInfo"):  # since 7.2
        name = {"driver_info": None}
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - its options
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),  # we decide when to retry
        socket_connect_timeout=None,  # each command has its own timeout
        socket_timeout=None,
        **name,
    )


def _is_asyncio(client: object) -> bool:
    return any(cls.__module__.startswith("redis.asyncio") for cls in type(client).__mro__)


def _without_secrets(url: str) -> str:
    """Return only the scheme, host, port and path: user, password and query may be secret."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{where}{parts.path}"
