"""Every way to connect to Redis: sockets, TLS, logins, a cluster, Sentinel, and failing ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import trustme
from redis_servers import RedisServer, program_of

from clerk_async import AsyncSessionsApi, RateLimit, SharedState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from clerk_async.testing import FakeClerk

KEY: Final = "sk_test_connecting"
PASSWORD: Final = "p@ss word:/?#%41"
IN_A_URL: Final = "p%40ss%20word%3A%2F%3F%23%2541"
COMMANDS: Final = """
    +eval +evalsha +time +exists +del +pexpire +select
    +hget +hset +hdel +hincrby +hexists +hlen +hscan +zadd +zrem +zcard +zrange +zrangebyscore
    +xadd +xread +xrange
"""
"""The commands that a Redis user must be allowed to run."""


def make(fake: FakeClerk | None, shared_state: str | SharedState) -> AsyncSessionsApi:
    """Make a client that shares its state."""
    if fake is None:
        return AsyncSessionsApi(KEY, shared_state=shared_state)
    return AsyncSessionsApi(fake.secret_key, base_url=fake.base_url, shared_state=shared_state)


async def assert_shared(fake: FakeClerk, open_state: Callable[[], str | SharedState]) -> None:
    """Check that two clients share denials, cut-offs and the window through it."""
    async with make(fake, open_state()) as one, make(fake, open_state()) as other:
        await one._catch_up()
        await other._catch_up()
        await one.deny(session_id="sess_1")
        await one.deny(everyone=True, signed_in_before=datetime.now(UTC))
        report = await one.revoke_many(["sess_2"])
        assert report.not_found == 1
        denials = other._denials
        async with asyncio.timeout(40):
            while not (denials.denies("sess_1") and denials.standing):  # noqa: ASYNC110 - it comes over Redis
                await asyncio.sleep(0.005)
            while not one.shared_status().connected or one.shared_status().processes != 2:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    """Yield the URL of a server whose connections are handled so, and end all of them."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            with contextlib.suppress(ConnectionError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the event loop closes the sockets of aborted transports


async def reason_of_absence(url: str | SharedState, caplog: pytest.LogCaptureFixture) -> str:
    """Return the one log line in which a client says why it works alone."""
    with caplog.at_level(logging.INFO, "clerk_async"):
        async with make(None, url) as sessions:
            assert sessions._link is not None
            await sessions._link.joined()
            assert not sessions.shared_status().connected
    (told,) = (each.getMessage() for each in caplog.records)
    return told


@pytest.mark.promise("shared-settings")
async def test_a_unix_socket_works(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """With a separate database, and without an open port."""
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path, program_of(pytestconfig), "--unixsocket", str(path)):
        await assert_shared(fake, lambda: f"unix://{path}?db=1")


