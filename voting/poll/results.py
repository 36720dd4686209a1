"""Results of a poll, and what of them is public. Pure, and the one place that decides it.

Pages, JSON and exports show only numbers of a `PublicResult`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import add
from typing import Any, Literal, NamedTuple

from voting.poll.ballot import Choice
from voting.poll.lifecycle import Phase, Poll
from voting.poll.question import CHOICES, Question

ShowResults = Literal["always", "after_close", "when_revealed"]
"""When totals are public. Until the close, or until an operator reveals them, only the number of
voters is. With `after_close` they may be revealed earlier."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Votes for each option, in the question's order, at a time of Postgres' clock."""

    counts: tuple[int, ...]
    at: datetime

    @property
    def votes(self) -> int:
        return sum(self.counts)


class TimelineBucket(NamedTuple):
    """What the votes counted from `start` to `end` added: negative if voters changed their vote."""

    start: datetime
    end: datetime
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PollResult:
    """A poll with its totals: those that were declared final, if it is final."""

    totals: Totals
    poll: Poll
    timeline: tuple[TimelineBucket, ...] = ()
    """How the totals came about; empty unless it was requested."""


@dataclass(frozen=True, slots=True)
class FinalResult:
    """Totals that were declared final, even if the poll was reopened afterwards."""

    round: int
    final_at: datetime
    closed_at: datetime
    question: Question
    counts: tuple[int, ...]
    revoked: bool = False
    """Whether the poll was reopened since."""
    revealed: bool = False


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """The number of votes, in all and for each option in order; None while those are hidden."""

    votes: int
    by_option: tuple[int, ...] | None

    @classmethod
    def of(cls, counts: Sequence[int], *, hidden: bool) -> "VoteCounts":
        return cls(sum(counts), None if hidden else tuple(counts))

    @property
    def leader(self) -> Choice | None:
        """The option with the most votes; None if several have as many, or they are hidden."""
        if self.by_option is None or not self.lead:
            return None
        return CHOICES[self.by_option.index(max(self.by_option))]

    @property
    def lead(self) -> int:
        """How many votes the leader is ahead of the next; 0 if there is no leader."""
        first, second = sorted(self.by_option or (0, 0), reverse=True)[:2]
        return first - second

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Percentages to one decimal place that add up to 100; None if hidden or without votes.

        An option with a vote never has 0 %, and one that lacks a vote never has 100 %.
        """
        if not self.votes or self.by_option is None:
            return None
        exact = [1000 * each / self.votes for each in self.by_option]
        tenths = [max(int(each), 1) if each else 0 for each in exact]
        options = range(len(exact))
        # What rounding down has left goes to those that lost the most by it. What the smallest were
        # given comes from those that lost the least: so an option never has less than one with
        # fewer votes.
        while sum(tenths) < 1000:  # noqa: PLR2004 - all of it
            tenths[max(options, key=lambda n: exact[n] - tenths[n])] += 1
        while sum(tenths) > 1000:  # noqa: PLR2004 - all of it
            larger = (n for n in options if tenths[n] > 1)
            tenths[min(larger, key=lambda n: exact[n] - tenths[n])] -= 1
        return tuple(each / 10 for each in tenths)


class OptionCounts(NamedTuple):
    """An option with what is public of its votes: None while that is hidden."""

    key: Choice
    name: str
    votes: int | None
    share: float | None
    """Percentage of all votes; None also without votes."""

    @classmethod
    def of(cls, question: Question, counts: VoteCounts) -> "tuple[OptionCounts, ...]":
        """Return the options in the question's order."""
        unknown = (None,) * len(question.names)
        votes, shares = counts.by_option or unknown, counts.shares or unknown
        return tuple(map(cls, question.choices, question.names, votes, shares))


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """All votes counted before `time`."""

    time: datetime
    counts: VoteCounts


