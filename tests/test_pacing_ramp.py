"""The ramp: fast while nothing is rejected, careful beside other clients."""

from __future__ import annotations

import pytest

from clerk_async.pacing.ramp import Ramp
from clerk_async.pacing.window import Ticket


def _answers(ramp: Ramp, count: int, *, latency: float = 0.1) -> None:
    for _ in range(count):
        ramp.let_through(Ticket(ramp.era), latency)


@pytest.mark.promise("pacing")
def test_concurrency_starts_at_16_and_doubles_with_each_round_trip() -> None:
    """Each response allows two more requests."""
    ramp = Ramp(1000, 10.0)
    assert ramp.concurrency == 16
    _answers(ramp, 16)
    assert ramp.concurrency == 32
    _answers(ramp, 32)
    assert ramp.concurrency == 64


def test_concurrency_rises_to_what_the_latency_needs_and_no_further() -> None:
    """A service that takes 5 s per response at 100 a second needs 500 in flight."""
    quick, slow = Ramp(1000, 10.0), Ramp(1000, 10.0)
    _answers(quick, 5000, latency=0.01)
    _answers(slow, 5000, latency=5.0)
    assert quick.concurrency <= 1000 / 3 + 1
    assert 500 <= slow.concurrency <= 1001


def test_a_429_pauses_all_workers_and_restarts_from_four() -> None:
    """The Retry-After counts from now."""
    ramp = Ramp(100, 10.0)
    _answers(ramp, 20)
    ramp.refused(Ticket(ramp.era), 5.0, 40, 429, 3.0)
    assert ramp.paused_until == 8.0
    assert ramp.pause_reason == "rate_limited"
    assert ramp.concurrency == 4


def test_rejections_of_one_burst_count_once() -> None:
    """Ten rejections of one burst don't lower the allowance ten times."""
    ramp = Ramp(100, 10.0)
    burst = [Ticket(ramp.era) for _ in range(10)]
    for ticket in burst:
        ramp.refused(ticket, 5.0, 40, 429, 1.0)
    assert ramp.era == 1
    assert ramp.allowance(6.0) == pytest.approx(36.0)


def test_the_longest_of_several_waits_counts() -> None:
    """A shorter one that comes later doesn't shorten the pause."""
    ramp = Ramp(100, 10.0)
    burst = [Ticket(ramp.era) for _ in range(2)]
    ramp.refused(burst[0], 5.0, 40, 429, 9.0)
    ramp.refused(burst[1], 6.0, 40, 429, 1.0)
    assert ramp.paused_until == 14.0


def test_the_allowance_falls_to_nine_tenths_and_recovers() -> None:
    """It rises slowly near the level that was rejected, faster beyond, and recovers completely."""
    ramp = Ramp(100, 10.0)
    ramp.refused(Ticket(ramp.era), 0.0, 50, 429, 10.0)
    levels = [ramp.allowance(10.0 * window) for window in range(1, 31)]
    assert levels[0] == pytest.approx(45.0)
    assert levels[8] == pytest.approx(50.0)
    assert levels == sorted(levels)
    assert levels[9] - levels[8] < 0.1
    assert levels[-1] == 100


def test_sends_are_spread_beside_a_neighbour_and_bursts_return_later() -> None:
    """A burst would fill the server's window before the neighbour's requests arrive."""
    ramp = Ramp(100, 10.0)
    ramp.take(1.0)
    assert ramp.next_at == 0.0
    ramp.refused(Ticket(ramp.era), 12.0, 50, 429, 1.0)
    ramp.take(13.0)
    assert ramp.next_at == pytest.approx(13.0 + 10.0 / 45.0)
    assert ramp.allowance(1_000.0) == 100
    ramp.take(1_000.0)
    assert ramp.next_at < 1_000.0


