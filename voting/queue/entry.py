"""An entry of the stream, before it is known to hold a ballot."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self
from uuid import UUID

from voting.poll.ballot import Ballot, Choice, QueuedBallot, Version

VOTER_BYTES = 16

_CHOICES = {choice.encode(): choice for choice in Choice}

# A trace is opaque here: lower-case hexadecimal digits and dashes, of bounded length.
_TRACE = re.compile(rb"[0-9a-f-]{1,64}")


class Entry(NamedTuple):
    """An entry as Redis returned it.

    `fields_flat` alternates the names of its fields and their values.
    """

    id: bytes
    fields_flat: Sequence[bytes]

    @classmethod
    def of(cls, ballot: QueuedBallot) -> Self:
        """Rebuild the entry of a decoded ballot, without the trace if that was malformed."""
        values = Ballot(UUID(ballot.voter), ballot.choice, ballot.trace).encode()
        fields = zip((b"voter", b"choice", b"trace"), values, strict=False)
        return cls(str(ballot.version).encode(), [*chain.from_iterable(fields)])

    @property
    def version(self) -> Version:
        return Version.parse(self.id)

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        return dict(zip(self.fields_flat[::2], self.fields_flat[1::2], strict=True))

    def ballot(self) -> QueuedBallot:
        """Decode the ballot. Raises ValueError for fields that `Ballot.encode` does not write.

        Only an invalid trace is ignored: the ballot counts without it.
        """
        trace = None
        match self.fields_flat:
            case [b"voter", voter, b"choice", choice]:
                pass
            case [b"voter", voter, b"choice", choice, b"trace", text]:
                trace = text.decode() if _TRACE.fullmatch(text) else None
            case _:
                raise ValueError("fields are not voter and choice")
        if len(voter) != VOTER_BYTES or choice not in _CHOICES:
            raise ValueError("no voter or no choice")
        ms, seq = self.id.split(b"-")
        return QueuedBallot(int(ms), int(seq), voter.hex(), _CHOICES[choice], trace)


def parse_entries(reply: Any) -> list[Entry]:
    return [Entry(*each) for each in reply]
