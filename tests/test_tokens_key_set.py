"""The key set: fetched once for all callers, renewed in the background, kept through an outage."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

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
from clerk_async.tokens.sync_verifier import TokenVerifier
from clerk_async.tokens.verifier import AsyncTokenVerifier

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from clerk_async import SessionClaims

TTL, MAX_AGE, COOLDOWN = 300.0, 3600.0, 5.0


def made(stub: AsyncStub, ages: Clock | None = None, **options: Any) -> AsyncTokenVerifier:
    """Make a verifier with simulated clocks."""
    return AsyncTokenVerifier(
        sessions=stub,
        authorized_parties=[PARTY],
        clock=Clock(),
        monotonic=ages or Clock(0.0),
        **options,
    )


async def reason_of(verifier: AsyncTokenVerifier, made_up: str) -> Reason:
    """Verify a token, and return the reason of its rejection."""
    with pytest.raises(TokenVerificationError) as caught:
        await verifier.verify(made_up)
    return caught.value.reason


def with_kid(kid: str) -> str:
    """Make a token whose header names another key than the one that signed it."""
    return token(head=header(kid=kid))


async def test_making_a_verifier_fetches_nothing() -> None:
    """Construction does no I/O; the first token fetches."""
    stub = AsyncStub()
    verifier = made(stub)
    assert stub.fetches == 0
    await verifier.verify(token())
    assert stub.fetches == 1


async def test_a_thousand_tasks_on_a_cold_cache_fetch_once() -> None:
    """Tasks that arrive during the first fetch wait for it."""
    stub = AsyncStub()
    verifier = made(stub)
    tokens = [token(claims(sub=f"user_{n}")) for n in range(20)]
    verified = await asyncio.gather(*(verifier.verify(tokens[n % 20]) for n in range(1000)))
    assert len({one.user_id for one in verified}) == 20
    assert stub.fetches == 1


def test_fifty_threads_on_a_cold_cache_fetch_once() -> None:
    """Threads share the sync verifier: one of them fetches, and all continue."""
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
async def test_random_kids_fetch_at_most_once_per_cooldown() -> None:
    """A thousand unknown key ids in a second cost two fetches: the very first, and one more."""
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
    """A thousand bad signatures cost only the very first fetch."""
    stub = AsyncStub()
    verifier = made(stub)
    forged = [token(claims(jti=str(n)), key=OTHER, head=header()) for n in range(10)]
    for n in range(1000):
        assert await reason_of(verifier, forged[n % 10]) is Reason.TOKEN_INVALID_SIGNATURE
    assert stub.fetches == 1


async def test_malformed_tokens_never_fetch() -> None:
    """A token that no key could make valid is rejected before keys are fetched."""
    stub = AsyncStub()
    verifier = made(stub)
    for bad in ["", "x", "a.b.c", with_kid(""), token(head=header(alg="none"))]:
        await reason_of(verifier, bad)
    assert stub.fetches == 0


async def test_a_new_key_works_for_its_first_token() -> None:
    """The first token that names a new key fetches it."""
    stub = AsyncStub()
    verifier = made(stub)
    await verifier.verify(token())
    stub.body = key_set(OURS, OTHER)
    assert (await verifier.verify(token(key=OTHER))).user_id == "user_1"
    assert (await verifier.verify(token())).user_id == "user_1"
    assert stub.fetches == 2


async def test_tokens_of_a_new_key_wait_for_the_fetch_in_progress() -> None:
    """The cooldown already applies, but the fetch in progress still serves them."""
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
    """A kid that keeps arriving without a key waits longer each time."""
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
    """However many kids are invented, only a limited number is remembered."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages, key_ttl=1e6, key_max_age=1e7)
    for n in range(1200):
        ages.now += COOLDOWN
        await reason_of(verifier, with_kid(f"ins_{n}"))
    assert len(verifier._fetched._misses) <= 512


