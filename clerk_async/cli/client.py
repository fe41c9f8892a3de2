"""The client that a command uses, built from the global options, and the check of its key."""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from clerk_async.cli.exits import KEY_REFUSED, Refused, exit_code_of, is_out_of_reach
from clerk_async.cli.messages import error_text, show_log
from clerk_async.errors import ApiError, ClerkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from clerk_async.cli.app import Settings
    from clerk_async.config import Endpoint, RateLimit
    from clerk_async.sessions import AsyncSessionsApi

T = TypeVar("T")

KEY_VARIABLE: Final = "CLERK_SECRET_KEY"
_KEY_FILE_AT_MOST: Final = 1_000_000
_ASSIGNMENT: Final = re.compile(r"(?:(?:export|set)\s+)?([A-Za-z_]\w*)\s*=\s*(.*)")
_QUOTED: Final = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")
_COMMENT: Final = re.compile(r"\s#.*")
_SHOWN_OF_A_KEY: Final = 4
_LONG_ENOUGH: Final = 20


@attrs.frozen
class Instance:
    """The instance that a key belongs to, as far as the service's response tells.

    Attributes:
        id: The instance's id, `ins_…`; None if the response doesn't contain it.
        clock_ahead: Seconds by which this machine's clock is ahead of the service's, accurate to
            about a second; None if the response has no date.
    """

    id: str | None
    clock_ahead: float | None


def endpoint(settings: Settings) -> Endpoint:
    """Determine where to send requests and with which key; once for each command.

    Raises:
        Refused: If there is no key, or its file can't be read.
        ConfigurationError: If the key or the URL is invalid.
    """
    if settings.endpoint is None:
        from clerk_async.config import DEFAULT_API_VERSION, LateEndpoint  # noqa: PLC0415

        settings.endpoint = LateEndpoint(
            secret_key(settings), settings.base_url, DEFAULT_API_VERSION, allow_insecure=False
        ).settled()
    return settings.endpoint


def secret_key(settings: Settings) -> str:
    """Return the key and read it only once, because `--key-file <(…)` is a pipe.

    Raises:
        Refused: If there is no key, or its file can't be read.
    """
    if settings.secret_key is None:
        if settings.key_file is not None:
            settings.secret_key = _read_key(settings.key_file)
        else:
            settings.secret_key = os.environ.get(KEY_VARIABLE, "").strip()
            if not settings.secret_key:
                raise Refused(
                    "no secret key: set CLERK_SECRET_KEY, or pass --key-file FILE "
                    '(the key is under "API keys" in the Clerk Dashboard)'
                )
    return settings.secret_key


def has_key(settings: Settings) -> bool:
    """Return whether a secret key was given in any way."""
    return settings.key_file is not None or bool(os.environ.get(KEY_VARIABLE, "").strip())


def key_in_words(settings: Settings) -> str:
    """Describe the key without revealing it: `live, ends in …Ab12, from CLERK_SECRET_KEY`."""
    key = secret_key(settings)
    source = settings.key_file or KEY_VARIABLE
    return f"{key_kind(key)}, ends in …{key_ending(key)}, from {source}"


def key_ending(key: str) -> str:
    """Return the end of a key, which identifies it; an empty str for a very short key."""
    return key[-_SHOWN_OF_A_KEY:] if len(key) >= _LONG_ENOUGH else ""


def key_kind(key: str) -> str:
    """Return which kind of instance a key belongs to."""
    for kind in ("live", "test"):
        if key.startswith(f"sk_{kind}_"):
            return kind
    return "of an unknown kind"


def make_client(
    settings: Settings, *, rate_limit: RateLimit | None = None, **options: Any
) -> AsyncSessionsApi:
    """Create the client of a command.

    Raises:
        Refused: As for `endpoint`.
        ConfigurationError: As for `endpoint`.
    """
    from clerk_async.sessions import AsyncSessionsApi  # noqa: PLC0415 - aiohttp, not for help

    show_log(settings.out, is_verbose=settings.is_verbose)
    where = endpoint(settings)
    return AsyncSessionsApi(
        where.secret_key, base_url=where.base_url, rate_limit=rate_limit, **options
    )


def call(settings: Settings, ask: Callable[[AsyncSessionsApi], Awaitable[T]]) -> T:
    """Create a client, make one call with it, and return the result.

    Raises:
        Refused: As for `endpoint`.
        ClerkError: If the call fails.
    """
    import asyncio  # noqa: PLC0415 - not for help

    async def asking() -> T:
        async with make_client(settings) as sessions:
            return await ask(sessions)

    return asyncio.run(asking())


async def ask_instance(sessions: AsyncSessionsApi) -> Instance:
    """Fetch the instance's public keys, which only an accepted key may do.

    The request does not count towards any rate limit.

    Raises:
        ClerkError: If the key is rejected, or the service is out of reach.

    Source: https://clerk.com/docs/reference/backend-api/tag/JWKS
    """
    from clerk_async.http import operations  # noqa: PLC0415 - not for help

    request = operations.Request(operations.JWKS, "/jwks")
    before = time.time()
    answer = await sessions._calls.call(request)  # noqa: SLF001 - for its headers
    return Instance(
        _instance_id(answer.body), _clock_ahead(answer.headers, (before + time.time()) / 2)
    )


async def check_instance(settings: Settings, sessions: AsyncSessionsApi) -> Instance:
    """Fetch the instance before a bulk run, so that the run does not start in vain.

    It is enough that the service is reachable and doesn't reject the key; if the response is wrong
    in another way (such as from a gateway that hides `/jwks`), that is printed as a note.

    Raises:
        ClerkError: If the key is rejected, or the service is out of reach.
    """
    try:
        return await ask_instance(sessions)
    except ClerkError as error:
        if exit_code_of(error) == KEY_REFUSED or is_out_of_reach(error):
            error.add_note("nothing was sent")
            raise
        told = error_text(error) if isinstance(error, ApiError) else type(error).__name__
        settings.out.note(f"note: the secret key could not be checked beforehand: {told}")
        return Instance(None, None)


def _instance_id(body: bytes) -> str | None:
    try:
        key_ids = [key["kid"] for key in json.loads(body)["keys"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return next((kid for kid in key_ids if isinstance(kid, str) and kid.startswith("ins_")), None)


def _clock_ahead(headers: Mapping[str, str], now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - heavy, and seldom needed

    try:
        date = parsedate_to_datetime(headers["Date"])
        # The header is cut to whole seconds, so half a second later is the likeliest time.
        return now - date.timestamp() - 0.5
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def text_of(path: str, what: str) -> str:
    """Return the text of a small file, which may be UTF-16, as PowerShell writes it.

    Raises:
        Refused: If it can't be read.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_KEY_FILE_AT_MOST)
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"can't read {what}: {why}") from None


def _read_key(path: str) -> str:
    text = text_of(path, f"the key file {path}")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    settings = [match for line in lines if (match := _ASSIGNMENT.fullmatch(line))]
    if settings:
        keys = {_value(match[2]) for match in settings if match[1] == KEY_VARIABLE}
        if len(keys) != 1:
            found = "several different" if keys else "no"
            raise Refused(f"the key file {path} has {found} {KEY_VARIABLE}= lines")
        return keys.pop()
    if len(lines) != 1:
        found = "several lines" if lines else "nothing"
        raise Refused(
            f"the key file {path} must contain nothing but the key, or a {KEY_VARIABLE}= line; "
            f"it contains {found}"
        )
    return lines[0]


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else _COMMENT.sub("", text).strip()
