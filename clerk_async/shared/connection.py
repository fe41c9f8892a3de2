"""Commands to Redis, each with a timeout, and connections that are always released."""

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
"""Seconds for a command that must connect first, if the command's own timeout is shorter: TLS and
the login take several round trips."""

_ONE_OF_A_CLUSTER: Final = (
    "it is a node of a cluster, and what is shared is at another: use SharedState(client=…) with a "
    "redis.asyncio.RedisCluster"
)
_LONGEST_REASON: Final = 200
_TURN: Final = 0.02
"""Seconds that a reply may take to get through an event loop that was blocked."""


class AwayError(Exception):
    """Redis didn't reply, or replied with an error; the command may or may not have run."""


def unreadable(error: Exception) -> AwayError:
    """Return the error for a reply that can't be read: the server there is not Redis."""
    return AwayError(f"its reply can't be read: {type(error).__name__}")


class RedisConnection:
    """A redis-py client in one event loop."""

    def __init__(self, state: SharedState) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._client, self._is_ours = state.open_client()
        self._timeout = state.timeout
        self._connect_timeout = max(state.timeout, CONNECT_TIMEOUT)
        self._is_open = False

    async def connect(self) -> None:
        """Connect unless that is done, so that the next command has its own timeout.

        Raises:
            AwayError: As `command` does.
        """
        if not self._is_open:
            await self.command("TIME")

    async def command(self, *words: str | bytes | float, wait: float = 0.0) -> Any:
        """Send a command and return its reply, as redis-py does.

        Args:
            words: The command.
            wait: Seconds that the command asks Redis to wait before it replies.

        Raises:
            AwayError: If no reply came in time, or the reply is an error.
        """
        return await self._bounded(self._client.execute_command(*words), wait)

    async def run_script(
        self, script: str, digest: str, keys: tuple[str, ...], *words: str | bytes | float
    ) -> Any:
        """Run a script; send its text only if Redis doesn't have it cached.

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
        from redis.exceptions import MovedError, RedisError  # noqa: PLC0415 - loaded with the state

        seconds = wait + (self._timeout if self._is_open else self._connect_timeout)
        try:
            async with _within(seconds):
                found = await answer
        except TimeoutError:
            told = f"no answer within {seconds:g} s"
        except MovedError:
            told = _ONE_OF_A_CLUSTER
        except (ValueError, TypeError, LookupError) as error:  # redis-py couldn't read the reply
            told = str(unreadable(error))
        except (RedisError, OSError, RuntimeError) as error:
            if not self.loop.is_running():  # a GeneratorExit that redis-py has replaced
                raise GeneratorExit from None
            told = redact(str(error))[:_LONGEST_REASON] or type(error).__name__
        else:
            self._is_open = True
            return found
        self._is_open = False
        raise AwayError(told)  # outside the try, because nothing may be chained to it

    async def close(self) -> None:
        """Close the client if it is ours, within a time limit."""
        if self._is_ours:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await self._client.aclose()
            self.abandon()

    def abandon(self, *, is_parents: bool = False) -> None:
        """Drop connections that don't close, or whose event loop is gone.

        Args:
            is_parents: Whether they belong to the parent process of a fork.
        """
        if not self._is_ours:
            return
        pool: Any = self._client.connection_pool
        idle = getattr(pool, "_available_connections", ())
        busy = getattr(pool, "_in_use_connections", ())
        writers = [getattr(each, "_writer", None) for each in [*idle, *busy]]
        for each in [*idle, *busy]:
            each._writer = None  # noqa: SLF001 - else it would warn that it wasn't closed
        transports = [writer.transport for writer in writers if writer is not None]
        is_gone = is_parents or self.loop.is_closed()
        let_go(transports, None if is_gone else self.loop)
        with contextlib.suppress(RuntimeError):
            if not is_gone:  # a writer that is collected before its transport would warn
                self.loop.call_soon_threadsafe(writers.clear)
        for writer in writers if is_gone else ():
            if writer is not None:
                writer._transport = _Closed()  # noqa: SLF001 - else it would use the loop, and warn


class _Closed(asyncio.Transport):
    def is_closing(self) -> bool:
        return True


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncGenerator[None]:
    """Raise TimeoutError after this many seconds; a little later if the event loop was blocked.

    After a blocking call, an event loop handles its timers first, and only then the reply that
    arrived in the meantime.
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
