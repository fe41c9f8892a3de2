"""Keys in the environment are read when they are needed, not when an app is imported."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ConfigurationError,
    SessionsApi,
    TokenVerifier,
    UnprocessableEntityError,
)
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.testing import FakeClerk

CLIENTS = [AsyncSessionsApi, SessionsApi]
VERIFIERS = [AsyncTokenVerifier, TokenVerifier]


@pytest.fixture(autouse=True)
def without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all secrets from the environment, as when an image is built."""
    for name in ("CLERK_SECRET_KEY", "CLERK_API_URL", "CLERK_JWT_KEY"):
        monkeypatch.delenv(name, raising=False)


def did(act: Callable[[], Any]) -> Any:
    """Call a function, and await the result if it is awaitable."""
    outcome = act()
    if not inspect.isawaitable(outcome):
        return outcome

    async def wait() -> Any:
        return await outcome

    return asyncio.run(wait())


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeClerk) -> None:
    """Set the environment to a fake service."""
    monkeypatch.setenv("CLERK_SECRET_KEY", fake.secret_key)
    monkeypatch.setenv("CLERK_API_URL", fake.base_url.removesuffix("/v1"))


CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda client: client.get("sess_1"),
    "a view": lambda client: client.with_options(timeout=1.0).list(user_id="user_1"),
    "with_http_info": lambda client: client.with_http_info.revoke("sess_1"),
    "revoke_many": lambda client: client.revoke_many(["sess_1"]),
    "revoke_all": lambda client: client.revoke_all(user_id="user_1"),
    "an empty revoke_many": lambda client: client.revoke_many([]),
}


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("name", CALLS)
def test_a_missing_key_raises_at_the_first_call(make: Any, name: str) -> None:
    """Construction succeeds, so that an app can be imported without secrets."""
    client = make()
    assert "api.clerk.com" in repr(client)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="CLERK_SECRET_KEY"):
            did(lambda: CALLS[name](client))


@pytest.mark.parametrize("make", CLIENTS)
def test_a_client_without_a_key_opens_and_closes(make: Any) -> None:
    """Frameworks start and stop apps whose routes nobody calls."""
    client = make()
    did(client.aclose if hasattr(client, "aclose") else client.close)


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", CLIENTS)
def test_the_environment_is_read_at_the_first_call_and_once(
    make: Any, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads key and address together; later changes have no effect."""
    session = fake.add_session(user_id="user_1")
    client = make()
    with pytest.raises(ConfigurationError):
        did(lambda: client.get(session.id))
    use(monkeypatch, fake)
    found = did(lambda: client.get(session.id))
    assert found.id == session.id
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_another")
    monkeypatch.setenv("CLERK_API_URL", "http://127.0.0.1:9")
    assert did(lambda: client.get(session.id)).id == session.id
    assert fake.base_url in repr(client)


@pytest.mark.parametrize("make", CLIENTS)
def test_a_key_that_is_replaced_before_the_first_call_is_not_used(
    make: Any, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may point an app at its fake after the app was imported with a real key."""
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_real")
    client = make()
    use(monkeypatch, fake)
    session = fake.add_session(user_id="user_1")
    assert did(lambda: client.get(session.id)).id == session.id


@pytest.mark.parametrize("make", CLIENTS)
def test_a_key_that_was_removed_from_the_environment_still_works(
    make: Any, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some programs remove secrets after start-up, so that no child process inherits them."""
    use(monkeypatch, fake)
    client = make()
    monkeypatch.delenv("CLERK_SECRET_KEY")
    monkeypatch.delenv("CLERK_API_URL")
    session = fake.add_session(user_id="user_1")
    assert did(lambda: client.get(session.id)).id == session.id


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize(
    ("name", "value"), [("CLERK_SECRET_KEY", "pk_test_x"), ("CLERK_API_URL", "http://x.example")]
)
def test_a_malformed_value_is_rejected_as_soon_as_it_is_read(
    make: Any, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is at construction if it exists by then, otherwise at the first call."""
    client = make()
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_x")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError):
        make()
    with pytest.raises(ConfigurationError):
        did(lambda: client.get("sess_1"))


@pytest.mark.promise("no-secret-shown")
async def test_a_late_key_is_redacted_too(fake: FakeClerk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that echoes it is redacted, as if the key had been an argument."""
    client = AsyncSessionsApi()
    info = client.with_http_info
    use(monkeypatch, fake)
    body = {"errors": [{"code": "odd", "message": f"the key is {fake.secret_key}"}]}
    fake.inject(Fault.status(422, body=body))
    async with client:
        with pytest.raises(UnprocessableEntityError) as caught:
            await info.get("sess_1")
        shown = f"{caught.value} {caught.value!r} {client!r} {info!r} {client._shared.settings!r}"
    assert "odd" in shown
    assert fake.secret_key not in shown


@pytest.mark.promise("settings")
@pytest.mark.parametrize("make", VERIFIERS)
def test_a_verifier_without_keys_raises_at_the_first_token(
    make: Any, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its methods does; later it uses a key that was added to the environment."""
    verifier = make()
    assert verifier.key_status().source == "jwt_key"
    token = fake.mint(fake.add_session(user_id="user_1"))
    headers = {"Authorization": f"Bearer {token}"}
    for act in (
        lambda: verifier.verify(token),
        lambda: verifier.authenticate_request(headers),
        verifier.warm_up,
    ):
        with pytest.raises(ConfigurationError, match="needs keys"):
            did(act)
    monkeypatch.setenv("CLERK_JWT_KEY", fake.jwt_key)
    assert did(lambda: verifier.verify(token)).user_id == "user_1"
    monkeypatch.setenv("CLERK_JWT_KEY", "garbage")
    assert did(lambda: verifier.authenticate_request(headers)).is_signed_in


@pytest.mark.promise("settings")
@pytest.mark.parametrize(("make_client", "make"), list(zip(CLIENTS, VERIFIERS, strict=True)))
def test_a_verifier_whose_client_has_no_key_raises(
    make_client: Any, make: Any, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `ConfigurationError`, because waiting for the service would not help."""
    verifier = make(sessions=make_client())
    token = fake.mint(fake.add_session(user_id="user_1"))
    headers = {"Authorization": f"Bearer {token}"}
    for act in (
        lambda: verifier.verify(token),
        lambda: verifier.authenticate_request(headers),
        verifier.warm_up,
    ):
        with pytest.raises(ConfigurationError, match="CLERK_SECRET_KEY"):
            did(act)
    use(monkeypatch, fake)
    assert did(lambda: verifier.verify(token)).user_id == "user_1"
