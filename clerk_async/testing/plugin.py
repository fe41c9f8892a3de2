"""The pytest plugin: a FakeClerk for every project that has clerk_async installed.

- The fixture `fake_clerk`: one server for all tests of a process, reset before each of them.
- The setting `clerk_fake = true`: environment variables point to that server before any app or
  conftest is imported, so clients created on import use it; they too are reset before each test.

Every pytest run of such an environment loads it, so it imports nothing until it is used.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from .fake import FakeClerk

_FAKE: pytest.StashKey[FakeClerk] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the setting."""
    parser.addini(
        "clerk_fake",
        "point CLERK_SECRET_KEY and CLERK_API_URL to a FakeClerk for all tests",
        type="bool",
        default=False,
    )


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Set the environment before conftests, and the apps that they import, are loaded."""
    _lead_to_fake(early_config)
    yield


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment now if a conftest names this plugin in `pytest_plugins`."""
    _lead_to_fake(config)


def _lead_to_fake(config: pytest.Config) -> None:
    if _FAKE in config.stash or not config.getini("clerk_fake"):
        return
    fake = _started(config)
    from .keys import CryptographyMissingError  # noqa: PLC0415 - costs nothing until used

    variables: dict[str, str | None] = {
        "CLERK_SECRET_KEY": fake.secret_key,
        "CLERK_API_URL": fake.base_url.removesuffix("/v1"),
        "CLERK_JWT_KEY": None,
        "CLERK_WEBHOOK_SIGNING_SECRET": fake.webhook_secret,
    }
    with suppress(CryptographyMissingError):  # without it, nothing can verify tokens either
        variables["CLERK_JWT_KEY"] = fake.jwt_key
    before = {name: os.environ.get(name) for name in variables}
    _set_environment(variables)
    config.add_cleanup(lambda: _set_environment(before))


def _set_environment(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _started(config: pytest.Config) -> FakeClerk:
    """Return the fake of this process, and start it on first use."""
    if _FAKE not in config.stash:
        from .fake import FakeClerk  # noqa: PLC0415 - costs nothing until used

        config.stash[_FAKE] = fake = FakeClerk()
        config.add_cleanup(fake.stop)
        fake.start()
    return config.stash[_FAKE]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reset the fake and all clients before a test's fixtures are set up."""
    fake = item.config.stash.get(_FAKE, None)
    if fake is None:
        return
    fake.reset()
    fake.start()  # a test may have stopped it
    clients: Any = sys.modules.get("clerk_async.under_test")
    if clients is not None:
        clients.reset()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Release the requests that a test holds, before its fixtures wait for them."""
    fake = item.config.stash.get(_FAKE, None)
    if fake is not None:
        fake.clear_faults()
        fake.release()


@pytest.fixture
def fake_clerk(pytestconfig: pytest.Config) -> FakeClerk:
    """A running FakeClerk, the same for all tests of the process, reset before each.

    Its address never changes. With `clerk_fake = true` in pytest's configuration, clients created
    on import use it, and forget what they have learned between tests: pauses, keys, tokens,
    denials.
    """
    return _started(pytestconfig)
