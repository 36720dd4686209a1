"""A queue on three machines: no acknowledged vote is lost when one vanishes, or comes back."""

import pytest

from faults import replicated as faults
from faults.replicated import FAULTS, Fault, ReplicatedStack, run

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_acknowledged_vote_is_lost_doubled_or_stale_when(
    fault: Fault, replicated: ReplicatedStack
) -> None:
    verdict = await run(replicated, fault)
    found = await replicated.audit()
    if verdict.wrong or found:
        await replicated.reset()  # so that the next fault on this stack starts without errors
    assert verdict.wrong == []
    assert found == []


@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        ("no_wait_for_replicas", faults.primary_is_lost_with_what_no_replica_has),
        ("no_lease", faults.primary_is_cut_off_from_sentinels),
    ],
)
async def test_the_suite_detects(mistake: str, fault: Fault, replicated: ReplicatedStack) -> None:
    await replicated.reset(mistake)
    verdict = await run(replicated, fault)
    await replicated.reset()
    assert verdict.lost
