from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.web.rate_limit import PERIOD, SLOTS, RateLimit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def taken(limit, voter, attempts):
    """Count how many of so many attempts are let through."""
    return sum(limit.take(voter) == 0 for _ in range(attempts))


def test_so_many_in_a_row_and_no_more(clock):
    limit = RateLimit(20, clock)
    assert taken(limit, 1, 100) == 20
    assert limit.take(1) == pytest.approx(PERIOD / 20)


def test_one_voter_does_not_take_from_another(clock):
    limit = RateLimit(2, clock)
    assert [taken(limit, voter, 5) for voter in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("times", [1, 3, 20, 1000])
def test_who_waits_as_told_is_let_through(clock, times):
    limit = RateLimit(times, clock)
    taken(limit, 1, times)
    for _ in range(3 * times):
        clock.now += limit.take(1) + 1e-6
        assert limit.take(1) == 0
        assert limit.take(1) > 0


def test_who_rests_has_all_again(clock):
    limit = RateLimit(20, clock)
    for _ in range(5):
        assert taken(limit, 1, 100) == 20
        clock.now += PERIOD


def test_what_came_to_nothing_does_not_count(clock):
    limit = RateLimit(1, clock)
    for _ in range(10):
        assert limit.take(1) == 0
        limit.give_back(1)
    assert taken(limit, 1, 2) == 1


def test_0_is_no_limit(clock):
    limit = RateLimit(0, clock)
    assert taken(limit, 1, 1000) == 1000
    limit.give_back(1)


@given(st.lists(st.floats(0, 2 * PERIOD), max_size=200), st.integers(1, 30))
def test_never_more_than_twice_as_many_in_any_minute(pauses, times):
    clock = Clock()
    limit, let_through = RateLimit(times, clock), []
    for pause in pauses:
        clock.now += pause
        let_through += [clock.now] * taken(limit, 1, times + 1)
    for start in let_through:
        assert sum(start <= each < start + PERIOD for each in let_through) < 2 * times


def test_who_falls_on_the_slot_of_another_takes_nothing_from_anybody(clock):
    limit = RateLimit(2, clock)
    one, other = (upper << 64 | 5 for upper in (1, 2))
    assert taken(limit, one, 5) == 2
    limit.give_back(other)
    assert taken(limit, one, 5) == 0
    # The newer one has the slot.
    assert taken(limit, other, 5) == 2
    limit.give_back(one)
    assert taken(limit, other, 5) == 0


def test_most_of_a_crowd_are_remembered(clock):
    limit, crowd = RateLimit(1, clock), [Random(n).getrandbits(128) for n in range(SLOTS // 4)]
    assert all(limit.take(voter) == 0 for voter in crowd)
    assert sum(limit.take(voter) > 0 for voter in crowd) > len(crowd) * 0.75
