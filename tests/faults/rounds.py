"""One fault under load, and what the checker says of it; many of them, and a table."""

from collections.abc import Iterable
from dataclasses import dataclass

from checker import Told, Verdict, check
from crowd import Crowd

from faults.faults import FORGETTING, Fault
from faults.stack import KEY, Stack
from voting.settings import Role


async def strike(stack: Stack, fault: Fault, votes: int) -> Verdict:
    """Let a fault happen under load, until `votes` are acknowledged at least, and check."""
    await stack.ledger.settled()  # where the last round has failed
    before = await stack.ledger.counts()
    since = await stack.ledger.newest_entry()
    async with Crowd(stack.address(Role.VOTE), KEY) as crowd:
        await crowd.reaches(Told.ACKNOWLEDGED, votes // 4)
        await fault(stack, crowd)
        await crowd.reaches(Told.ACKNOWLEDGED, votes)
        await stack.ready()
    kept = None if fault in FORGETTING else since
    return check(crowd.requests, await stack.ledger.books(before, kept, crowd.voters))


@dataclass(frozen=True)
class Row:
    fault: str
    verdict: Verdict


def table(rows: Iterable[Row]) -> str:
    """Draw what came of all rounds, fault by fault, as Markdown."""
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
