"""A voter's choice on its way: the ballot, its encoding in the stream, its version. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self
from uuid import UUID


class Choice(StrEnum):
    """The key of an option: a question has the first two to twelve of them."""

    A = "a"
    B = "b"
    C = "c"
    D = "d"
    E = "e"
    F = "f"
    G = "g"
    H = "h"
    I = "i"  # noqa: E741 - not mistaken for a number here
    J = "j"
    K = "k"
    L = "l"


class Version(NamedTuple):
    """A ballot's id in the stream, which orders all ballots: of two, the larger is newer.

    `ms` is Redis' clock in milliseconds since 1970; `seq` counts ballots within a millisecond.
    """

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: bytes | str) -> Self:
        """Parse `<ms>-<seq>` as Redis writes it. Raises ValueError for anything else."""
        ms, _, seq = (text if isinstance(text, bytes) else text.encode()).partition(b"-")
        # Two unsigned 64-bit integers: at most 20 digits each.
        if not (ms.isdigit() and seq.isdigit() and len(ms) <= 20 >= len(seq)):  # noqa: PLR2004
            raise ValueError("not a stream id")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


MIN_VERSION = Version(0, 0)
"""Older than every ballot."""

MAX_BIGINT = 2**63 - 1
"""The largest number in a column of Postgres; a stream id goes up to twice as far."""


MAX_ID = 2**53 - 1
"""No ballot has an id from here on: see `cast.lua`."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A voter's choice that is not counted yet."""

    voter: UUID
    choice: Choice
    trace: str | None = field(default=None, compare=False)
    """Identifies the trace that follows this ballot, if any. It is not part of the vote."""

    def encode(self) -> tuple[bytes, ...]:
        """Return the entry's fields `voter` (16 bytes), `choice` and, if there is one, `trace`.

        `cast.lua` puts the number of the round before the choice.
        """
        trace = () if self.trace is None else (self.trace.encode(),)
        return self.voter.bytes, self.choice.encode(), *trace


class QueuedBallot(NamedTuple):
    """A ballot with the version that the stream gave it.

    Flat, and with the voter as asyncpg takes it: with `Entry.ballot`, which decodes it without a
    dict, this halves a worker's Python time per vote.
    """

    ms: int
    seq: int
    voter: str
    """32 hexadecimal digits: a tenth of the time that a Python UUID takes."""
    choice: Choice
    trace: str | None = None
    round: int | None = None
    """The round whose question its voter saw; None if an earlier version queued it."""

    def is_of(self, number: int) -> bool:
        """Whether it may belong to a round: without a `round`, its version decides."""
        return self.round is None or self.round == number

    @property
    def version(self) -> Version:
        return Version(self.ms, self.seq)
