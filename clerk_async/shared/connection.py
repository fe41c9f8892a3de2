"""Commands to Redis, each within its time, and connections that are let go of whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from clerk_async.http.connections import let_go
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from clerk_async.shared.state import SharedState

CONNECT_TIMEOUT: Final = 1.0
"""Seconds in which a connection must be made, where a command's time is shorter: TLS and a login
take several round trips."""

_LONGEST_REASON: Final = 200
_TURN: Final = 0.02
"""Seconds that an answer may still be on its way through a loop that was held up."""


class AwayError(Exception):
    """Redis did not answer, or not with what was asked for; nobody knows whether it did it."""


class RedisConnection:
    """A client of redis-py in one loop."""

    def __init__(self, state: SharedState) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._client, self._is_ours = state.open_client()
        self._timeout = state.timeout
        self._connect_timeout = max(state.timeout, CONNECT_TIMEOUT)
        self._is_open = False

    async def command(self, *words: str | bytes | float, wait: float = 0.0) -> Any:
        """Send a command and give its answer, as redis-py does.

        Args:
            words: The command.
            wait: Seconds that Redis was asked to wait before it answers.

        Raises:
            AwayError: If no answer came in time, or an error did.
        """
        return await self._bounded(self._client.execute_command(*words), wait)

    async def run_script(
        self, script: str, digest: str, keys: tuple[str, ...], *words: str | bytes | float
    ) -> Any:
        """Run a script, which is sent only where Redis doesn't know it.

        Raises:
            AwayError: As `command` does.
        """
        return await self._bounded(self._run(script, digest, keys, words), 0.0)

    async def _run(
        self,
        script: str,
        digest: str,
        keys: tuple[str, ...],
        words: tuple[str | bytes | float, ...],
    ) -> Any:
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - loaded with the state

        try:
            return await self._client.execute_command("EVALSHA", digest, len(keys), *keys, *words)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script, len(keys), *keys, *words)

    async def _bounded(self, answer: Awaitable[Any], wait: float) -> Any:
        from redis.exceptions import RedisError  # noqa: PLC0415 - loaded with the state

        seconds = wait + (self._timeout if self._is_open else self._connect_timeout)
        try:
            async with _within(seconds):
                found = await answer
        except TimeoutError:
            told = f"no answer within {seconds:g} s"
        except (RedisError, OSError, RuntimeError) as error:
            told = redact(str(error))[:_LONGEST_REASON] or type(error).__name__
        else:
            self._is_open = True
            return found
        self._is_open = False
        raise AwayError(told)  # out here, as nothing may be chained to it

    async def close(self) -> None:
        """Close what is ours, within a bound."""
        if self._is_ours:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await self._client.aclose()
            self.abandon()

    def abandon(self, *, is_parents: bool = False) -> None:
        """Let go of connections whose loop can't be awaited any more, or that don't close.

        Args:
            is_parents: Were they left behind by a fork?
        """
        if not self._is_ours:
            return
        pool: Any = self._client.connection_pool
        idle = getattr(pool, "_available_connections", ())
        busy = getattr(pool, "_in_use_connections", ())
        writers = [getattr(each, "_writer", None) for each in [*idle, *busy]]
        for each in [*idle, *busy]:
            each._writer = None  # noqa: SLF001 - or it would warn that nobody closed it
        transports = [writer.transport for writer in writers if writer is not None]
        is_gone = is_parents or self.loop.is_closed()
        let_go(transports, None if is_gone else self.loop)
        with contextlib.suppress(RuntimeError):
            if not is_gone:  # a writer that goes before its transport would warn
                self.loop.call_soon_threadsafe(writers.clear)
        for transport in transports if is_gone else ():
            with contextlib.suppress(AttributeError):  # another kind of loop
                transport._closing = True  # noqa: SLF001 - or its writer would reach for the loop


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncGenerator[None]:
    """Raise TimeoutError after so long; later where the loop itself was held up meanwhile.

    A loop that comes back from something slow sees its timers first, and only then the answer that
    lay waiting.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        ends = loop.time() + seconds

        def ring() -> None:
            is_late = loop.time() - ends > _TURN
            timeout.reschedule(loop.time() + (_TURN if is_late else 0.0))

        timer = loop.call_at(ends, ring)
        try:
            yield
        finally:
            timer.cancel()
