"""Fixtures of every test: a clean environment, a check for blocked loops, and a fake service."""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blockbuster import BlockBuster
    from cli_programs import InProcess
    from redis_servers import RedisServer

_FROM_OUTSIDE = ("CLERK_", "SSL_CERT_", "PYTHONASYNCIODEBUG", "NO_COLOR", "FORCE_COLOR")
_MAY_BLOCK = (
    ("clerk_async/bulk/journal_file.py", "append"),
    ("importlib/__init__.py", "import_module"),
    ("<frozen importlib._bootstrap>", "_find_and_load"),
    ("warnings.py", "_formatwarnmsg_impl"),
    ("linecache.py", "updatecache lazycache"),
)
_NUMBERS = itertools.count()

# a machine may stall for seconds while an example is drawn or runs; and the fixtures of tests with
# examples keep nothing between two of them
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any machine")


def _is_no_slow_turn(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Executing %s took")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options that let chaos and soak tests run longer."""
    group = parser.getgroup("clerk_async")
    group.addoption("--chaos-seeds", type=int, default=240, help="seeds of chaos to run")
    group.addoption("--chaos-seed", type=int, default=None, help="the one seed to repeat")
    group.addoption("--chaos-order", type=int, default=None, help="the one search to repeat")
    group.addoption("--soak-seconds", type=float, default=60.0, help="how long the soak lasts")
    group.addoption(
        "--redis-server",
        default="redis-server",
        help="the server that holds the shared state: valkey-server",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register our marks, and let Ctrl-C reach the programs that tests start.

    A shell without job control makes background processes ignore SIGINT, and the programs would
    inherit that. In its debug mode asyncio also warns of slow turns of a loop, which are nobody's
    fault on a busy machine.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("asyncio").addFilter(_is_no_slow_turn)
    config.addinivalue_line(
        "markers",
        "may_block: this test blocks its event loop on purpose, so the loop isn't watched",
    )


@pytest.fixture(autouse=True)
def _clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep the machine's keys, addresses, proxies, certificates and journals out of every test."""
    state = tmp_path_factory.getbasetemp() / f"state-{next(_NUMBERS)}"  # made when first used
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    for name in list(os.environ):
        if name.startswith(_FROM_OUTSIDE) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["asyncio", *["uvloop"] * (find_spec("uvloop") is not None)])
def each_programs_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let sync clients of programs run once on asyncio and once on uvloop; return the loop's name.

    Development mode rules uvloop out, so the second run uses Python's memory checks instead.
    """
    kind: str = request.param
    monkeypatch.setenv("CLERK_ASYNC_NO_UVLOOP", "1" if kind == "asyncio" else "")
    if kind == "uvloop":
        monkeypatch.setenv("PYTHONDEVMODE", "")
        monkeypatch.setenv("PYTHONMALLOC", "debug")
        monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    return kind


@pytest.fixture
def each_private_loop(each_programs_loop: str) -> str:
    """Let sync clients of the test itself run once on asyncio and once on uvloop."""
    if each_programs_loop == "uvloop" and sys.flags.dev_mode:
        pytest.skip("development mode keeps sync clients on asyncio's loop")
    return each_programs_loop


@pytest.fixture(scope="session")
def _watched() -> Iterator[BlockBuster]:
    """Report a blocking call of the library on a running event loop as an error.

    A journal may block to flush a line, because that is what makes it safe to kill a run, and so
    may an import on first use. The loop of FakeClerk is not watched: it belongs to the tests.
    """
    with blockbuster_ctx("clerk_async", excluded_modules=["clerk_async.testing"]) as watched:
        for function in watched.functions.values():
            for file, names in _MAY_BLOCK:
                function.can_block_in(file, set(names.split()))
        yield watched


@pytest.fixture(autouse=True)
def _nobody_blocks_the_loop(request: pytest.FixtureRequest, _watched: BlockBuster) -> None:
    """Watch this test's event loop unless the test is marked `may_block`."""
    node: Any = request.node
    if node.get_closest_marker("may_block") is None:
        _watched.activate()
    else:
        _watched.deactivate()


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Yield aioresponses, patched to work with aiohttp 3.14.

    aiohttp's ClientResponse needs a `stream_writer`, which aioresponses 0.7.9 does not pass. Remove
    this when a release of aioresponses does.
    """

    class Response(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            wanted = inspect.signature(aiohttp.ClientResponse.__init__).parameters
            if "stream_writer" in wanted:
                kwargs.setdefault("stream_writer", Mock())
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("aioresponses.core.ClientResponse", Response)
    with aioresponses() as mock:
        yield mock


@pytest.fixture
def fake() -> Iterator[FakeClerk]:
    """Yield a running service of this test."""
    with FakeClerk() as running:
        yield running


@pytest.fixture
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a running Redis server of this test."""
    from redis_servers import RedisServer, program_of  # noqa: PLC0415 - for these tests alone

    with RedisServer(tmp_path, program_of(request.config)) as running:
        yield running


@pytest.fixture
def cli(
    fake: FakeClerk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> InProcess:
    """Return a function that runs commands against the fake."""
    from cli_programs import InProcess  # noqa: PLC0415 - click, for these tests alone

    monkeypatch.setenv("CLERK_SECRET_KEY", fake.secret_key)
    monkeypatch.setenv("CLERK_API_URL", fake.base_url.removesuffix("/v1"))
    return InProcess(fake, capsys)
