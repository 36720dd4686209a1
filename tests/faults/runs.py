"""Runs one fault under load, checks the final state, and sums up many runs in a table."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, Self

from support.checker import Verdict, check
from support.voters import Voters

from faults.faults import FORGETTING, Fault
from faults.stack import KEY, Stack
from voting.load.record import Acknowledgement
from voting.settings import Role


async def run_fault(stack: Stack, fault: Fault, votes: int) -> Verdict:
    """Run a fault under load, until `votes` are acknowledged at least, and check."""
    await stack.state.settled()  # the last run may have failed
    earlier = await stack.state.counts()
    since = await stack.state.newest_entry()
    async with Voters(stack.address(Role.VOTE), KEY) as voters:
        await voters.wait_for(votes // 4, Acknowledgement.ACKNOWLEDGED)
        await fault(stack, voters)
        await voters.wait_for(votes, Acknowledgement.ACKNOWLEDGED)
        await stack.ready()
    kept = None if fault in FORGETTING else since
    state = await stack.state.final_state(earlier, kept, voters.voters)
    return check(voters.results, state)


@dataclass(frozen=True)
class Run:
    """The ballots of one run of a fault, counted by what became of them."""

    fault: str
    acknowledged: int
    unknown: int
    lost: int
    doubled: int
    stale: int

    @classmethod
    def of(cls, fault: str, verdict: Verdict) -> Self:
        wrong = (verdict.lost, verdict.doubled, verdict.stale)
        return cls(fault, verdict.acknowledged, verdict.unknown, *map(len, wrong))

    def as_property(self) -> tuple[str, tuple[Any, ...]]:
        """Return what pytest's `user_properties` carry from the process that ran the test."""
        return "run", astuple(self)


def table(runs: Iterable[Run]) -> str:
    """Sum up all runs by fault, as a Markdown table, and what follows if no vote was lost."""
    runs = list(runs)
    lines = [
        "| fault | times | acknowledged | unknown | lost | doubled | stale |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [*sorted({run.fault for run in runs}), None]:
        counts = [astuple(run)[1:] for run in runs if name in (run.fault, None)]
        cells = [len(counts), *map(sum, zip(*counts, strict=True))]
        title = name.replace("_", " ") if name else "**all**"
        lines.append("| " + " | ".join([title, *(f"{cell:,}" for cell in cells)]) + " |")
    acknowledged = sum(run.acknowledged for run in runs)
    if acknowledged and not any(run.lost or run.doubled or run.stale for run in runs):
        lines += [
            "",
            f"0 of {acknowledged:,} acknowledged votes in {len(runs)} faults. With 95 % confidence",
            f"less than {3 / acknowledged:.1e} of all votes are lost, doubled or stale, and",
            f"less than {3 / len(runs):.1e} of all faults cost one.",
        ]
    return "\n".join(lines)
