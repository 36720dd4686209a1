import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.load.latency import Latencies

SECONDS = st.floats(min_value=1e-5, max_value=1e5)


def counted(durations):
    latencies = Latencies()
    for each in durations:
        latencies.add(each)
    return latencies


@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_one_percent_of_the_true_one(durations, share):
    true = sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]
    assert counted(durations).quantile(share) == pytest.approx(true, rel=0.01 + 1e-9)


@given(st.lists(SECONDS), st.lists(SECONDS, min_size=1))
def test_what_is_counted_apart_adds_up(some, others):
    together, all_ = counted(some), counted(some + others)
    together.include(counted(others))
    assert together.count == len(some) + len(others)
    assert together.quantile(0.9) == all_.quantile(0.9)


def test_no_time_at_all_counts_as_the_shortest():
    assert counted([0.0, -1.0]).quantile(1) == pytest.approx(1e-5, rel=0.01 + 1e-9)


def test_of_nothing_there_is_no_quantile():
    assert Latencies().quantile(0.5) is None


def test_memory_does_not_grow_with_the_number_of_requests():
    latencies = counted(index / 1e4 for index in range(100_000))
    assert len(latencies._buckets) < 700
