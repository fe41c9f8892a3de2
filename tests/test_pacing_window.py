"""The send window: whatever the latency, the server never sees more than the limit."""

from __future__ import annotations

import heapq
import math

import pytest
from bulk_stage import most_in_any_window
from hypothesis import example, given
from hypothesis import strategies as st

from clerk_async.pacing.window import SendWindow

PER = 1.0
trips = st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 1.0)), min_size=1, max_size=120)


@pytest.mark.promise("pacing")
@example(limit=2, per=10.0, trips=[(0.0, 0.0), (0.009, 1.0), (0.0, 0.0), (0.0, 0.0)])
@given(limit=st.integers(1, 12), per=st.sampled_from([PER, 10.0]), trips=trips)
def test_no_window_is_exceeded_whenever_a_request_arrives(
    limit: int, per: float, trips: list[tuple[float, float]]
) -> None:
    """Latencies vary from zero to three windows; requests arrive between send and response."""
    window = SendWindow(per)
    answers: list[float] = []
    arrivals: list[float] = []
    now = 0.0
    for latency, part in trips:
        while True:
            while answers and answers[0] <= now:
                window.leave(heapq.heappop(answers), has_arrived=True)
            if window.used(now) < limit:
                break
            now = min(window.free_at(), answers[0] if answers else math.inf)
        window.in_flight += 1
        arrivals.append(now + latency * part)
        heapq.heappush(answers, now + latency)
    assert most_in_any_window(arrivals, per) <= limit


@given(limit=st.integers(1, 50))
def test_a_run_within_the_limit_is_sent_at_once(limit: int) -> None:
    """The window never delays requests that it has room for."""
    window = SendWindow(PER)
    for _ in range(limit):
        assert window.used(0.0) < limit
        window.in_flight += 1
    assert window.used(0.0) == limit


def test_a_place_is_freed_one_window_after_the_response() -> None:
    """Not after the send, because the request may have arrived just before the response."""
    window = SendWindow(10.0)
    window.in_flight += 1
    assert window.free_at() == math.inf
    window.leave(2.5, has_arrived=True)
    assert window.used(12.4) == 1
    assert window.free_at() == pytest.approx(12.5, abs=0.01)
    assert window.used(12.51) == 0


def test_a_request_that_was_never_sent_takes_no_place() -> None:
    """The server doesn't count a cancelled wait or a refused connection."""
    window = SendWindow(10.0)
    window.in_flight += 1
    window.leave(1.0, has_arrived=False)
    assert window.used(1.0) == 0
