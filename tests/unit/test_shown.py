from dataclasses import replace
from datetime import UTC, datetime

import pytest

from voting.database.tally import PollResult, Totals
from voting.poll.ballot import Version
from voting.poll.lifecycle import Poll
from voting.poll.results import VoteCounts, as_dict, publish
from voting.settings import PollSettings

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = datetime(2029, 1, 1, tzinfo=UTC)

OPEN = Poll()
COUNTING = Poll(state="closed", closed_at=EARLIER, last_version=Version(1, 0))
FINAL = replace(COUNTING, final_at=EARLIER)
POLLS = {"open": OPEN, "counting": COUNTING, "final": FINAL}


def poll_result(poll=OPEN):
    return PollResult(Totals(7, 2, AT), poll)


@pytest.mark.parametrize("poll", POLLS.values(), ids=POLLS)
def test_totals_are_always_told_unless_asked_otherwise(poll):
    shown = publish(poll_result(poll), "always")
    assert (shown.counts, shown.hidden) == (VoteCounts(9, 7, 2), False)


def test_until_the_close_only_the_turnout_is_told_where_asked():
    shown = publish(poll_result(), "after_close")
    assert (shown.counts, shown.hidden) == (VoteCounts(9, None, None), True)


@pytest.mark.parametrize("phase", ["counting", "final"])
def test_totals_are_told_from_the_close_on(phase):
    shown = publish(poll_result(POLLS[phase]), "after_close")
    assert (shown.counts, shown.hidden) == (VoteCounts(9, 7, 2), False)


def test_a_close_that_redis_has_not_heard_of_shows_nothing_yet():
    assert publish(poll_result(Poll(state="closed")), "after_close").hidden


def test_the_time_at_which_a_poll_is_to_close_shows_nothing_until_it_is_closed():
    over = replace(OPEN, closes_at=EARLIER)
    assert publish(poll_result(over), "after_close").hidden


def test_a_poll_that_is_opened_again_is_hidden_again():
    assert not publish(poll_result(FINAL), "after_close").hidden
    assert publish(poll_result(OPEN), "after_close").hidden


@pytest.mark.parametrize(("phase", "told"), [("open", None), ("counting", AT), ("final", AT)])
def test_a_lost_queue_is_told_once_voting_again_does_not_help(phase, told):
    assert (
        publish(poll_result(replace(POLLS[phase], queue_lost_at=AT)), "always").queue_lost_at
        == told
    )


def test_programs_are_told_what_is_not_known_as_null():
    told = as_dict(None, PollSettings())
    assert told.pop("title") == "Cats or Dogs?"
    assert told.pop("options") == {
        "a": {"name": "Cats", "votes": None},
        "b": {"name": "Dogs", "votes": None},
    }
    assert told.pop("hidden") is False
    assert set(told.values()) == {None}


def test_programs_are_told_the_life_of_the_poll():
    poll = replace(FINAL, round=3, closes_at=AT, queue_lost_at=AT)
    told = as_dict(publish(poll_result(poll), "after_close"), PollSettings())
    assert (told["round"], told["phase"], told["votes"]) == (3, "final", 9)
    assert told["closed_at"] == told["final_at"] == "2029-01-01T00:00:00+00:00"
    assert told["closes_at"] == told["queue_lost_at"] == told["at"] == "2030-01-02T03:04:05+00:00"
    assert [each["votes"] for each in told["options"].values()] == [7, 2]


@pytest.mark.parametrize(
    ("a", "b", "shares", "leader", "lead"),
    [
        (0, 0, None, None, 0),
        (2, 1, {"a": 66.7, "b": 33.3}, "a", 1),
        (1, 1, {"a": 50.0, "b": 50.0}, None, 0),
        (0, 3, {"a": 0.0, "b": 100.0}, "b", 3),
        # Rounding makes no unanimity, and no vote vanish.
        (1, 99_999, {"a": 0.1, "b": 99.9}, "b", 99_998),
        (99_999, 1, {"a": 99.9, "b": 0.1}, "a", 99_998),
    ],
)
def test_shares_add_up_and_the_leader_is_who_has_more(a, b, shares, leader, lead):
    counts = VoteCounts.of(a, b, hidden=False)
    assert (counts.shares, counts.leader, counts.lead) == (shares, leader, lead)


def test_what_is_kept_back_has_no_shares_and_no_leader():
    counts = VoteCounts.of(7, 2, hidden=True)
    assert (counts.shares, counts.leader, counts.lead) == (None, None, 0)