@pytest.mark.promise("shared-settings")
async def test_a_user_with_minimal_rights_works(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis's ACLs allow only our keys and commands; a password may have any characters."""
    with RedisServer(tmp_path, program_of(pytestconfig)) as server:
        rights = ("on", f">{PASSWORD}", "~clerk_async:*", "-@all", *COMMANDS.split())
        server.command("ACL", "SETUSER", "clerk", *rights)
        where = f"127.0.0.1:{server.port}/0"
        await assert_shared(fake, lambda: f"redis://clerk:{IN_A_URL}@{where}")
        assert caplog.text == ""
        told = await reason_of_absence(f"redis://clerk:wrong-{IN_A_URL}@{where}", caplog)
        assert "invalid username-password pair" in told
        assert PASSWORD not in told
        assert IN_A_URL not in told


@pytest.mark.promise("shared-settings")
async def test_a_password_without_a_user_works(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As with `requirepass`; without it the message says what is missing."""
    with RedisServer(tmp_path, program_of(pytestconfig), password="Pa55word") as server:
        await assert_shared(fake, lambda: server.url)
        told = await reason_of_absence(f"redis://127.0.0.1:{server.port}/0", caplog)
        assert "Authentication required" in told


@pytest.mark.promise("shared-settings")
async def test_tls_works(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the certificate of a private authority; an untrusted one is reported."""
    if pytestconfig.getoption("--redis-server") != "redis-server":
        pytest.skip("other servers may be built without TLS")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    free = RedisServer(tmp_path).port
    with RedisServer(
        tmp_path,
        program_of(pytestconfig),
        *("--tls-port", str(free), "--tls-auth-clients", "no"),
        *("--tls-key-file", str(tmp_path / "key.pem")),
        *("--tls-cert-file", str(tmp_path / "own.pem")),
    ):
        where = f"rediss://127.0.0.1:{free}/0"
        await assert_shared(fake, lambda: f"{where}?ssl_ca_certs={tmp_path}/authority.pem")
        assert "CERTIFICATE_VERIFY_FAILED" in await reason_of_absence(where, caplog)


@pytest.mark.promise("redis-away")
@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b":7\r\n", b"$2\r\n{}\r\n"])
async def test_a_server_that_replies_nonsense_counts_as_away(
    reply: bytes, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """A bulk run goes on alone instead of waiting forever, and the log says why."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)

    session = fake.add_session(user_id="user_1")
    async with serving(answer) as url:
        assert "its reply can't be read" in await reason_of_absence(url, caplog)
        async with make(fake, url) as sessions:
            report = await sessions.revoke_many([session.id])
    assert report.ok
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.promise("redis-away")
async def test_a_redis_that_is_always_too_slow_holds_nobody_up(
    fake: FakeClerk, redis_server: RedisServer
) -> None:
    """It replies in time while connecting, which may take longer, and never afterwards."""

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float = 0.0
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies, commands = await asyncio.open_connection("127.0.0.1", redis_server.port)
        try:
            await asyncio.gather(pump(reader, commands), pump(replies, writer, 0.1))
        finally:
            commands.transport.abort()

    ids = [fake.add_session(user_id="user_1").id for _ in range(40)]
    async with serving(relay) as url, make(fake, SharedState(url, timeout=0.02)) as sessions:
        report = await sessions.revoke_many(ids, rate_limit=RateLimit(40, per=2.0))
    assert report.ok


@pytest.mark.slow
async def test_a_read_only_replica_is_reported(
    redis_server: RedisServer,
    pytestconfig: pytest.Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It accepts no writes."""
    options = ("--replicaof", "127.0.0.1", str(redis_server.port))
    with RedisServer(tmp_path, program_of(pytestconfig), *options) as replica:
        assert "read only replica" in await reason_of_absence(replica.url, caplog)


@pytest.mark.slow
async def test_a_cluster_works_with_the_users_own_client(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A URL connects to one node; if the keys are on another one, the message says so."""
    import redis.asyncio  # noqa: PLC0415

    program = program_of(pytestconfig)
    buses = [str(RedisServer(tmp_path).port) for _ in range(2)]
    options = [
        ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-config-file", f"{bus}.conf")
        for bus in buses
    ]
    with (
        RedisServer(tmp_path, program, *options[0]) as node,
        RedisServer(tmp_path, program, *options[1]) as other,
    ):
        slot = int(node.command("CLUSTER", "KEYSLOT", "{one}"))
        node.command("CLUSTER", "ADDSLOTSRANGE", "0", str(slot))
        other.command("CLUSTER", "ADDSLOTSRANGE", str(slot + 1), "16383")
        other.command("CLUSTER", "MEET", "127.0.0.1", str(node.port), buses[0])
        ends = time.monotonic() + 20
        while any(b"state:ok" not in each.command("CLUSTER", "INFO") for each in (node, other)):
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)
        cluster = redis.asyncio.RedisCluster(host="127.0.0.1", port=other.port)
        await assert_shared(fake, lambda: SharedState(client=cluster, namespace="one"))  # type: ignore[arg-type]
        await cluster.aclose()
        told = await reason_of_absence(SharedState(other.url, namespace="one"), caplog)
        assert "it is a node of a cluster" in told


@pytest.mark.slow
async def test_sentinel_works_when_the_master_fails(
    fake: FakeClerk, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """The replica takes over; denials from before and meanwhile are known, and new ones work."""
    program = program_of(pytestconfig)
    with RedisServer(tmp_path, program) as master:
        options = ("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        with RedisServer(tmp_path, program, *options) as replica:
            port = RedisServer(tmp_path).port
            config = tmp_path / "sentinel.conf"
            config.write_text(
                f"port {port}\n"
                f"sentinel monitor clerk 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds clerk 500\n"
            )
            sentinel = await asyncio.create_subprocess_exec(
                *(program, str(config), "--sentinel"), stdout=subprocess.DEVNULL
            )
            try:
                await _fail_over(fake, port, master, replica)
            finally:
                sentinel.kill()
                await sentinel.wait()


async def _fail_over(fake: FakeClerk, port: int, master: RedisServer, replica: RedisServer) -> None:
    import redis.asyncio  # noqa: PLC0415

    # otherwise it would look for its own version on disk, in the loop
    quiet: dict[str, Any] = {"lib_name": None, "lib_version": None}
    if hasattr(redis, "DriverInfo"):
        quiet = {"driver_info": None}
    make_sentinel: Any = redis.asyncio.Sentinel
    sentinels = make_sentinel([("127.0.0.1", port)], sentinel_kwargs=quiet, **quiet)
    async with asyncio.timeout(40):
        while True:
            try:
                if await sentinels.discover_slaves("clerk"):
                    break
            except Exception:  # noqa: BLE001, S110 - it has not begun yet
                pass
            await asyncio.sleep(0.05)
    theirs = [sentinels.master_for("clerk") for _ in range(2)]
    one, other = (make(fake, SharedState(client=each)) for each in theirs)
    async with one, other:
        await one._catch_up()
        await other._catch_up()
        await one.deny(session_id="sess_before")
        while not other._denials.denies("sess_before"):  # noqa: ASYNC110 - it comes over Redis
            await asyncio.sleep(0.005)
        master.kill()
        await one.deny(session_id="sess_meanwhile")
        async with asyncio.timeout(40):
            while not other._denials.denies("sess_meanwhile"):  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
            while not one.shared_status().connected:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
            # denials that the replica had not received are sent to it again
            while b"sess_before" not in replica.everything():  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.05)
    for each in (*theirs, *sentinels.sentinels):
        await each.aclose()
