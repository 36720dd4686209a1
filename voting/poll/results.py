"""Results of a poll, and what of them is public. Pure, and the one place that decides it.

Pages, JSON and exports show only numbers of a `PublicResult`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from voting.poll.lifecycle import Phase, Poll

ShowResults = Literal["always", "after_close"]
"""When totals are public. With `after_close`, only the number of voters is until the close."""


@dataclass(frozen=True, slots=True)
class Question:
    """The title of a poll and the names of its options."""

    title: str
    option_a: str
    option_b: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Votes for each option, at a time of Postgres' clock."""

    a: int
    b: int
    at: datetime

    @property
    def votes(self) -> int:
        return self.a + self.b


class TimelineBucket(NamedTuple):
    """What the votes counted from `start` to `end` added: negative if voters changed their vote."""

    start: datetime
    end: datetime
    a: int
    b: int


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
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """The number of votes, in all and for each option; None while those are hidden."""

    votes: int
    a: int | None
    b: int | None

    @classmethod
    def of(cls, a: int, b: int, *, hidden: bool) -> "VoteCounts":
        return cls(a + b, None, None) if hidden else cls(a + b, a, b)

    @property
    def leader(self) -> str | None:
        """The option with more votes; None if they are equal or hidden."""
        if self.a is None or self.b is None or self.a == self.b:
            return None
        return "a" if self.a > self.b else "b"

    @property
    def lead(self) -> int:
        """How many votes the leader is ahead; 0 if there is no leader."""
        return abs((self.a or 0) - (self.b or 0))

    @property
    def shares(self) -> dict[str, float] | None:
        """Percentages to one decimal place that add up to 100; None if hidden or without votes.

        An option with a vote never has 0 %, and one that lacks a vote never has 100 %.
        """
        if not self.votes or self.a is None or self.b is None:
            return None
        tenths = round(1000 * self.a / self.votes)
        if self.a and self.b:
            tenths = min(max(tenths, 1), 999)
        return {"a": tenths / 10, "b": (1000 - tenths) / 10}


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
    def queue_lost_at(self) -> datetime | None:
        """When the queue was lost; None while voters can still vote again."""
        return None if self.poll.phase is Phase.OPEN else self.poll.queue_lost_at


def publish(result: PollResult, show_results: ShowResults) -> PublicResult:
    """Remove what `show_results` hides. With `after_close` that ends once Redis has closed."""
    hidden = show_results == "after_close" and result.poll.closed_at is None
    counts = VoteCounts.of(result.totals.a, result.totals.b, hidden=hidden)
    points: list[TimelinePoint] = []
    a = b = 0
    for bucket in result.timeline:
        # Counts stay the same from the end of a bucket to the start of the next one.
        if not points or points[-1].time < bucket.start:
            points.append(TimelinePoint(bucket.start, VoteCounts.of(a, b, hidden=hidden)))
        a, b = a + bucket.a, b + bucket.b
        points.append(TimelinePoint(bucket.end, VoteCounts.of(a, b, hidden=hidden)))
    if points and result.poll.phase is Phase.FINAL:
        # The declared totals hold, even if the tally was altered since.
        points[-1] = TimelinePoint(points[-1].time, counts)
    return PublicResult(counts, hidden, result.poll, result.totals.at, tuple(points))


def as_dict(result: PublicResult | None, question: Question) -> dict[str, Any]:
    """Convert to what JSON can hold: None for unknown or hidden values, times in ISO 8601."""
    counts = result.counts if result else None
    poll = result.poll if result else None
    times = {
        "closes_at": poll and poll.closes_at,
        "closed_at": poll and poll.closed_at,
        "final_at": poll and poll.final_at,
        "queue_lost_at": poll and poll.queue_lost_at,
    }
    return {
        "title": question.title,
        "options": {
            "a": {"name": question.option_a, "votes": counts and counts.a},
            "b": {"name": question.option_b, "votes": counts and counts.b},
        },
        "votes": counts and counts.votes,
        "at": result and result.at.isoformat(),
        "round": poll and poll.round,
        "phase": poll and poll.phase,
        "hidden": result is not None and result.hidden,
        **{name: time and time.isoformat() for name, time in times.items()},
    }
