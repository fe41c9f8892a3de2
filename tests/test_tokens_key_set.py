"""The key set: fetched once for everybody, renewed unnoticed, and kept through an outage."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from token_samples import (
    NOW,
    OTHER,
    OURS,
    PARTY,
    AsyncStub,
    Clock,
    SyncStub,
    claims,
    header,
    key_set,
    token,
    until,
)

from clerk_async.errors import (
    AuthenticationError,
    ConnectError,
    KeysUnavailableError,
    TokenVerificationError,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.tokens import key_set as key_set_module
from clerk_async.tokens.sync_verifier import TokenVerifier
from clerk_async.tokens.verifier import AsyncTokenVerifier

TTL, MAX_AGE, COOLDOWN = 300.0, 3600.0, 5.0


def made(stub: AsyncStub, ages: Clock | None = None, **options: Any) -> AsyncTokenVerifier:
    """Make a verifier on handed-in clocks."""
    return AsyncTokenVerifier(
        sessions=stub,
        authorized_parties=[PARTY],
        clock=Clock(),
        monotonic=ages or Clock(0.0),
        **options,
    )


async def reason_of(verifier: AsyncTokenVerifier, made_up: str) -> Reason:
    """Verify, and give the reason of the refusal."""
    with pytest.raises(TokenVerificationError) as caught:
        await verifier.verify(made_up)
    return caught.value.reason


def with_kid(kid: str) -> str:
    """Name a key that the token was not signed with."""
    return token(head=header(kid=kid))


async def test_making_a_verifier_fetches_nothing() -> None:
    """Constructing does no I/O; the first token fetches."""
    stub = AsyncStub()
    verifier = made(stub)
    assert stub.fetches == 0
    await verifier.verify(token())
    assert stub.fetches == 1


async def test_a_thousand_tasks_on_a_cold_cache_fetch_once() -> None:
    """Whoever comes while the first fetch is under way waits for that one."""
    stub = AsyncStub()
    verifier = made(stub)
    tokens = [token(claims(sub=f"user_{n}")) for n in range(20)]
    verified = await asyncio.gather(*(verifier.verify(tokens[n % 20]) for n in range(1000)))
    assert len({one.user_id for one in verified}) == 20
    assert stub.fetches == 1


def test_fifty_threads_on_a_cold_cache_fetch_once() -> None:
    """The sync verifier is shared by threads: one of them fetches, all go on."""
    stub = SyncStub()
    stub.gate = threading.Event()
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    barrier = threading.Barrier(51)

    def verify() -> str:
        barrier.wait(10)
        return verifier.verify(token()).user_id

    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(verify) for _ in range(50)]
        barrier.wait(10)
        stub.gate.set()
        assert {future.result(10) for future in futures} == {"user_1"}
    assert stub.fetches == 1


@pytest.mark.promise("one-fetch")
async def test_random_kids_fetch_at_most_once_a_cooldown() -> None:
    """A thousand unknown key ids in a second cost two fetches: the first of all, and one more."""
    stub = AsyncStub()
    verifier = made(stub)
    outcomes = await asyncio.gather(
        *(reason_of(verifier, with_kid(f"ins_{n}")) for n in range(1000))
    )
    assert set(outcomes) == {Reason.JWK_KID_MISMATCH}
    assert stub.fetches == 2
    for n in range(1000, 1100):
        assert await reason_of(verifier, with_kid(f"ins_{n}")) is Reason.JWK_KID_MISMATCH
    assert stub.fetches == 2


@pytest.mark.promise("one-fetch")
async def test_a_bad_signature_never_fetches() -> None:
    """A thousand bad signatures cost no fetch beyond the first of all."""
    stub = AsyncStub()
    verifier = made(stub)
    forged = [token(claims(jti=str(n)), key=OTHER, head=header()) for n in range(10)]
    for n in range(1000):
        assert await reason_of(verifier, forged[n % 10]) is Reason.TOKEN_INVALID_SIGNATURE
    assert stub.fetches == 1


async def test_malformed_tokens_never_fetch() -> None:
    """What no key could save is refused before the keys are asked for."""
    stub = AsyncStub()
    verifier = made(stub)
    for bad in ["", "x", "a.b.c", with_kid(""), token(head=header(alg="none"))]:
        await reason_of(verifier, bad)
    assert stub.fetches == 0


async def test_a_rotated_key_works_on_its_first_token() -> None:
    """A key that appears after the first fetch is fetched by the first token that names it."""
    stub = AsyncStub()
    verifier = made(stub)
    await verifier.verify(token())
    stub.body = key_set(OURS, OTHER)
    assert (await verifier.verify(token(key=OTHER))).user_id == "user_1"
    assert (await verifier.verify(token())).user_id == "user_1"
    assert stub.fetches == 2


async def test_tokens_of_a_rotated_key_that_come_during_the_fetch_wait_for_it() -> None:
    """While the cooldown already runs, the fetch under way still serves who comes meanwhile."""
    stub = AsyncStub()
    verifier = made(stub)
    await verifier.verify(token())
    stub.body = key_set(OURS, OTHER)
    stub.gate = asyncio.Event()
    first = asyncio.create_task(reason_of(verifier, with_kid("ins_made_up")))
    await until(lambda: stub.fetches == 2)
    second = asyncio.create_task(verifier.verify(token(key=OTHER)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    stub.gate.set()
    assert (await second).user_id == "user_1"
    assert await first is Reason.JWK_KID_MISMATCH
    assert stub.fetches == 2


async def test_an_unknown_kid_may_fetch_again_after_the_cooldown() -> None:
    """The cooldown passes; a kid that keeps coming back without a key waits ever longer."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await reason_of(verifier, with_kid("ins_made_up"))
    assert stub.fetches == 2
    fetched_at: list[float] = []
    while ages.now < 200:
        ages.now += 1.0
        before = stub.fetches
        await reason_of(verifier, with_kid("ins_made_up"))
        fetched_at += [ages.now] * (stub.fetches - before)
    assert fetched_at[0] == COOLDOWN
    gaps = [after - before for before, after in pairwise(fetched_at)]
    assert gaps == sorted(gaps)
    assert len(fetched_at) < 10


