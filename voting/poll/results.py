"""What may be told of a poll. Pure, and the one place that decides it.

Pages, JSON and exports have no numbers but those that they get from here.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from voting.database.tally import PollResult
from voting.poll.lifecycle import Phase, Poll
from voting.settings import PollSettings, ShowResults


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """How many voted, and for what: None while that is kept back."""

    votes: int
    a: int | None
    b: int | None

    @classmethod
    def of(cls, a: int, b: int, *, hidden: bool) -> "VoteCounts":
        return cls(a + b, None, None) if hidden else cls(a + b, a, b)

    @property
    def leader(self) -> str | None:
        """Which option has more, if that may be told and one has."""
        if self.a is None or self.b is None or self.a == self.b:
            return None
        return "a" if self.a > self.b else "b"

    @property
    def lead(self) -> int:
        """By how many votes; 0 where there is no leader."""
        return abs((self.a or 0) - (self.b or 0))

    @property
    def shares(self) -> dict[str, float] | None:
        """Percentages to one place that add up to 100; None where there are none to tell.

        An option with a vote never has 0 %, nor one that lacks a vote 100 %.
        """
        if not self.votes or self.a is None or self.b is None:
            return None
        tenths = round(1000 * self.a / self.votes)
        if self.a and self.b:
            tenths = min(max(tenths, 1), 999)
        return {"a": tenths / 10, "b": (1000 - tenths) / 10}


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """All that was counted before `time`."""

    time: datetime
    counts: VoteCounts


@dataclass(frozen=True, slots=True)
class PublicResult:
    """What is left of a standing for everybody to see, as it was at `at`."""

    counts: VoteCounts
    hidden: bool
    poll: Poll
    at: datetime
    timeline: tuple[TimelinePoint, ...] = ()
    """How it came to that, as far as it was asked."""

    @property
    def queue_lost_at(self) -> datetime | None:
        """When the queue was lost, once that can't be mended by voting again."""
        return None if self.poll.phase is Phase.OPEN else self.poll.queue_lost_at


def publish(standing: PollResult, results: ShowResults) -> PublicResult:
    """Keep back what SHOW_RESULTS says, until it is known that Redis takes no more votes."""
    hidden = results == "after_close" and standing.poll.closed_at is None
    totals = standing.totals
    counts = VoteCounts.of(totals.a, totals.b, hidden=hidden)
    timeline = _timeline(standing, counts, hidden=hidden)
    return PublicResult(counts, hidden, standing.poll, totals.at, timeline)


def _timeline(
    standing: PollResult, counts: VoteCounts, *, hidden: bool
) -> tuple[TimelinePoint, ...]:
    points: list[TimelinePoint] = []
    a = b = 0
    for step in standing.steps:
        # Where nothing was counted for a while, nothing changes until the next step.
        if not points or points[-1].time < step.start:
            points.append(TimelinePoint(step.start, VoteCounts.of(a, b, hidden=hidden)))
        a, b = a + step.a, b + step.b
        points.append(TimelinePoint(step.end, VoteCounts.of(a, b, hidden=hidden)))
    if points and standing.poll.phase is Phase.FINAL:
        # What was declared final holds, also where somebody has altered the tally since.
        points[-1] = TimelinePoint(points[-1].time, counts)
    return tuple(points)


def as_dict(shown: PublicResult | None, poll: PollSettings) -> dict[str, Any]:
    """Tell it to programs. What is not known, or kept back, is None; times are ISO 8601 in UTC."""
    names = {"a": poll.option_a, "b": poll.option_b}
    options = {
        key: {"name": name, "votes": getattr(shown.counts, key) if shown else None}
        for key, name in names.items()
    }
    return {
        "title": poll.poll_title,
        "options": options,
        "votes": shown.counts.votes if shown else None,
        "at": _iso(shown.at) if shown else None,
        "round": shown.poll.round if shown else None,
        "phase": shown.poll.phase if shown else None,
        "hidden": shown is not None and shown.hidden,
        "closes_at": _iso(shown.poll.closes_at) if shown else None,
        "closed_at": _iso(shown.poll.closed_at) if shown else None,
        "final_at": _iso(shown.poll.final_at) if shown else None,
        "queue_lost_at": _iso(shown.poll.queue_lost_at) if shown else None,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
