"""FakeClerk: a fake Clerk Sessions API for tests, over real HTTP on loopback.

Example:
    ```python
    from clerk_async import SessionsApi
    from clerk_async.testing import FakeClerk, Fault

    with FakeClerk() as fake:
        session = fake.add_session(user_id="user_1")
        fake.inject(Fault.status(503, operation="revoke"))
        with SessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
            assert sessions.revoke(session.id).status == "revoked"
        assert [request.status for request in fake.requests] == [503, 200]
    ```

Read `fake.py` first, then `operations.py` (the response to each operation), `faults.py` (what can
go wrong) and `wire.py` (which connects both to HTTP). The client imports nothing from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exchange import ReceivedRequest
    from .fake import FakeClerk
    from .faults import Fault, Injected
    from .keys import SigningKey
    from .state import FakeSession
    from .tokens import make_claims
    from .webhooks import Delivery

__all__ = [
    "Delivery",
    "FakeClerk",
    "FakeSession",
    "Fault",
    "Injected",
    "ReceivedRequest",
    "SigningKey",
    "make_claims",
]

_HOMES = {
    "Delivery": "webhooks",
    "FakeClerk": "fake",
    "FakeSession": "state",
    "Fault": "faults",
    "Injected": "faults",
    "ReceivedRequest": "exchange",
    "SigningKey": "keys",
    "make_claims": "tokens",
}


def __getattr__(name: str) -> Any:
    # aiohttp is imported on first use, because the pytest plugin is in this package.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
