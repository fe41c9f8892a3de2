"""Hostile responses: a call raises only our own errors, soon, and in bounded memory.

The other side may be a proxy's page, or not the service at all.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from clients import MODES, ONCE, Mode, run

from clerk_async import (
    ApiError,
    ClerkError,
    ConnectionLostError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)
from clerk_async.http.bodies import MAX_BODY
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS: Final = 20.0
"""The time limit: many times what any of it takes on a busy machine."""
DEEP: Final = 100_000


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for all tests of this module."""
    with FakeClerk() as running:
        yield running


@pytest.fixture
def enemy(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Yield a service that does what the test says."""
    shared.clear_faults()
    yield shared
    shared.clear_faults()


def reply(head: str, body: bytes = b"") -> Fault:
    """Make a fault that sends raw bytes and closes."""
    return Fault.raw(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode("latin-1") + body, count=None)


BOMB: Final = 2 * MAX_BODY
"""Bytes that a small compressed body expands to."""


def deflated(size: int) -> bytes:
    """Compress the given number of zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(b"0" * 2**20) for _ in range(size // 2**20)]
    return b"".join([*parts, packer.flush()])


ANSWERS: Final[dict[str, Callable[[], Fault]]] = {
    "a gzip bomb": lambda: Fault.huge(BOMB, compressed=True, count=None),
    "a deflate bomb": lambda: reply("Content-Encoding: deflate", deflated(BOMB)),
    "a bomb in a bomb": lambda: reply(
        "Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(b"0" * 10_000_000))
    ),
    "no gzip at all": lambda: reply("Content-Encoding: gzip\r\nContent-Length: 5", b"hello"),
    "cut gzip": lambda: reply("Content-Encoding: gzip", gzip.compress(b"{}" * 5_000)[:-20]),
    "an unknown encoding": lambda: reply("Content-Encoding: br\r\nContent-Length: 2", b"{}"),
    "1 GiB announced": lambda: reply(f"Content-Length: {2**30}", b"{"),
    "a length with 30 digits": lambda: reply("Content-Length: " + "9" * 30, b"{"),
    "a negative length": lambda: reply("Content-Length: -1", b"{}"),
    "two lengths": lambda: reply("Content-Length: 2\r\nContent-Length: 9", b"{}"),
    "a flood of headers": lambda: reply("\r\n".join(f"X-{n}: y" for n in range(50_000))),
    "an endless header": lambda: reply("X: " + "y" * 5_000_000),
    "an endless status line": lambda: Fault.raw(b"HTTP/1.1 200 " + b"O" * 5_000_000, count=None),
    "an endless chunk size": lambda: reply("Transfer-Encoding: chunked", b"f" * 5_000_000),
    "a negative chunk": lambda: reply("Transfer-Encoding: chunked", b"-5\r\nabc\r\n0\r\n\r\n"),
    "chunks of one byte": lambda: reply(
        "Transfer-Encoding: chunked", b"1\r\n[\r\n" * DEEP + b"0\r\n\r\n"
    ),
    "only 100 Continue": lambda: Fault.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, count=None),
    "an upgrade": lambda: Fault.raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", count=None),
    "status 1000": lambda: Fault.raw(b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n", count=None),
    "status 0": lambda: Fault.raw(b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", count=None),
    "status 204": lambda: Fault.raw(b"HTTP/1.1 204 No Content\r\n\r\n", count=None),
    "a zero byte": lambda: reply("X: a\x00b\r\nContent-Length: 2", b"{}"),
    "another protocol": lambda: Fault.raw(b"SSH-2.0-OpenSSH_9.6\r\n", count=None),
    "nothing": lambda: Fault.raw(b"", count=None),
    "a bottomless body": lambda: Fault.not_json(b"[" * DEEP, count=None),
    "an unknown charset": lambda: reply(
        "Content-Type: application/json; charset=\xff\r\nContent-Length: 4", b"null"
    ),
}


@pytest.mark.promise("hostile-input")
@pytest.mark.may_block  # an enemy decides how much it decodes
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_response_raises_one_of_our_errors(
    mode: Mode, name: str, enemy: FakeClerk
) -> None:
    """Whatever arrives, a call ends soon with one of our errors, and needs little memory."""
    enemy.inject(ANSWERS[name]())
    tracemalloc.start()
    began = time.monotonic()
    try:
        error = run(mode, enemy, lambda client: client.get("sess_1"), retry=ONCE, timeout=8).error
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, ApiError | TransportError | ResponseDecodeError), error
    assert time.monotonic() - began < SECONDS
    assert len(str(error)) < 2_000
    assert error.__cause__ is None
    assert peak < 1.6 * MAX_BODY, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("mode", MODES)
def test_a_good_response_still_works_afterwards(mode: Mode, enemy: FakeClerk) -> None:
    """Nothing of an enemy's data is left in the client's next connection."""
    session = enemy.add_session()
    enemy.inject(
        Fault.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n")
    )

    def first_and_second(client: Any) -> Any:
        if mode == "sync":
            with pytest.raises(ClerkError):
                client.get(session.id)
            return client.get(session.id)

        async def both() -> Any:
            with pytest.raises(ClerkError):
                await client.get(session.id)
            return await client.get(session.id)

        return both()

    assert run(mode, enemy, first_and_second).value.id == session.id


@pytest.mark.parametrize("value", ["9" * 400, "1e999", "-5", "nan", "\x01", "Wed, 99 Foo", "1;2"])
def test_a_hostile_retry_after_delays_nothing(value: str, enemy: FakeClerk) -> None:
    """A nonsensical or endless Retry-After raises at once, and leaves no timer in the loop."""
    enemy.inject(Fault.status(429, retry_after=value, count=None))
    began = time.monotonic()
    error = run("async", enemy, lambda client: client.get("sess_1"), retry=ONCE).error
    assert isinstance(error, RateLimitedError | ConnectionLostError)
    assert time.monotonic() - began < SECONDS


class Endless:
    """A server that sends a beginning, and then the same chunk again and again.

    Args:
        head: What it sends first.
        piece: The chunk that it repeats.
        pause: Seconds between the chunks.
    """

    def __init__(self, head: bytes, piece: bytes, pause: float = 0.0) -> None:
        self._head = head
        self._piece = piece
        self._pause = pause
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with self._listener.accept()[0] as connection, suppress(OSError):
            connection.settimeout(SECONDS)
            connection.recv(65_536)
            connection.sendall(self._head)
            while not self._over.wait(self._pause):
                connection.sendall(self._piece)


START: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = START + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS: Final[dict[str, tuple[tuple[Any, ...], type[ClerkError]]]] = {
    "chunks": ((CHUNKED, b"10000\r\n" + b"a" * 65_536 + b"\r\n"), ResponseDecodeError),
    "bytes without a length": ((START + b"\r\n", b"a" * 65_536), ResponseDecodeError),
    "an error's body": ((b"HTTP/1.1 500 No\r\n\r\n", b"a" * 65_536), ApiError),
    "headers": ((START, b"X-a: b\r\n" * 1000), ResponseDecodeError),
    "one header": ((START + b"X: ", b"a" * 65_536), ResponseDecodeError),
    "trailers": ((CHUNKED + b"0\r\n", b"X-a: b\r\n" * 1000), ResponseDecodeError),
    "empty lines": ((b"", b"\r\n" * 1000), RequestTimeoutError),
    "a slow body": ((START + b"Content-Length: 99999\r\n\r\n", b"a", 0.02), RequestTimeoutError),
    "slow chunks": ((CHUNKED, b"1\r\na\r\n", 0.02), RequestTimeoutError),
    "a slow header": ((START + b"X: ", b"a", 0.02), RequestTimeoutError),
}


@pytest.mark.promise("hostile-input")
@pytest.mark.may_block  # an enemy decides how much it reads
@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_response_is_given_up(name: str, enemy: FakeClerk) -> None:
    """Size and time are limited, whatever the server sends."""
    answer, expected = ENDLESS[name]
    began = time.monotonic()
    tracemalloc.start()
    try:
        with Endless(*answer) as server:
            error = run(
                "async",
                enemy,
                lambda client: client.get("sess_1"),
                base_url=server.base_url,
                retry=ONCE,
                timeout=2.0 if expected is RequestTimeoutError else SECONDS,
            ).error
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, expected), error
    assert time.monotonic() - began < SECONDS
    assert peak < 1.6 * MAX_BODY, f"{peak / 2**20:.0f} MiB"
