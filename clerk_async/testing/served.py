"""The part of FakeClerk that runs: starting and stopping, where it is, what its wire shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio.to_thread

from .gauges import Gauges
from .server import HOST, ServerThread

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from .wire import Wire


class Served:
    """A server on loopback, in a thread and event loop of its own; see `FakeClerk`."""

    def __init__(self, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self._gauges = Gauges()
        self._thread = ServerThread(self._gauges, port, ssl_context)
        self._scheme = "http" if ssl_context is None else "https"

    def _make_wire(self) -> Wire:
        raise NotImplementedError

    def start(self) -> Self:
        """Start serving; does nothing while it runs. After `stop`, the port is the same again.

        Raises:
            OSError: If the port is taken.
        """
        self._thread.start(self._make_wire)
        return self

    def stop(self) -> None:
        """Close every connection and end the thread; what the fake holds stays."""
        self._thread.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)

    @property
    def _root(self) -> str:
        if not self._thread.port:
            raise RuntimeError("the fake has no address yet: use `with FakeClerk() as fake:`")
        return f"{self._scheme}://{HOST}:{self._thread.port}"

    @property
    def base_url(self) -> str:
        """The API's base URL, with its `/v1`; it stays when the fake is stopped."""
        return f"{self._root}/v1"

    @property
    def port(self) -> int:
        """The port."""
        return self._thread.port

    def drop_connections(self) -> None:
        """Close every connection from this side, idle ones too, and go on listening."""
        self._thread.drop_connections()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._gauges.open_connections

    @property
    def max_open_connections(self) -> int:
        """How many connections were ever open at once."""
        return self._gauges.max_open_connections

    @property
    def total_connections(self) -> int:
        """How many connections were ever made."""
        return self._gauges.total_connections

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now, held ones too."""
        return self._gauges.in_flight

    @property
    def max_in_flight(self) -> int:
        """How many requests were ever being answered at once."""
        return self._gauges.max_in_flight

    @property
    def held(self) -> int:
        """How many requests `Fault.hold` keeps waiting now."""
        return self._gauges.held

    def wait_for(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Block until something about the fake holds: `fake.wait_for(lambda: fake.held == 3)`.

        Raises:
            TimeoutError: If it does not within so many seconds.
        """
        self._gauges.wait_for(predicate, timeout)

    async def until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """The same as `wait_for`, for async tests: their loop goes on.

        Raises:
            TimeoutError: If it does not within so many seconds.
        """
        await self._gauges.until(predicate, timeout)
