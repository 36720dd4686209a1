"""What voters were told, and what the result has to show for it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from voting.poll.ballot import Choice


class Told(StrEnum):
    """Whether a vote is recorded, as far as its voter knows."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class RecordError(Exception):
    """A file is no record; the message is for the person who names it."""


class Outcome(NamedTuple):
    """What became of one vote.

    `voter` is the id, 32 hex digits; `at` is in seconds since 1970. `by_app`: the app itself said
    so; where it did not, an unknown vote may still be on its way.
    """

    voter: str
    choice: Choice
    told: Told
    by_app: bool
    ballot: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Shown:
    """The votes on the result page; `a` and `b` are None while they are hidden."""

    a: int | None
    b: int | None
    votes: int


@dataclass(frozen=True, slots=True)
class Fate:
    """What may count for a voter: the newest acknowledged choice, or one that nobody knows of."""

    newest: Choice | None = None
    unsure: frozenset[Choice] = frozenset()
    silent: frozenset[Choice] = frozenset()

    @property
    def possible(self) -> frozenset[Choice | None]:
        return frozenset({self.newest, *self.unsure, *self.silent})

    @cache  # noqa: B019 - there are fewer than a hundred; voters share them
    def after(self, choice: Choice, told: Told, by_app: bool) -> "Fate":  # noqa: FBT001 - a field
        """Tell what may count after one more vote.

        The app says "unknown" when the ballot can't come any more: an acknowledged one replaces it.
        Where nobody answered it may come at any time, also after a newer one.
        """
        if told is Told.YES:
            return Fate(choice, silent=self.silent)
        if told is Told.NO:
            return self
        if by_app:
            return Fate(self.newest, self.unsure | {choice}, self.silent)
        return Fate(self.newest, self.unsure, self.silent | {choice})


class Range(NamedTuple):
    """So many votes at least and at most."""

    least: int
    most: int

    def holds(self, votes: int) -> bool:
        return self.least <= votes <= self.most

    def __str__(self) -> str:
        return f"{self.least:,}" + (f" to {self.most:,}" if self.most > self.least else "")


class Expected:
    """What the result has to show for all votes that it was told of; about 150 bytes a voter."""

    def __init__(self) -> None:
        self._fates: dict[bytes, Fate] = {}

    def add(self, outcome: Outcome) -> None:
        """Note one more vote, the votes of a voter in their order."""
        voter = bytes.fromhex(outcome.voter)
        fate = self._fates.get(voter) or Fate()
        self._fates[voter] = fate.after(outcome.choice, outcome.told, outcome.by_app)

    def of(self, *choices: Choice) -> Range:
        """Tell for how many voters one of `choices` counts."""
        least = most = 0
        for fate, voters in Counter(self._fates.values()).items():
            least += voters if fate.possible <= {*choices} else 0
            most += voters if fate.possible & {*choices} else 0
        return Range(least, most)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the result agrees with what voters were told, and a line that says so."""

    agrees: bool
    line: str


class _Number(NamedTuple):
    name: str
    shown: int
    right: Range

    @property
    def fine(self) -> bool:
        return self.right.holds(self.shown)

    def __str__(self) -> str:
        text = f"{self.name} {self.shown:,}"
        if not self.fine:
            return f"{text} instead of {self.right}"
        return text if self.right.least == self.right.most else f"{text} ({self.right})"


def compare(expected: Expected, before: Shown, now: Shown) -> Verdict:
    """Compare what the result shows with what was told, added to what it showed before.

    Where the votes of the options are hidden, before or now, only how many voted is compared.
    """

    def number(name: str, old: int, new: int, *choices: Choice) -> _Number:
        least, most = expected.of(*choices)
        return _Number(name, new, Range(old + least, old + most))

    turnout = number("votes", before.votes, now.votes, *Choice)
    if before.a is None or before.b is None or now.a is None or now.b is None:
        numbers, note = [turnout], "; what each option has is hidden"
    else:
        a = number("a", before.a, now.a, Choice.A)
        b = number("b", before.b, now.b, Choice.B)
        numbers, note = [a, b] if turnout.fine else [a, b, turnout], ""
    agrees = all(each.fine for each in numbers)
    exact = all(each.right.least == each.right.most for each in numbers)
    word = "differs" if not agrees else "exact" if exact else "as far as voters know"
    return Verdict(agrees, f"{word}: {', '.join(map(str, numbers))}{note}")


@dataclass(frozen=True, slots=True)
class Header:
    """Where the votes were cast, and what the result showed before the first of them."""

    version: str
    vote_url: str
    result_url: str
    started: str
    before: Shown


class Writer:
    """Writes a record: a JSON line for the header and one for each vote."""

    def __init__(self, file: IO[str], header: Header) -> None:
        self._file = file
        self._write(asdict(header))

    def add(self, outcome: Outcome) -> None:
        self._write(outcome._asdict())

    def flush(self) -> None:
        self._file.flush()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


@dataclass(slots=True)
class Record:
    """A record that was read; `whole` is false where its last line was cut off."""

    header: Header
    expected: Expected = field(default_factory=Expected)
    whole: bool = True

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Raises OSError, and RecordError with the number of a line that is none of a record."""
        number = 1
        try:
            with path.open(encoding="utf-8") as file:
                fields = json.loads(file.readline())
                record = cls(Header(**{**fields, "before": Shown(**fields["before"])}))
                for number, line in enumerate(file, start=2):  # noqa: B007 - for the error
                    if not line.endswith("\n"):
                        record.whole = False
                        break
                    record.expected.add(_outcome(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            raise RecordError(f"{path}: line {number} is not of a record") from None
        return record


def _outcome(fields: dict[str, Any]) -> Outcome:
    given = {**fields, "choice": Choice(fields["choice"]), "told": Told(fields["told"])}
    return Outcome(**given)
