"""`deny`, `allow` and `shared-status`: programs on a real Redis, and a verifier that follows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from cli_programs import run
from clients import client_of

from clerk_async import AsyncTokenVerifier, TokenVerificationError

if TYPE_CHECKING:
    from redis_servers import RedisServer

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow
PARTIES = ["http://localhost:3000"]


async def refusal(verifier: AsyncTokenVerifier, token: str) -> str | None:
    """Return why a token is rejected; None if it is accepted."""
    try:
        await verifier.verify(token)
    except TokenVerificationError as error:
        return error.reason
    return None


@pytest.mark.promise("cli-denials")
async def test_deny_takes_effect_in_other_processes(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """It denies a session, a user or everyone; `allow` undoes it. The service is not called."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session, expires_in=600)
    env = {"CLERK_ASYNC_SHARED_STATE": redis_server.url}
    async with client_of(fake, shared_state=redis_server.url) as client:
        verifier = AsyncTokenVerifier(sessions=client, authorized_parties=PARTIES)
        await verifier.warm_up()
        asked = len(fake.requests)
        for subject in (
            [session.id],
            ["--user", "user_1"],
            ["--everyone", "--yes"],
            ["--everyone", "--signed-in-before", "now", "--yes"],
        ):
            ended = await asyncio.to_thread(run, fake, "deny", *subject, env=env)
            assert (ended.code, ended.out) == (0, ""), ended.err
            async with asyncio.timeout(40):
                while await refusal(verifier, token) != "session-revoked":  # noqa: ASYNC110 - it comes over Redis
                    await asyncio.sleep(0.01)
            back = [each for each in subject if each not in {"--yes", "--signed-in-before", "now"}]
            ended = await asyncio.to_thread(run, fake, "allow", *back, env=env)
            assert ended.code == 0, ended.err
            async with asyncio.timeout(40):
                while await refusal(verifier, token) is not None:  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.01)
        status = await asyncio.to_thread(run, fake, "--json", "shared-status", env=env)
        assert status.code == 0
        told = json.loads(status.out)
        assert (told["connected"], told["processes"]) == (True, 1)
        assert len(fake.requests) == asked
        assert session.status == "active"


@pytest.mark.promise("cli-denials")
@pytest.mark.parametrize(
    "arguments",
    [
        ["deny", "sess_1"],
        ["allow", "sess_1"],
        ["shared-status"],
    ],
)
def test_exit_codes_without_a_redis(arguments: list[str], fake: FakeClerk) -> None:
    """2 if none is set, 4 if it is unreachable, because no other process would learn of it."""
    assert run(fake, *arguments).code == 2
    away = {"CLERK_ASYNC_SHARED_STATE": "redis://127.0.0.1:1/0"}
    assert run(fake, *arguments, env=away).code == 4


@pytest.mark.promise("cli-denials")
def test_several_users_and_the_same_arguments_for_allow(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Each user counts, and `allow` takes what was given to `deny`."""
    env = {"CLERK_ASYNC_SHARED_STATE": redis_server.url}
    subject = ["--user", "user_1", "--user", "user_2", "--signed-in-before", "now"]
    for command, denied in ("deny", 2), ("allow", 0):
        ended = run(fake, command, *subject, env=env)
        assert (ended.code, ended.out) == (0, ""), ended.err
        assert "Done: 2 users" in ended.err
        told = json.loads(run(fake, "--json", "shared-status", env=env).out)
        assert told["denied"] == denied


@pytest.mark.promise("cli-denials")
@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["sess_1", "user_1"], "a user id: user_1 (deny --user takes users)"),
        (["--user", "sess_1"], "a session id: sess_1 (deny takes sessions)"),
        (["--user", "a@example.com"], "an e-mail address: a@example.com"),
    ],
)
def test_an_id_of_something_else_is_never_reported_as_done(
    arguments: list[str], cause: str, fake: FakeClerk, redis_server: RedisServer
) -> None:
    """It denies nobody, and the message says what it looks like."""
    ended = run(fake, "deny", *arguments, env={"CLERK_ASYNC_SHARED_STATE": redis_server.url})
    assert (ended.code, ended.out) == (1, "")
    assert "Not done:" in ended.err
    assert cause in ended.err


def test_one_unusable_id_changes_nothing(fake: FakeClerk, redis_server: RedisServer) -> None:
    """All ids are checked before the first one is denied."""
    env = {"CLERK_ASYNC_SHARED_STATE": redis_server.url}
    assert run(fake, "deny", "sess_1", "a/b", env=env).code == 2
    assert json.loads(run(fake, "--json", "shared-status", env=env).out)["denied"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["deny"],
        ["allow", "sess_1", "--signed-in-before", "now"],
        ["allow"],
        ["deny", "sess_1", "--user", "user_1"],
        ["deny", "--everyone", "--user", "user_1", "--yes"],
        ["deny", "--everyone"],
        ["deny", "sess_1", "--signed-in-before", "now"],
        ["deny", "--everyone", "--yes", "--signed-in-before", "yesterday"],
        ["deny", "a/b"],
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], fake: FakeClerk, redis_server: RedisServer
) -> None:
    """There must be exactly one subject, and "everyone" needs --yes if nobody can be asked."""
    env = {"CLERK_ASYNC_SHARED_STATE": redis_server.url}
    assert run(fake, *arguments, env=env).code == 2
