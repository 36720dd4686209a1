"""The life of a poll, as Postgres tells it. Pure: no input, no output."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from voting.poll.ballot import MIN_VERSION, Version


class Phase(StrEnum):
    """Open, then counting what was accepted before the close, then final."""

    OPEN = "open"
    COUNTING = "counting"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Poll:
    """A round of the poll: the ballots after `after_version`, up to `last_version` once it is closed.

    `after_version` keeps out what was cast in the round before and comes once more, `last_version` what somebody
    may append to the queue of a poll that is closed. All times are Postgres' or Redis'.
    """

    round: int = 1
    state: str = "open"
    closes_at: datetime | None = None
    """When it closes by itself, or has."""
    closed_at: datetime | None = None
    after_version: Version = MIN_VERSION
    last_version: Version | None = None
    """The last id of the stream when Redis had closed it; None until that is known."""
    final_at: datetime | None = None
    revision: int = field(default=0, compare=False)
    """How often it was changed: what is known of an earlier one is old."""
    queue_lost_at: datetime | None = None
    """When a worker last found the queue gone: what it had not counted by then is lost."""

    @property
    def phase(self) -> Phase:
        if self.final_at is not None:
            return Phase.FINAL
        return Phase.OPEN if self.state == "open" else Phase.COUNTING


@dataclass(frozen=True, slots=True)
class CastRules:
    """What Redis has of it, which a cast obeys."""

    open: bool
    closes_at: datetime | None
    after_version: Version
