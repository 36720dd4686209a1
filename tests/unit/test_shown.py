from dataclasses import replace
from datetime import UTC, datetime

import pytest

from voting.ballots import Version
from voting.polls import Poll
from voting.settings import PollSettings
from voting.shown import Figures, facts, show
from voting.tally import Standing, Totals

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = datetime(2029, 1, 1, tzinfo=UTC)

OPEN = Poll()
COUNTING = Poll(state="closed", closed_at=EARLIER, until=Version(1, 0))
FINAL = replace(COUNTING, final_at=EARLIER)
POLLS = {"open": OPEN, "counting": COUNTING, "final": FINAL}


def standing(poll=OPEN):
    return Standing(Totals(7, 2, AT), poll)


@pytest.mark.parametrize("poll", POLLS.values(), ids=POLLS)
def test_totals_are_always_told_unless_asked_otherwise(poll):
    shown = show(standing(poll), "always")
    assert (shown.figures, shown.hidden) == (Figures(9, 7, 2), False)


def test_until_the_close_only_the_turnout_is_told_where_asked():
    shown = show(standing(), "after_close")
    assert (shown.figures, shown.hidden) == (Figures(9, None, None), True)


@pytest.mark.parametrize("phase", ["counting", "final"])
def test_totals_are_told_from_the_close_on(phase):
    shown = show(standing(POLLS[phase]), "after_close")
    assert (shown.figures, shown.hidden) == (Figures(9, 7, 2), False)


def test_a_close_that_redis_has_not_heard_of_shows_nothing_yet():
    assert show(standing(Poll(state="closed")), "after_close").hidden


def test_the_time_at_which_a_poll_is_to_close_shows_nothing_until_it_is_closed():
    over = replace(OPEN, closes_at=EARLIER)
    assert show(standing(over), "after_close").hidden


def test_a_poll_that_is_opened_again_is_hidden_again():
    assert not show(standing(FINAL), "after_close").hidden
    assert show(standing(OPEN), "after_close").hidden


@pytest.mark.parametrize(("phase", "told"), [("open", None), ("counting", AT), ("final", AT)])
def test_a_lost_queue_is_told_once_voting_again_does_not_help(phase, told):
    assert show(standing(replace(POLLS[phase], lost_at=AT)), "always").lost_at == told


def test_programs_are_told_what_is_not_known_as_null():
    told = facts(None, PollSettings())
    assert told.pop("title") == "Cats or Dogs?"
    assert told.pop("options") == {
        "a": {"name": "Cats", "votes": None},
        "b": {"name": "Dogs", "votes": None},
    }
    assert told.pop("hidden") is False
    assert set(told.values()) == {None}


def test_programs_are_told_the_life_of_the_poll():
    poll = replace(FINAL, round=3, closes_at=AT, lost_at=AT)
    told = facts(show(standing(poll), "after_close"), PollSettings())
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
    figures = Figures.of(a, b, hidden=False)
    assert (figures.shares, figures.leader, figures.lead) == (shares, leader, lead)


def test_what_is_kept_back_has_no_shares_and_no_leader():
    figures = Figures.of(7, 2, hidden=True)
    assert (figures.shares, figures.leader, figures.lead) == (None, None, 0)