async def test_the_memory_of_unknown_kids_is_bounded() -> None:
    """However many kids are made up, only so many are remembered."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages, key_ttl=1e6, key_max_age=1e7)
    for n in range(1200):
        ages.now += COOLDOWN
        await reason_of(verifier, with_kid(f"ins_{n}"))
    assert len(verifier._fetched._misses) <= 512


async def test_keys_are_renewed_in_the_background() -> None:
    """Towards the end of the ttl a token starts a fetch and does not wait for it."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.gate = asyncio.Event()
    ages.now = TTL * 0.85
    await verifier.verify(token())
    await verifier.verify(token(claims(jti="another")))
    await until(lambda: stub.fetches == 2)
    assert verifier.key_status().age == TTL * 0.85
    stub.gate.set()
    await until(lambda: verifier.key_status().age == 0)
    assert stub.fetches == 2


async def test_an_idle_verifier_fetches_before_it_trusts_old_keys() -> None:
    """After the ttl with no traffic, a retired key is not believed once more."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.body = key_set(OTHER)
    ages.now = TTL + 1
    assert await reason_of(verifier, token()) is Reason.JWK_KID_MISMATCH


@pytest.mark.promise("token-cache")
async def test_a_retired_key_takes_its_cached_tokens_along() -> None:
    """A token verified before dies with its key, whether the kid vanished or got new numbers."""
    for change in (key_set(OTHER), None):
        stub, ages = AsyncStub(), Clock(0.0)
        verifier = made(stub, ages)
        await verifier.verify(token())
        replaced = key_set(OTHER).replace(OTHER.kid.encode(), OURS.kid.encode())
        stub.body = change or replaced
        ages.now = TTL + 1
        expected = Reason.JWK_KID_MISMATCH if change else Reason.TOKEN_INVALID_SIGNATURE
        assert await reason_of(verifier, token()) is expected


async def test_a_cached_token_dies_when_its_key_gets_new_numbers() -> None:
    """Also where somebody else's token has brought the new keys before it comes back."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.body = key_set(OTHER).replace(OTHER.kid.encode(), OURS.kid.encode())
    ages.now = TTL + 1
    assert await verifier.verify(token(key=OTHER, head=header()))
    assert await reason_of(verifier, token()) is Reason.TOKEN_INVALID_SIGNATURE


