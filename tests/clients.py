"""How tests make clients, run each operation in either mode, and control time."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from clerk_async import AsyncSessionsApi, ClerkError, RetryPolicy, SessionsApi

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable

    import pytest

    from clerk_async.testing import FakeClerk

Call = Callable[[Any], Any]
"""What to do with a client, sync or async."""
Mode = Literal["async", "sync"]
MODES: Final[tuple[Mode, ...]] = ("async", "sync")
OPERATIONS: Final = (
    "list",
    "create",
    "get",
    "refresh",
    "revoke",
    "verify",
    "create_token",
    "create_token_from_template",
)
ORIGIN: Final = "http://localhost:3000"
ONCE: Final = RetryPolicy(attempts=1)


class Time:
    """A clock that moves only when somebody sleeps, and constant random numbers."""

    def __init__(self, draw: float = 0.5) -> None:
        self.moment = 1_000.0
        self.slept: list[float] = []
        self.drawn = draw

    def clock(self) -> float:
        """Return the seconds of the monotonic clock."""
        return self.moment

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return 1_800_000_000.0 + self.moment

    async def sleep(self, seconds: float) -> None:
        """Move the clock at once, and yield to the loop."""
        assert math.isfinite(seconds), "a NaN in a sleep breaks the loop's timers"
        assert seconds >= 0
        self.slept.append(seconds)
        self.moment += seconds
        await asyncio.sleep(0)

    def draw(self) -> float:
        """Return the next "random" number."""
        return self.drawn

    def hand_to(self, client: AsyncSessionsApi | SessionsApi) -> None:
        """Make a client use this time."""
        inner = client._async if isinstance(client, SessionsApi) else client
        shared = inner._shared
        shared.clock, shared.now = self.clock, self.now
        shared.sleep, shared.draw = self.sleep, self.draw


@attrs.frozen(kw_only=True)
class Ended:
    """How a call ended: with a value, or with one of our errors."""

    value: Any = None
    error: ClerkError | None = None


def invoke(client: Any, operation: str, fake: FakeClerk, session_id: str | None = None) -> Any:
    """Call an operation with valid arguments; with the async client, return an awaitable."""
    if session_id is None:
        session_id = fake.add_session(user_id="user_of_calls").id
    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: client.list(user_id="user_of_calls"),
        "create": lambda: client.create("user_of_calls"),
        "get": lambda: client.get(session_id),
        "refresh": lambda: client.refresh(
            session_id,
            expired_token=fake.expired_token(fake.sessions[session_id]),
            refresh_token=fake.sessions[session_id].refresh_token,
            request_origin=ORIGIN,
        ),
        "revoke": lambda: client.revoke(session_id),
        "verify": lambda: client.verify(session_id, fake.mint(fake.sessions[session_id])),
        "create_token": lambda: client.create_token(session_id),
        "create_token_from_template": lambda: client.create_token_from_template(
            session_id, "custom_hasura"
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return calls[operation]()


def run(
    mode: Mode,
    fake: FakeClerk,
    call: str | Callable[[Any], Any],
    *,
    time: Time | None = None,
    **options: Any,
) -> Ended:
    """Make a client, do one thing with it, close it, and return how that ended.

    Args:
        mode: Which client.
        fake: The service.
        call: An operation's name, or what to do with the client.
        time: The time of the client; the real time by default.
        **options: Options of the client.
    """
    arguments: dict[str, Any] = {
        "secret_key": fake.secret_key,
        "base_url": fake.base_url,
        **options,
    }

    def do(client: Any) -> Any:
        return invoke(client, call, fake) if isinstance(call, str) else call(client)

    async def in_a_loop() -> Any:
        async with AsyncSessionsApi(**arguments) as client:
            if time is not None:
                time.hand_to(client)
            pending: Awaitable[Any] = do(client)
            return await pending

    try:
        if mode == "async":
            return Ended(value=asyncio.run(in_a_loop()))
        with SessionsApi(**arguments) as client:
            if time is not None:
                time.hand_to(client)
            return Ended(value=do(client))
    except ClerkError as error:
        return Ended(error=error)


def client_of(fake: FakeClerk, **options: Any) -> AsyncSessionsApi:
    """Make an async client of a fake."""
    options.setdefault("base_url", fake.base_url)
    return AsyncSessionsApi(fake.secret_key, **options)


def sync_client_of(fake: FakeClerk, **options: Any) -> SessionsApi:
    """Make a sync client of a fake."""
    options.setdefault("base_url", fake.base_url)
    return SessionsApi(fake.secret_key, **options)


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the library logged, without what asyncio says in its debug mode."""
    return [record for record in caplog.records if record.name.startswith("clerk_async")]
