"""Questions follow each other under load: a vote counts for the one that its voter saw, or not."""

from collections.abc import Callable
from http import HTTPStatus
from math import inf

import pytest

from faults.runs import run_rounds
from faults.stack import Stack
from voting.load.check import Expected
from voting.load.record import Acknowledgement

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROUNDS = 16


# On a busy machine, questions take their time.
@pytest.mark.timeout(300)
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
    begun: dict[int, float] = {}
    for each in voters.results:
        if each.acknowledgement is Acknowledgement.ACKNOWLEDGED:
            begun.setdefault(each.round, each.at)
    stale = sum(
        each.status == HTTPStatus.CONFLICT and each.at > begun.get(each.round + 1, inf)
        for each in voters.results
    )
    assert stale > ROUNDS  # votes that were sent from the page of an earlier round

    times = [each.at for each in voters.results]
    rate = len(times) / (max(times) - min(times))
    record_testsuite_property("votes a second while questions follow each other", rate)
    print(  # noqa: T201 - with `-s`
        f"{verdict.acknowledged:,} acknowledged, {verdict.unknown} unknown, {stale:,} of an earlier"
        f" question, in {len(states)} rounds: {rate:,.0f} votes a second"
    )
