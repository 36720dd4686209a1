import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.load.client import Voter
from voting.load.crowd import Crowd, choose
from voting.poll.ballot import Choice


@given(
    st.integers(1, 5),
    st.floats(min_value=0, max_value=1),
    st.lists(st.sampled_from(["take", "back", "fail"]), max_size=60),
)
def test_a_voter_votes_once_at_a_time_and_there_are_never_more_than_asked_for(most, changes, steps):
    crowd = Crowd(most, changes)
    flying: list[Voter | None] = []
    known: list[Voter] = []
    for step in steps:
        if step == "take" and len(flying) < most:
            voter = crowd.take()
            assert voter is None or voter not in flying
            flying.append(voter)
            assert flying.count(None) + len(known) <= most
        elif step != "take" and flying:
            voter = flying.pop(0)
            if voter is None and step == "back":
                voter = Voter(str(len(known)), "")
                known.append(voter)
            crowd.give_back(voter)


def take(crowd):
    """Take one, who comes back, and tell whether somebody new was asked for."""
    voter = crowd.take()
    crowd.give_back(voter or Voter("new", ""))
    return voter is None


def test_nobody_changes_their_mind_unless_asked_to():
    crowd = Crowd(None, 0)
    assert all(take(crowd) for _ in range(100))


def test_when_all_voters_have_voted_only_minds_change():
    crowd = Crowd(3, 0)
    assert [take(crowd) for _ in range(6)] == [True] * 3 + [False] * 3


def test_somebody_who_could_not_come_is_none_of_the_voters():
    crowd = Crowd(2, 0)
    crowd.take()
    crowd.give_back(None)
    assert [take(crowd) for _ in range(3)] == [True, True, False]


def test_where_all_change_their_mind_one_voter_is_enough():
    crowd = Crowd(None, 1)
    assert [take(crowd) for _ in range(50)] == [True] + [False] * 49


def test_only_so_many_voters_are_remembered(monkeypatch):
    monkeypatch.setattr("voting.load.crowd._REMEMBERED", 10)
    crowd = Crowd(None, 0)
    assert all(take(crowd) for _ in range(50))
    assert len(crowd._resting) == 10


@pytest.mark.parametrize(("last", "next_"), [(Choice.A, Choice.B), (Choice.B, Choice.A)])
def test_who_changes_their_mind_picks_the_other_option(last, next_):
    assert {choose(last) for _ in range(50)} == {next_}


def test_who_is_new_picks_either_option():
    assert {choose(None) for _ in range(200)} == set(Choice)
