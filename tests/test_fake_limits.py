"""FakeClerk's rate limit is a true sliding window, counted over the whole instance."""

from __future__ import annotations

import math

import pytest
from attrs import define, frozen
from fake_calls import get
from hypothesis import example, given
from hypothesis import strategies as st

from clerk_async.testing import FakeClerk
from clerk_async.testing.settings import SlidingWindow, read_limit


@frozen
class Limit:
    count: int
    per: float


@define
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class TestWindow:
    def test_slots_free_one_by_one(self) -> None:
        window = SlidingWindow(3, 10.0)
        assert [window.admit(at) for at in (0.0, 4.0, 9.0)] == [None, None, None]
        assert [window.admit(at) for at in (10.0, 14.0, 19.0)] == [None, None, None]
        assert window.admit(19.5) == 1

    def test_a_429_names_whole_seconds_and_blocks_until_then(self) -> None:
        window = SlidingWindow(2, 10.0)
        assert [window.admit(at) for at in (0.0, 0.5, 6.7)] == [None, None, 4]
        # The oldest leaves the window at 10.0, but the block lasts until 10.7.
        assert window.admit(10.2) == 1
        assert window.admit(10.7) is None

    def test_rejected_requests_do_not_count(self) -> None:
        window = SlidingWindow(1, 10.0)
        assert window.admit(0.0) is None
        assert [window.admit(float(at)) for at in range(1, 10)] == list(range(9, 0, -1))
        assert window.admit(10.0) is None

    @pytest.mark.promise("any-sdk")
    @example(1, 10.0, [0.0, 9.999])
    @given(
        st.integers(1, 20),
        st.floats(0.1, 50.0),
        st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200),
    )
    def test_no_window_ever_exceeds_the_limit(
        self, count: int, per: float, gaps: list[float]
    ) -> None:
        window, now, accepted = SlidingWindow(count, per), 0.0, list[float]()
        for gap in gaps:
            now += gap
            wait = window.admit(now)
            if wait is None:
                accepted.append(now)
            else:
                assert isinstance(wait, int)
                assert 1 <= wait <= math.ceil(per)
        for index in range(len(accepted) - count):
            # The window is half open: what was accepted at t counts until t + per.
            assert accepted[index + count] - per >= accepted[index] - 1e-6

    @pytest.mark.parametrize("limit", [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.nan), (1, math.inf)])
    def test_limits_must_be_positive(self, limit: tuple[int, float]) -> None:
        with pytest.raises(ValueError, match="positive"):
            read_limit(limit)

    def test_a_limit_is_any_object_with_the_two_numbers(self) -> None:
        assert read_limit(Limit(5, 2.0)) == read_limit((5, 2)) == (5, 2.0)
        assert read_limit(None) is None


class TestOverHttp:
    def test_a_429_has_retry_after(self) -> None:
        clock = Clock()
        with FakeClerk(rate_limit=Limit(2, 10.0), monotonic=clock) as fake:
            assert [get(fake, "/sessions/sess_1").status for _ in range(2)] == [404, 404]
            clock.now += 3.5
            reply = get(fake, "/sessions/sess_1")
            assert (reply.status, reply.code) == (429, "too_many_requests")
            assert reply.headers["Retry-After"] == "7"
            clock.now += 7.0
            assert get(fake, "/sessions/sess_1").status == 404

    def test_the_key_set_is_never_limited(self) -> None:
        with FakeClerk(rate_limit=(1, 1000.0)) as fake:
            assert [get(fake, "/jwks").status for _ in range(3)] == [200] * 3
            assert get(fake, "/sessions/sess_1").status == 404
            assert get(fake, "/sessions/sess_1").status == 429
            assert get(fake, "/jwks").status == 200

    def test_requests_without_a_key_do_not_count(self) -> None:
        with FakeClerk(rate_limit=(1, 1000.0)) as fake:
            assert get(fake, "/sessions/sess_1", key="sk_test_other").status == 401
            assert get(fake, "/sessions/sess_1").status == 404

    def test_it_can_be_set_and_removed_at_run_time(self, fake: FakeClerk) -> None:
        assert fake.rate_limit is None
        limit = Limit(1, 1000.0)
        fake.rate_limit = limit
        assert fake.rate_limit is limit
        assert [get(fake, "/sessions/s").status for _ in range(2)] == [404, 429]
        fake.rate_limit = limit
        assert get(fake, "/sessions/s").status == 404
        fake.rate_limit = None
        assert get(fake, "/sessions/s").status == 404
        with pytest.raises(ValueError, match="positive"):
            fake.rate_limit = (0, 1.0)
