"""Reports that show local variables of frames, as by Sentry and rich, contain no secret."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import anyio
import pytest
from hunting import chain, places
from talkative import Talkative

import clerk_async
from clerk_async import AsyncSessionsApi, ClientClosedError
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

KEY: Final = "sk_test_PLANTEDKEYPLANTEDKEYPLANTEDKEY"
COOKIE: Final = "__session=PLANTED; Path=/; HttpOnly"
HALF: Final = f"HTTP/1.1 200 OK\r\nSet-Cookie: {COOKIE}\r\nContent-Length: 99\r\n\r\n{{".encode()


@pytest.fixture(autouse=True)
def _key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the key by environment, because arguments are in the frames of the caller."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeClerk]:
    """Yield one service for the whole table."""
    with FakeClerk(secret_key=KEY) as running:
        yield running


class Stage:
    """A call that is stuck at some point.

    Args:
        fake: The service.
        name: The point.
    """

    def __init__(self, fake: FakeClerk, name: str) -> None:
        self.fake = fake
        self.name = name
        self.session_id = fake.add_session(user_id="user_1").id
        self._silent = socket.create_server(("127.0.0.1", 0))
        self._halting = Talkative(lambda _: HALF)
        self._halting.__enter__()

    def client(self, **options: Any) -> AsyncSessionsApi:
        """Make a client whose next call gets stuck."""
        fake = self.fake
        base_url = fake.base_url
        if self.name == "waiting for the answer":
            fake.inject(Fault.hold())
        elif self.name == "reading the body":
            base_url = self._halting.base_url
        elif self.name == "in a pause":
            fake.inject(Fault.status(429, headers={"Retry-After": "20", "Set-Cookie": COOKIE}))
        elif self.name == "connecting":
            base_url = f"https://127.0.0.1:{self._silent.getsockname()[1]}/v1"
        return AsyncSessionsApi(base_url=base_url, pool_size=1, **options)

    async def close(self) -> None:
        """Release whatever is stuck."""
        self.fake.clear_faults()
        self.fake.release()
        self._silent.close()
        self._halting.__exit__()
        await asyncio.sleep(0)  # a transport closes its socket one turn of the loop later


ENDS: Any = (TimeoutError, asyncio.CancelledError, BaseExceptionGroup)
STAGES: Final = ("waiting for the answer", "reading the body", "in a pause", "connecting")


@pytest.fixture(params=STAGES)
async def stage(request: pytest.FixtureRequest, fake: FakeClerk) -> AsyncGenerator[Stage]:
    """Return each point where a call can be stuck."""
    made = Stage(fake, request.param)
    yield made
    await made.close()


async def by_timeout(call: Awaitable[object]) -> None:
    """End it with asyncio.timeout."""
    async with asyncio.timeout(0.1):
        await call


async def by_wait_for(call: Awaitable[object]) -> None:
    """End it with asyncio.wait_for, as older code does."""
    await asyncio.wait_for(call, 0.1)


async def by_cancelling(call: Awaitable[object]) -> None:
    """Cancel its task."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.1)
    task.cancel("enough")
    await task


async def by_anyio(call: Awaitable[object]) -> None:
    """End it with an anyio scope."""
    with anyio.fail_after(0.1):
        await call


async def by_a_sibling(call: Awaitable[object]) -> None:
    """End it through a failing sibling in its task group."""

    async def fail() -> None:
        await asyncio.sleep(0.1)
        raise LookupError("a sibling")

    async def wait() -> None:
        try:
            await call
        finally:  # as in clean-up code: an error raised here is chained to the cancellation
            raise KeyError("tidying up")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(wait())


async def by_an_anyio_group(call: Awaitable[object]) -> None:
    """End it through anyio's task group."""

    async def wait() -> None:
        await call

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await asyncio.sleep(0.1)
        raise LookupError("the host")


async def while_handling_another(call: Awaitable[object]) -> None:
    """End it within an error handler, whose own error is chained too."""
    try:
        dict[str, int]()["before"]
    except LookupError:
        async with asyncio.timeout(0.1):
            await call


