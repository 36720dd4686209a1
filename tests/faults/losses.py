"""Loses the machine of the primary again and again, under load: `python -m faults.losses`.

Prints a table, and each wrong thing; exits with 1 if anything is wrong.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from support.checker import Verdict, check_rounds
from support.voters import Voters

from faults.replicated import ReplicatedStack
from faults.runs import Rounds
from faults.stack import KEY
from voting.load.record import Acknowledgement
from voting.settings import Role

RATE = 600.0  # votes a second

VOTES = 3_000  # acknowledged for each loss


@dataclass
class Losses:
    """What came of the losses of one stack, or of all."""

    verdict: Verdict = field(default_factory=Verdict)
    refused: int = 0
    without_votes: list[float] = field(default_factory=list)
    """For each loss, the longest time without an acknowledged vote, in seconds."""
    wrong: list[str] = field(default_factory=list)

    def add(self, stack: int, other: "Losses") -> None:
        self.verdict.add(stack, other.verdict)
        self.refused += other.refused
        self.without_votes += other.without_votes
        self.wrong += [f"stack {stack}: {each}" for each in other.wrong]

    def row(self, name: object) -> str:
        verdict, times = self.verdict, self.without_votes
        counts = [len(times), verdict.acknowledged, verdict.unknown, self.refused]
        counts += map(len, (verdict.lost, verdict.doubled, verdict.stale, verdict.untrue))
        cells = [str(name), *(f"{each:,}" for each in counts)]
        cells += [f"{each:.1f}" for each in (median(times), max(times))]
        return f"| {' | '.join(cells)} |"


HEAD = """\
| stack | losses | acknowledged | unknown | refused | lost | doubled | stale | untrue \
| s without votes, p50 | worst |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def longest_pause(times: Sequence[float], begin: float, end: float) -> float:
    """Return the longest time between two of `times`, in order, that a period has a part of."""
    around = times[max(0, bisect_right(times, begin) - 1) : bisect_left(times, end) + 1]
    return max(later - earlier for earlier, later in pairwise(around))


async def lose(stack: ReplicatedStack, number: int) -> Losses:
    """Lose the primary that often, each time once all machines are in sync, and check."""
    losses = Losses()
    periods = []
    rounds = await Rounds.begin(stack)
    poll = await stack.state.poll()
    async with Voters(stack.address(Role.VOTE), KEY, poll, rate=RATE) as voters:
        await voters.wait_for(100, Acknowledgement.ACKNOWLEDGED)
        for count in range(1, number + 1):
            begin = time.time()
            lost = await stack.lose_primary()
            await stack.replaced(lost)
            await stack.ready()
            await voters.wait_for(count * VOTES, Acknowledgement.ACKNOWLEDGED)
            periods.append((begin, time.time()))
            took = periods[-1][1] - begin
            _say(f"loss {count} of {number}: machine {lost}, next after {took:.1f} s")
    states = await rounds.final_states()
    await voters.read_receipts()
    losses.verdict = check_rounds(voters.results, states, voters.receipts)
    losses.refused = voters.counts[Acknowledgement.REFUSED]
    acknowledged = Acknowledgement.ACKNOWLEDGED
    times = sorted(each.at for each in voters.results if each.acknowledgement is acknowledged)
    losses.without_votes = [longest_pause(times, *each) for each in periods]
    losses.wrong = [*losses.verdict.wrong, *await stack.audit()]
    return losses


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.losses", description=__doc__)
    parser.add_argument("--losses", type=int, default=104, help="of all stacks together")
    parser.add_argument("--stacks", type=int, default=4, help="one after the other, each new")
    options = parser.parse_args()
    rows, total = [HEAD], Losses()
    for stack in range(1, options.stacks + 1):
        folder = _new_folder()
        async with ReplicatedStack(folder) as running:
            losses = await lose(running, (options.losses + stack - 1) // options.stacks)
        if losses.wrong:
            _say(f"stack {stack}: the logs are in {folder}")
        else:
            shutil.rmtree(folder)
        total.add(stack, losses)
        rows.append(losses.row(stack))
        _say("\n".join((HEAD, rows[-1])))
    _say("\n".join(("", *total.wrong, "", *rows, total.row("**all**"))))
    return 1 if total.wrong else 0


def _new_folder() -> Path:
    """Make one whose path is short enough for sockets, and which other users may traverse."""
    folder = Path(tempfile.mkdtemp(prefix="voting-losses-"))
    folder.chmod(0o711)
    folder.joinpath("run").mkdir()
    return folder


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for whom it runs


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
