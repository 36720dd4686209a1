"""A voter's choice on its way: the ballot, its encoding in the stream, its version. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self
from uuid import UUID


class Choice(StrEnum):
    """One of the two options of the poll."""

    A = "a"
    B = "b"


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

CHOICES = {choice.encode(): choice for choice in Choice}
"""Each choice by its encoding."""

VOTER_BYTES = 16

# A trace is opaque here: lower-case hexadecimal digits and dashes, of bounded length.
_TRACE = re.compile(rb"[0-9a-f-]{1,64}")


@dataclass(frozen=True, slots=True)
class Ballot:
    """A voter's choice that is not counted yet."""

    voter: UUID
    choice: Choice
    trace: str | None = field(default=None, compare=False)
    """Identifies the trace that follows this ballot, if any. It is not part of the vote."""

    def encode(self) -> tuple[bytes, ...]:
        """Return the entry's fields `voter` (16 bytes), `choice` and, if there is one, `trace`."""
        trace = () if self.trace is None else (self.trace.encode(),)
        return self.voter.bytes, self.choice.encode(), *trace

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Undo `encode`. Raises ValueError for anything that `encode` does not write.

        Only an invalid `trace` is ignored: the ballot counts without it.
        """
        if fields.keys() - {b"trace"} != {b"voter", b"choice"}:
            raise ValueError("fields are not voter and choice")
        trace = _TRACE.fullmatch(fields.get(b"trace", b""))
        return cls(
            UUID(bytes=fields[b"voter"]),
            Choice(fields[b"choice"].decode("ascii")),
            trace and trace[0].decode(),
        )


class QueuedBallot(NamedTuple):
    """A ballot with the version that the stream gave it.

    Flat, and with the voter as asyncpg takes it: together with the fast path of `Entry.ballot` this
    halves a worker's Python time per vote.
    """

    ms: int
    seq: int
    voter: str
    """32 hexadecimal digits: a tenth of the time that a Python UUID takes."""
    choice: Choice
    trace: str | None = None

    @classmethod
    def of(cls, version: Version, ballot: Ballot) -> Self:
        return cls(*version, ballot.voter.hex, ballot.choice, ballot.trace)

    @property
    def version(self) -> Version:
        return Version(self.ms, self.seq)
