"""The pytest plugin: a `fake_clerk` fixture for everybody who has clerk_async installed.

It is loaded into every pytest run of such an environment, so it imports nothing until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .fake import FakeClerk


@pytest.fixture
def fake_clerk() -> Iterator[FakeClerk]:
    """A running FakeClerk of the test's own, stopped when the test ends."""
    from .fake import FakeClerk  # noqa: PLC0415 - costs nothing until used

    with FakeClerk() as fake:
        yield fake
