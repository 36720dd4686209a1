"""Compares the totals of the result page with what voters were told."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice

# Seconds without a change after which totals are stable: a proxy may keep them for one, and while
# the app is overloaded it reads them late.
STABLE_SECONDS = 4.0

_STABLE_TIMEOUT = 15.0  # seconds in which totals have to become stable before the first vote
_POLL_INTERVAL = 0.25  # seconds


class _Possible(NamedTuple):
    """What may count for a voter: a choice of either set, None if no vote is known to count."""

    choices: frozenset[Choice | None] = frozenset({None})
    no_response: frozenset[Choice] = frozenset()

    @lru_cache(maxsize=4096)  # noqa: B019 - voters share them
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
    """The totals of each round that the votes added so far allow; about 150 bytes a voter."""

    def __init__(self, results: Iterable[VoteResult] = ()) -> None:
        self._rounds: defaultdict[int, dict[bytes, _Possible]] = defaultdict(dict)
        for each in results:
            self.add(each)

    @property
    def rounds(self) -> frozenset[int]:
        """The rounds that votes were sent for."""
        return frozenset(self._rounds)

    def add(self, result: VoteResult) -> None:
        """Add a vote; those of one voter in the order in which they were sent."""
        voter, voters = bytes.fromhex(result.voter), self._rounds[result.round]
        possible = voters.get(voter) or _Possible()
        voters[voter] = possible.after(result.choice, result.acknowledgement)

    def count(self, number: int, *choices: Choice) -> tuple[int, int]:
        """Return for how many voters one of `choices` counts in a round, at least and at most."""
        least = most = 0
        possibilities = self._rounds[number].values() if number in self._rounds else ()
        for possible, voters in Counter(possibilities).items():
            may_count = possible.choices | possible.no_response
            least += voters * (may_count <= {*choices})
            most += voters * bool(may_count & {*choices})
        return least, most


class Verdict(NamedTuple):
    """Whether the totals agree with what voters were told, and a line that explains it."""

    agrees: bool
    line: str


def compare(expected: Expected, before: Totals, *rounds: Totals) -> Verdict:
    """Compare the totals of rounds with those before the load and the votes expected since.

    If the votes of each option are hidden, before or now, only the number of voters is compared.
    """
    found = [_compare_round(expected, before, each) for each in rounds]
    words = [word for word, _ in found]
    word = next(each for each in ("differs", "consistent", "exact") if each in words)
    titles = [f"round {each.round}: " if len(rounds) > 1 else "" for each in rounds]
    lines = (f"{title}{line}" for title, (_, line) in zip(titles, found, strict=True))
    return Verdict(word != "differs", f"{word}: {'; '.join(lines)}")


def _compare_round(expected: Expected, before: Totals, now: Totals) -> tuple[str, str]:
    """Return "differs", "consistent" or "exact", and the numbers."""
    numbers: list[str] = []
    agrees = exact = True
    by_option = now.by_option or {}
    if before.round != now.round:  # which began since
        before = Totals(now.round, dict.fromkeys(by_option, 0), 0)
    earlier = before.by_option or {}
    compared: list[tuple[str, int, int, tuple[Choice, ...]]] = [
        (each, earlier[each], by_option[each], (each,)) for each in by_option if each in earlier
    ]
    compared.append(("votes", before.votes, now.votes, tuple(Choice)))
    for name, old, new, choices in compared:
        least, most = (old + votes for votes in expected.count(now.round, *choices))
        exact = exact and least == most
        allowed = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        if not least <= new <= most:
            agrees = False
            numbers.append(f"{name} {new:,} instead of {allowed}")
        elif name != "votes" or not numbers:  # the sum of all is shown if it is wrong
            numbers.append(f"{name} {new:,}" + ("" if least == most else f" ({allowed})"))
    word = "differs" if not agrees else "exact" if exact else "consistent"
    note = "; the votes of each option are hidden" if len(numbers) == 1 else ""
    return word, f"{', '.join(numbers)}{note}"


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
    If the round has changed, all rounds that were voted in are compared.
    """
    loop = asyncio.get_running_loop()
    final: dict[int, Totals] = {}
    shown: list[Totals] = []
    changed = loop.time()
    verdict = Verdict(agrees=False, line="")
    while loop.time() - changed < (STABLE_SECONDS if verdict.agrees else patience):
        try:
            current = await fetch_totals(result_page)
            numbers = sorted(expected.rounds | {before.round})
            for number in numbers:
                if number < current.round and number not in final:
                    final[number] = await fetch_totals(result_page, number)
        except PageError as error:
            verdict = Verdict(agrees=False, line=f"unknown: {error}")
        else:
            now = [final[each] for each in numbers if each in final]
            now += [current] if current.round in numbers else []
            if now != shown:
                shown, changed = now, loop.time()
            if current.round < numbers[-1]:
                line = f"differs: the result is of round {current.round} still"
                verdict = Verdict(agrees=False, line=line)
            else:
                verdict = compare(expected, before, *now)
            if current.round > numbers[-1]:
                note = f"; round {current.round}, which is shown now, is not compared"
                verdict = verdict._replace(line=verdict.line + note)
        await asyncio.sleep(_POLL_INTERVAL)
    return verdict
