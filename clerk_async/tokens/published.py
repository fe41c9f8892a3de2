"""The keys that an instance publishes, fetched without any credential."""

from __future__ import annotations

from typing import Final

import aiohttp

from clerk_async.errors import ConnectionLostError, ServerError

__all__ = ["fetch_published"]

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
_MAX_BYTES: Final = 1 << 20
_OK: Final = 200


async def fetch_published(url: str) -> bytes:
    """Fetch a public key set.

    Raises:
        ClerkError: If it can't be had.
    """
    async with aiohttp.ClientSession(
        timeout=_TIMEOUT, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != _OK:
                    raise ServerError(
                        f"the issuer answered {response.status}", status=response.status
                    )
                return await response.content.read(_MAX_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ConnectionLostError(f"{type(error).__name__} at {url}") from None
