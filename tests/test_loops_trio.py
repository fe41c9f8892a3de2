"""Under trio, for example in anyio's pytest plugin, we say "asyncio only" and leave nothing."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from clients import OPERATIONS, client_of, invoke, sync_client_of

from clerk_async import AsyncTokenVerifier, ClerkError, TokenVerifier, WrongLoopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from clerk_async import AsyncSessionsApi
    from clerk_async.testing import FakeClerk

trio = pytest.importorskip("trio", reason="part of the extra named test")
PARTIES = ["http://localhost:3000"]


async def ids() -> AsyncIterator[str]:
    """Yield the ids to revoke."""
    yield "sess_1"


async def enter(client: AsyncSessionsApi) -> None:
    """Use a client as users do."""
    async with client:
        raise AssertionError


async def read(items: AsyncIterator[object]) -> None:
    """Ask an iterator for its first item."""
    await anext(items)


def entrances(client: AsyncSessionsApi, journal: Path) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return each entry point that needs an event loop."""
    return {
        "iterate": lambda: read(client.iterate(user_id="user_1")),
        "revoke_many": lambda: client.revoke_many(["sess_1"]),
        "revoke_many, of an async iterable": lambda: client.revoke_many(ids()),
        "revoke_many, with a journal": lambda: client.revoke_many(["sess_1"], journal=journal),
        "revoke_many, dry": lambda: client.revoke_many(["sess_1"], dry_run=True),
        "revoke_stream": lambda: read(client.revoke_stream(["sess_1"])),
        "revoke_all": lambda: client.revoke_all(user_id="user_1"),
        "with_http_info": lambda: client.with_http_info.get("sess_1"),
        "a view": lambda: client.with_options(timeout=1.0).get("sess_1"),
        "async with": lambda: enter(client),
    }


@pytest.mark.promise("asyncio-only")
@pytest.mark.parametrize("kind", ["operations", "others"])
def test_each_entry_point_says_asyncio_only(kind: str, fake: FakeClerk, tmp_path: Path) -> None:
    """Each raises the same error of ours, and the client works in asyncio afterwards."""
    session = fake.add_session(user_id="user_1")
    client = client_of(fake)
    doors: dict[str, Callable[[], Awaitable[Any]]] = (
        {name: partial(invoke, client, name, fake, session.id) for name in OPERATIONS}
        if kind == "operations"
        else entrances(client, tmp_path / "journal")
    )

    async def main() -> None:
        for name, door in doors.items():
            with pytest.raises(WrongLoopError, match="asyncio only") as caught:
                await door()
            assert caught.value.__cause__ is None, name
        await client.aclose()

    trio.run(main)
    assert fake.requests == []
    assert not (tmp_path / "journal").exists()


@pytest.mark.promise("asyncio-only")
def test_a_client_of_asyncio_is_not_closed_under_trio(fake: FakeClerk) -> None:
    """It raises, and continues to work in its own loop."""
    session = fake.add_session().id

    async def main() -> None:
        async with client_of(fake) as client:
            await client.get(session)

            async def close() -> None:
                with pytest.raises(WrongLoopError, match="asyncio only"):
                    await client.aclose()

            await asyncio.to_thread(trio.run, close)
            assert (await client.get(session)).id == session

    asyncio.run(main())


@pytest.mark.promise("asyncio-only")
def test_a_verifier_says_so_if_it_needs_the_service(fake: FakeClerk) -> None:
    """With known keys it works anywhere; an attempt under trio does no harm."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)
    client = client_of(fake)
    by_client = AsyncTokenVerifier(sessions=client, authorized_parties=PARTIES)
    by_issuer = AsyncTokenVerifier(issuer=fake.issuer, authorized_parties=PARTIES)
    by_key = AsyncTokenVerifier(jwt_key=fake.jwt_key, sessions=client, authorized_parties=PARTIES)
    request = {"Authorization": f"Bearer {token}"}

    async def under_trio() -> None:
        for verifier in (by_client, by_issuer):
            doors: tuple[Callable[[], Awaitable[object]], ...] = (
                partial(verifier.verify, token),
                partial(verifier.authenticate_request, request),
                verifier.warm_up,
            )
            for door in doors:
                with pytest.raises(WrongLoopError, match="asyncio only"):
                    await door()
        assert (await by_key.verify(token)).user_id == "user_1"
        assert (await by_key.authenticate_request(request)).is_signed_in
        with pytest.raises(WrongLoopError, match="asyncio only"):
            await by_key.verify(token, check_session=True)

    async def in_asyncio() -> None:
        async with client:
            for verifier in (by_client, by_issuer, by_key):
                assert (await verifier.verify(token)).user_id == "user_1"

    trio.run(under_trio)
    asyncio.run(in_asyncio())


@pytest.mark.promise("asyncio-only")
def test_the_sync_client_works_in_trios_threads(fake: FakeClerk) -> None:
    """The error recommends this."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)

    async def main() -> None:
        with sync_client_of(fake) as client:
            verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
            found = await trio.to_thread.run_sync(client.get, session.id)
            assert found.id == session.id
            assert (await anyio.to_thread.run_sync(verifier.verify, token)).user_id == "user_1"

    trio.run(main)


def test_a_coroutine_without_a_loop_raises_the_same_error(fake: FakeClerk) -> None:
    """For example, one that is driven by hand."""
    coroutine = client_of(fake).get("sess_1")
    with pytest.raises(ClerkError, match="asyncio only"):
        coroutine.send(None)
