"""The example of a WebSocket that ends with its session."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from served_apps import APPS

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.filterwarnings("ignore:Using .httpx. with")


@pytest.fixture
def client(fake: FakeClerk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client of the app, which checks sessions all the time."""
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient  # noqa: PLC0415 - needs httpx

    monkeypatch.setattr(sys, "path", [str(APPS), *sys.path])
    monkeypatch.setenv("CLERK_SECRET_KEY", fake.secret_key)
    monkeypatch.setenv("CLERK_API_URL", fake.base_url)
    socket_app: Any = import_module("socket_app")
    monkeypatch.setattr(socket_app, "LOOK_EVERY", 0.01)
    with TestClient(socket_app.app) as made:
        yield made


@pytest.mark.promise("websockets")
@pytest.mark.parametrize("ending", ["revoked", "removed"])
def test_a_socket_ends_with_its_session(ending: str, client: Any, fake: FakeClerk) -> None:
    """It outlives its token, and an outage of the service."""
    from starlette.websockets import WebSocketDisconnect  # noqa: PLC0415 - see above

    session = fake.add_session(user_id="user_1")
    headers = {"Authorization": f"Bearer {fake.mint(session)}"}
    with client.websocket_connect("/echo", headers=headers) as socket:
        fake.inject(Fault.status(422, count=3))
        for word in ("one", "two"):
            socket.send_text(word)
            assert socket.receive_text() == word
        if ending == "removed":
            fake.remove_session(session.id)
        else:
            session.status = "revoked"
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
    assert caught.value.code == 4001


def test_a_socket_without_a_session_is_rejected(client: Any) -> None:
    """It is rejected before it is accepted."""
    from starlette.websockets import WebSocketDisconnect  # noqa: PLC0415 - see above

    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/echo"):
        pass
    assert caught.value.code == 1008
