"""The checker finds what it is there for: each rule, broken alone."""

from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest
from checker import Books, Request, Told, Vote, check

from voting.poll.ballot import Choice, Version

A, B = Choice.A, Choice.B
VOTER, OTHER = UUID(int=1), UUID(int=2)


def version(number):
    return Version(1000, number)


def acknowledged(choice, number, voter=VOTER):
    return Request(voter, choice, Told.ACKNOWLEDGED, version(number))


def books(*votes, **other):
    """Books that are right in themselves, with a vote for each (choice, number)."""
    held = {
        UUID(int=1 + index): Vote(choice, version(n)) for index, (choice, n) in enumerate(votes)
    }
    return Books(held, {"tally": Counter(choice for choice, _ in votes)}, **other)


REFUSED = Request(VOTER, B, Told.REFUSED)
UNKNOWN = Request(VOTER, B, Told.UNKNOWN)
NOTHING = Request(VOTER, B, Told.NOTHING)


@pytest.mark.parametrize(
    ("requests", "held"),
    [
        ([], books()),
        ([acknowledged(A, 1)], books((A, 1))),
        ([acknowledged(A, 1), acknowledged(B, 2)], books((B, 2))),
        ([REFUSED], books()),
        ([acknowledged(A, 1), REFUSED], books((A, 1))),
        ([UNKNOWN], books()),
        ([UNKNOWN], books((B, 7))),
        ([acknowledged(A, 1), UNKNOWN], books((A, 1))),
        ([acknowledged(A, 1), UNKNOWN], books((B, 2))),
        ([NOTHING, acknowledged(A, 1)], books((B, 2))),
        ([acknowledged(A, 1), acknowledged(B, 2, OTHER)], books((A, 1), (B, 2))),
        ([UNKNOWN], books((B, 7), entries={VOTER: [version(7)]})),
        ([acknowledged(A, 1)], books((A, 1), entries={VOTER: [version(1)]})),
    ],
)
def test_what_is_right_is_not_complained_about(requests, held):
    assert check(requests, held).wrong == []


@pytest.mark.parametrize(
    ("requests", "held", "kind"),
    [
        # 1
        ([acknowledged(A, 1)], books(), "lost"),
        ([acknowledged(A, 1), acknowledged(B, 2)], books((A, 1)), "stale"),
        ([acknowledged(A, 1)], books((B, 1)), "stale"),
        # 2
        ([acknowledged(A, 1), REFUSED], books((B, 2)), "stale"),
        ([UNKNOWN, acknowledged(A, 1)], books((B, 2)), "stale"),
        ([acknowledged(A, 1), UNKNOWN], books((A, 2)), "stale"),
        ([REFUSED], books((B, 1)), "stale"),
        # 3
        ([acknowledged(A, 1)], books((A, 1), (A, 2)), "doubled"),
        # 4
        ([acknowledged(A, 1)], replace(books((A, 1)), tallies={"page": {A: 2}}), "doubled"),
        ([acknowledged(A, 1)], replace(books((A, 1)), tallies={"page": {}}), "lost"),
        ([acknowledged(A, 1)], replace(books((A, 1)), tallies={"page": {B: 1}}), "stale"),
        ([acknowledged(A, 1)], books((A, 1), others={A: 1}), "lost"),
        # 5
        ([acknowledged(A, 1)], books((A, 1), dead=[version(1)]), "lost"),
        ([acknowledged(A, 2), acknowledged(A, 2)], books((A, 2)), "stale"),
        # 6
        ([acknowledged(A, 1)], books((A, 1), backlog=1), "lost"),
        ([acknowledged(A, 1)], books((A, 1), backlog=None), "lost"),
        # 7
        ([acknowledged(A, 1)], books((A, 1), entries={}), "lost"),
        (
            [acknowledged(A, 2), REFUSED],
            books((A, 2), entries={VOTER: [version(1), version(2)]}),
            "doubled",
        ),
    ],
)
def test_what_is_wrong_is_found_and_named(requests, held, kind):
    verdict = check(requests, held)
    assert len(verdict.wrong) == 1
    assert getattr(verdict, kind) == verdict.wrong


def test_what_voters_heard_is_counted():
    verdict = check([UNKNOWN, NOTHING, REFUSED, acknowledged(B, 1)], books((B, 1)))
    assert (verdict.acknowledged, verdict.unknown) == (1, 2)