WAYS: Final[tuple[Callable[[Awaitable[object]], Awaitable[None]], ...]] = (
    by_timeout,
    by_wait_for,
    by_cancelling,
    by_anyio,
    by_a_sibling,
    by_an_anyio_group,
    while_handling_another,
)


@pytest.mark.promise("no-secret-in-frames")
@pytest.mark.parametrize("way", WAYS)
async def test_no_frame_of_a_call_ended_from_outside_has_a_secret(
    way: Callable[[Awaitable[object]], Awaitable[None]], stage: Stage
) -> None:
    """However a caller ends a stuck call, and wherever it is stuck."""
    async with stage.client() as client:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            await way(client.get(stage.session_id))
    error: Any = caught.value
    assert isinstance(error, ENDS), error
    assert places(error) == []
    if way is while_handling_another:
        before = [link for link in chain(error) if isinstance(link, LookupError)]
        assert before[0].__traceback__ is not None


OPERATIONS: Final[dict[str, Callable[[Any, str], Awaitable[object]]]] = {
    "refresh": lambda client, session_id: client.refresh(
        session_id,
        expired_token="e",
        refresh_token="r",
        request_origin="o",
        request_headers={"Cookie": "a=b"},
    ),
    "with_http_info": lambda client, session_id: client.with_http_info.revoke(session_id),
    "iterate": lambda client, _: client.iterate(user_id="user_1").__anext__(),
    "revoke_many": lambda client, session_id: client.revoke_many([session_id]),
    "revoke_all": lambda client, _: client.revoke_all(user_id="user_1"),
    "stream": lambda client, session_id: client.revoke_stream([session_id]).__anext__(),
    "a view": lambda client, session_id: client.with_options(timeout=9.0).get(session_id),
}


@pytest.mark.promise("no-secret-in-frames")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_frame_of_any_operation_has_a_secret(operation: str, fake: FakeClerk) -> None:
    """Including bulk runs, streams and pages."""
    made = Stage(fake, "waiting for the answer")
    try:
        async with made.client() as client:
            with pytest.raises(BaseException) as caught:  # noqa: PT011
                await by_timeout(OPERATIONS[operation](client, made.session_id))
            fake.release()
    finally:
        await made.close()
    assert isinstance(caught.value, TimeoutError)
    assert places(caught.value) == []


@pytest.mark.promise("no-secret-in-frames")
async def test_no_frame_of_a_call_ended_by_closing_has_a_secret(stage: Stage) -> None:
    """Another task closes the client."""
    client = stage.client()
    call = asyncio.ensure_future(client.get(stage.session_id))
    await asyncio.sleep(0.1)
    await client.aclose()
    with pytest.raises(ClientClosedError) as caught:
        await call
    assert places(caught.value) == []


@pytest.mark.parametrize("event", ["on_request_start", "on_request_end"])
async def test_an_error_in_a_hook_keeps_the_hooks_own_frame(event: str, fake: FakeClerk) -> None:
    """Its author needs to see where it failed; aiohttp's frames around it are removed."""
    hooks = aiohttp.TraceConfig()

    async def fail(*_: object) -> None:
        raise LookupError("in the hook")

    getattr(hooks, event).append(fail)
    async with AsyncSessionsApi(base_url=fake.base_url, trace_configs=[hooks]) as client:
        with pytest.raises(LookupError) as caught:
            await client.get("sess_1")
    names = [frame.f_code.co_name for frame, _ in walk_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    files = {Path(frame.f_code.co_filename) for frame, _ in walk_tb(caught.value.__traceback__)}
    assert not [file for file in files if Path(aiohttp.__file__).parent in file.parents]
    assert any(Path(clerk_async.__file__).parent in file.parents for file in files)
    assert [place for place in places(caught.value) if "fail" not in place] == []


@pytest.mark.promise("no-secret-in-frames")
async def test_no_frame_with_the_users_session_has_a_secret(stage: Stage) -> None:
    """Though aiohttp's frames belong to the user's session."""
    async with aiohttp.ClientSession() as theirs:
        client = stage.client(client_session=theirs)
        with pytest.raises(TimeoutError) as caught:
            await by_timeout(client.get(stage.session_id))
    assert places(caught.value) == []
