"""With each fault, an acknowledged vote is counted once, or replaced by a later one."""

import pytest

from faults.conftest import ROWS
from faults.faults import FAULTS, Fault
from faults.rounds import Row, run_fault
from faults.stack import Stack
from voting.database.engine import create_engine
from voting.reconcile.audit import audit

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.usefixtures("repeat")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_acknowledged_vote_is_lost_doubled_or_stale_when(
    fault: Fault, stack: Stack, votes: int
) -> None:
    verdict = await run_fault(stack, fault, votes)
    ROWS.append(Row(fault.__name__, verdict))
    if verdict.wrong:
        await stack.reset()  # the next run must not find the same again
    assert verdict.wrong == []
    assert verdict.acknowledged >= votes


async def test_after_all_that_the_audit_finds_nothing_but_the_poison(stack: Stack) -> None:
    engine = create_engine(stack.database_url, name="tests", patience=None)
    problems = (await audit(stack.queue_state, engine)).problems
    await engine.dispose()
    assert [each for each in problems if not each.startswith("dead letters")] == []
