"""A tally of months stays small, and says the same."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from uuid import uuid4

from sqlalchemy import text
from support.database import execute, stored_totals, waits_for_lock
from support.wait import until

from voting.database import counting
from voting.database.engine import transaction
from voting.database.folding import STEPS, fold_tally
from voting.database.poll import (
    close_poll,
    confirm_close,
    declare_final,
    fetch_version_floor,
    start_round,
)
from voting.database.totals import FINAL_RESULTS, TIMELINE_POINTS, fetch_final_results, fetch_result
from voting.poll.ballot import Choice, QueuedBallot, Version

BUCKET = timedelta(seconds=10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def fill(engine, days, step=10):
    """Count something in each `step` seconds of that many days before now; more and more of it."""
    await execute(
        engine,
        "INSERT INTO tally (bucket, a, b, ms) SELECT"
        " date_bin('10 seconds', bucket, 'epoch'), n % 7, n % 5 - 1, n"
        f" FROM generate_series(now() - interval '{days * 24} hours', now(), '{step} seconds')"
        " WITH ORDINALITY AS series (bucket, n)",
    )


async def tally(engine):
    rows = await execute(engine, "SELECT bucket, a, b, ms FROM tally ORDER BY bucket")
    return [tuple(row) for row in rows]


async def fold_all(engine):
    while await fold_tally(engine):
        pass


def counted_before(rows):
    """Return the sums, by the time before which they were counted."""
    times = [bucket + BUCKET for bucket, *_ in rows]
    sums = accumulate(rows, lambda sums, row: (sums[0] + row[1], sums[1] + row[2]), initial=(0, 0))
    return dict(zip(times, list(sums)[1:], strict=True))


def start(time, width):
    """Return when the hour or day of that time began."""
    return time - timedelta(seconds=time.timestamp() % width.total_seconds())


async def test_a_year_of_votes_becomes_a_row_a_day_and_hour_and_keeps_its_sums(engine, reader):
    await fill(engine, 365, step=600)
    await fill_gap(engine)
    before, totals = await tally(engine), await stored_totals(engine)
    async with engine.connect() as connection:
        floor = await fetch_version_floor(connection)
        await fold_all(engine)
        assert await fetch_version_floor(connection) == floor
    assert await stored_totals(engine) == totals
    after, now = await tally(engine), datetime.now(UTC)
    by_age = {
        width: [row for row in after if start(now - age, width) > row[0]] for age, width in STEPS
    }
    assert 330 <= len(by_age[DAY]) <= 340
    assert len(by_age[HOUR]) - len(by_age[DAY]) <= 31 * 24
    for width, rows in by_age.items():
        assert all((row[0] + BUCKET).timestamp() % width.total_seconds() == 0 for row in rows)
    # What is said of a time is what was said before, of the last time with votes up to it.
    earlier = counted_before(before)
    times = sorted(earlier)
    position = 0
    for time, sums in counted_before(after).items():
        while position + 1 < len(times) and times[position + 1] <= time:
            position += 1
        assert sums == earlier[times[position]]
    timeline = (await fetch_result(reader, timeline=True)).timeline
    assert len(timeline) <= TIMELINE_POINTS
    assert (sum(each.a for each in timeline), sum(each.b for each in timeline)) == totals


async def fill_gap(engine):
    """Have rows that already are the last of their hour and of their day."""
    await execute(
        engine,
        "INSERT INTO tally SELECT date_bin('24 hours', now() - interval '40 days', 'epoch')"
        " + each - interval '10 seconds', 1, 1, 1000000"
        " FROM unnest('{24 hours,23 hours}'::interval[]) AS each ON CONFLICT DO NOTHING",
    )


async def test_a_call_folds_a_day_of_each_width_at_most(engine):
    await fill(engine, 33)
    rows = 33 * 8640
    removed = await fold_tally(engine)
    assert 0 < removed <= 2 * 8640
    assert rows - 2 * 8640 <= len(await tally(engine)) <= rows + 1 - removed
    await fold_all(engine)
    assert len(await tally(engine)) <= 4 + 30 * 24 + 8640 + 360
    assert await fold_tally(engine) == 0


async def test_nothing_younger_than_a_day_is_folded(engine):
    await fill(engine, 0.99)
    before = await tally(engine)
    assert await fold_tally(engine) == 0
    assert await tally(engine) == before


async def test_workers_that_fold_at_once_beside_counting_lose_and_double_nothing(engine):
    await fill(engine, 40, step=60)
    a, b = await stored_totals(engine)
    ballots = [QueuedBallot(ms, 0, uuid4().hex, Choice.A) for ms in range(1, 101)]
    batches = [ballots[start : start + 10] for start in range(0, 100, 10)]
    folding = (fold_all(engine) for _ in range(2))
    await asyncio.gather(*folding, *(counting.count(engine, each) for each in batches))
    assert await stored_totals(engine) == (a + 100, b)
    assert len(await tally(engine)) <= 11 + 30 * 24 + 1440 + 60 + 2


async def test_a_round_that_starts_beside_folding_has_no_votes_of_the_last(engine, admin):
    await fill(engine, 3)
    totals = await stored_totals(engine)
    await close_poll(engine)
    async with transaction(engine) as connection:
        await confirm_close(connection, datetime.now(UTC), Version(9, 0))
    assert await declare_final(engine, Version(9, 0))
    async with admin.connect() as watching, transaction(admin) as other:
        # All: the oldest is not folded if it is the last of its hour.
        await other.execute(text("SELECT FROM tally FOR UPDATE"))
        folding = asyncio.create_task(fold_tally(engine))
        await until(partial(waits_for_lock, watching, "locktype = 'transactionid'"))
        starting = asyncio.create_task(start_round(engine, 1))
        await until(partial(waits_for_lock, watching, "relation = 'votes'::regclass"))
    assert await folding
    await starting
    assert await stored_totals(engine) == (0, 0)
    [past] = await execute(admin, "SELECT sum(a), sum(b) FROM past_tally")
    assert tuple(past) == totals


async def test_of_very_many_final_results_the_last_are_read(engine):
    await execute(
        engine,
        "INSERT INTO finals SELECT n % 9, to_timestamp(n), to_timestamp(n), n, 0"
        " FROM generate_series(1, 1000) AS n",
    )
    found = [each.a for each in await fetch_final_results(engine)]
    assert found == list(range(1001 - FINAL_RESULTS, 1001))
