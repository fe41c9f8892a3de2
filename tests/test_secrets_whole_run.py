"""Every secret of a program, in a whole run with every fault: it is shown nowhere.

The run uses everything: operations, bulk runs, verification and the command line, with every logger
at DEBUG. Attributes that are documented to have the raw value (`ApiError.errors`, a token's `jwt`)
are left out by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import pickle
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Final

import pytest
from clients import MODES, ORIGIN, Mode
from hunting import Hunt, planted_faults

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ClerkError,
    RateLimit,
    RetryPolicy,
    SessionsApi,
    TokenVerifier,
)
from clerk_async.cli import main
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

KEY: Final = "sk_test_PLANTEDkeyPLANTEDkeyPLANTEDkey00"
REFRESH: Final = "rt_PLANTEDrefreshPLANTED"
OPTIONS: Final[dict[str, Any]] = {
    "retry": RetryPolicy(attempts=2, deadline=0.5, base_delay=0.0, max_retry_after=0.1),
    "timeout": 0.1,
    "headers": {"X-Internal": "PLANTEDextraheader"},
    "rate_limit": RateLimit(10_000),
}
AT_ONCE: Final = (
    "none",
    "status 400 with an echo",
    "status 401",
    "redirect",
    "truncated_json",
    "not_json with an echo",
    "not_json with bad bytes",
    "wrong_shape",
    "with_headers",
)
"""Faults that are not retried: the command line has no option that shortens its waits."""


@pytest.fixture
def fake() -> Iterator[FakeClerk]:
    """Yield a service whose key is planted."""
    with FakeClerk(secret_key=KEY) as running:
        yield running


@pytest.fixture
def hunt(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Hunt:
    """Plant a session with its tokens, and capture everything."""
    for name in ("", "asyncio", "aiohttp", "aiohttp.client", "clerk_async"):
        caplog.set_level(logging.DEBUG, name)
    session = fake.add_session(user_id="user_whole_run")
    session.refresh_token = REFRESH
    expired = fake.expired_token(session)
    hunt = Hunt(session_id=session.id, expired=expired, refresh=REFRESH, caplog=caplog, capfd=capfd)
    hunt.plant(KEY, REFRESH, "PLANTED")
    hunt.plant_token(expired)
    hunt.plant_token(fake.mint(session))
    return hunt


def the_calls(hunt: Hunt, ids: list[str], journal: Path) -> dict[str, Callable[[Any], Any]]:
    """Return everything that a client does, by name."""
    one = hunt.session_id
    refreshing: dict[str, Any] = {
        "expired_token": hunt.expired,
        "refresh_token": hunt.refresh,
        "request_origin": ORIGIN,
        "request_headers": {"Cookie": hunt.cookie, "Authorization": f"Bearer {hunt.expired}"},
    }
    return {
        "list": lambda client: client.list(user_id="user_whole_run"),
        "get": lambda client: client.get(one),
        "create": lambda client: client.create("user_whole_run"),
        "create_token": lambda client: client.create_token(one),
        "template": lambda client: client.create_token_from_template(one, "custom_hasura"),
        "verify": lambda client: client.verify(one, hunt.expired),
        "refresh": lambda client: client.refresh(one, **refreshing),
        "refresh_cookies": lambda client: client.refresh(one, format="cookie", **refreshing),
        "info": lambda client: client.with_http_info.get(one),
        "revoke_many": lambda client: client.revoke_many(
            ids, journal=journal, rate_limit=RateLimit(10_000), max_failures=50
        ),
        "revoke": lambda client: client.revoke(one),
    }


@pytest.mark.promise("no-secret-shown")
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", planted_faults("", ""))
def test_no_secret_is_shown_in_a_whole_run(
    mode: Mode, name: str, fake: FakeClerk, hunt: Hunt, tmp_path: Path
) -> None:
    """With any fault, no log, repr, error, chain, warning, journal or pickle shows a secret."""
    fake.inject(planted_faults(KEY, hunt.expired)[name])
    journal = tmp_path / "job.jsonl"
    ids = [fake.add_session().id for _ in range(4)]
    calls = the_calls(hunt, ids, journal)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if mode == "async":
            asyncio.run(_all_async(fake, hunt, calls), debug=True)
        else:
            _all_sync(fake, hunt, calls)
    hunt.look_at(*(str(one.message) for one in warned), what="warnings")
    hunt.look_at(journal.read_text() if journal.exists() else "", what="the journal")
    hunt.look_around()
    assert hunt.looked > 20, "nothing was checked"


async def _all_async(fake: FakeClerk, hunt: Hunt, calls: dict[str, Callable[[Any], Any]]) -> None:
    client = AsyncSessionsApi(KEY, base_url=fake.base_url, **OPTIONS)
    verifier = AsyncTokenVerifier(sessions=client, authorized_parties=[ORIGIN])
    async with client:
        for call in calls.values():
            try:
                hunt.look_at_value(await call(client))
            except ClerkError as error:
                hunt.look_at_error(error)
        for token in (hunt.expired, fake.mint(hunt.session_id), f"{hunt.expired}x"):
            hunt.plant_token(token)
            try:
                hunt.look_at_value(await verifier.verify(token))
            except ClerkError as error:
                hunt.look_at_error(error)
            headers = {"Cookie": f"__session={token}"}
            hunt.look_at_value(await verifier.authenticate_request(headers))
        inner = (client._shared, client._shared.settings, client._calls, client._endpoint)
        hunt.look_at(client, *inner, verifier, what="the client")
    with pytest.raises(ClerkError) as closed:
        await client.get(hunt.session_id)
    hunt.look_at_error(closed.value)


def _all_sync(fake: FakeClerk, hunt: Hunt, calls: dict[str, Callable[[Any], Any]]) -> None:
    with SessionsApi(KEY, base_url=fake.base_url, **OPTIONS) as client:
        verifier = TokenVerifier(sessions=client, authorized_parties=[ORIGIN])
        for call in calls.values():
            try:
                hunt.look_at_value(call(client))
            except ClerkError as error:
                hunt.look_at_error(error)
        for token in (hunt.expired, fake.mint(hunt.session_id), f"{hunt.expired}x"):
            hunt.plant_token(token)
            try:
                hunt.look_at_value(verifier.verify(token))
            except ClerkError as error:
                hunt.look_at_error(error)
            headers = {"Cookie": f"__session={token}"}
            hunt.look_at_value(verifier.authenticate_request(headers))
        hunt.look_at(client, verifier, what="the client")


@contextlib.contextmanager
def stdin_from(path: Path) -> Generator[None]:
    """Replace the stdin of this process by a file."""
    before = os.dup(0)
    with path.open() as file:
        os.dup2(file.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.promise("no-secret-printed")
@pytest.mark.slow
@pytest.mark.parametrize("name", AT_ONCE)
def test_the_command_line_shows_no_secret(
    name: str, fake: FakeClerk, hunt: Hunt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fault that can echo, stdout and stderr of every command contain no secret."""
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    hunt.plant(hunt.expired[:20])  # the beginning of a new token, too
    tokens = tmp_path / "tokens"
    base = ["--base-url", fake.base_url]
    one = hunt.session_id
    ids = [fake.add_session().id for _ in range(3)]
    commands = [
        ["list", "--user", "user_whole_run"],
        ["--json", "get", one],
        ["-v", "get", one, ids[0]],
        ["doctor"],
        ["--json", "doctor", "-v"],
        ["create", "--user", "user_whole_run"],
        ["token", one],
        ["--json", "token", one, "--template", "custom_hasura"],
        ["verify", one, "-"],
        ["refresh", one, "--origin", ORIGIN],
        ["refresh", one, "--origin", ORIGIN, "--format", "cookie"],
        ["--json", "refresh", one, "--origin", ORIGIN, "--format", "cookie"],
        ["verify-token", "-"],
        ["revoke", *ids, "--yes", "--journal", str(tmp_path / "cli.jsonl"), "--progress", "text"],
    ]
    for arguments in commands:
        fake.sessions[one].refresh_token = REFRESH  # each pair works for one refresh
        expired = fake.expired_token(one)
        hunt.plant_token(expired)
        tokens.write_text(f"{expired}\n{REFRESH}\n")
        fake.clear_faults()
        fake.inject(planted_faults(KEY, expired)[name])
        with stdin_from(tokens):
            code = main([*base, *arguments])
        is_of_no_use = "token" in arguments  # hidden, and for a program: no token is made
        assert code in ({2} if is_of_no_use else {0, 1, 3, 4}), f"{arguments}: not even begun"
        hunt.look_around()
    journal = tmp_path / "cli.jsonl"
    hunt.look_at(journal.read_text() if journal.exists() else "", what="the journal")


