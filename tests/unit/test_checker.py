"""The checker finds each violation of a rule alone."""

from collections import Counter
from dataclasses import replace

import pytest
from support.checker import FinalState, ReceiptSeen, Vote, check, check_rounds

from voting.load.record import Acknowledgement, VoteResult
from voting.poll.ballot import Choice, Version

A, B = Choice.A, Choice.B
VOTERS = VOTER, OTHER = "voter", "other voter"


def version(number):
    return Version(1000, number)


def acknowledged(choice, number, voter=VOTER):
    return VoteResult(voter, choice, Acknowledgement.ACKNOWLEDGED, version(number))


def state(*votes, **other):
    """Build a consistent state with a vote for each (choice, number)."""
    held = {
        voter: Vote(choice, version(number))
        for voter, (choice, number) in zip(VOTERS, votes, strict=False)
    }
    return FinalState(held, {"tally": Counter(choice for choice, _ in votes)}, **other)


REFUSED = VoteResult(VOTER, B, Acknowledgement.REFUSED)
UNKNOWN = VoteResult(VOTER, B, Acknowledgement.UNKNOWN)
NO_RESPONSE = VoteResult(VOTER, B, Acknowledgement.NO_RESPONSE)


@pytest.mark.parametrize(
    ("results", "final_state"),
    [
        ([], state()),
        ([acknowledged(A, 1)], state((A, 1))),
        ([acknowledged(A, 1), acknowledged(B, 2)], state((B, 2))),
        ([REFUSED], state()),
        ([acknowledged(A, 1), REFUSED], state((A, 1))),
        ([UNKNOWN], state()),
        ([UNKNOWN], state((B, 7))),
        ([acknowledged(A, 1), UNKNOWN], state((A, 1))),
        ([acknowledged(A, 1), UNKNOWN], state((B, 2))),
        ([NO_RESPONSE, acknowledged(A, 1)], state((B, 2))),
        ([acknowledged(A, 1), acknowledged(B, 2, OTHER)], state((A, 1), (B, 2))),
        ([UNKNOWN], state((B, 7), entries={VOTER: [version(7)]})),
        ([acknowledged(A, 1)], state((A, 1), entries={VOTER: [version(1)]})),
    ],
)
def test_a_correct_state_has_nothing_wrong(results, final_state):
    assert check(results, final_state).wrong == []


@pytest.mark.parametrize(
    ("results", "final_state", "kind"),
    [
        # 1
        ([acknowledged(A, 1)], state(), "lost"),
        ([acknowledged(A, 1), acknowledged(B, 2)], state((A, 1)), "stale"),
        ([acknowledged(A, 1)], state((B, 1)), "stale"),
        ([acknowledged(A, 1)._replace(version=None)], state((A, 1)), "lost"),
        # 2
        ([acknowledged(A, 1), REFUSED], state((B, 2)), "stale"),
        ([UNKNOWN, acknowledged(A, 1)], state((B, 2)), "stale"),
        ([acknowledged(A, 1), UNKNOWN], state((A, 2)), "stale"),
        ([REFUSED], state((B, 1)), "stale"),
        # 3
        ([acknowledged(A, 1)], state((A, 1), (A, 2)), "doubled"),
        # 4
        ([acknowledged(A, 1)], replace(state((A, 1)), totals={"page": {A: 2}}), "doubled"),
        ([acknowledged(A, 1)], replace(state((A, 1)), totals={"page": {}}), "lost"),
        ([acknowledged(A, 1)], replace(state((A, 1)), totals={"page": {B: 1}}), "stale"),
        ([acknowledged(A, 1)], state((A, 1), earlier={A: 1}), "lost"),
        # 5
        ([acknowledged(A, 1)], state((A, 1), dead_letters=[version(1)]), "lost"),
        ([acknowledged(A, 2), acknowledged(A, 2)], state((A, 2)), "stale"),
        # 6
        ([acknowledged(A, 1)], state((A, 1), backlog=1), "lost"),
        ([acknowledged(A, 1)], state((A, 1), backlog=None), "lost"),
        # 7
        ([acknowledged(A, 1)], state((A, 1), entries={}), "lost"),
        (
            [acknowledged(A, 2), REFUSED],
            state((A, 2), entries={VOTER: [version(1), version(2)]}),
            "doubled",
        ),
    ],
)
def test_a_violation_is_found_and_named(results, final_state, kind):
    verdict = check(results, final_state)
    assert len(verdict.wrong) == 1
    assert getattr(verdict, kind) == verdict.wrong


def test_acknowledged_and_unknown_ballots_are_counted():
    verdict = check([UNKNOWN, NO_RESPONSE, REFUSED, acknowledged(B, 1)], state((B, 1)))
    assert (verdict.acknowledged, verdict.unknown) == (1, 2)


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ([(A, 1)], [(B, 3)], []),
        ([(A, 1)], [(A, 1)], ["stale"]),  # it was counted in the next round too
        ([], [(B, 3)], ["lost"]),
        ([(A, 1)], [(B, 3), (A, 2)], ["doubled"]),  # the refused ballot of the other voter
        ([(B, 3)], [(A, 1)], ["stale", "stale"]),
    ],
)
def test_each_round_has_the_votes_that_were_cast_for_it(first, second, wrong):
    results = [
        acknowledged(A, 1),
        REFUSED._replace(voter=OTHER),
        acknowledged(B, 3)._replace(round=2),
    ]
    verdict = check_rounds(results, {1: state(*first), 2: state(*second)})
    kinds = ("lost", "doubled", "stale")
    assert [kind for kind in kinds for _ in getattr(verdict, kind)] == wrong
    assert verdict.acknowledged == 2


def test_votes_of_a_round_that_the_app_does_not_know_are_lost():
    verdict = check_rounds([acknowledged(A, 1)._replace(round=2)], {1: state()})
    assert len(verdict.lost) == 1
    assert verdict.lost[0].startswith("round 2: ")


def test_a_receipt_is_compared_with_the_vote_of_its_round():
    states = {1: state((A, 1)), 2: state((B, 3))}
    first, second = seen(A, 1), seen(B, 3)._replace(round=2)
    results = [acknowledged(A, 1), acknowledged(B, 3)._replace(round=2)]
    assert check_rounds(results, states, [first, second]).wrong == []
    assert check_rounds(results, states, [second._replace(round=1)]).untrue


def seen(choice, number, *, last=False):
    return ReceiptSeen(VOTER, choice, version(number), last=last)


@pytest.mark.parametrize(
    ("receipt", "vote"),
    [
        (seen(A, 1), (A, 1)),
        (seen(A, 1), (B, 2)),  # it was replaced since
        (seen(A, 1, last=True), (A, 1)),
        (seen(A, 1, last=True), (A, 2)),  # a vote of unknown outcome, for the same
    ],
)
def test_a_true_receipt_is_not_wrong(receipt, vote):
    results = [acknowledged(A, 1), UNKNOWN, UNKNOWN._replace(choice=A)]
    assert check(results, state(vote), [receipt]).untrue == []


@pytest.mark.parametrize(
    ("receipt", "votes"),
    [
        (seen(A, 1), []),
        (seen(A, 2), [(A, 1)]),
        (seen(A, 1), [(B, 1)]),
        (seen(A, 1, last=True), [(B, 2)]),
    ],
)
def test_an_untrue_receipt_is_found(receipt, votes):
    [untrue] = check([], state(*votes), [receipt]).untrue
    assert VOTER in untrue
