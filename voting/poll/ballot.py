"""What a voter picked, and how it is written down on its way. Pure: no input, no output."""

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

    `ms` is Redis' clock in milliseconds since 1970, `seq` counts within a millisecond.
    """

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: bytes | str) -> Self:
        """Read `<ms>-<seq>` as Redis writes it. Raises ValueError for anything else."""
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
"""Of what Postgres keeps; Redis' integers go up to twice as far."""


CHOICES = {choice.encode(): choice for choice in Choice}
VOTER_BYTES = 16
"""Bytes of a voter."""

_FIELDS = {b"voter", b"choice"}
_TRACE = re.compile(rb"[0-9a-f-]{1,64}")


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote on its way: who picks what."""

    voter: UUID
    choice: Choice
    trace: str | None = field(default=None, compare=False)
    """A traceparent, where somebody follows this ballot. It is no part of what was voted."""

    def encode(self) -> tuple[bytes, ...]:
        """The values of the entry's fields `voter` (16 bytes), `choice` and, if any, `trace`."""
        if self.trace is None:
            return self.voter.bytes, self.choice.encode()
        return self.voter.bytes, self.choice.encode(), self.trace.encode()

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Undo `encode`. Raises ValueError for whatever `encode` could not have written.

        But for a `trace` that makes no sense: a ballot counts without it.
        """
        trace = None
        if fields.keys() != _FIELDS:
            if fields.keys() != {*_FIELDS, b"trace"}:
                raise ValueError("fields are not voter and choice")
            trace = fields[b"trace"].decode("ascii") if _TRACE.fullmatch(fields[b"trace"]) else None
        return cls(UUID(bytes=fields[b"voter"]), Choice(fields[b"choice"].decode("ascii")), trace)


class QueuedBallot(NamedTuple):
    """A ballot with the version that the stream gave it.

    Flat, with the voter as asyncpg takes one: together with the short way in `Entry.ballot`, a
    worker's Python takes half as long for a vote.
    """

    ms: int
    seq: int
    voter: str
    """32 hexadecimal digits, which take a tenth of the time that a UUID of Python's does."""
    choice: Choice
    trace: str | None = None

    @classmethod
    def of(cls, version: Version, ballot: Ballot) -> Self:
        return cls(*version, ballot.voter.hex, ballot.choice, ballot.trace)

    @property
    def version(self) -> Version:
        return Version(self.ms, self.seq)
