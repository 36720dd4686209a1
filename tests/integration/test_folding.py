"""A tally of months stays small, and says the same."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from operator import add
from uuid import uuid4

import pytest
from sqlalchemy import text
from support.database import (
    ask,
    execute,
    finish,
    insert_tally,
    question_of,
    stored_tally,
    stored_totals,
    waits_for_lock,
)
from support.wait import until

from voting.database import counting
from voting.database.engine import transaction
from voting.database.folding import STEPS, fold_tally
from voting.database.poll import fetch_version_floor, start_round
from voting.database.totals import FINAL_RESULTS, TIMELINE_POINTS, fetch_final_results, fetch_result
from voting.poll.ballot import Choice, QueuedBallot, Version

BUCKET = timedelta(seconds=10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def fill(engine, days, step=10, counts="n % 7, n % 5 - 1"):
    """Count something in each `step` seconds of that many days before now; more and more of it."""
    await insert_tally(
        engine,
        f"SELECT date_bin('10 seconds', at, 'epoch'), ARRAY[{counts}], n"
        f" FROM generate_series(now() - interval '{days * 24} hours', now(), '{step} seconds')"
        " WITH ORDINALITY AS series (at, n)",
    )


async def fold_all(engine):
    while await fold_tally(engine):
        pass


def counted_before(rows):
    """Return the sums, by the time before which they were counted."""
    sums = accumulate(
        (row.counts for row in rows), lambda sums, counts: tuple(map(add, sums, counts))
    )
    return {row.start + BUCKET: each for row, each in zip(rows, sums, strict=True)}


def start(time, width):
    """Return when the hour or day of that time began."""
    return time - timedelta(seconds=time.timestamp() % width.total_seconds())


@pytest.mark.parametrize(
    ("days", "counts"), [(365, "n % 7, n % 5 - 1"), (45, "n % 7, n % 5 - 1, 0, n % 2, n")]
)
async def test_a_year_of_votes_becomes_a_row_a_day_and_hour_and_keeps_its_sums(
    engine, reader, days, counts
):
    options = len((await ask(engine, counts.count(",") + 1)).names)
    await fill(engine, days, step=600, counts=counts)
    await fill_gap(engine, options)
    before, totals = await stored_tally(engine), await stored_totals(engine)
    async with engine.connect() as connection:
        floor = await fetch_version_floor(connection)
        await fold_all(engine)
        assert await fetch_version_floor(connection) == floor
    assert await stored_totals(engine) == totals
    after, now = await stored_tally(engine), datetime.now(UTC)
    by_age = {
        width: [row for row in after if start(now - age, width) > row[0]] for age, width in STEPS
    }
    assert days - 35 <= len(by_age[DAY]) <= days - 25
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
    assert tuple(map(sum, zip(*(each.counts for each in timeline), strict=True))) == totals


async def fill_gap(engine, options):
    """Have rows that already are the last of their hour and of their day."""
    await insert_tally(
        engine,
        "SELECT date_bin('24 hours', now() - interval '40 days', 'epoch')"
        f" + each - interval '10 seconds', ARRAY{[1] * options}, 1000000"
        " FROM unnest('{24 hours,23 hours}'::interval[]) AS each",
    )


async def test_a_call_folds_a_day_of_each_width_at_most(engine):
    await fill(engine, 33, step=30)
    day = 2880  # buckets
    removed = await fold_tally(engine) // 2  # a row an option
    assert 0 < removed <= 2 * day
    assert 31 * day <= len(await stored_tally(engine)) <= 33 * day + 26 - removed
    await fold_all(engine)
    assert len(await stored_tally(engine)) <= 4 + 30 * 24 + day + day // 24
    assert await fold_tally(engine) == 0


async def test_nothing_younger_than_a_day_is_folded(engine):
    await fill(engine, 0.99)
    before = await stored_tally(engine)
    assert await fold_tally(engine) == 0
    assert await stored_tally(engine) == before


async def test_workers_that_fold_at_once_beside_counting_lose_and_double_nothing(engine):
    await fill(engine, 40, step=60)
    a, b = await stored_totals(engine)
    ballots = [QueuedBallot(ms, 0, uuid4().hex, Choice.A) for ms in range(1, 101)]
    batches = [ballots[start : start + 10] for start in range(0, 100, 10)]
    folding = (fold_all(engine) for _ in range(2))
    await asyncio.gather(*folding, *(counting.count(engine, each) for each in batches))
    assert await stored_totals(engine) == (a + 100, b)
    assert len(await stored_tally(engine)) <= 11 + 30 * 24 + 1440 + 60 + 2


async def test_a_round_that_starts_beside_folding_has_no_votes_of_the_last(engine, admin, operator):
    await fill(engine, 3)
    totals = await stored_totals(engine)
    await finish(engine, Version(9, 0))
    async with admin.connect() as watching, transaction(admin) as other:
        # All: the oldest is not folded if it is the last of its hour.
        await other.execute(text("SELECT FROM tally FOR UPDATE"))
        folding = asyncio.create_task(fold_tally(engine))
        await until(partial(waits_for_lock, watching, "locktype = 'transactionid'"))
        await start_round(operator, 1, question_of(3))  # waits for no folding
    assert await folding
    assert await stored_totals(engine) == (0, 0, 0)
    kept = [each.counts for each in await stored_tally(engine)]
    assert tuple(map(sum, zip(*kept, strict=True))) == totals


async def test_the_tally_of_an_earlier_round_is_left_as_it_is(engine, operator):
    await fill(engine, 3, step=600)
    kept = await stored_tally(engine)
    await finish(engine, Version(9, 0))
    await start_round(operator, 1, question_of(3))
    await fold_all(engine)
    assert await stored_tally(engine) == kept


async def test_of_very_many_final_results_the_last_are_read(engine, admin):
    numbers = "FROM generate_series(1, 1000) AS n"
    for insert in (
        f"INSERT INTO finals SELECT 1, to_timestamp(n), to_timestamp(n) {numbers}",
        f"INSERT INTO final_totals SELECT 1, to_timestamp(n), 'a', n {numbers}",
        f"INSERT INTO final_totals SELECT 1, to_timestamp(n), 'b', 0 {numbers}",
    ):
        await execute(admin, insert)
    found = [each.counts for each in await fetch_final_results(engine)]
    assert found == [(n, 0) for n in range(1001 - FINAL_RESULTS, 1001)]
