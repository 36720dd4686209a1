"""Compares the totals of the result page with what voters were told."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.load.record import PossibleVotes, Totals, VoteResult
from voting.poll.ballot import Choice

# Seconds without a change after which totals are stable: the app reads them once a second, and a
# proxy may keep them for one more.
STABLE_SECONDS = 4.0

_STABLE_TIMEOUT = 15.0  # seconds in which totals have to become stable before the first vote
_POLL_INTERVAL = 0.25  # seconds


class Range(NamedTuple):
    """A number of votes, at least and at most."""

    least: int
    most: int

    @property
    def exact(self) -> bool:
        return self.least == self.most

    def __str__(self) -> str:
        return f"{self.least:,}" + ("" if self.exact else f" to {self.most:,}")


class Expected:
    """The totals that the votes added so far allow; about 150 bytes a voter."""

    def __init__(self, results: Iterable[VoteResult] = ()) -> None:
        self._possible: dict[bytes, PossibleVotes] = {}
        for each in results:
            self.add(each)

    def add(self, result: VoteResult) -> None:
        """Add a vote; those of one voter in the order in which they were sent."""
        voter = bytes.fromhex(result.voter)
        possible = self._possible.get(voter) or PossibleVotes()
        self._possible[voter] = possible.after(result.choice, result.acknowledgement)

    def count(self, *choices: Choice) -> Range:
        """Return for how many voters one of `choices` counts."""
        least = most = 0
        for possible, voters in Counter(self._possible.values()).items():
            least += voters if possible.choices <= {*choices} else 0
            most += voters if possible.choices & {*choices} else 0
        return Range(least, most)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the totals agree with what voters were told, and a line that explains it."""

    agrees: bool
    line: str


class _Number(NamedTuple):
    name: str
    shown: int
    expected: Range

    @property
    def agrees(self) -> bool:
        return self.expected.least <= self.shown <= self.expected.most

    def __str__(self) -> str:
        text = f"{self.name} {self.shown:,}"
        if not self.agrees:
            return f"{text} instead of {self.expected}"
        return text if self.expected.exact else f"{text} ({self.expected})"


def compare(expected: Expected, before: Totals, now: Totals) -> Verdict:
    """Compare the totals now with those before the load and the votes expected since.

    If the votes of each option are hidden, before or now, only the number of voters is compared.
    """

    def number(name: str, old: int, new: int, *choices: Choice) -> _Number:
        least, most = expected.count(*choices)
        return _Number(name, new, Range(old + least, old + most))

    turnout = number("votes", before.votes, now.votes, *Choice)
    if before.a is None or before.b is None or now.a is None or now.b is None:
        numbers, note = [turnout], "; the votes of each option are hidden"
    else:
        a = number("a", before.a, now.a, Choice.A)
        b = number("b", before.b, now.b, Choice.B)
        numbers, note = [a, b] if turnout.agrees else [a, b, turnout], ""
    agrees = all(each.agrees for each in numbers)
    exact = all(each.expected.exact for each in numbers)
    word = "differs" if not agrees else "exact" if exact else "consistent"
    return Verdict(agrees, f"{word}: {', '.join(map(str, numbers))}{note}")


async def wait_until_stable(result_page: Connection) -> Totals:
    """Wait until the totals no longer change, so that all earlier votes are counted.

    Raises PageError, also if they still change after 15 seconds.
    """
    loop = asyncio.get_running_loop()
    totals = await fetch_totals(result_page)
    start = changed = loop.time()
    while loop.time() - changed < STABLE_SECONDS:
        if loop.time() - start > _STABLE_TIMEOUT:
            raise PageError("the totals keep changing: others vote, so they can't be compared")
        await asyncio.sleep(_POLL_INTERVAL)
        now = await fetch_totals(result_page)
        if now != totals:
            totals, changed = now, loop.time()
    return totals


async def check(
    result_page: Connection, expected: Expected, before: Totals, patience: float
) -> Verdict:
    """Wait until totals agree and are stable, or differ without a change for `patience` seconds.

    Totals that agree may still change: two changed minds that are not counted yet can cancel out.
    """
    loop = asyncio.get_running_loop()
    totals, changed = None, loop.time()
    verdict = Verdict(agrees=False, line="")
    while loop.time() - changed < (STABLE_SECONDS if verdict.agrees else patience):
        try:
            now = await fetch_totals(result_page)
        except PageError as error:
            verdict = Verdict(agrees=False, line=f"unknown: {error}")
        else:
            if now != totals:
                totals, changed = now, loop.time()
            verdict = compare(expected, before, now)
        await asyncio.sleep(_POLL_INTERVAL)
    return verdict
