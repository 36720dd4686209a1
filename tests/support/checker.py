"""Compares the final state of the app with what voters were told: each vote has to count once.

It knows nothing of how the app works, only the record of the load and what is stored in the end.

1. A voter's vote is not older than the newest ballot acknowledged to that voter; if it is that
   ballot, it has its choice.
2. If it is newer, it is a ballot of unknown fate.
3. There is a vote for each voter with an acknowledged ballot, and none for a voter that sent none.
4. The tally, and the totals on the page, are the number of votes for each choice.
5. No acknowledged ballot is among the dead letters, and versions rise from one to the next.
6. The backlog is empty again.
7. No ballot is in the queue twice, and each acknowledged one is in it.
8. What a receipt said is true: a ballot that it called counted is the voter's vote, or an older
   one; the last receipt names the choice of the vote.

All of this holds in each round alone: a ballot is of the round whose question its voter saw.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

from voting.load.record import Acknowledgement, VoteResult

# Of a voter, in 32 hex digits; of a ballot: milliseconds and the number within one.
VoterId = str
BallotVersion = tuple[int, int]
Totals = Mapping[str, int]
"""The votes of each choice."""


class Vote(NamedTuple):
    """What is counted for a voter."""

    choice: str
    version: BallotVersion


class ReceiptSeen(NamedTuple):
    """A receipt that called a ballot counted; `last`: seen when everything had been counted."""

    voter: VoterId
    choice: str
    version: BallotVersion
    last: bool = False
    round: int = 1


@dataclass(frozen=True)
class FinalState:
    """What the app has stored of a round once none of its ballots is on its way any more."""

    votes: Mapping[VoterId, Vote]
    totals: Mapping[str, Totals]
    """Each place that has totals, by its name."""
    backlog: int | None = 0
    dead_letters: Collection[BallotVersion] = ()
    entries: Mapping[VoterId, Collection[BallotVersion]] | None = None
    """Each voter's entries in the queue; None if the queue was lost on purpose."""
    earlier: Totals = field(default_factory=Counter)
    """Votes from before the load, which are part of the totals."""


@dataclass
class Verdict:
    """How many ballots were acknowledged and of unknown fate, and each thing that is wrong."""

    acknowledged: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.stale, *self.untrue]

    def add(self, number: int, other: "Verdict") -> None:
        """Add the verdict on a round."""
        self.acknowledged += other.acknowledged
        self.unknown += other.unknown
        for kind in ("lost", "doubled", "stale", "untrue"):
            getattr(self, kind).extend(f"round {number}: {each}" for each in getattr(other, kind))


def check_rounds(
    results: Iterable[VoteResult],
    states: Mapping[int, FinalState],
    receipts: Iterable[ReceiptSeen] = (),
) -> Verdict:
    """Check the final state of each round against the results and receipts of that round."""
    verdict = Verdict()
    by_round, seen = defaultdict(list), defaultdict(list)
    for result in results:
        by_round[result.round].append(result)
    for receipt in receipts:
        seen[receipt.round].append(receipt)
    for number in sorted(states.keys() | by_round.keys() | seen.keys()):
        state = states.get(number) or FinalState({}, {})
        verdict.add(number, check(by_round[number], state, seen[number]))
    return verdict


def check(
    results: Iterable[VoteResult], state: FinalState, receipts: Iterable[ReceiptSeen] = ()
) -> Verdict:
    """Check the final state of a round against its results; a voter's in the order of its votes."""
    results = list(results)
    counts = Counter(each.acknowledgement for each in results)
    unknown = counts[Acknowledgement.UNKNOWN] + counts[Acknowledgement.NO_RESPONSE]
    verdict = Verdict(counts[Acknowledgement.ACKNOWLEDGED], unknown)
    by_voter = attrgetter("voter")
    for voter, group in groupby(sorted(results, key=by_voter), key=by_voter):
        own = list(group)
        _check_vote(own, state.votes.get(voter), verdict)
        _check_versions(own, state.dead_letters, verdict)
        if state.entries is not None:
            _check_entries(own, state.entries.get(voter, ()), verdict)
    strangers = state.votes.keys() - {each.voter for each in results}
    verdict.doubled += [f"{voter} has a vote, but sent none" for voter in strangers]
    _check_totals(state, verdict)
    _check_receipts(receipts, state.votes, verdict)
    if state.backlog != 0:
        verdict.lost.append(f"the backlog is {state.backlog}, not empty")
    return verdict


