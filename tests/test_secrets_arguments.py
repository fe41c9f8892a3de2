"""Arguments that are secrets appear in no frame of the errors that they cause."""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from hunting import places

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    AsyncWebhookReceiver,
    ClerkError,
    RetryPolicy,
    SessionsApi,
    SharedState,
    TokenVerifier,
    WebhookReceiver,
    WebhookVerificationError,
)
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.promise("no-secret-in-frames"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

KEY: Final = "sk_test_PLANTEDKEYPLANTEDKEYPLANTEDKEY"
TOKEN: Final = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.PLANTED.PLANTED"
ONCE: Final = RetryPolicy(attempts=1)

CLIENTS: Final[dict[str, Callable[[], object]]] = {
    f"{kind.__name__} {options}": partial(kind, KEY, **options)
    for kind in (AsyncSessionsApi, SessionsApi)
    for options in (
        {"headers": {"Accept": "x"}},
        {"headers": {"X-Key": "PLANTED\n"}},
        {"base_url": "http://example.com"},
        {"timeout": -1},
        {"retry": 3},
        {"rate_limit": 3},
        {"pool_size": 0},
        {"proxy": "http://user:PLANTED@[bad"},
        {"api_version": "x\n"},
        {"trace_configs": ["x"]},
        {"shared_state": "redis://user:PLANTED@[bad"},
        {"a_typing_mistake": True},
    )
}
OTHERS: Final[dict[str, Callable[[], object]]] = {
    "a bad key": lambda: SessionsApi(f"{KEY} PLANTED"),
    "another kind of key": lambda: AsyncSessionsApi(f"pk_{KEY}"),
    "a secret key as public key": lambda: TokenVerifier(jwt_key=KEY),
    "a client that is a key": lambda: AsyncTokenVerifier(sessions=KEY),  # type: ignore[arg-type]
    "a password of Redis": lambda: SharedState("ftp://user:PLANTED@host"),
    "a signing secret": lambda: WebhookReceiver(sessions=SESSIONS, signing_secret="PLANTED!"),
    "two signing secrets": lambda: AsyncWebhookReceiver(
        sessions=SESSIONS, signing_secret=["whsec_PLANTED=", "PLANTED!"]
    ),
}
SESSIONS: Final[Any] = None


@pytest.mark.parametrize("make", [*CLIENTS.values(), *OTHERS.values()], ids=[*CLIENTS, *OTHERS])
def test_a_rejected_argument_is_in_no_frame(make: Callable[[], object]) -> None:
    """A constructor raises its error from a frame without secrets."""
    with pytest.raises((ClerkError, TypeError)) as caught:
        make()
    assert places(caught.value) == []


ENVIRONMENTS: Final[dict[str, dict[str, str]]] = {
    "a bad key": {"CLERK_SECRET_KEY": f"{KEY} PLANTED"},
    "a publishable key": {"CLERK_SECRET_KEY": f"pk_{KEY}"},
    "a bad address": {"CLERK_SECRET_KEY": KEY, "CLERK_API_URL": "http://example.com"},
    "a bad proxy": {
        "CLERK_SECRET_KEY": KEY,
        "CLERK_API_URL": "https://a.example",
        "HTTPS_PROXY": "http://user:PLANTED@[bad",
    },
}


@pytest.mark.parametrize("kind", [AsyncSessionsApi, SessionsApi])
@pytest.mark.parametrize("trouble", ENVIRONMENTS)
def test_a_bad_environment_variable_is_in_no_frame(
    kind: type[AsyncSessionsApi | SessionsApi], trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set before the client is made, or found by its first call."""
    with pytest.raises(ClerkError) as caught:
        use(kind(retry=ONCE), set_between(monkeypatch, ENVIRONMENTS[trouble]))
    assert places(caught.value) == []
    with pytest.raises(ClerkError) as caught:
        use(kind(retry=ONCE), lambda client: client.get("sess_1"))
    assert places(caught.value) == []


def set_between(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> Callable[[Any], object]:
    """Return a call that sets environment variables before it uses a client."""

    def call(client: Any) -> object:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return client.get("sess_1")

    return call


def use(client: AsyncSessionsApi | SessionsApi, call: Callable[[Any], object]) -> object:
    """Use a client, sync or async, and close it."""
    if isinstance(client, SessionsApi):
        with client:
            return call(client)

    async def run() -> object:
        async with client:
            made: Any = call(client)
            return await made

    return asyncio.run(run())


def refresh(client: Any, session_id: str, **changes: Any) -> object:
    """Refresh, with a secret in every argument that may be one."""
    arguments = {
        "expired_token": TOKEN,
        "refresh_token": "rt_PLANTED",
        "request_origin": "https://a.example",
        "request_headers": {"Cookie": "a=PLANTED"},
    }
    return client.refresh(session_id, **{**arguments, **changes})


CALLS: Final[dict[str, Callable[[Any, str], object]]] = {
    "refresh": refresh,
    "refresh, with_http_info": lambda client, one: refresh(client.with_http_info, one),
    "refresh, a bad id": lambda client, _: refresh(client, "a/b"),
    "refresh, a bad token": lambda client, one: refresh(client, one, expired_token="\0PLANTED"),
    "refresh, a bad origin": lambda client, one: refresh(client, one, request_origin=3),
    "refresh, bad headers": lambda client, one: refresh(
        client, one, request_headers={"Cookie": "PLANTED", "A": 3}
    ),
    "verify": lambda client, one: client.verify(one, TOKEN),
    "verify, with_http_info": lambda client, one: client.with_http_info.verify(one, TOKEN),
    "verify, a bad id": lambda client, _: client.verify("a/b", TOKEN),
    "create_token": lambda client, one: client.create_token(one),
    "create_token, with_http_info": lambda client, one: client.with_http_info.create_token(one),
}
TROUBLES: Final[dict[str, Fault]] = {
    "refused": Fault.status(400, count=None),
    "broken": Fault.status(500, count=None),
    "cut": Fault.cut("after", count=None),
    "not JSON": Fault.not_json(f"PLANTED {TOKEN}", count=None),
    "of another shape": Fault.wrong_shape({"jwt": ["PLANTED"], "id": ["PLANTED"]}, count=None),
    "not the cookies": Fault.wrong_shape(
        {"object": "cookies", "cookies": ["a=PLANTED", 3]}, count=None
    ),
    "not HTTP": Fault.raw(b"HTTP/1.1 200 OK\r\nX-\0: PLANTED\r\n\r\n", count=None),
}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeClerk]:
    """Yield one service for the whole table."""
    with FakeClerk(secret_key=KEY) as running:
        running.add_session(session_id="sess_1")
        yield running


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_failed_call_has_no_secret_in_a_frame(
    call: str, trouble: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the given tokens nor those of the response."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    fake.clear_faults()
    fake.inject(TROUBLES[trouble])
    for kind in (AsyncSessionsApi, SessionsApi):
        with pytest.raises(ClerkError) as caught:
            use(kind(base_url=fake.base_url, retry=ONCE), lambda made: CALLS[call](made, "sess_1"))
        assert places(caught.value) == []


@pytest.mark.parametrize("token", [TOKEN, "PLANTED", "eyJ.PLANTED", f"{TOKEN}\0"])
def test_a_rejected_token_is_in_no_frame(
    token: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sync or async verifier; the same for an unreadable request."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    fake.clear_faults()
    assert places(raised_by_verifiers(fake, lambda made: made.verify(token))) == []
    assert places(raised_by_verifiers(fake, lambda made: made.authenticate_request(token))) == []


def raised_by_verifiers(fake: FakeClerk, call: Callable[[Any], object]) -> ExceptionGroup[Any]:
    """Use a verifier of each kind, and return the errors that they raise."""
    options: dict[str, Any] = {"base_url": fake.base_url, "retry": ONCE}
    raised: list[Exception] = []
    for kind, verifier in ((SessionsApi, TokenVerifier), (AsyncSessionsApi, AsyncTokenVerifier)):

        def verify(client: Any, verifier: Any = verifier) -> object:
            return call(verifier(sessions=client, authorized_parties=PARTIES))

        with pytest.raises(Exception) as caught:  # noqa: PT011 - of all kinds
            use(kind(**options), verify)
        raised.append(caught.value)
    return ExceptionGroup("all", raised)


def a_party(origin: str) -> bool:
    """A user's function that fails for some origins."""
    if origin == "https://fails.example":
        raise LookupError(origin)
    return True


PARTIES: Final = a_party


def test_a_session_that_can_not_be_checked_shows_no_token_in_a_frame(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid token is a secret even more."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    fake.clear_faults()
    fake.inject(Fault.status(500, operation="get", count=None))
    token = fake.mint(fake.sessions["sess_1"], expires_in=600)
    raised = raised_by_verifiers(fake, lambda made: made.verify(token, check_session=True))
    assert places(raised, token) == []


def test_frames_of_the_users_own_functions_keep_their_locals(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If such a function fails, its author needs to see the values."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    fake.clear_faults()
    elsewhere = fake.add_session(authorized_party="https://fails.example")
    token = fake.mint(elsewhere, expires_in=600)
    raised = raised_by_verifiers(fake, lambda verifier: verifier.verify(token))
    for error in raised.exceptions:
        last = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        assert last.f_locals == {"origin": "https://fails.example"}
    assert places(raised, token) == []


WEBHOOK: Final = {"svix-id": "msg_1", "svix-timestamp": "1", "svix-signature": "v1,PLANTED"}


def test_a_rejected_webhook_is_in_no_frame() -> None:
    """Neither its headers nor the signing secret are in a frame."""
    receiver = WebhookReceiver(sessions=SESSIONS, signing_secret="whsec_UExBTlRFRA==")
    with pytest.raises(WebhookVerificationError) as caught:
        receiver.receive(WEBHOOK, b'{"a": "PLANTED"}')
    assert places(caught.value, "UExBTlRFRA==") == []
