from dataclasses import replace
from datetime import UTC, datetime

import pytest

from voting.poll.ballot import Version
from voting.poll.lifecycle import Poll
from voting.poll.results import PollResult, Question, Totals, VoteCounts, as_dict, publish

QUESTION = Question("Cats or Dogs?", "Cats", "Dogs")
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = datetime(2029, 1, 1, tzinfo=UTC)

OPEN = Poll()
COUNTING = Poll(state="closed", closed_at=EARLIER, last_version=Version(1, 0))
FINAL = replace(COUNTING, final_at=EARLIER)


def poll_result(poll=OPEN):
    return PollResult(Totals(7, 2, AT), poll)


SHOWN, HIDDEN = (VoteCounts(9, 7, 2), False), (VoteCounts(9, None, None), True)


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
def test_after_close_hides_all_but_the_turnout_until_redis_confirms_the_close(poll, after_close):
    for setting, expected in (("always", SHOWN), ("after_close", after_close)):
        result = publish(poll_result(poll), setting)
        assert (result.counts, result.hidden) == expected


@pytest.mark.parametrize(("poll", "public"), [(OPEN, None), (COUNTING, AT), (FINAL, AT)])
def test_lost_queue_is_public_once_voters_can_not_vote_again(poll, public):
    result = publish(poll_result(replace(poll, queue_lost_at=AT)), "always")
    assert result.queue_lost_at == public


def test_json_has_null_for_what_is_unknown():
    found = as_dict(None, QUESTION)
    assert found.pop("title") == "Cats or Dogs?"
    assert found.pop("options") == {
        "a": {"name": "Cats", "votes": None},
        "b": {"name": "Dogs", "votes": None},
    }
    assert found.pop("hidden") is False
    assert set(found.values()) == {None}


def test_json_has_the_life_of_the_poll():
    poll = replace(FINAL, round=3, closes_at=AT, queue_lost_at=AT)
    found = as_dict(publish(poll_result(poll), "after_close"), QUESTION)
    assert (found["round"], found["phase"], found["votes"]) == (3, "final", 9)
    assert found["closed_at"] == found["final_at"] == "2029-01-01T00:00:00+00:00"
    assert {found[key] for key in ("closes_at", "queue_lost_at", "at")} == {AT.isoformat()}
    assert [each["votes"] for each in found["options"].values()] == [7, 2]


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
def test_shares_add_up_and_the_leader_has_more_votes(a, b, shares, leader, lead):
    counts = VoteCounts.of(a, b, hidden=False)
    assert (counts.shares, counts.leader, counts.lead) == (shares, leader, lead)


def test_hidden_counts_have_no_shares_and_no_leader():
    counts = VoteCounts.of(7, 2, hidden=True)
    assert (counts.shares, counts.leader, counts.lead) == (None, None, 0)
