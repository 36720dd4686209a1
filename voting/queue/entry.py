"""An entry of the stream, before it is known to hold a ballot."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self
from uuid import UUID

from voting.poll.ballot import Ballot, Choice, QueuedBallot, Version

VOTER_BYTES = 16

_CHOICES = {choice.encode(): choice for choice in Choice}

# A trace is opaque here: lower-case hexadecimal digits and dashes, of bounded length.
_TRACE = re.compile(rb"[0-9a-f-]{1,64}")

# Fits into Postgres' integer.
_ROUND = re.compile(rb"[1-9][0-9]{0,8}")


class Entry(NamedTuple):
    """An entry as Redis returned it.

    `fields_flat` alternates the names of its fields and their values.
    """

    id: bytes
    fields_flat: Sequence[bytes]

    @classmethod
    def of(cls, ballot: QueuedBallot) -> Self:
        """Rebuild the entry of a decoded ballot, without the trace if that was malformed."""
        voter, choice, *trace = Ballot(UUID(ballot.voter), ballot.choice, ballot.trace).encode()
        fields = [b"voter", voter, b"choice", choice]
        if ballot.round is not None:
            fields += [b"round", b"%d" % ballot.round]
        if trace:
            fields += [b"trace", *trace]
        return cls(str(ballot.version).encode(), fields)

    @property
    def version(self) -> Version:
        return Version.parse(self.id)

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        return dict(zip(self.fields_flat[::2], self.fields_flat[1::2], strict=True))

    def ballot(self) -> QueuedBallot:
        """Decode the ballot. Raises ValueError for fields that `cast.lua` does not write.

        Earlier versions wrote no round. Only an invalid trace is ignored: the ballot counts
        without it.
        """
        number: bytes | None = None
        trace: bytes | None = None
        match self.fields_flat:
            case [b"voter", voter, b"choice", choice, b"round", number]:
                pass
            case [b"voter", voter, b"choice", choice, b"round", number, b"trace", trace]:
                pass
            case [b"voter", voter, b"choice", choice]:
                pass
            case [b"voter", voter, b"choice", choice, b"trace", trace]:
                pass
            case _:
                raise ValueError("fields are not voter, choice and round")
        if len(voter) != VOTER_BYTES or choice not in _CHOICES:
            raise ValueError("no voter or no choice")
        ms, seq = self.id.split(b"-")
        return QueuedBallot(
            int(ms),
            int(seq),
            voter.hex(),
            _CHOICES[choice],
            trace.decode() if trace and _TRACE.fullmatch(trace) else None,
            None if number is None else _parse_round(number),
        )


@lru_cache(maxsize=64)  # a batch has few
def _parse_round(text: bytes) -> int:
    if not _ROUND.fullmatch(text):
        raise ValueError("not a round")
    return int(text)


def parse_entries(reply: Any) -> list[Entry]:
    return [*map(Entry._make, reply)]
