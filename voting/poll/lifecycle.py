"""The life of a poll: its states and the events that lead from one to the next. Pure.

`TRANSITIONS` is the whole of it: commands, SQL and docs are tested against it. An operator's change
is written to Postgres, which is the truth, and takes effect when it reaches Redis, which accepts
ballots. So a poll that is closed in Postgres may still accept ballots until Redis confirms: that is
the state "closing".
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from voting.poll.ballot import MIN_VERSION, Version
from voting.poll.question import Question


class LifecycleState(StrEnum):
    """What has happened to the round, and so what may happen next."""

    OPEN = "open"
    SCHEDULED = "scheduled"
    """Open until a time."""
    CLOSING = "closing"
    """Closed in Postgres; the last ballot that Redis accepted is not known yet."""
    COUNTING = "counting"
    """Closed in Redis too; accepted ballots may still be uncounted."""
    FINAL = "final"


class Event(StrEnum):
    """What changes the state of a poll: an operator's command, or what a worker finds."""

    CLOSE = "voting close"
    SCHEDULE = "voting close --at"
    TIME_REACHED = "Redis' clock reaches the time"
    CLOSE_CONFIRMED = "Redis confirms its last ballot"
    ALL_COUNTED = "all ballots are counted"
    REOPEN = "voting open"
    START_ROUND = "voting ask, voting reset"


class Transition(NamedTuple):
    """In which states an event may happen, and the state that it leads to."""

    sources: frozenset[LifecycleState]
    target: LifecycleState


_OPEN = frozenset({LifecycleState.OPEN, LifecycleState.SCHEDULED})

TRANSITIONS = {
    # Guard of both: the time of the poll has not come.
    Event.CLOSE: Transition(_OPEN, LifecycleState.CLOSING),
    Event.SCHEDULE: Transition(_OPEN, LifecycleState.SCHEDULED),
    # Guard: the poll has not been changed since its time was copied to Redis.
    Event.TIME_REACHED: Transition(frozenset({LifecycleState.SCHEDULED}), LifecycleState.CLOSING),
    Event.CLOSE_CONFIRMED: Transition(frozenset({LifecycleState.CLOSING}), LifecycleState.COUNTING),
    # Guard: everything up to the poll's last version is counted and acknowledged.
    Event.ALL_COUNTED: Transition(frozenset({LifecycleState.COUNTING}), LifecycleState.FINAL),
    # Guard: it is the round, closed or not, that the operator saw, with the same time to close and
    # the same final result, if any.
    Event.REOPEN: Transition(frozenset(LifecycleState), LifecycleState.OPEN),
    # Guard: it is the round that the operator saw. The next round begins after the last version.
    Event.START_ROUND: Transition(frozenset({LifecycleState.FINAL}), LifecycleState.OPEN),
}


class Phase(StrEnum):
    """What pages and commands show of the state."""

    OPEN = "open"
    COUNTING = "counting"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Poll:
    """One round of the poll, as Postgres stores it. Times are Postgres' or Redis'.

    Its ballots are those with its number that are after `after_version`, up to `last_version` once
    it is closed. The first excludes ballots of the previous round that are delivered again, where
    an earlier version queued them without a number; the second excludes entries that were appended
    to the queue after the close.
    """

    round: int = 1
    question: Question = field(default_factory=Question)
    """What this round asks. It never changes: another question is another round."""
    asked: bool = False
    """Whether an operator asked it; else it is that of the environment."""
    revealed: bool = False
    """Whether an operator has shown the totals that are kept back otherwise."""
    state: Literal["open", "closed"] = "open"
    closes_at: datetime | None = None
    """When the poll closes, or closed, by itself."""
    closed_at: datetime | None = None
    after_version: Version = MIN_VERSION
    last_version: Version | None = None
    """The stream's last id when Redis closed the poll; None until Redis confirms it."""
    final_at: datetime | None = None
    revision: int = field(default=0, compare=False)
    """The number of changes so far: a state with a lower revision is stale."""
    queue_lost_at: datetime | None = None
    """When the queue was last found missing: ballots uncounted by then are lost."""
    database_id: str = field(default="", compare=False)
    """Made with the database, and kept in its backups: a queue belongs to one database."""
    has_queue: bool = field(default=False, compare=False)
    """Whether the queue was ever created: from then on, a missing queue is a loss."""

    @property
    def lifecycle_state(self) -> LifecycleState:
        if self.final_at is not None:
            return LifecycleState.FINAL
        if self.state == "closed":
            return LifecycleState.COUNTING if self.last_version else LifecycleState.CLOSING
        return LifecycleState.OPEN if self.closes_at is None else LifecycleState.SCHEDULED

    @property
    def phase(self) -> Phase:
        if self.lifecycle_state is LifecycleState.FINAL:
            return Phase.FINAL
        return Phase.OPEN if self.lifecycle_state in _OPEN else Phase.COUNTING

    def allows(self, event: Event) -> bool:
        """Whether `event` may happen in the state that the poll is in."""
        return self.lifecycle_state in TRANSITIONS[event].sources


@dataclass(frozen=True, slots=True)
class CastRules:
    """The part of a poll that Redis stores and checks at each cast."""

    round: int
    question: Question
    open: bool
    closes_at: datetime | None
    after_version: Version
    lost_version: Version = MIN_VERSION
    """Ballots up to it may be lost: the queue was, and with it what was not counted."""
    database_id: str = ""
    """The identity of the database in which ballots are counted."""
