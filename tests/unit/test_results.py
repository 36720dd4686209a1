from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voting.poll.ballot import Version
from voting.poll.lifecycle import Poll
from voting.poll.question import CHOICES, Question
from voting.poll.results import (
    FinalResult,
    PollResult,
    TimelineBucket,
    Totals,
    VoteCounts,
    as_dict,
    publish,
    publish_final,
)

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = datetime(2029, 1, 1, tzinfo=UTC)

OPEN = Poll()
COUNTING = Poll(state="closed", closed_at=EARLIER, last_version=Version(1, 0))
FINAL = replace(COUNTING, final_at=EARLIER)


def poll_result(poll=OPEN):
    return PollResult(Totals((7, 2), AT), poll)


SHOWN, HIDDEN = (VoteCounts(9, (7, 2)), False), (VoteCounts(9, None), True)


@pytest.mark.parametrize(
    ("poll", "after_close"),
    [
        (OPEN, HIDDEN),
        (replace(OPEN, closes_at=EARLIER), HIDDEN),  # not closed yet, although it is time
        (Poll(state="closed"), HIDDEN),  # Redis has not confirmed the close
        (COUNTING, SHOWN),
        (FINAL, SHOWN),
    ],
)
def test_totals_are_hidden_until_redis_confirms_the_close_or_they_are_revealed(poll, after_close):
    for setting, expected in (
        ("always", SHOWN),
        ("after_close", after_close),
        ("when_revealed", HIDDEN),
    ):
        result = publish(poll_result(poll), setting)
        assert (result.counts, result.hidden) == expected
        revealed = publish(poll_result(replace(poll, revealed=True)), setting)
        assert (revealed.counts, revealed.hidden) == SHOWN


@pytest.mark.parametrize("revealed", [False, True])
@pytest.mark.parametrize("setting", ["always", "after_close", "when_revealed"])
def test_final_totals_are_hidden_until_they_are_revealed_only(setting, revealed):
    final = FinalResult(3, AT, EARLIER, Question(), (7, 2), revealed=revealed)
    public = publish_final(final, setting)
    shown = revealed or setting != "when_revealed"
    assert (public.votes, public.counts) == (9, (7, 2) if shown else None)
    assert public.vote_counts.leader == ("a" if shown else None)
    assert [each.votes for each in public.options] == ([7, 2] if shown else [None, None])
    assert (public.round, public.final_at, public.closed_at) == (3, AT, EARLIER)


@pytest.mark.parametrize(("poll", "public"), [(OPEN, None), (COUNTING, AT), (FINAL, AT)])
def test_lost_queue_is_public_once_voters_can_not_vote_again(poll, public):
    result = publish(poll_result(replace(poll, queue_lost_at=AT)), "always")
    assert result.queue_lost_at == public


def test_json_has_null_for_what_is_unknown():
    found = as_dict(None)
    assert found.pop("options") == []
    assert found.pop("hidden") is False
    assert set(found.values()) == {None}


def test_json_has_the_life_of_the_poll():
    poll = replace(FINAL, round=3, closes_at=AT, queue_lost_at=AT)
    found = as_dict(publish(poll_result(poll), "after_close"))
    assert (found["round"], found["phase"], found["votes"]) == (3, "final", 9)
    assert found["closed_at"] == found["final_at"] == "2029-01-01T00:00:00+00:00"
    assert {found[key] for key in ("closes_at", "queue_lost_at", "at")} == {AT.isoformat()}


@pytest.mark.parametrize("setting", ["always", "after_close"])
@pytest.mark.parametrize("names", [("Cats", "Dogs"), ("Tea", "Coffee", "Water")])
def test_json_has_the_question_and_its_options_in_order(names, setting):
    poll = Poll(question=Question("Which?", names))
    votes = [*range(5, 5 + len(names))]
    found = as_dict(publish(PollResult(Totals(tuple(votes), AT), poll), setting))
    shown = votes if setting == "always" else [None] * len(names)
    assert (found["title"], found["votes"]) == ("Which?", sum(votes))
    assert found["options"] == [
        {"key": key, "name": name, "votes": number}
        for key, name, number in zip("abc", names, shown, strict=False)
    ]


