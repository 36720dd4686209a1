"""The parts of the load generator that need no server."""

import math
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.load.check import Expected, compare
from voting.load.generator import VoterPool, choose
from voting.load.latency import Latencies
from voting.load.pages import Voter
from voting.load.record import (
    Acknowledgement,
    Header,
    Record,
    RecordError,
    RecordWriter,
    Totals,
    VoteResult,
)
from voting.poll.ballot import Choice, Version

A, B = Choice.A, Choice.B
ACKNOWLEDGED, REFUSED, UNKNOWN, NO_RESPONSE = Acknowledgement
NOTHING = Totals(0, 0, 0)
HEADER = Header("1.2", "http://v", "http://r", "2026-01-01T00:00:00+00:00", Totals(3, 4, 7))

# --- voters


@given(st.integers(1, 5), st.floats(0, 1), st.integers(0, 60))
def test_there_are_never_more_voters_than_the_limit(limit, ratio, votes):
    pool, voters = VoterPool(limit, ratio), set()
    for _ in range(votes):
        voter = pool.pick()
        if voter is None:
            voter = Voter(f"voter={len(voters)}")
            pool.add(voter)
        voters.add(voter.id)
    assert len(voters) <= limit


@pytest.mark.parametrize(
    ("limit", "ratio", "new"),
    [(None, 0, [True] * 6), (3, 0, [True] * 3 + [False] * 3), (None, 1, [True] + [False] * 5)],
)
def test_the_revote_ratio_decides_unless_all_voters_have_voted(limit, ratio, new):
    pool, picked = VoterPool(limit, ratio), []
    for number in range(6):
        picked.append(pool.pick() is None)
        if picked[-1]:
            pool.add(Voter(f"voter={number}"))
    assert picked == new


def test_only_the_last_voters_vote_again():
    pool = VoterPool(None, 1, remembered=2)
    for number in range(50):
        pool.add(Voter(f"voter={number}"))
    assert {pool.pick().id for _ in range(50)} == {"48", "49"}


@pytest.mark.parametrize(("last", "choices"), [(A, {B}), (B, {A}), (None, {A, B})])
def test_a_voter_that_votes_again_picks_the_other_option(last, choices):
    assert {choose(last) for _ in range(100)} == choices


# --- latencies


def counted(durations):
    latencies = Latencies()
    for each in durations:
        latencies.add(each)
    return latencies


SECONDS = st.floats(min_value=1e-5, max_value=1e5)


