"""Questions follow each other under load: a vote counts for the one that its voter saw, or not."""

from collections.abc import Callable

import pytest

from faults.runs import run_rounds
from faults.stack import Stack
from voting.load.check import Expected
from voting.load.record import Acknowledgement

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROUNDS = 16


async def test_each_vote_counts_for_the_question_that_its_voter_saw_and_for_no_other(
    stack: Stack, record_testsuite_property: Callable[[str, object], None]
) -> None:
    await stack.reset()
    await stack.ready()
    verdict, voters, states = await run_rounds(stack, ROUNDS)
    assert verdict.wrong == []
    assert len(states) == ROUNDS + 1

    # What the record of a load allows, by other code than the checker's.
    expected = Expected(voters.results)
    for number in range(1, ROUNDS + 1):
        final = states[number].totals["the final result"]
        for choice, votes in final.items():
            least, most = expected.count(number, choice)
            assert least <= votes <= most, (number, choice)
            assert verdict.unknown or least == most
    refused = voters.counts[Acknowledgement.REFUSED]
    assert refused

    times = [each.at for each in voters.results]
    rate = len(times) / (max(times) - min(times))
    record_testsuite_property("votes a second while questions follow each other", rate)
    print(  # noqa: T201 - with `-s`
        f"{verdict.acknowledged:,} acknowledged, {refused:,} refused, {verdict.unknown} unknown"
        f" in {len(states)} rounds: {rate:,.0f} votes a second"
    )
