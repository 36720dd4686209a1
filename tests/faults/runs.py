"""Runs one fault under load, checks the final state, and sums up many runs in a table."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Self

from support.checker import FinalState, Verdict, check_rounds
from support.voters import Voters

from faults.faults import FAULTS, FORGETTING, Fault
from faults.stack import KEY, Stack
from voting.load.record import Acknowledgement
from voting.poll.ballot import Choice, Version
from voting.poll.question import MAX_OPTIONS, MIN_OPTIONS
from voting.settings import Role

RATE = 2_000.0  # votes a second, while questions follow each other


Moment = Callable[[], Awaitable[None]]
"""What happens at the same time as something else."""


async def nothing() -> None:
    pass


class Rounds:
    """The final states of the rounds of a load, each read when it ends."""

    def __init__(self, stack: Stack, earlier: Counter[Choice], since: Version, *, kept: bool):
        self._stack = stack
        self._earlier, self._since, self._kept = earlier, since, kept
        self._states: dict[int, FinalState] = {}

    @classmethod
    async def begin(cls, stack: Stack, *, kept: bool = True) -> Self:
        """Begin in the current round, which may have votes."""
        state = stack.state
        return cls(stack, await state.counts(), await state.newest_entry(), kept=kept)

    async def ask(
        self,
        options: int,
        voters: Voters | None = None,
        *,
        while_closing: Moment = nothing,
        while_asking: Moment = nothing,
    ) -> None:
        """End the round, and ask a question with so many options in the next.

        Some of `voters` look at their page in between, when everything has been counted.
        """
        poll, _ = await asyncio.gather(self._stack.end_round(), while_closing())
        await self._read(poll.round)
        if voters is not None:
            await voters.read_receipts(limit=50)
        assert poll.last_version is not None
        self._earlier, self._since = Counter(), poll.last_version
        await asyncio.gather(self._stack.start_round(poll.round, options), while_asking())

    async def final_states(self) -> Mapping[int, FinalState]:
        """Return the state of each round, of the current one once all is counted."""
        await self._read(await self._stack.state.round())
        return await self._stack.state.with_totals(self._states)

    async def _read(self, number: int) -> None:
        read = self._stack.state.final_state(self._earlier, self._since, kept=self._kept)
        self._states[number] = await read


async def run_fault(stack: Stack, fault: Fault, votes: int, *, asks: bool | None = None) -> Verdict:
    """Run a fault under load, until `votes` are acknowledged at least, and check.

    If `asks`, by default with every second fault, questions are asked under load: one with three
    options just before, and one with two, as it was, just after.
    """
    await stack.state.settled()  # the last run may have failed
    await stack.state.sql("UPDATE poll SET lost_at = NULL")  # which an earlier fault caused
    rounds = await Rounds.begin(stack, kept=fault not in FORGETTING)
    if asks is None:
        asks = FAULTS.index(fault) % 2 == 0
    async with Voters(stack.address(Role.VOTE), KEY, await stack.state.poll()) as voters:
        await voters.wait_for(votes // 4, Acknowledgement.ACKNOWLEDGED)
        if asks:
            await rounds.ask(3)
            await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)
        await fault(stack, voters)
        if asks:
            await rounds.ask(2, voters)
        await voters.wait_for(votes, Acknowledgement.ACKNOWLEDGED)
        await stack.ready()
    states = await rounds.final_states()
    await voters.read_receipts()
    return check_rounds(voters.results, states, voters.receipts)


async def run_rounds(stack: Stack, rounds: int) -> tuple[Verdict, Voters, Mapping[int, FinalState]]:
    """Ask that many questions, each after some half a second of votes, and check.

    In each round, many voters still have the page of an earlier one.
    """
    states = await Rounds.begin(stack)
    poll = await stack.state.poll()
    async with Voters(stack.address(Role.VOTE), KEY, poll, connections=64, rate=RATE) as voters:
        for number in range(rounds):
            await voters.wait_for_more(int(RATE / 2), Acknowledgement.ACKNOWLEDGED)
            await states.ask(MIN_OPTIONS + number * 4 % (MAX_OPTIONS - MIN_OPTIONS + 1))
        await voters.wait_for_more(int(RATE / 2), Acknowledgement.ACKNOWLEDGED)
    found = await states.final_states()
    await voters.read_receipts()
    return check_rounds(voters.results, found, voters.receipts), voters, found


def run_property(fault: Fault, verdict: Verdict) -> tuple[str, tuple[Any, ...]]:
    """Return what became of a run's ballots, as pytest's `user_properties` can carry it."""
    wrong = (verdict.lost, verdict.doubled, verdict.stale, verdict.untrue)
    return "run", (fault.__name__, verdict.acknowledged, verdict.unknown, *map(len, wrong))


def table(runs: Iterable[tuple[Any, ...]]) -> str:
    """Sum up the properties of all runs by fault, and say what follows if no vote was lost."""
    runs = list(runs)
    lines = [
        "| fault | times | acknowledged | unknown | lost | doubled | stale | untrue receipts |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [*sorted({fault for fault, *_ in runs}), None]:
        counts = [each for fault, *each in runs if name in (fault, None)]
        cells = [len(counts), *map(sum, zip(*counts, strict=True))]
        title = name.replace("_", " ") if name else "**all**"
        lines.append("| " + " | ".join([title, *(f"{cell:,}" for cell in cells)]) + " |")
    _, acknowledged, _, *wrong = cells  # of all
    if acknowledged and not any(wrong):
        lines += [
            "",
            f"0 of {acknowledged:,} acknowledged votes in {len(runs)} faults. With 95 % confidence",
            f"less than {3 / acknowledged:.1e} of all votes are lost, doubled or stale, and",
            f"less than {3 / len(runs):.1e} of all faults cost one.",
        ]
    return "\n".join(lines)
