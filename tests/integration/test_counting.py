import asyncio
import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from support.database import execute, stored_totals, stored_votes

from voting.database import counting
from voting.database.engine import (
    DATABASE_ERRORS,
    create_engine,
    is_bad_data,
    is_conflict,
    transaction,
)
from voting.database.poll import fetch_version_floor
from voting.database.totals import fetch_result
from voting.poll.ballot import MIN_VERSION, Choice, QueuedBallot, Version


def cast(voter: UUID, choice: str, ms: int, seq: int = 0) -> QueuedBallot:
    return QueuedBallot(ms, seq, voter.hex, Choice(choice))


async def test_totals_without_votes_are_zero(engine):
    result = (await fetch_result(engine)).totals
    assert (result.a, result.b, result.votes) == (0, 0, 0)
    assert abs((datetime.now(UTC) - result.at).total_seconds()) < 60


async def test_empty_batch_changes_nothing(engine):
    await counting.count(engine, [])
    assert await stored_totals(engine) == (0, 0)


async def test_each_voter_counts_once_with_the_newest_choice(engine):
    one, two = uuid4(), uuid4()
    await counting.count(engine, [cast(one, "a", 1), cast(two, "b", 1, 1), cast(one, "b", 2)])
    assert await stored_totals(engine) == (0, 2)
    assert await stored_votes(engine) == {one: ("b", 2, 0), two: ("b", 1, 1)}


async def test_changed_choice_moves_the_vote(engine):
    voter = uuid4()
    for number, choice in enumerate("abab", start=1):
        await counting.count(engine, [cast(voter, choice, number)])
    assert await stored_totals(engine) == (0, 1)


async def test_counting_a_batch_twice_changes_nothing(engine):
    batch = [cast(uuid4(), random.choice("ab"), ms) for ms in range(1, 50)]
    await counting.count(engine, batch)
    before = await stored_totals(engine), await stored_votes(engine)
    await counting.count(engine, batch)
    assert (await stored_totals(engine), await stored_votes(engine)) == before


@pytest.mark.parametrize("late", [Version(1, 9), Version(2, 0), Version(2, 1)])
async def test_older_ballot_never_replaces_a_newer_one(engine, late):
    voter = uuid4()
    await counting.count(engine, [cast(voter, "a", 2, 1)])
    await counting.count(engine, [QueuedBallot(*late, voter.hex, Choice.B)])
    assert await stored_totals(engine) == (1, 0)


async def test_workers_agree_in_whatever_order_they_count_the_same_voters(database_url):
    engine = create_engine(database_url, name="tests", pool_size=8)
    voters = [uuid4() for _ in range(200)]
    ballots = [cast(random.choice(voters), random.choice("ab"), ms) for ms in range(1, 4001)]
    newest = {each.voter: each.choice for each in ballots}
    random.shuffle(ballots)
    batches = [ballots[start : start + 100] for start in range(0, 4000, 100)]
    await asyncio.gather(*(counting.count(engine, batch) for batch in batches))
    choices = list(newest.values())
    assert await stored_totals(engine) == (choices.count(Choice.A), choices.count(Choice.B))
    await engine.dispose()


@pytest.mark.parametrize(
    ("counted_at", "bucket"),
    [("03:59:49.999", "03:59:40"), ("03:59:50", "03:59:50"), ("03:59:59.999", "03:59:50")],
)
async def test_a_bucket_of_the_tally_is_ten_seconds_wide(engine, monkeypatch, counted_at, bucket):
    clock = "clock_timestamp()"
    assert counting.COUNT.text.count(clock) == 1
    moment = datetime.fromisoformat(f"2030-01-02T{counted_at}+00:00")
    at_that_moment = counting.COUNT.text.replace(clock, f"to_timestamp({moment.timestamp()})")
    monkeypatch.setattr(counting, "COUNT", text(at_that_moment))
    await counting.count(engine, [cast(uuid4(), "a", 1), cast(uuid4(), "b", 1, 1)])
    [row] = await execute(engine, "SELECT * FROM tally")
    assert row.bucket == datetime.fromisoformat(f"2030-01-02T{bucket}+00:00")
    assert (row.a, row.b, row.ms) == (1, 1, 1)


async def test_totals_are_the_sum_of_all_buckets(engine):
    rows = "(now(), 5, -1, 1), (now() - interval '1 hour', 10, 3, 1)"
    await execute(engine, f"INSERT INTO tally (bucket, a, b, ms) VALUES {rows}")
    assert await stored_totals(engine) == (15, 2)


async def test_version_floor_is_newer_than_every_vote(engine):
    async with engine.connect() as connection:
        assert await fetch_version_floor(connection) == MIN_VERSION
        voter = uuid4()
        await counting.count(engine, [cast(uuid4(), "a", 5, 7), cast(voter, "b", 9, 2)])
        assert await fetch_version_floor(connection) > Version(9, 2)
        # Even if the choice stays the same and only the version changes.
        await counting.count(engine, [cast(voter, "b", 12)])
        assert await fetch_version_floor(connection) > Version(12, 0)


async def test_values_that_postgres_refuses_are_bad_data(engine):
    with pytest.raises(DATABASE_ERRORS) as caught:
        await counting.count(engine, [cast(uuid4(), "a", 1, 2**63)])
    assert is_bad_data(caught.value)
    with pytest.raises(DATABASE_ERRORS) as caught:
        await execute(engine, "INSERT INTO votes VALUES (gen_random_uuid(), 'c', 1, 1)")
    assert is_bad_data(caught.value)
    assert await stored_totals(engine) == (0, 0)


async def test_deadlock_is_a_conflict_and_not_bad_data(engine):
    await execute(
        engine, "INSERT INTO tally VALUES (to_timestamp(1), 0, 0, 0), (to_timestamp(2), 0, 0, 0)"
    )
    met = asyncio.Barrier(2)

    async def update(*seconds):
        async with transaction(engine) as connection:
            for second in seconds:
                change = f"UPDATE tally SET a = 1 WHERE bucket = to_timestamp({second})"
                await connection.execute(text(change))
                if second == seconds[0]:
                    await met.wait()

    failed = await asyncio.gather(update(1, 2), update(2, 1), return_exceptions=True)
    [error] = [each for each in failed if each is not None]
    assert isinstance(error, DATABASE_ERRORS)
    assert is_conflict(error)
    assert not is_bad_data(error)


async def test_missing_server_is_neither_bad_data_nor_a_conflict(tmp_path):
    engine = create_engine(f"postgresql://postgres@/postgres?host={tmp_path}", name="tests")
    with pytest.raises(DATABASE_ERRORS) as caught:
        await fetch_result(engine)
    assert not is_bad_data(caught.value)
    assert not is_conflict(caught.value)