async def test_keys_are_renewed_in_the_background() -> None:
    """Near the end of the ttl a token starts a fetch and does not wait for it."""
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
    """After the ttl without traffic, a retired key is not trusted again."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.body = key_set(OTHER)
    ages.now = TTL + 1
    assert await reason_of(verifier, token()) is Reason.JWK_KID_MISMATCH


@pytest.mark.promise("token-cache")
async def test_cached_tokens_are_dropped_with_their_retired_key() -> None:
    """Whether the kid vanished or has a new key."""
    for change in (key_set(OTHER), None):
        stub, ages = AsyncStub(), Clock(0.0)
        verifier = made(stub, ages)
        await verifier.verify(token())
        replaced = key_set(OTHER).replace(OTHER.kid.encode(), OURS.kid.encode())
        stub.body = change or replaced
        ages.now = TTL + 1
        expected = Reason.JWK_KID_MISMATCH if change else Reason.TOKEN_INVALID_SIGNATURE
        assert await reason_of(verifier, token()) is expected


async def test_a_cached_token_is_dropped_when_its_key_changes() -> None:
    """Even if another token fetched the new keys before."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.body = key_set(OTHER).replace(OTHER.kid.encode(), OURS.kid.encode())
    ages.now = TTL + 1
    assert await verifier.verify(token(key=OTHER, head=header()))
    assert await reason_of(verifier, token()) is Reason.TOKEN_INVALID_SIGNATURE


async def at_once(verifying: Coroutine[Any, Any, SessionClaims]) -> SessionClaims:
    """Return the claims if the call waits for nothing: it ends within some turns of the loop."""
    task = asyncio.create_task(verifying)
    for _ in range(100):
        await asyncio.sleep(0)
    assert task.done(), "the call waits"
    return task.result()


async def test_in_a_known_outage_no_call_waits() -> None:
    """After a failed fetch, further attempts run in the background, however slow they are."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.goes_down()
    ages.now = TTL + 1
    await verifier.verify(token())
    assert verifier.key_status().failed_fetches == 1
    stub.gate = asyncio.Event()
    ages.now += COOLDOWN
    await at_once(verifier.verify(token()))
    assert verifier.key_status().fetches == 3
    stub.gate.set()
    await until(lambda: verifier.key_status().failed_fetches == 2)


async def test_valid_tokens_are_accepted_during_an_outage_of_ten_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While fetches fail the last good keys are used; the status gives their age and the reason."""
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
    """Keys older than `key_max_age` are not used, even for cached tokens: they can't be checked."""
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


async def test_without_any_keys_the_error_is_unavailable_not_a_rejection() -> None:
    """A dead service at the start raises its own error, until the outage ends."""
    stub = AsyncStub()
    stub.goes_down()
    verifier = made(stub)
    assert await reason_of(verifier, token()) is Reason.JWK_FAILED_TO_LOAD
    stub.comes_back()
    assert (await verifier.verify(token())).user_id == "user_1"


async def test_waiting_callers_share_one_failed_fetch() -> None:
    """There are no keys, and fetches fail."""
    stub = AsyncStub()
    stub.goes_down()
    verifier = made(stub)
    reasons = await asyncio.gather(*(reason_of(verifier, token()) for _ in range(1000)))
    assert set(reasons) == {Reason.JWK_FAILED_TO_LOAD}
    assert stub.fetches == 1


async def test_a_caller_waits_for_only_one_failed_fetch() -> None:
    """Even if another fetch has begun since: in an outage one follows another."""
    keys = made(AsyncStub())._fetched
    first, second = keys.prepare(), keys.prepare()
    needed = next(first)
    keys.fail(needed.flight, ConnectError("nobody there"))
    assert next(second).start
    with pytest.raises(KeysUnavailableError):
        next(first)


async def test_an_unknown_kid_in_an_outage_is_unavailable() -> None:
    """Nobody knows whether the instance has that key, so the token is not called invalid."""
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
async def test_an_unreadable_response_keeps_the_good_keys(body: bytes) -> None:
    """Anything but a key set counts as a failed fetch; the old keys stay in use."""
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


