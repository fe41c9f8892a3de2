"""Whether a failed attempt is retried and after how long: the table, without I/O."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clerk_async import (
    ApiError,
    ClerkError,
    ConnectError,
    ConnectionLostError,
    ErrorDetail,
    InvalidArgumentError,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
)
from clerk_async.http.error_bodies import error_class_for
from clerk_async.http.operations import OPERATIONS, RetryClass
from clerk_async.http.retry import (
    RetryQuota,
    backoff,
    is_retryable,
    parse_retry_after,
    pauses_client,
)

NOW = 1_800_000_000.0
SAFE = {"list", "get", "jwks", "revoke", "verify", "create_token", "create_token_from_template"}
PASSING = {500, 502, 503, 504, 520, 522, 523, 524}


def answer(status: int, *, code: str = "", retry_after: float | None = None) -> ApiError:
    """Make the error of a response."""
    details = (ErrorDetail("", "", code),) if code else ()
    return error_class_for(status)("", status=status, errors=details, retry_after=retry_after)


def test_each_operation_has_its_class() -> None:
    """Only create and refresh are not safe to repeat."""
    classes = {name: row.retry for name, row in OPERATIONS.items()}
    assert {name for name, kind in classes.items() if kind is RetryClass.SAFE} == SAFE
    assert classes["create"] is RetryClass.CREATES
    assert classes["refresh"] is RetryClass.CONSUMES
    assert set(classes) == SAFE | {"create", "refresh"}


@pytest.mark.promise("retry-table")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_status_is_retried_as_in_the_table(operation: str) -> None:
    """Every status from 300 to 599 is checked."""
    kind = OPERATIONS[operation].retry
    for status in range(300, 600):
        expected = status == 429 or (operation in SAFE and status in PASSING)
        assert is_retryable(kind, answer(status)) is expected, status
        with_wait = answer(status, retry_after=1.0)
        assert is_retryable(kind, with_wait) is (expected or status == 503), status


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_lock_is_retried_a_conflict_is_not(operation: str) -> None:
    """A 409 is retried only with the code resource_locked, and never for refresh."""
    kind = OPERATIONS[operation].retry
    assert is_retryable(kind, answer(409, code="resource_locked")) is (operation != "refresh")
    assert not is_retryable(kind, answer(409, code="conflict"))
    assert not is_retryable(kind, answer(409))


@pytest.mark.promise("retry-table")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_transport_error_is_retried_as_in_the_table(operation: str) -> None:
    """Unsent requests are retried; those that may have arrived only if repeating is harmless."""
    kind = OPERATIONS[operation].retry
    is_safe = operation in SAFE
    table: list[tuple[ClerkError, bool]] = [
        (ConnectError(""), True),
        (ConnectError("", is_final=True), False),
        (RequestTimeoutError("", phase="connect"), True),
        (RequestTimeoutError("", phase="queue"), False),
        (RequestTimeoutError("", phase="response"), is_safe),
        (ConnectionLostError(""), is_safe),
        (ResponseDecodeError(""), False),
    ]
    for error, expected in table:
        assert is_retryable(kind, error) is expected, error


def test_only_429_and_503_with_a_time_pause_the_client() -> None:
    """Other failures delay one call, not the client."""
    for status in range(300, 600):
        assert pauses_client(answer(status)) is (status == 429)
        assert pauses_client(answer(status, retry_after=1.0)) is (status in {429, 503})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("0", 0.0),
        ("1", 1.0),
        (" 61 ", 61.0),
        ("007", 7.0),
        ("1.5", 1.5),
        ("0.25", 0.25),
        ("9" * 39, float("9" * 39)),
        ("9" * 400, math.inf),
        ("-1", None),
        ("+1", None),
        ("-0", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("1.2.3", None),
        (".", None),
        (".5", 0.5),
        ("5.", 5.0),
        ("nan", None),
        ("NaN", None),
        ("inf", None),
        ("Infinity", None),
        ("-inf", None),
        ("1, 2", None),
        ("1;2", None),
        ("1s", None),
        ("soon", None),
        ("¹²", None),
        ("٣", None),
        ("null", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 1, UTC), usegmt=True), 0.0),
        ("Fri, 15 Jan 2027 08:01:30 +0000", 90.0),
        ("Friday, 15-Jan-27 08:01:30 GMT", 90.0),
        ("Fri Jan 15 08:01:30 2027", 90.0),
        ("Fri Jan  1 08:01:30 2027", 0.0),
        ("Fri, 15 Jan 2027 08:01:30", 90.0),
        ("Fri, 15 Jan 2027 08:01:30 -0000", 90.0),
        ("Fri, 99 Jan 2027 08:01:30 GMT", None),
        ("Fri, 15 Jan 99999999999999999999 08:01:30 GMT", None),
        ("Fri, 15 Jan 2027 08:01:30 +99999999999", None),
        ("2027-01-15T08:01:30Z", None),
        ("Fri", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3); an invalid value is ignored."""
    assert parse_retry_after(value, NOW) == expected


