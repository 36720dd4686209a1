"""Runs one fault under load, checks the final state, and sums up many runs in a table."""

from collections.abc import Iterable
from typing import Any

from support.checker import Verdict, check
from support.voters import Voters

from faults.faults import FORGETTING, Fault
from faults.stack import KEY, Stack
from voting.load.record import Acknowledgement
from voting.settings import Role


async def run_fault(stack: Stack, fault: Fault, votes: int) -> Verdict:
    """Run a fault under load, until `votes` are acknowledged at least, and check."""
    await stack.state.settled()  # the last run may have failed
    await stack.state.sql("UPDATE poll SET lost_at = NULL")  # which an earlier fault caused
    earlier = await stack.state.counts()
    since = await stack.state.newest_entry()
    async with Voters(stack.address(Role.VOTE), KEY, await stack.state.poll()) as voters:
        await voters.wait_for(votes // 4, Acknowledgement.ACKNOWLEDGED)
        await fault(stack, voters)
        await voters.wait_for(votes, Acknowledgement.ACKNOWLEDGED)
        await stack.ready()
    kept = None if fault in FORGETTING else since
    state = await stack.state.final_state(earlier, kept, voters.voters)
    await voters.read_receipts()
    return check(voters.results, state, voters.receipts)


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