async def test_in_a_known_outage_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a fetch has failed, the next tries run in the background, however slow they are."""
    monkeypatch.setattr(key_set_module, "_PATIENCE", 60.0)
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.goes_down()
    ages.now = TTL + 1
    await verifier.verify(token())
    assert verifier.key_status().failed_fetches == 1
    stub.gate = asyncio.Event()
    ages.now += COOLDOWN
    async with asyncio.timeout(10):
        await verifier.verify(token())
    assert verifier.key_status().fetches == 3
    stub.gate.set()
    await until(lambda: verifier.key_status().failed_fetches == 2)


async def test_an_outage_of_ten_minutes_after_expiry_lets_valid_tokens_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While fetches fail the last good keys serve, and the status tells their age and why."""
    caplog.set_level(logging.CRITICAL, "clerk_async.tokens")
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.goes_down()
    while ages.now < TTL + 600:
        ages.now += 1.0
        assert (await verifier.verify(token())).user_id == "user_1"
        fresh = token(claims(jti=f"at {ages.now}"))
        assert (await verifier.verify(fresh)).user_id == "user_1"
        await asyncio.sleep(0)
    status = verifier.key_status()
    assert status.age == TTL + 600
    assert status.is_stale
    assert "connection refused" in (status.last_error or "")
    assert 600 / COOLDOWN * 0.5 < status.failed_fetches < 600 / COOLDOWN * 1.5
    stub.comes_back()
    ages.now += COOLDOWN
    await verifier.verify(token())
    await until(lambda: verifier.key_status().age == 0)
    assert verifier.key_status().last_error is None
    assert not verifier.key_status().is_stale


@pytest.mark.promise("key-outage")
async def test_an_outage_longer_than_key_max_age_lets_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keys older than `key_max_age` serve nobody, cached tokens neither: it can't be checked."""
    caplog.set_level(logging.CRITICAL, "clerk_async.tokens")
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.goes_down()
    ages.now = MAX_AGE - 1
    await verifier.verify(token())
    ages.now = MAX_AGE
    with pytest.raises(KeysUnavailableError, match="says nothing about the user") as caught:
        await verifier.verify(token())
    assert caught.value.reason is Reason.JWK_FAILED_TO_LOAD
    stub.comes_back()
    ages.now += COOLDOWN
    await verifier.verify(token())


async def test_without_any_keys_it_is_unavailable_not_refused() -> None:
    """A dead service at the start is an error of its own, and passes with the outage."""
    stub = AsyncStub()
    stub.goes_down()
    verifier = made(stub)
    assert await reason_of(verifier, token()) is Reason.JWK_FAILED_TO_LOAD
    stub.comes_back()
    assert (await verifier.verify(token())).user_id == "user_1"


async def test_a_dead_service_is_asked_once_by_all_who_wait() -> None:
    """With no keys and fetches failing, those who wait together share one failed fetch."""
    stub = AsyncStub()
    stub.goes_down()
    verifier = made(stub)
    reasons = await asyncio.gather(*(reason_of(verifier, token()) for _ in range(1000)))
    assert set(reasons) == {Reason.JWK_FAILED_TO_LOAD}
    assert stub.fetches == 1


async def test_an_unknown_kid_in_an_outage_is_unavailable() -> None:
    """Whether the instance has that key can't be told, so the token is not called wrong."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.goes_down()
    with pytest.raises(KeysUnavailableError):
        await verifier.verify(token(key=OTHER))
    with pytest.raises(KeysUnavailableError):
        await verifier.verify(token(key=OTHER))
    assert stub.fetches == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"keys": null}', b'{"keys": []}', b'{"keys": ["x"]}', b"\xff"],
)
async def test_an_unreadable_answer_leaves_the_good_keys(body: bytes) -> None:
    """Something else than a key set counts as a failed fetch; what was good goes on serving."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.body = body
    ages.now = TTL + 1
    await verifier.verify(token())
    assert verifier.key_status().failed_fetches == 1
    cold = made(stub)
    with pytest.raises(KeysUnavailableError):
        await cold.verify(token())


async def test_one_unusable_key_costs_itself_only() -> None:
    """A key of an unknown kind beside ours does no harm, and says so when a token names it."""
    stub = AsyncStub()
    stub.body = key_set(OURS)[:-2] + b',{"kid":"ins_new","kty":"AKP","alg":"ML-DSA-44"}]}'
    verifier = made(stub)
    await verifier.verify(token())
    assert await reason_of(verifier, with_kid("ins_new")) is Reason.JWK_FAILED_TO_RESOLVE
    assert stub.fetches == 1