@pytest.mark.parametrize(
    ("counts", "shares", "leader", "lead"),
    [
        ((0, 0), None, None, 0),
        ((2, 1), (66.7, 33.3), "a", 1),
        ((1, 1), (50.0, 50.0), None, 0),
        ((0, 3), (0.0, 100.0), "b", 3),
        # Rounding makes no unanimity, and no vote vanish.
        ((1, 99_999), (0.1, 99.9), "b", 99_998),
        ((99_999, 1), (99.9, 0.1), "a", 99_998),
        ((0, 0, 0), None, None, 0),
        ((1, 1, 1), (33.4, 33.3, 33.3), None, 0),
        ((2, 0, 0), (100.0, 0.0, 0.0), "a", 2),
        ((3, 5, 5), (23.1, 38.5, 38.4), None, 0),
        ((1, 2, 4), (14.3, 28.6, 57.1), "c", 2),
        ((1, 99_998, 1), (0.1, 99.8, 0.1), "b", 99_997),
        ((*[1] * 11, 10_000_000), (*[0.1] * 11, 98.9), "l", 9_999_999),
        # What the small ones were given does not come from the leader alone.
        ((*[1] * 10, 5_001, 5_000), (*[0.1] * 10, 49.5, 49.5), "k", 1),
    ],
)
def test_shares_add_up_and_the_leader_has_more_votes(counts, shares, leader, lead):
    found = VoteCounts.of(counts, hidden=False)
    assert (found.shares, found.leader, found.lead) == (shares, leader, lead)


counts_of_options = st.lists(
    st.integers(0, 2) | st.integers(0, 2_000) | st.integers(0, 10**9), min_size=2, max_size=12
)


@given(counts_of_options)
@example([1] * 10 + [5001, 5000])
def test_shares_of_any_counts_add_up_and_hide_no_vote(counts):
    found = VoteCounts.of(counts, hidden=False)
    if not any(counts):
        assert found.shares is None
        return
    assert round(sum(found.shares), 6) == 100
    for votes, share in zip(counts, found.shares, strict=True):
        assert (share == 0) == (votes == 0)
        assert (share == 100) == (votes == sum(counts))
        assert abs(share - 100 * votes / sum(counts)) < 1.1
    for fewer, small in zip(counts, found.shares, strict=True):
        for more, large in zip(counts, found.shares, strict=True):
            assert fewer >= more or small <= large


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12))
def test_a_leader_is_ahead_of_every_other_option(counts):
    found = VoteCounts.of(counts, hidden=False)
    highest = max(counts)
    if counts.count(highest) > 1:
        assert (found.leader, found.lead) == (None, 0)
    else:
        assert found.leader == CHOICES[counts.index(highest)]
        assert found.lead == highest - sorted(counts)[-2]


@pytest.mark.parametrize("counts", [(7, 2), (7, 2, 1)])
def test_hidden_counts_have_no_shares_and_no_leader(counts):
    found = VoteCounts.of(counts, hidden=True)
    assert (found.votes, found.by_option) == (sum(counts), None)
    assert (found.shares, found.leader, found.lead) == (None, None, 0)


def test_options_have_their_names_votes_and_shares():
    poll = Poll(question=Question("Which?", ("Tea", "Coffee", "Water")))
    result = publish(PollResult(Totals((1, 2, 1), AT), poll), "always")
    assert result.question == poll.question
    assert [tuple(each) for each in result.options] == [
        ("a", "Tea", 1, 25.0),
        ("b", "Coffee", 2, 50.0),
        ("c", "Water", 1, 25.0),
    ]
    hidden = publish(PollResult(Totals((1, 2, 1), AT), poll), "after_close")
    assert [(each.votes, each.share) for each in hidden.options] == [(None, None)] * 3


def test_a_timeline_has_the_sums_of_each_option_and_ends_with_the_declared_totals():
    at = [AT + timedelta(seconds=10 * n) for n in range(5)]
    timeline = (
        TimelineBucket(at[0], at[1], (2, 0, 1)),
        TimelineBucket(at[3], at[4], (-1, 3, 0)),
    )
    poll = Poll(question=Question("Which?", ("Tea", "Coffee", "Water")))
    for changed, last in ((poll, (1, 3, 1)), (replace(FINAL, question=poll.question), (1, 3, 9))):
        result = publish(PollResult(Totals(last, AT), changed, timeline), "always")
        assert [(each.time, each.counts.by_option) for each in result.timeline] == [
            (at[0], (0, 0, 0)),
            (at[1], (2, 0, 1)),
            (at[3], (2, 0, 1)),
            (at[4], last),
        ]
