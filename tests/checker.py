"""Compares what an app holds with what its voters were told: the proof that each vote counts once.

It knows nothing of how the app works, only what a browser saw and what is in the books at the end.

1. A voter's vote is not older than the newest ballot acknowledged to that voter; if it is that
   ballot, it has its choice.
2. If it is newer, it is a ballot whose voter was not told what became of it.
3. There is a vote for each voter with an acknowledged ballot, and none for a voter nobody sent.
4. The tally, and the totals on the page, are the number of votes for each choice.
5. No acknowledged ballot is among the dead letters, and versions rise from one to the next.
6. The backlog is empty again.
7. No ballot is in the queue twice, and each acknowledged one is in it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from voting.poll.ballot import Choice, Version


class Told(Enum):
    """What a voter heard about a ballot."""

    ACKNOWLEDGED = "it is recorded"
    REFUSED = "it is not recorded"
    UNKNOWN = "it may have been recorded, and will not be from now on"
    NOTHING = "the connection broke: it may be recorded, or will be in a moment"


class Request(NamedTuple):
    """One ballot as its voter saw it; `version` is that of an acknowledged one."""

    voter: UUID
    choice: Choice
    told: Told
    version: Version | None = None


class Vote(NamedTuple):
    """What is counted for a voter."""

    choice: Choice
    version: Version


Count = Mapping[Choice, int]


@dataclass(frozen=True)
class Books:
    """What the app holds when it has come to rest."""

    votes: Mapping[UUID, Vote]
    tallies: Mapping[str, Count]
    """Each place that shows totals, by its name."""
    backlog: int | None = 0
    dead: Collection[Version] = ()
    entries: Mapping[UUID, Collection[Version]] | None = None
    """Of each voter, what is in the queue; None where it was lost on purpose."""
    others: Count = field(default_factory=Counter)
    """Votes of earlier voters, which are not looked at again but are part of the totals."""


@dataclass
class Verdict:
    """How many ballots were acknowledged and of unknown fate, and what is wrong, in words."""

    acknowledged: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.stale]


def check(requests: Iterable[Request], books: Books) -> Verdict:
    """Check the books of an app at rest against all requests.

    The requests of a voter are one after the other, in the order in which they were sent.
    """
    requests = list(requests)
    told = Counter(request.told for request in requests)
    verdict = Verdict(told[Told.ACKNOWLEDGED], told[Told.UNKNOWN] + told[Told.NOTHING])
    by_voter = attrgetter("voter")
    for voter, group in groupby(sorted(requests, key=by_voter), key=by_voter):
        mine = list(group)
        _check_vote(mine, books.votes.get(voter), verdict)
        _check_versions(mine, books.dead, verdict)
        if books.entries is not None:
            _check_entries(mine, books.entries.get(voter, ()), verdict)
    strangers = books.votes.keys() - {request.voter for request in requests}
    verdict.doubled += [f"nobody sent {voter}, who has a vote" for voter in strangers]
    _check_tallies(books, verdict)
    if books.backlog != 0:
        verdict.lost.append(f"the backlog is {books.backlog}, not empty")
    return verdict


def _check_vote(requests: list[Request], vote: Vote | None, verdict: Verdict) -> None:
    voter = requests[0].voter
    newest, after = None, requests
    for index, request in enumerate(requests):
        if request.told is Told.ACKNOWLEDGED:
            newest, after = request, requests[index + 1 :]
    if vote is None:
        if newest is not None:
            verdict.lost.append(f"{voter} has no vote, though {newest.version} was acknowledged")
    elif newest is not None and vote.version < newest.version:
        verdict.stale.append(f"{voter} has {vote}, though {newest.version} was acknowledged")
    elif newest is not None and vote.version == newest.version:
        if vote.choice is not newest.choice:
            verdict.stale.append(f"{voter} has {vote}, though it was cast for {newest.choice}")
    else:
        possible = {each.choice for each in after if each.told is Told.UNKNOWN}
        possible |= {each.choice for each in requests if each.told is Told.NOTHING}
        if vote.choice not in possible:
            verdict.stale.append(f"{voter} has {vote}, and no request explains it: {requests}")


def _check_versions(requests: list[Request], dead: Collection[Version], verdict: Verdict) -> None:
    versions = [request.version for request in requests if request.version is not None]
    voter = requests[0].voter
    for one, two in pairwise(versions):
        if two <= one:
            verdict.stale.append(f"{voter} was given {two} after {one}")
    for version in versions:
        if version in dead:
            verdict.lost.append(f"{version} of {voter} is a dead letter")


def _check_entries(requests: list[Request], entries: Collection[Version], verdict: Verdict) -> None:
    voter = requests[0].voter
    for request in requests:
        if request.told is Told.ACKNOWLEDGED and request.version not in entries:
            verdict.lost.append(f"{request.version} of {voter} is not in the queue")
    sent = sum(request.told is not Told.REFUSED for request in requests)
    if len(entries) > sent:
        verdict.doubled.append(f"{voter} is in the queue {len(entries)} times, for {requests}")


def _check_tallies(books: Books, verdict: Verdict) -> None:
    votes = Counter(vote.choice for vote in books.votes.values()) + Counter(books.others)
    for name, tally in books.tallies.items():
        difference = sum(tally.values()) - votes.total()
        if difference < 0:
            verdict.lost.append(f"{name}: {-difference} votes are missing")
        elif difference > 0:
            verdict.doubled.append(f"{name}: {difference} votes too many")
        elif any(tally.get(choice, 0) != votes[choice] for choice in Choice):
            verdict.stale.append(f"{name}: {dict(tally)}, but the votes are {dict(votes)}")
