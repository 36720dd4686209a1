from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.web.rate_limit import PERIOD, SLOTS, RateLimit

SECOND = 10**9  # nanoseconds


class Clock:
    def __init__(self):
        self.now = 1000 * SECOND

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def allowed(limit, voter, attempts):
    """Return how many of so many attempts are allowed."""
    return sum(limit.acquire(voter) == 0 for _ in range(attempts))


def test_a_burst_has_the_size_of_the_limit(clock):
    limit = RateLimit(20, clock)
    assert allowed(limit, 1, 100) == 20
    assert limit.acquire(1) == 3


@pytest.mark.parametrize("times", [1, 3, 20, 1000])
def test_a_request_after_the_returned_wait_is_allowed(clock, times):
    limit = RateLimit(times, clock)
    allowed(limit, 1, times)
    for _ in range(3 * times):
        clock.now += round(limit.acquire(1) * SECOND)
        assert limit.acquire(1) == 0
        assert limit.acquire(1) > 0


def test_the_whole_burst_is_available_after_a_pause(clock):
    limit = RateLimit(20, clock)
    for _ in range(5):
        assert allowed(limit, 1, 100) == 20
        clock.now += PERIOD


@given(now=st.integers(0, 2**50), times=st.integers(1, 100))
def test_the_whole_burst_is_available_at_any_uptime_of_the_machine(now, times):
    limit = RateLimit(times, lambda: now)
    assert allowed(limit, 1, times + 1) == times


def test_a_refunded_request_does_not_count(clock):
    limit = RateLimit(1, clock)
    for _ in range(10):
        assert limit.acquire(1) == 0
        limit.refund(1)
    assert allowed(limit, 1, 2) == 1


def test_0_is_no_limit(clock):
    limit = RateLimit(0, clock)
    assert allowed(limit, 1, 1000) == 1000
    limit.refund(1)


@given(st.lists(st.integers(0, 2 * PERIOD), max_size=200), st.integers(1, 30))
def test_fewer_than_twice_the_limit_are_allowed_in_any_minute(pauses, times):
    clock = Clock()
    limit, let_through = RateLimit(times, clock), []
    for pause in pauses:
        clock.now += pause
        let_through += [clock.now] * allowed(limit, 1, times + 1)
    for start in let_through:
        assert sum(start <= each < start + PERIOD for each in let_through) < 2 * times


def test_a_slot_collision_changes_no_count_of_another_voter(clock):
    limit = RateLimit(2, clock)
    one, other = (upper << 64 | 5 for upper in (1, 2))
    assert allowed(limit, one, 5) == 2
    limit.refund(other)
    assert allowed(limit, one, 5) == 0
    # The newer one has the slot.
    assert allowed(limit, other, 5) == 2
    limit.refund(one)
    assert allowed(limit, other, 5) == 0


def test_most_of_32768_voters_are_remembered(clock):
    limit, crowd = RateLimit(1, clock), [Random(n).getrandbits(128) for n in range(SLOTS // 4)]
    assert all(limit.acquire(voter) == 0 for voter in crowd)
    assert sum(limit.acquire(voter) > 0 for voter in crowd) > len(crowd) * 0.75
