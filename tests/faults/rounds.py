"""Runs one fault under load and checks the final state; draws the results of many as a table."""

from collections.abc import Iterable
from dataclasses import dataclass

from checker import Verdict, check
from voters import Voters

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
class Row:
    fault: str
    verdict: Verdict


def table(rows: Iterable[Row]) -> str:
    """Draw a Markdown table with a row for each fault."""
    rows = list(rows)
    names = list(dict.fromkeys(row.fault for row in rows))
    lines = [
        "| fault | times | acknowledged | unknown | lost | doubled | stale |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [*names, None]:
        verdicts = [row.verdict for row in rows if name in (row.fault, None)]
        cells = [
            len(verdicts),
            sum(each.acknowledged for each in verdicts),
            sum(each.unknown for each in verdicts),
            *(sum(len(getattr(each, kind)) for each in verdicts) for kind in KINDS),
        ]
        title = name.replace("_", " ") if name else "**all**"
        lines.append("| " + " | ".join([title, *(f"{cell:,}" for cell in cells)]) + " |")
    acknowledged = sum(row.verdict.acknowledged for row in rows)
    if acknowledged and not any(row.verdict.wrong for row in rows):
        lines += [
            "",
            f"0 of {acknowledged:,} acknowledged votes in {len(rows)} faults. With 95 % confidence",
            f"less than {3 / acknowledged:.1e} of all votes are lost, doubled or stale, and",
            f"less than {3 / len(rows):.1e} of all faults cost one.",
        ]
    return "\n".join(lines)


KINDS = ("lost", "doubled", "stale")