@dataclass(frozen=True, slots=True)
class PublicResult:
    """What everybody may see of a result, as it was at `at`."""

    counts: VoteCounts
    hidden: bool
    poll: Poll
    at: datetime
    timeline: tuple[TimelinePoint, ...] = ()
    """How the counts came about; empty unless it was requested."""

    @property
    def question(self) -> Question:
        return self.poll.question

    @property
    def options(self) -> tuple[OptionCounts, ...]:
        return OptionCounts.of(self.question, self.counts)

    @property
    def queue_lost_at(self) -> datetime | None:
        """When the queue was lost; None while voters can still vote again."""
        return None if self.poll.phase is Phase.OPEN else self.poll.queue_lost_at


@dataclass(frozen=True, slots=True)
class PublicFinal:
    """What everybody may see of totals that were declared final."""

    round: int
    final_at: datetime
    closed_at: datetime
    question: Question
    votes: int
    counts: tuple[int, ...] | None
    """Votes for each option, in the question's order; None while they are hidden."""
    revoked: bool

    @property
    def vote_counts(self) -> VoteCounts:
        return VoteCounts(self.votes, self.counts)

    @property
    def options(self) -> tuple[OptionCounts, ...]:
        return OptionCounts.of(self.question, self.vote_counts)


def publish(result: PollResult, show_results: ShowResults) -> PublicResult:
    """Remove what `show_results` hides. With `after_close` that ends once Redis has closed."""
    poll = result.poll
    hidden = _is_hidden(show_results, closed=poll.closed_at is not None, revealed=poll.revealed)
    counts = VoteCounts.of(result.totals.counts, hidden=hidden)
    points: list[TimelinePoint] = []
    sums = [0] * len(result.totals.counts)
    for bucket in result.timeline:
        # Counts stay the same from the end of a bucket to the start of the next one.
        if not points or points[-1].time < bucket.start:
            points.append(TimelinePoint(bucket.start, VoteCounts.of(sums, hidden=hidden)))
        sums = [*map(add, sums, bucket.counts)]
        points.append(TimelinePoint(bucket.end, VoteCounts.of(sums, hidden=hidden)))
    if points and result.poll.phase is Phase.FINAL:
        # The declared totals hold, even if the tally was altered since.
        points[-1] = TimelinePoint(points[-1].time, counts)
    return PublicResult(counts, hidden, result.poll, result.totals.at, tuple(points))


def publish_final(result: FinalResult, show_results: ShowResults) -> PublicFinal:
    """Remove what `show_results` hides."""
    hidden = _is_hidden(show_results, closed=True, revealed=result.revealed)
    counts = VoteCounts.of(result.counts, hidden=hidden)
    return PublicFinal(
        round=result.round,
        final_at=result.final_at,
        closed_at=result.closed_at,
        question=result.question,
        votes=counts.votes,
        counts=counts.by_option,
        revoked=result.revoked,
    )


def _is_hidden(show_results: ShowResults, *, closed: bool, revealed: bool) -> bool:
    if revealed or show_results == "always":
        return False
    return show_results == "when_revealed" or not closed


def as_dict(result: PublicResult | None) -> dict[str, Any]:
    """Convert to what JSON can hold: None for unknown or hidden values, times in ISO 8601."""
    poll = result.poll if result else None
    options = result.options if result else ()
    times = {
        "closes_at": poll and poll.closes_at,
        "closed_at": poll and poll.closed_at,
        "final_at": poll and poll.final_at,
        "queue_lost_at": poll and poll.queue_lost_at,
    }
    return {
        "round": poll and poll.round,
        "title": poll and poll.question.title,
        "options": [{"key": o.key, "name": o.name, "votes": o.votes} for o in options],
        "votes": result and result.counts.votes,
        "at": result and result.at.isoformat(),
        "phase": poll and poll.phase,
        "hidden": result is not None and result.hidden,
        **{name: time and time.isoformat() for name, time in times.items()},
    }
