"""An entry of the stream, before it is known to hold a ballot."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self
from uuid import UUID

from voting.poll.ballot import CHOICES, VOTER_BYTES, Ballot, QueuedBallot, Version


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
        """Decode the ballot. Raises ValueError if the entry holds none."""
        match self.fields_flat:
            # The usual form, decoded without a dict, a UUID or a Ballot in between.
            case [b"voter", voter, b"choice", choice] if (
                choice in CHOICES and len(voter) == VOTER_BYTES
            ):
                ms, seq = self.id.split(b"-")
                return QueuedBallot(int(ms), int(seq), voter.hex(), CHOICES[choice])
            case _:
                return QueuedBallot.of(self.version, Ballot.decode(self.fields))


def parse_entries(reply: Any) -> list[Entry]:
    return [Entry(*each) for each in reply]