@given(st.lists(SECONDS, min_size=1), st.lists(SECONDS), st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_one_percent_of_the_true_one(some, others, share):
    durations = sorted(some + others)
    true = durations[max(1, math.ceil(share * len(durations))) - 1]
    latencies = counted(some)
    latencies.include(counted(others))
    assert latencies.count == len(durations)
    assert latencies.quantile(share) == pytest.approx(true, rel=0.01 + 1e-9)


def test_latencies_have_no_quantile_without_durations_and_count_none_below_10_us():
    assert Latencies().quantile(0.5) is None
    assert counted([0.0, -1.0]).quantile(1) == pytest.approx(1e-5, rel=0.01 + 1e-9)


def test_the_memory_of_latencies_does_not_grow_with_their_number():
    assert len(counted(index / 1e4 for index in range(100_000))._buckets) < 700


# --- the expected totals


def result(choice, acknowledgement, voter=1):
    return VoteResult(UUID(int=voter).hex, choice, acknowledgement, at=1.5)


def possible_votes(history):
    """Return all that may count in the end for a voter with this history, by trying it."""

    def places(index, acknowledgement):
        if acknowledgement is ACKNOWLEDGED:
            return [index]
        if acknowledgement is REFUSED:
            return [None]
        # A ballot of unknown fate is applied in its turn or never; one without a response may also
        # come after any later one.
        return [None, index] if acknowledgement is UNKNOWN else [None, *range(index, len(history))]

    for chosen in product(*(places(index, each) for index, (_, each) in enumerate(history))):
        # Of two at one place, the one that was sent first and held up comes last.
        applied = [(at, -index) for index, at in enumerate(chosen) if at is not None]
        yield history[-max(applied)[1]][0] if applied else None


VOTES = st.tuples(st.sampled_from(Choice), st.sampled_from(Acknowledgement))


@given(st.lists(st.lists(VOTES, max_size=4), max_size=6))
def test_the_ranges_hold_all_that_a_correct_app_may_show_and_nothing_else(histories):
    expected = Expected(
        result(*vote, voter) for voter, history in enumerate(histories) for vote in history
    )
    possible = [set(possible_votes(history)) for history in histories]
    for choices in ({A}, {B}, {A, B}):
        least = sum(each <= choices for each in possible)
        most = sum(bool(each & choices) for each in possible)
        assert expected.count(*choices) == (least, most)


CERTAIN = st.lists(
    st.tuples(st.sampled_from(Choice), st.sampled_from([ACKNOWLEDGED, REFUSED]), st.integers(0, 5))
)


@given(CERTAIN, st.integers(0, 9), st.integers(-2, 2), st.integers(-2, 2))
def test_without_unknown_votes_one_result_is_right_and_every_other_is_wrong(
    votes, before, more, less
):
    newest = {voter: choice for choice, each, voter in votes if each is ACKNOWLEDGED}
    a, b = (list(newest.values()).count(choice) + before for choice in (A, B))
    totals = Totals(a + more, b + less, a + b + more + less)
    expected = Expected(result(*vote) for vote in votes)
    verdict = compare(expected, Totals(before, before, 2 * before), totals)
    assert verdict.agrees is (more == less == 0)
    assert verdict.line.startswith("exact: " if verdict.agrees else "differs: ")


def test_the_line_has_the_totals_and_those_that_were_expected():
    votes = [
        *(result(A, ACKNOWLEDGED, voter) for voter in range(1200)),
        result(B, ACKNOWLEDGED, 9999),
    ]
    expected = Expected([*votes, result(B, ACKNOWLEDGED, 9999)])
    assert compare(expected, NOTHING, Totals(1200, 1, 1201)).line == "exact: a 1,200, b 1"
    assert (
        compare(expected, NOTHING, Totals(1199, 1, 1200)).line
        == "differs: a 1,199 instead of 1,200, b 1, votes 1,200 instead of 1,201"
    )


def test_unknown_votes_give_a_range_and_a_result_in_it_is_consistent():
    expected = Expected(
        [result(A, ACKNOWLEDGED, 1), result(B, UNKNOWN, 1), result(B, NO_RESPONSE, 2)]
    )
    for totals in (Totals(1, 0, 1), Totals(0, 1, 1), Totals(1, 1, 2), Totals(0, 2, 2)):
        verdict = compare(expected, NOTHING, totals)
        assert verdict.agrees
        assert verdict.line.startswith("consistent: a ")
        assert "(0 to 1)" in verdict.line
    assert not compare(expected, NOTHING, Totals(1, 2, 3)).agrees
    assert not compare(expected, NOTHING, Totals(0, 0, 0)).agrees


HIDDEN = Totals(None, None, 4)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (HIDDEN, Totals(None, None, 5)),
        (HIDDEN, Totals(3, 2, 5)),
        (Totals(2, 2, 4), Totals(None, None, 5)),
    ],
)
def test_of_hidden_votes_the_number_of_voters_is_compared(before, now):
    verdict = compare(Expected([result(A, ACKNOWLEDGED)]), before, now)
    assert verdict.agrees
    assert verdict.line == "exact: votes 5; the votes of each option are hidden"
    assert not compare(Expected(), before, now).agrees


# --- the record

RESULTS = [
    result(A, ACKNOWLEDGED, 1)._replace(version=Version(17, 3), status=303),
    result(B, REFUSED, 2),
    result(B, UNKNOWN, 3),
    result(A, NO_RESPONSE, 3),
]


def write(path: Path) -> Path:
    with path.open("w") as file:
        writer = RecordWriter(file, HEADER)
        for each in RESULTS:
            writer.add(each)
    return path


def test_a_record_is_read_as_it_was_written(tmp_path):
    results = []
    record = Record.read(write(tmp_path / "record"), results.append)
    assert (record.header, record.complete, results) == (HEADER, True, RESULTS)


@pytest.mark.parametrize("cut", [1, 20])
def test_a_record_whose_last_line_is_cut_off_is_read_without_it(tmp_path, cut):
    path = write(tmp_path / "record")
    path.write_text(path.read_text()[:-cut])
    results = []
    assert not Record.read(path, results.append).complete
    assert results == RESULTS[:-1]


@pytest.mark.parametrize(
    "line", ["{", "7", '{"voter":"x"}', '{"choice":"c","acknowledgement":"unknown"}', ""]
)
def test_the_first_line_that_is_not_of_a_record_is_named(tmp_path, line):
    path = write(tmp_path / "record")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(RecordError, match=r"record: line 3 is not of a record"):
        Record.read(path, [].append)


@pytest.mark.parametrize("text", ["", "{}", "[]\n", '{"before": 1}\n', "\xff"])
def test_a_file_without_a_header_is_not_a_record(tmp_path, text):
    path = tmp_path / "record"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match="line 1 "):
        Record.read(path, [].append)
