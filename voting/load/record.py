"""The record of a load: what each voter was told about each vote."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

from voting.poll.ballot import Choice, Version


class Acknowledgement(StrEnum):
    """What a voter knows about a vote."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """It is not recorded: the app or a proxy refused it, or it was not sent."""
    UNKNOWN = "unknown"
    """It may be recorded, and will not be from now on: the app said so, or the page gave up."""
    NO_RESPONSE = "no response"
    """The app did not respond: it may be recorded at any time, also after a newer vote."""


class VoteResult(NamedTuple):
    """What became of one vote.

    `voter` is 32 hex digits, `round` that of the question which its voter saw, `version` that of
    the receipt, if any. `status` is of HTTP, 0 without a response; `at` is in seconds since 1970.
    """

    voter: str
    choice: Choice
    acknowledgement: Acknowledgement
    version: Version | None = None
    status: int = 0
    at: float = 0.0
    round: int = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """The votes of a round on the result page."""

    round: int
    by_option: Mapping[Choice, int] | None
    """In the question's order; None while they are hidden."""
    votes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The pages that the votes were cast at, and the totals before the first of them."""

    version: str
    vote_url: str
    result_url: str
    started: str
    before: Totals


class RecordError(Exception):
    """A file is not a record; the message has its path and the first wrong line."""


class RecordWriter:
    """Writes a record: a JSON line for the header and one for each vote."""

    def __init__(self, file: IO[str], header: Header) -> None:
        self._file = file
        self._write(asdict(header))

    def add(self, result: VoteResult) -> None:
        version = result.version and str(result.version)
        self._write(result._asdict() | {"version": version})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_record(path: Path, add: Callable[[VoteResult], None]) -> tuple[Header, bool]:
    """Call `add` with each vote in turn. Return the header, and False if the end is cut off.

    Raises OSError and RecordError.
    """
    number = 1
    try:
        with path.open(encoding="utf-8") as file:
            fields = json.loads(file.readline())
            header = Header(**fields | {"before": _read_totals(**fields["before"])})
            for number, line in enumerate(file, start=2):  # noqa: B007 - for the error
                if not line.endswith("\n"):
                    return header, False
                fields = json.loads(line)
                fields["choice"] = Choice(fields["choice"])
                fields["acknowledgement"] = Acknowledgement(fields["acknowledgement"])
                fields["version"] = fields["version"] and Version.parse(fields["version"])
                add(VoteResult(**fields))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RecordError(f"{path}: line {number} is not of a record") from None
    return header, True


def _read_totals(by_option: dict[str, int] | None, **others: Any) -> Totals:
    if by_option is None:
        return Totals(by_option=None, **others)
    return Totals(by_option={Choice(key): votes for key, votes in by_option.items()}, **others)