async def test_an_unusable_key_does_not_affect_the_others() -> None:
    """A token that names a key of an unknown kind gets an error that says so."""
    stub = AsyncStub()
    stub.body = key_set(OURS)[:-2] + b',{"kid":"ins_new","kty":"AKP","alg":"ML-DSA-44"}]}'
    verifier = made(stub)
    await verifier.verify(token())
    assert await reason_of(verifier, with_kid("ins_new")) is Reason.JWK_FAILED_TO_RESOLVE
    assert stub.fetches == 1


async def test_a_key_is_parsed_once() -> None:
    """A fetch that returns the same key keeps the same object."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    before = verifier._fetched.at_hand(OURS.kid)
    stub.body = key_set(OTHER, OURS)
    ages.now = TTL + 1
    await verifier.verify(token())
    assert verifier._fetched.at_hand(OURS.kid) is before


async def test_a_cancelled_caller_does_not_cancel_the_fetch() -> None:
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
    """An unfinished fetch of a closed loop does not block the next loop."""
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


def test_a_loop_that_stopped_during_a_fetch_is_abandoned() -> None:
    """A loop that is neither closed nor running blocks nobody."""
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


async def test_a_cancelled_fetch_is_restarted() -> None:
    """If all tasks of a loop except the callers are cancelled, the callers don't wait forever."""
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


async def test_expired_keys_are_not_used_if_fetches_keep_being_cancelled() -> None:
    """However often; and an outage that has ended is not reported as the cause."""
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


async def test_a_slow_fetch_past_the_ttl_delays_a_call_only_briefly() -> None:
    """If the known keys are still acceptable, a hanging fetch costs a moment, not the request."""
    stub, ages = AsyncStub(), Clock(0.0)
    verifier = made(stub, ages)
    await verifier.verify(token())
    stub.gate = asyncio.Event()
    ages.now = TTL + 1
    assert (await verifier.verify(token())).user_id == "user_1"
    assert verifier.key_status().age == TTL + 1
    for _ in range(10):
        await at_once(verifier.verify(token()))  # later callers need not wait again
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


async def test_warm_up_reports_a_dead_service() -> None:
    """An app can refuse to start without keys."""
    stub = AsyncStub()
    stub.goes_down()
    with pytest.raises(KeysUnavailableError, match="connection refused"):
        await made(stub).warm_up()


@pytest.mark.promise("key-outage")
async def test_unavailable_keys_give_their_cause() -> None:
    """As a separate error class, without the call's traceback, and also across processes."""
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


async def test_an_unknown_kid_reports_the_cause_of_the_last_failure() -> None:
    """Not that of an earlier failure of another kind."""
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


async def test_key_status_has_figures_for_a_health_page() -> None:
    """It counts fetches and hits, and has the source and the age."""
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


async def test_unexpected_errors_of_a_fetch_are_wrapped() -> None:
    """Callers get KeysUnavailableError without the text of the original error."""
    stub = AsyncStub()
    stub.error = RuntimeError("sk_live_secret in a surprise")
    with pytest.raises(KeysUnavailableError) as caught:
        await made(stub).verify(token())
    assert "sk_live" not in str(caught.value)


def test_the_sync_verifier_waits_for_a_fetch_only_if_it_must() -> None:
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
async def test_the_token_cache_is_bounded(size: int) -> None:
    """At most `token_cache_size` tokens are cached; zero turns the cache off."""
    verifier = made(AsyncStub(), token_cache_size=size)
    for n in range(10):
        await verifier.verify(token(claims(jti=str(n))))
    assert verifier.key_status().cached_tokens == size


@pytest.mark.promise("token-cache")
async def test_a_cached_token_is_rechecked() -> None:
    """An accepted token is rejected once it has expired, even if it is cached."""
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
    """Callers share the cached claims, so nothing in them can be changed."""
    verifier = made(AsyncStub())
    again = token()
    assert await verifier.verify(again) is await verifier.verify(again)
