"""With each fault, an acknowledged vote is counted once, or replaced by a later one."""

import pytest

from faults.faults import FAULTS, FORGETTING, Fault
from faults.runs import run_fault, run_property
from faults.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.usefixtures("repeat")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_acknowledged_vote_is_lost_doubled_or_stale_when(
    fault: Fault, stack: Stack, votes: int, request: pytest.FixtureRequest
) -> None:
    verdict = await run_fault(stack, fault, votes)
    request.node.user_properties.append(run_property(fault, verdict))
    found = await stack.audit()
    if fault in FORGETTING:
        found = [each for each in found if not each.startswith("the queue was lost")]
    if verdict.wrong or found:
        await stack.reset()  # so that the next fault on this stack starts without errors
    assert verdict.wrong == []
    assert found == []
    assert verdict.acknowledged >= votes
