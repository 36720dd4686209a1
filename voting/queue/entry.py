"""An entry of the stream, before it is known to hold a ballot."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self
from uuid import UUID

from voting.poll.ballot import Ballot, Choice, QueuedBallot, Version

VOTER_BYTES = 16

# The number of the round, which fits into Postgres' integer, and the key of its option. One field,
# as another takes a worker a fifth more time. Earlier versions wrote no round.
_CHOICE = re.compile(rb"([1-9][0-9]{0,8})?([a-l])")

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
        voter, choice, *trace = Ballot(UUID(ballot.voter), ballot.choice, ballot.trace).encode()
        number = b"" if ballot.round is None else b"%d" % ballot.round
        fields = [b"voter", voter, b"choice", number + choice]
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

        Only an invalid trace is ignored: the ballot counts without it.
        """
        trace = None
        match self.fields_flat:
            case [b"voter", voter, b"choice", text]:
                pass
            case [b"voter", voter, b"choice", text, b"trace", traced]:
                trace = traced.decode() if _TRACE.fullmatch(traced) else None
            case _:
                raise ValueError("fields are not voter and choice")
        if len(voter) != VOTER_BYTES:
            raise ValueError("no voter")
        number, choice = _parse_choice(text)
        ms, seq = self.id.split(b"-")
        return QueuedBallot(int(ms), int(seq), voter.hex(), choice, trace, number)


@lru_cache(maxsize=256)  # a batch has few
def _parse_choice(text: bytes) -> tuple[int | None, Choice]:
    """Parse the choice and, before it, the number of its round."""
    if not (found := _CHOICE.fullmatch(text)):
        raise ValueError("no choice")
    number, choice = found.groups()
    return None if number is None else int(number), Choice(choice.decode())


def parse_entries(reply: Any) -> list[Entry]:
    return [*map(Entry._make, reply)]
