"""The client that a command uses, made of the global options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clerk_async.cli.exits import Refused
from clerk_async.cli.messages import show_log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.cli.app import Settings
    from clerk_async.config import Endpoint, RateLimit
    from clerk_async.sessions import AsyncSessionsApi

T = TypeVar("T")


def endpoint(settings: Settings) -> Endpoint:
    """Find out where to send, and with which key.

    Raises:
        Refused: If there is no key, or its file can't be read.
        ConfigurationError: If the key or the URL can't be used.
    """
    from clerk_async.config import DEFAULT_API_VERSION, resolve_endpoint  # noqa: PLC0415

    key = None
    if settings.key_file is not None:
        key = _read_key(settings.key_file)
    elif not os.environ.get("CLERK_SECRET_KEY", "").strip():
        raise Refused(
            "no secret key: set CLERK_SECRET_KEY, or give --key-file FILE "
            '(you find the key under "API keys" in the Clerk Dashboard)'
        )
    return resolve_endpoint(key, settings.base_url, DEFAULT_API_VERSION, allow_insecure=False)


def make_client(
    settings: Settings, *, rate_limit: RateLimit | None = None, **options: Any
) -> AsyncSessionsApi:
    """Make the client of a command.

    Raises:
        Refused: As `endpoint`.
        ConfigurationError: As `endpoint`.
    """
    from clerk_async.sessions import AsyncSessionsApi  # noqa: PLC0415 - aiohttp, not for help

    show_log(settings.out)
    where = endpoint(settings)
    return AsyncSessionsApi(
        where.secret_key, base_url=where.base_url, rate_limit=rate_limit, **options
    )


def call(settings: Settings, ask: Callable[[AsyncSessionsApi], Awaitable[T]]) -> T:
    """Make a client, ask it one thing, and give what comes.

    Raises:
        Refused: As `endpoint`.
        ClerkError: If the call fails.
    """
    import asyncio  # noqa: PLC0415 - not for help

    async def asking() -> T:
        async with make_client(settings) as sessions:
            return await ask(sessions)

    return asyncio.run(asking())


def _read_key(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"can't read the key file {path}: {why}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        found = "several lines" if lines else "nothing"
        raise Refused(f"the key file {path} must hold the key alone; it holds {found}")
    return lines[0]
