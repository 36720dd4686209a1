"""Connections to Postgres that are slow, silent or lost, and what a session relies on."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.database import WRONG_SETTINGS, execute, fetch, insert_tally, question_of
from support.proxy import Proxy
from support.servers import standby_away
from support.wait import until

from voting.database import counting
from voting.database import engine as database_engine
from voting.database.engine import (
    DATABASE_ERRORS,
    SESSION,
    create_engine,
    is_uncertain,
    set_local,
    transaction,
)
from voting.database.export import open_snapshot
from voting.database.poll import close_poll, confirm_close, declare_final, start_round
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll import formats
from voting.poll.ballot import Choice, QueuedBallot, Version

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
async def impatient(servers, database):
    """An engine that waits less long than Postgres for a lock, for a worker and an operator."""
    url = servers.database_url(database, "worker_and_admin")
    engine = create_engine(url, name="tests-impatient", patience=0.5)
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


@pytest.mark.parametrize("of", ["DATABASE {}", "ROLE voting_worker IN DATABASE {}"])
async def test_nothing_relies_on_settings_of_the_database_or_user(
    of, engine, servers, database, operator
):
    assert SESSION.keys() == WRONG_SETTINGS.keys()
    for name, value in WRONG_SETTINGS.items():
        change = f"ALTER {of.format(database)} SET {name} = '{value}'"
        await fetch(servers.database_url("postgres"), change)
    own = await execute(engine, "SELECT name FROM pg_settings WHERE source = 'client'")
    assert SESSION.keys() <= set(own.scalars())
    async with transaction(engine) as connection:
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "on"
        await connection.execute(text("SELECT pg_sleep(0.01)"))

    ballots = [QueuedBallot(ms, 0, uuid4().hex, Choice.A) for ms in range(1, 4)]
    await asyncio.gather(*(counting.count(engine, ballots) for _ in range(2)))
    await close_poll(engine)
    async with transaction(engine) as connection:
        await confirm_close(connection, datetime.now(UTC), Version(9, 0))
    assert await declare_final(engine, Version(9, 0))
    async with open_snapshot(engine, "always", votes=True) as snapshot:
        form = formats.VOTES["csv"](snapshot.result)
        document = b"".join([piece async for piece in snapshot.votes(form)])
    assert document.count(b"a,Cats") == 3
    await start_round(operator, 1, question_of(3))
    result = await fetch_result(engine, timeline=True)
    assert (result.poll.round, result.totals.counts, result.timeline) == (2, (0, 0, 0), ())


async def test_rows_that_a_policy_hides_are_not_left_out(engine, admin):
    await insert_tally(admin, "SELECT now(), ARRAY[1, 0], 1")
    await execute(admin, "ALTER TABLE tally ENABLE ROW LEVEL SECURITY")
    with pytest.raises(DBAPIError, match="row-level security"):
        await fetch_result(engine)


@pytest.fixture
async def through(servers, database):
    """A proxy to Postgres, and an engine of few connections that reaches it through the proxy."""
    async with Proxy(servers.folders.run / ".s.PGSQL.5432") as proxy:
        url = f"postgresql://voting_worker@127.0.0.1:{proxy.port}/{database}"
        engine = create_engine(url, name="tests-through", pool_size=2, patience=0.5)
        yield proxy, engine
        await engine.dispose()


async def use_all(engine, number=2):
    async with asyncio.TaskGroup() as tasks:
        for _ in range(number):
            tasks.create_task(execute(engine, "SELECT pg_sleep(0.01)"))


async def test_connections_that_go_silent_are_replaced_together(through):
    proxy, engine = through
    await use_all(engine)
    with proxy.silent():
        with pytest.raises(DATABASE_ERRORS) as caught:
            await fetch_result(engine)
        assert is_uncertain(caught.value)
        await use_all(engine)


async def test_engine_without_patience_is_disposed_also_while_connections_are_silent(servers):
    async with Proxy(servers.folders.run / ".s.PGSQL.5432") as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        engine = create_engine(url, name="tests", patience=None)
        await use_all(engine)
        with proxy.silent():
            async with asyncio.timeout(60):
                await engine.dispose()


async def test_patience_without_a_limit_has_one(database_url, monkeypatch):
    monkeypatch.setattr(database_engine, "LONGEST_PATIENCE", 0.1)
    engine = create_engine(database_url, name="tests", patience=None)
    with pytest.raises(TimeoutError):
        await execute(engine, "SELECT pg_sleep(60)")
    await engine.dispose()


async def test_canceled_task_leaves_no_connection_of_the_pool_unusable(through):
    _, engine = through
    for _ in range(3):
        waiting = asyncio.create_task(execute(engine, "SELECT pg_sleep(60)"))
        await asyncio.wait({waiting}, timeout=0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await use_all(engine, 8)


async def test_postgres_ends_the_statement_of_a_client_that_has_gone(through, admin):
    _, engine = through

    async def run_for_long():
        async with transaction(engine) as connection:
            await connection.execute(set_local(statement_timeout="0"))
            await connection.execute(text("SELECT pg_sleep(600)"))

    with pytest.raises(TimeoutError):
        await run_for_long()
    running = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'tests-through' AND state = 'active'"
    )
    assert (await execute(admin, running)).scalar_one() == 1
    await until(partial(execute, admin, running), check=lambda found: found.scalar_one() == 0)


async def test_error_is_uncertain_only_if_a_statement_was_under_way(through, admin):
    proxy, engine = through
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '{}'"
    end = end.format("tests-through")

    async def fails(statement):
        with pytest.raises(DATABASE_ERRORS) as caught:
            await execute(engine, statement)
        return "uncertain" if is_uncertain(caught.value) else "certain"

    assert await fails("SELECT pg_sleep(60)") == "uncertain"  # after the engine's patience
    assert await fails(end) == "uncertain"
    assert await fails("SELECT 1 / 0") == "certain"
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await execute(admin, end)
        await until(driver.is_closed)
        with pytest.raises(DATABASE_ERRORS) as caught:
            await connection.execute(text("SELECT 1"))
        assert not is_uncertain(caught.value)
    async with engine.connect(), engine.connect():  # the pool has no more
        assert await fails("SELECT 1") == "certain"
    await engine.dispose()
    with proxy.cut():
        assert await fails("SELECT 1") == "certain"


async def test_server_that_does_not_respond_to_a_new_connection_is_certain(through, monkeypatch):
    proxy, engine = through
    monkeypatch.setattr(database_engine, "CONNECT_TIMEOUT", 0.1)
    with proxy.back.held():
        with pytest.raises(DATABASE_ERRORS, match="accepts no connection") as caught:
            await fetch_result(engine)
        assert not is_uncertain(caught.value)
