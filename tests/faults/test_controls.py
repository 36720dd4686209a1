"""Controls: each of these mistakes, made on purpose, has to turn the tests red.

A further one, a queue that is synced once a second only, is in test_system_calls.py; those that
need no real servers are in simulation/controls.py.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from support.database import execute
from support.wait import until

from faults import faults, patches
from faults.faults import Fault
from faults.runs import run_fault, run_rounds
from faults.stack import Stack
from voting.database import counting
from voting.database.engine import DATABASE_ERRORS, create_engine, is_conflict, transaction
from voting.poll.ballot import Choice, QueuedBallot

VOTES = 1_000


@pytest_asyncio.fixture(loop_scope="session", scope="module", autouse=True)
async def reset_afterwards(stack: Stack) -> AsyncIterator[None]:
    yield
    await stack.reset()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        ("no_version_guard", faults.worker_is_suspended_and_its_entries_are_taken_over),
        ("client_retries", faults.replies_of_redis_are_lost),
    ],
)
async def test_the_suite_detects(mistake: str, fault: Fault, stack: Stack) -> None:
    await stack.reset(mistake)
    verdict = await run_fault(stack, fault, VOTES)
    assert verdict.wrong


@pytest.mark.asyncio(loop_scope="session")
async def test_the_suite_detects_votes_for_a_question_that_is_over(stack: Stack) -> None:
    await stack.reset("no_round_comparison")
    await stack.ready()
    verdict, *_ = await run_rounds(stack, 2)
    assert verdict.lost
    assert verdict.doubled + verdict.stale


@pytest.mark.asyncio(loop_scope="session")
async def test_the_suite_detects_receipts_that_are_not_true(stack: Stack) -> None:
    await stack.reset("forget_votes_without_an_answer")
    # Receipts of a question that is over are not shown.
    verdict = await run_fault(stack, faults.replies_of_redis_are_lost, VOTES, asks=False)
    assert verdict.untrue


async def count_the_same_voters_at_once(database_url: str) -> int:
    """Let two workers count the same voters in opposite orders; return the number of deadlocks.

    A transaction locks the voter in the middle until both workers wait, so both are half-way.
    """
    engine = create_engine(database_url, name="tests", pool_size=4)
    voters = sorted(uuid4() for _ in range(3))

    def batch(ms: int, order: list[UUID]) -> list[QueuedBallot]:
        return [
            QueuedBallot(ms + number, 0, voter.hex, Choice.A) for number, voter in enumerate(order)
        ]

    await counting.count(engine, batch(1, voters))
    async with transaction(engine) as holding:
        hold = text("SELECT FROM votes WHERE voter = :voter FOR UPDATE")
        await holding.execute(hold, {"voter": voters[1]})
        tasks = [
            asyncio.create_task(counting.count(engine, batch(ms, order)))
            for ms, order in ((10, voters), (20, voters[::-1]))
        ]
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        # Not in the transaction, which would go on to see the sessions that it saw first.
        waiting = partial(execute, engine, query)
        await until(waiting, check=lambda found: found.scalar_one() == len(tasks))
    counted = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [each for each in counted if isinstance(each, BaseException)]
    await engine.dispose()
    assert all(isinstance(each, DATABASE_ERRORS) and is_conflict(each) for each in errors), errors
    return len(errors)


async def test_workers_that_count_the_same_voters_at_once_do_not_wait_in_a_circle(
    database_url: str,
) -> None:
    assert await count_the_same_voters_at_once(database_url) == 0


async def test_the_suite_detects_unsorted_voters(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "COUNT", counting.COUNT)  # restored after the test
    patches.unsorted_voters()
    assert await count_the_same_voters_at_once(database_url) == 1