async def test_a_key_is_parsed_once() -> None:
    """A fetch that brings the same key leaves the very same object in place."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    before = verifier._fetched.at_hand(OURS.kid)
    stub.body = key_set(OTHER, OURS)
    ages.now = TTL + 1
    await verifier.verify(token())
    assert verifier._fetched.at_hand(OURS.kid) is before


async def test_who_gives_up_waiting_does_not_end_the_fetch() -> None:
    """Cancelling the task that started the fetch leaves it to the others."""
    stub = AsyncStub()
    stub.gate = asyncio.Event()
    verifier = made(stub)
    first = asyncio.create_task(verifier.verify(token()))
    await until(lambda: stub.fetches == 1)
    second = asyncio.create_task(verifier.verify(token()))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    stub.gate.set()
    assert (await second).user_id == "user_1"
    assert stub.fetches == 1


def test_a_verifier_outlives_its_loop() -> None:
    """A fetch that a closed loop left behind does not block the next loop."""
    stub = AsyncStub()
    verifier = made(stub)

    async def left_behind() -> None:
        stub.gate = asyncio.Event()
        pending = asyncio.create_task(verifier.verify(token()))
        await until(lambda: stub.fetches == 1)
        pending.cancel()

    asyncio.run(left_behind())
    stub.gate = None
    assert asyncio.run(verifier.verify(token())).user_id == "user_1"


def test_a_loop_that_stopped_mid_fetch_is_left_behind() -> None:
    """A loop that is neither closed nor runs any more holds nobody up."""
    stub = AsyncStub()
    verifier = made(stub)
    first = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[Any]:
        stub.gate = asyncio.Event()
        pending = asyncio.create_task(verifier.verify(token()))
        await until(lambda: stub.fetches == 1)
        return pending

    pending = first.run_until_complete(begin())
    stub.gate = None
    assert asyncio.run(verifier.verify(token())).user_id == "user_1"
    left = asyncio.all_tasks(first)
    for task in left:
        task.cancel()
    first.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    assert pending.cancelled()
    first.close()


async def test_a_fetch_that_is_cancelled_is_begun_again() -> None:
    """Who ends every task of a loop but the waiters does not leave them waiting forever."""
    stub = AsyncStub()
    stub.gate = asyncio.Event()
    verifier = made(stub)
    waiting = asyncio.create_task(verifier.verify(token()))
    await until(lambda: stub.fetches == 1)
    [fetch] = [task for task in asyncio.all_tasks() if "fetching keys" in task.get_name()]
    fetch.cancel()
    await until(lambda: stub.fetches == 2)
    stub.gate.set()
    assert (await waiting).user_id == "user_1"
    assert verifier.key_status().failed_fetches == 0


async def test_keys_too_old_are_not_used_when_fetches_keep_being_broken_off() -> None:
    """However often a fetch is cancelled; an outage that is over is not called the cause."""
    stub, ages = AsyncStub(), Clock(0.0)
    stub.goes_down()
    verifier = made(stub, ages)
    assert await reason_of(verifier, token()) is Reason.JWK_FAILED_TO_LOAD
    stub.comes_back()
    await verifier.verify(token())
    stub.gate = asyncio.Event()
    ages.now = MAX_AGE
    waiting = asyncio.create_task(verifier.verify(token()))
    while not waiting.done():
        for task in asyncio.all_tasks():
            if "fetching keys" in task.get_name():
                task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(KeysUnavailableError, match="interrupted") as caught:
        await waiting
    assert caught.value.cause is None


async def test_slow_keys_past_the_ttl_are_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the keys at hand would do, a fetch that hangs costs a moment, not the request."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.gate = asyncio.Event()
    ages.now = TTL + 1
    assert (await verifier.verify(token())).user_id == "user_1"
    assert verifier.key_status().age == TTL + 1
    monkeypatch.setattr(key_set_module, "_PATIENCE", 60.0)
    async with asyncio.timeout(10):  # who comes later need not find out for themselves
        for _ in range(10):
            await verifier.verify(token())
    assert stub.fetches == 2
    stub.gate.set()
    await until(lambda: verifier.key_status().age == 0)


async def test_warm_up_fetches_ahead_and_only_once() -> None:
    """After `warm_up` the first token waits for nothing."""
    stub = AsyncStub()
    verifier = made(stub)
    await verifier.warm_up()
    await verifier.warm_up()
    assert stub.fetches == 1
    stub.gate = asyncio.Event()
    await verifier.verify(token())
    assert verifier.key_status().kids == (OURS.kid,)


async def test_warm_up_tells_a_dead_service() -> None:
    """An app can refuse to start without keys."""
    stub = AsyncStub()
    stub.goes_down()
    with pytest.raises(KeysUnavailableError, match="connection refused"):
        await made(stub).warm_up()


@pytest.mark.promise("key-outage")
async def test_keys_that_can_not_be_had_tell_their_cause() -> None:
    """As an error of its own class, without the call's traceback, and also across processes."""
    stub = AsyncStub(error=AuthenticationError("no such key", status=401, path="/jwks"))
    verifier = made(stub)
    for lost in (verifier.warm_up(), verifier.verify(token())):
        with pytest.raises(KeysUnavailableError) as caught:
            await lost
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # noqa: S301
            assert isinstance(error.cause, AuthenticationError)
            assert (error.cause.status, error.cause.path) == (401, "/jwks")
            assert (error.cause.__traceback__, error.cause.__context__) == (None, None)
    stub.error, stub.body = None, b"{}"
    with pytest.raises(KeysUnavailableError, match="not a JSON Web Key Set") as caught:
        await verifier.warm_up()
    assert caught.value.cause is None


