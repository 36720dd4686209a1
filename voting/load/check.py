"""Compares the totals of the result page with what voters were told."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice

# Seconds without a change after which totals are stable: the app reads them once a second, and a
# proxy may keep them for one more.
STABLE_SECONDS = 4.0

_STABLE_TIMEOUT = 15.0  # seconds in which totals have to become stable before the first vote
_POLL_INTERVAL = 0.25  # seconds


class _Possible(NamedTuple):
    """What may count for a voter: a choice of either set, None if no vote is known to count."""

    choices: frozenset[Choice | None] = frozenset({None})
    no_response: frozenset[Choice] = frozenset()

    @cache  # noqa: B019 - there are fewer than a hundred; voters share them
    def after(self, choice: Choice, acknowledgement: Acknowledgement) -> "_Possible":
        """Return what may count after one more vote.

        An acknowledged vote replaces an unknown one, but not one without a response, which may
        still come later.
        """
        match acknowledgement:
            case Acknowledgement.ACKNOWLEDGED:
                return self._replace(choices=frozenset({choice}))
            case Acknowledgement.REFUSED:
                return self
            case Acknowledgement.UNKNOWN:
                return self._replace(choices=self.choices | {choice})
            case Acknowledgement.NO_RESPONSE:
                return self._replace(no_response=self.no_response | {choice})


class Expected:
    """The totals that the votes added so far allow; about 150 bytes a voter."""

    def __init__(self, results: Iterable[VoteResult] = ()) -> None:
        self._possible: dict[bytes, _Possible] = {}
        for each in results:
            self.add(each)

    def add(self, result: VoteResult) -> None:
        """Add a vote; those of one voter in the order in which they were sent."""
        voter = bytes.fromhex(result.voter)
        possible = self._possible.get(voter) or _Possible()
        self._possible[voter] = possible.after(result.choice, result.acknowledgement)

    def count(self, *choices: Choice) -> tuple[int, int]:
        """Return for how many voters one of `choices` counts, at least and at most."""
        least = most = 0
        for possible, voters in Counter(self._possible.values()).items():
            may_count = possible.choices | possible.no_response
            least += voters * (may_count <= {*choices})
            most += voters * bool(may_count & {*choices})
        return least, most


class Verdict(NamedTuple):
    """Whether the totals agree with what voters were told, and a line that explains it."""

    agrees: bool
    line: str


def compare(expected: Expected, before: Totals, now: Totals) -> Verdict:
    """Compare the totals now with those before the load and the votes expected since.

    If the votes of each option are hidden, before or now, only the number of voters is compared.
    """
    numbers: list[str] = []
    agrees = exact = True
    for name, *choices in (("a", Choice.A), ("b", Choice.B), ("votes", *Choice)):
        old, new = getattr(before, name), getattr(now, name)
        if old is None or new is None:
            continue
        least, most = (old + votes for votes in expected.count(*choices))
        exact = exact and least == most
        allowed = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        if not least <= new <= most:
            agrees = False
            numbers.append(f"{name} {new:,} instead of {allowed}")
        elif name != "votes" or not numbers:  # the sum of both is shown if it is wrong
            numbers.append(f"{name} {new:,}" + ("" if least == most else f" ({allowed})"))
    word = "differs" if not agrees else "exact" if exact else "consistent"
    note = "; the votes of each option are hidden" if len(numbers) == 1 else ""
    return Verdict(agrees, f"{word}: {', '.join(numbers)}{note}")


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
