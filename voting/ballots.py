"""What a voter picked, and how it is written down on its way. Pure: no input, no output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self
from uuid import UUID

from voting import traceparent


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
        ms, _, seq = (text.decode("ascii") if isinstance(text, bytes) else text).partition("-")
        if not (_decimal(ms) and _decimal(seq)):
            raise ValueError("not a stream id")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


ZERO = Version(0, 0)
"""Older than every ballot."""

LARGEST = 2**63 - 1
"""Of what Postgres keeps; Redis' integers go up to twice as far."""


def _decimal(text: str) -> bool:
    # An id has two unsigned 64-bit integers: at most 20 digits each.
    return text.isascii() and text.isdigit() and len(text) <= 20  # noqa: PLR2004 - said above


_FIELDS = {b"voter", b"choice"}


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
            trace = traceparent.parse(fields[b"trace"].decode("ascii", "replace"))
        return cls(UUID(bytes=fields[b"voter"]), Choice(fields[b"choice"].decode("ascii")), trace)


@dataclass(frozen=True, slots=True)
class CastBallot:
    """A ballot with the version that the stream gave it."""

    version: Version
    ballot: Ballot