@pytest.mark.promise("no-pickled-clients")
@pytest.mark.parametrize("make", [AsyncSessionsApi, SessionsApi])
def test_clients_refuse_to_be_pickled(make: Any, fake: FakeClerk) -> None:
    """They can't be copied either: the key would get into a file or a queue."""
    client = make(KEY, base_url=fake.base_url)
    for one in (client, client.with_options(timeout=1.0)):
        for spread in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="secret key") as refused:
                spread(one)
            assert KEY not in "".join(traceback.format_exception(refused.value))


def test_every_fault_is_in_the_run() -> None:
    """A new fault of the fake fails here until the run includes it."""
    makers = {
        name
        for name, made in vars(Fault).items()
        if isinstance(made, classmethod) and not name.startswith("_")
    }
    used = {name.partition(" ")[0] for name in planted_faults("", "")} - {"none"}
    assert makers == used


def test_the_hunt_finds_shown_secrets(hunt: Hunt) -> None:
    """It finds a secret in a log, a repr, an error or its chain."""
    error = ClerkError(f"said {REFRESH}")
    chained = ClerkError("clean")
    chained.__cause__ = error
    for shown in (error, chained):
        with pytest.raises(AssertionError):
            hunt.look_at_error(shown)
    with pytest.raises(AssertionError):
        hunt.look_at({"a": [hunt.expired]}, what="a value")
    logging.getLogger("aiohttp").debug("sent %s", KEY)
    with pytest.raises(AssertionError):
        hunt.look_around()