async def test_an_unknown_kid_tells_the_cause_of_the_last_failure() -> None:
    """Not that of an earlier one, which was of another kind."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    for stub.error, cause in (
        (ConnectError("unplugged"), ConnectError),
        (RuntimeError("strange"), type(None)),
    ):
        ages.now += 2 * COOLDOWN
        with pytest.raises(KeysUnavailableError) as caught:
            await verifier.verify(token(key=OTHER))
        assert type(caught.value.cause) is cause


async def test_figures_for_a_health_page() -> None:
    """`key_status` counts fetches and hits, and tells the source and the age."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    status = verifier.key_status()
    assert (status.source, status.age, status.fetches, status.hits) == ("sessions", None, 0, 0)
    for _ in range(3):
        await verifier.verify(token())
    ages.now = 12.0
    status = verifier.key_status()
    assert (status.age, status.fetches, status.failed_fetches, status.cached_tokens) == (
        12,
        1,
        0,
        1,
    )
    assert status.hits == 3
    assert repr(verifier) == "<AsyncTokenVerifier with keys from sessions>"


async def test_whatever_a_fetch_raises_reaches_nobody_raw() -> None:
    """A surprise inside the fetch is KeysUnavailableError to the waiters, without its text."""
    stub = AsyncStub()
    stub.error = RuntimeError("sk_live_secret in a surprise")
    with pytest.raises(KeysUnavailableError) as caught:
        await made(stub).verify(token())
    assert "sk_live" not in str(caught.value)


def test_the_sync_verifier_waits_for_a_background_fetch_only_where_it_must() -> None:
    """In threads too: renewal in the background, and one fetch when the keys are too old."""
    stub, ages = SyncStub(), Clock(0.0)
    verifier = TokenVerifier(
        sessions=stub, authorized_parties=[PARTY], clock=Clock(), monotonic=ages
    )
    verifier.warm_up()
    stub.gate = threading.Event()
    ages.now = TTL * 0.85
    assert verifier.verify(token()).user_id == "user_1"
    flight = verifier._fetched._current[None]
    stub.gate.set()
    assert flight.landed.wait(10)
    assert verifier.key_status().age == 0
    ages.now += MAX_AGE
    stub.goes_down()
    with pytest.raises(KeysUnavailableError):
        verifier.verify(token())
    assert verifier.key_status().fetches == 3


@pytest.mark.promise("token-cache")
@pytest.mark.parametrize("size", [0, 1, 3])
async def test_the_cache_of_tokens_is_bounded(size: int) -> None:
    """At most `token_cache_size` tokens are remembered; zero turns the cache off."""
    verifier = made(AsyncStub(), token_cache_size=size)
    for n in range(10):
        await verifier.verify(token(claims(jti=str(n))))
    assert verifier.key_status().cached_tokens == size


@pytest.mark.promise("token-cache")
async def test_a_cached_token_is_rechecked() -> None:
    """A token that passed is refused once it has expired: the cache answers for nothing but it."""
    now = Clock()
    verifier = AsyncTokenVerifier(sessions=AsyncStub(), authorized_parties=[PARTY], clock=now)
    made_now = token()
    await verifier.verify(made_now)
    now.now = NOW + 64
    await verifier.verify(made_now)
    now.now = NOW + 65
    assert await reason_of(verifier, made_now) is Reason.TOKEN_EXPIRED
    assert verifier.key_status().cached_tokens == 0
    await verifier.verify(token(claims(exp=NOW + 600)))
    now.now = NOW - 3600
    assert await reason_of(verifier, token(claims(exp=NOW + 600))) is Reason.TOKEN_NOT_ACTIVE_YET


async def test_claims_from_the_cache_are_the_same_frozen_object() -> None:
    """Callers share what the cache holds, which is why nothing in it can be changed."""
    verifier = made(AsyncStub())
    again = token()
    assert await verifier.verify(again) is await verifier.verify(again)
