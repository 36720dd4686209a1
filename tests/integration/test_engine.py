"""Connections to Postgres that are slow, silent or lost, and what a session relies on."""

import asyncio
from functools import partial

import pytest
from support.database import fetch
from support.servers import standby_away
from support.wait import until

from voting.database.engine import create_engine, is_uncertain
from voting.database.poll import close_poll, declare_final
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import Version

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
async def impatient(database_url):
    """A worker's engine that waits less long than Postgres for a lock."""
    engine = create_engine(database_url, name="tests-impatient", patience=0.5)
    yield engine
    await engine.dispose()


async def declare(engine):
    await declare_final(engine, Version(5, 0))


@pytest.mark.parametrize("change", [close_poll, declare])
@pytest.mark.parametrize("end", ["timeout", "cancellation"])
async def test_commit_that_waits_for_a_standby_is_not_ended_by(
    end, change, impatient, admin, servers, database
):
    if change is declare:
        close = "UPDATE poll SET state = 'closed', closed_at = now(), until_ms = 5, until_seq = 0"
        await fetch(servers.database_url(database), close)
    owner = servers.database_url(database)
    before = await fetch_result(admin)
    waiting = partial(fetch, owner, f"{WAITING} AND application_name = 'tests-impatient'")
    async with standby_away(owner):
        for _ in range(3):
            changing = asyncio.create_task(change(impatient))
            if end == "cancellation":
                await until(waiting, check=lambda rows: rows[0]["count"])
                changing.cancel()
            [error] = await asyncio.gather(changing, return_exceptions=True)
            if end == "cancellation":
                assert isinstance(error, asyncio.CancelledError)
            else:
                assert is_uncertain(error)
            assert (await fetch_result(admin)).poll == before.poll
        # The first still waits; the others waited for its locks.
        assert [tuple(row) for row in await waiting()] == [(1,)]
    await until(partial(fetch_result, admin), check=lambda result: result.poll != before.poll)
    assert len(await fetch_final_results(admin)) == (change is declare)