@given(st.text(max_size=60), st.floats(allow_nan=False, allow_infinity=False))
def test_no_retry_after_crashes_or_returns_nan(value: str, now: float) -> None:
    """Whatever a proxy sends, the result is a number from 0 up, or None."""
    seconds = parse_retry_after(value, now)
    assert seconds is None or seconds >= 0.0


def test_backoff_doubles_up_to_its_bound() -> None:
    """The bound doubles with each retry until max_delay, however many there are."""
    policy = RetryPolicy(base_delay=0.25, max_delay=8.0)
    bounds = [backoff(policy, retry, None, lambda: 1.0) for retry in range(1, 9)]
    assert bounds == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    for retry in (65, 1024, 1025, 10**9):
        assert backoff(policy, retry, None, lambda: 1.0) == 8.0


@pytest.mark.promise("backoff")
def test_backoff_has_full_jitter() -> None:
    """The wait is drawn from the whole range, including zero."""
    policy = RetryPolicy(base_delay=1.0)
    assert [backoff(policy, 2, None, lambda: part) for part in (0.0, 0.5, 1.0)] == [0.0, 1.0, 2.0]  # noqa: B023


@given(
    st.integers(1, 10**6),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
)
def test_backoff_is_finite_and_bounded(
    retry: int, retry_after: float | None, part: float, base: float, most: float
) -> None:
    """No wait is negative, infinite or NaN, or shorter than the service requested."""
    wait = backoff(RetryPolicy(base_delay=base, max_delay=most), retry, retry_after, lambda: part)
    assert math.isfinite(wait)
    if retry_after is None:
        assert 0 <= wait <= most
    else:
        assert retry_after <= wait <= retry_after * 1.1 + 1e-9


def test_quota_pays_for_retries() -> None:
    """500 tokens: 5 for a retry and 10 after a timeout; when empty, nothing is retried."""
    quota = RetryQuota()
    assert [quota.take(ConnectionLostError("")) for _ in range(101)] == [5] * 100 + [0]
    quota = RetryQuota()
    late = RequestTimeoutError("", phase="response")
    assert [quota.take(late) for _ in range(51)] == [10] * 50 + [0]
    quota = RetryQuota()
    quota.tokens = 9
    assert quota.take(late) == 0
    assert quota.take(answer(500)) == 5


def test_a_success_refills_the_quota() -> None:
    """It returns what its retry took, or 1, and never exceeds the maximum."""
    quota = RetryQuota()
    quota.give_back(10)
    assert quota.tokens == 500
    quota.take(answer(500))
    quota.give_back(0)
    assert quota.tokens == 496
    quota.give_back(5)
    assert quota.tokens == 500


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, True, "1", None, 10**400])
@pytest.mark.parametrize("name", ["base_delay", "max_delay", "max_retry_after"])
def test_a_policy_rejects_nan_and_infinity(name: str, value: object) -> None:
    """They can't come in through the policy either."""
    with pytest.raises(InvalidArgumentError, match=name):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, True, "1"])
def test_a_policy_rejects_a_bad_deadline(value: object) -> None:
    """A deadline is a number above zero, or None for no limit."""
    with pytest.raises(InvalidArgumentError, match="deadline"):
        RetryPolicy(deadline=value)  # type: ignore[arg-type]
    assert RetryPolicy(deadline=None).deadline is None


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_a_policy_rejects_bad_attempts(value: object) -> None:
    """The first request counts, so there is at least one."""
    with pytest.raises(InvalidArgumentError, match="attempts"):
        RetryPolicy(attempts=value)  # type: ignore[arg-type]
