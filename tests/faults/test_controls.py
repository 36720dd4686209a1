"""The suite finds what it is there for: each mistake, made on purpose, turns it red.

A seventh, a queue that is synced every second only, is in test_system_calls.py.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from faults import faults
from faults.faults import Fault
from faults.patches import PATCHES
from faults.rounds import strike
from faults.stack import Stack
from voting import tally
from voting.ballots import Ballot, CastBallot, Choice, Version
from voting.database import DATABASE_ERRORS, create_engine, is_conflict

VOTES = 1_000


@pytest_asyncio.fixture(loop_scope="session", scope="module", autouse=True)
async def mended(stack: Stack) -> AsyncIterator[None]:
    yield
    await stack.afresh()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        ("no_version_guard", faults.worker_is_suspended_and_its_entries_are_taken_over),
        ("acknowledge_before_the_commit", faults.worker_is_killed_and_the_statement_too),
        ("client_retries", faults.replies_of_redis_are_lost),
        ("group_created_at_the_end", faults.group_is_lost),
        ("dead_letters_by_delivery_count", faults.worker_is_killed_after_the_read),
    ],
)
async def test_it_is_found_that_there_is(mistake: str, fault: Fault, stack: Stack) -> None:
    await stack.afresh(mistake)
    verdict = await strike(stack, fault, VOTES)
    assert verdict.wrong


async def count_the_same_voters_at_once(database_url: str) -> int:
    """Count many ballots of few voters with four workers, and tell how often they conflicted."""
    engine = create_engine(database_url, name="tests", pool_size=4)
    voters = [uuid4() for _ in range(100)]
    conflicts = 0

    async def work() -> None:
        nonlocal conflicts
        for _ in range(20):
            versions = [Version(random.randrange(1, 10**6), 0) for _ in range(200)]
            batch = [CastBallot(v, Ballot(random.choice(voters), Choice.A)) for v in versions]
            try:
                await tally.count(engine, batch)
            except DATABASE_ERRORS as error:
                if not is_conflict(error):
                    raise
                conflicts += 1
                return

    await asyncio.gather(*(work() for _ in range(4)))
    await engine.dispose()
    return conflicts


async def test_workers_that_count_the_same_voters_at_once_do_not_wait_in_a_circle(
    database_url: str,
) -> None:
    assert await count_the_same_voters_at_once(database_url) == 0


async def test_it_is_found_that_there_are_unsorted_voters(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "_COUNT", tally._COUNT)  # to be put back at the end
    PATCHES["unsorted_voters"]()
    assert await count_the_same_voters_at_once(database_url) > 0
