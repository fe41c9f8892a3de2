"""Details that the published description promises and no other test file checks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from clients import ONCE, ORIGIN, client_of, sync_client_of

from clerk_async import AuthenticationError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.testing import FakeClerk


async def test_verify_takes_the_token_that_create_token_returned(fake: FakeClerk) -> None:
    """Both the string and the Token that holds it are accepted, and are sent alike."""
    session = fake.add_session(user_id="user_1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        async with client_of(fake) as sessions:
            token = await sessions.create_token(session.id)
            assert (await sessions.verify(session.id, token)).id == session.id
            assert (await sessions.with_http_info.verify(session.id, token)).data.id == session.id
    sent = [request.json for request in fake.requests if request.operation == "verify"]
    assert sent == [{"token": token.jwt}] * 2


def test_sync_verify_takes_a_token_object_too(fake: FakeClerk) -> None:
    """With and without http info."""
    session = fake.add_session(user_id="user_1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with sync_client_of(fake) as sessions:
            token = sessions.create_token(session.id)
            assert sessions.verify(session.id, token).id == session.id
            assert sessions.with_http_info.verify(session.id, token.jwt).data.id == session.id


async def test_a_rejected_refresh_does_not_blame_the_key(fake: FakeClerk) -> None:
    """Its 401 is about the session, whatever the code begins with; a wrong key's is not."""
    session = fake.add_session(user_id="user_1")
    async with client_of(fake, retry=ONCE) as sessions:
        with pytest.raises(AuthenticationError) as caught:
            await sessions.refresh(
                session.id, expired_token="x", refresh_token="r", request_origin=ORIGIN
            )
    assert caught.value.code == "expired_session_token_invalid"
    assert "secret key" not in str(caught.value)
    # Arguments this short are no secrets; redacting them would have damaged the text.
    assert "expired_session_token_invalid" in str(caught.value)


async def _callback(*_: object) -> bool:
    raise AssertionError


class _Callback:
    async def __call__(self, *_: object) -> bool:
        raise AssertionError


@pytest.mark.parametrize("name", ["should_stop", "on_outcome", "on_progress"])
@pytest.mark.parametrize("callback", [_callback, _Callback()], ids=["function", "object"])
def test_the_sync_client_rejects_coroutine_functions(
    fake: FakeClerk, name: str, callback: Callable[..., object]
) -> None:
    """Nothing would await them: outcomes would be lost, and `should_stop` would always be true."""
    session = fake.add_session(user_id="user_1")
    options: dict[str, Any] = {name: callback}
    with sync_client_of(fake) as sessions:
        for call in (
            lambda: sessions.revoke_many([session.id], **options),
            lambda: sessions.revoke_stream([session.id], **options),
            lambda: sessions.revoke_all(user_id="user_1", **options),
        ):
            with pytest.raises(InvalidArgumentError, match=f"{name} must be an ordinary function"):
                call()
    assert not fake.requests