def _check_vote(results: list[VoteResult], vote: Vote | None, verdict: Verdict) -> None:
    voter = results[0].voter
    newest, after = None, results
    for index, result in enumerate(results):
        if result.acknowledgement is Acknowledgement.ACKNOWLEDGED:
            newest, after = result, results[index + 1 :]
    if newest is not None and newest.version is None:
        verdict.lost.append(f"{voter} has no receipt of an acknowledged ballot")
    elif vote is None:
        if newest is not None:
            verdict.lost.append(f"{voter} has no vote, though {newest.version} was acknowledged")
    elif newest is not None and vote.version < newest.version:
        verdict.stale.append(f"{voter} has {vote}, though {newest.version} was acknowledged")
    elif newest is not None and vote.version == newest.version:
        if vote.choice != newest.choice:
            verdict.stale.append(f"{voter} has {vote}, though it was cast for {newest.choice}")
    else:
        # A ballot without a response may come later than newer ones.
        possible = {
            each.choice for each in after if each.acknowledgement is Acknowledgement.UNKNOWN
        } | {each.choice for each in results if each.acknowledgement is Acknowledgement.NO_RESPONSE}
        if vote.choice not in possible:
            verdict.stale.append(f"{voter} has {vote}, which no result explains: {results}")


def _check_versions(
    results: list[VoteResult], dead_letters: Collection[BallotVersion], verdict: Verdict
) -> None:
    voter = results[0].voter
    versions = [each.version for each in results if each.version is not None]
    for one, two in pairwise(versions):
        if two <= one:
            verdict.stale.append(f"{voter} was given {two} after {one}")
    for version in versions:
        if version in dead_letters:
            verdict.lost.append(f"{version} of {voter} is a dead letter")


def _check_entries(
    results: list[VoteResult], entries: Collection[BallotVersion], verdict: Verdict
) -> None:
    voter = results[0].voter
    for each in results:
        acknowledged = each.acknowledgement is Acknowledgement.ACKNOWLEDGED
        if acknowledged and each.version not in entries:
            verdict.lost.append(f"{each.version} of {voter} is not in the queue")
    sent = sum(each.acknowledgement is not Acknowledgement.REFUSED for each in results)
    if len(entries) > sent:
        verdict.doubled.append(f"{voter} is in the queue {len(entries)} times, for {results}")


def _check_receipts(
    receipts: Iterable[ReceiptSeen], votes: Mapping[VoterId, Vote], verdict: Verdict
) -> None:
    for seen in receipts:
        vote = votes.get(seen.voter)
        counted = vote is not None and vote.version >= seen.version
        names_it = seen.last or (vote is not None and vote.version == seen.version)
        if not counted or (names_it and vote is not None and vote.choice != seen.choice):
            verdict.untrue.append(f"{seen}, but the vote is {vote}")


def _check_totals(state: FinalState, verdict: Verdict) -> None:
    votes = Counter(vote.choice for vote in state.votes.values()) + Counter(state.earlier)
    for name, totals in state.totals.items():
        difference = sum(totals.values()) - votes.total()
        if difference < 0:
            verdict.lost.append(f"{name}: {-difference} votes are missing")
        elif difference > 0:
            verdict.doubled.append(f"{name}: {difference} votes too many")
        elif Counter(totals) != votes:
            verdict.stale.append(f"{name}: {dict(totals)}, but the votes are {dict(votes)}")