def test_repeated_429s_without_a_time_wait_longer_each_time() -> None:
    """0.1, 0.2, 0.4 … seconds, at most the window; and from 0.1 again after a success."""
    ramp = Ramp(100, 1.0)
    waits: list[float] = []
    for _ in range(6):
        now = ramp.paused_until
        ramp.refused(Ticket(ramp.era), now, 10, 429, None)
        waits.append(ramp.paused_until - now)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    _answers(ramp, 1)
    now = ramp.paused_until
    ramp.refused(Ticket(ramp.era), now, 10, 429, None)
    assert ramp.paused_until - now == pytest.approx(0.1)


@pytest.mark.parametrize("told", [None, 0.0])
def test_one_429_without_a_time_does_not_lower_the_allowance(told: float | None) -> None:
    """The service's own limit always sends a time; only a repeated one counts."""
    ramp = Ramp(100, 1.0)
    ramp.refused(Ticket(ramp.era), 0.0, 10, 429, told)
    ramp.take(1.0)
    assert ramp.allowance(1.0) == 100
    assert ramp.concurrency == 8
    ramp.refused(Ticket(ramp.era), 2.5, 10, 429, told)
    assert ramp.allowance(3.5) < 12


def _burst(ramp: Ramp, count: int) -> list[Ticket]:
    tickets = [Ticket(ramp.era) for _ in range(count)]
    for number, ticket in enumerate(tickets):
        ticket.sent_at = number / 1000
    return tickets


def test_a_429_between_successes_of_later_sends_is_not_the_limit() -> None:
    """A full window would have rejected them too."""
    ramp = Ramp(100, 10.0)
    first, *later = _burst(ramp, 10)
    ramp.refused(first, 0.1, 20, 429, 1.0)
    for ticket in later:
        ramp.let_through(ticket, 0.1)
    ramp.take(1.1)
    assert ramp.paused_until == 1.1
    assert ramp.allowance(1.1) == 100
    assert ramp.concurrency == 8


def test_a_429_among_other_429s_is_the_limit() -> None:
    """Requests sent earlier arrived before the window was full."""
    ramp = Ramp(100, 10.0)
    tickets = _burst(ramp, 10)
    ramp.refused(tickets[6], 0.1, 14, 429, 1.0)
    for ticket in tickets[:6]:
        ramp.let_through(ticket, 0.1)
    for ticket in tickets[7:]:
        ramp.refused(ticket, 0.2, 14, 429, 1.0)
    ramp.take(1.2)
    assert ramp.allowance(1.2) == pytest.approx(18.0, abs=0.1)
    assert ramp.concurrency == 4


def test_a_503_with_a_time_pauses_without_lowering_the_allowance() -> None:
    """The service is down, and says nothing about the limit."""
    ramp = Ramp(100, 10.0)
    ramp.refused(Ticket(ramp.era), 0.0, 10, 503, 7.0)
    assert ramp.paused_until == 7.0
    assert ramp.pause_reason == "unavailable"
    assert ramp.allowance(7.0) == 100


def test_no_pause_is_longer_than_two_minutes() -> None:
    """Whatever a proxy says."""
    ramp = Ramp(100, 10.0)
    ramp.refused(Ticket(ramp.era), 0.0, 10, 429, 1e9)
    assert ramp.paused_until == 120.0


def test_a_429_in_the_first_window_lowers_the_allowance_by_half_as_much() -> None:
    """An earlier run may have filled the window, rather than a lasting neighbour."""
    early, late = Ramp(100, 10.0), Ramp(100, 10.0)
    early.take(0.0)
    early.refused(Ticket(early.era), 5.0, 40, 429, 3.0)
    late.refused(Ticket(late.era), 5.0, 40, 429, 3.0)
    assert early.allowance(8.0) == pytest.approx(0.9 * (40 + 100) / 2)
    assert late.allowance(8.0) == pytest.approx(0.9 * 40)


def test_a_429_after_a_long_pause_counts_fully() -> None:
    """It is due to a lasting neighbour."""
    ramp = Ramp(100, 10.0)
    ramp.take(0.0)
    ramp.refused(Ticket(ramp.era), 5.0, 40, 429, 30.0)
    ramp.take(36.0)
    ramp.refused(Ticket(ramp.era), 37.0, 40, 429, 1.0)
    assert ramp.allowance(38.0) == pytest.approx(36.0)
