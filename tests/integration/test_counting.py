import asyncio
import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

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
    stored_votes,
)

from voting.database import counting
from voting.database.engine import (
    DATABASE_ERRORS,
    create_engine,
    is_bad_data,
    is_conflict,
    transaction,
)
from voting.database.poll import fetch_version_floor, start_round
from voting.database.totals import fetch_result
from voting.poll.ballot import MIN_VERSION, Choice, QueuedBallot, Version
from voting.poll.question import CHOICES


def cast(voter: UUID, choice: str, ms: int, seq: int = 0) -> QueuedBallot:
    return QueuedBallot(ms, seq, voter.hex, Choice(choice))


async def test_totals_without_votes_are_zero(engine):
    result = (await fetch_result(engine)).totals
    assert (result.counts, result.votes) == ((0, 0), 0)
    assert abs((datetime.now(UTC) - result.at).total_seconds()) < 60
    await ask(engine, 12)
    assert await stored_totals(engine) == (0,) * 12


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
    await ask(engine, 3)
    for number, choice in enumerate("abcab", start=1):
        await counting.count(engine, [cast(voter, choice, number)])
    assert await stored_totals(engine) == (0, 1, 0)
    # Within a batch too: from one option to another, and from that one to the first.
    other = uuid4()
    await counting.count(engine, [cast(other, "a", 6)])
    await counting.count(engine, [cast(voter, "a", 7), cast(other, "c", 7, 1)])
    assert await stored_totals(engine) == (1, 0, 1)


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


@pytest.mark.parametrize("options", [2, 3, 12])
async def test_workers_agree_in_whatever_order_they_count_the_same_voters(database_url, options):
    engine = create_engine(database_url, name="tests", pool_size=8)
    keys = (await ask(engine, options)).choices
    voters = [uuid4() for _ in range(200)]
    ballots = [cast(random.choice(voters), random.choice(keys), ms) for ms in range(1, 4001)]
    newest = {each.voter: each.choice for each in ballots}
    random.shuffle(ballots)
    batches = [ballots[start : start + 100] for start in range(0, 4000, 100)]
    await asyncio.gather(*(counting.count(engine, batch) for batch in batches))
    assert await stored_totals(engine) == tuple(map([*newest.values()].count, keys))
    await engine.dispose()


async def test_batches_of_the_same_twelve_options_at_once_do_not_deadlock(database_url):
    """Each locks the rows of the tally in the same order, whatever the order of its ballots."""
    engine = create_engine(database_url, name="tests", pool_size=8)
    await ask(engine, 12)
    batches = []
    for number in range(100):
        keys = random.sample(CHOICES, 12)
        voters = (uuid4() for _ in keys)
        batches.append([cast(*each, number + 1) for each in zip(voters, keys, strict=True)])
    # Ballots of new voters lock no votes of each other. A deadlock would raise here.
    await asyncio.gather(*(counting.count(engine, batch) for batch in batches))
    assert await stored_totals(engine) == (100,) * 12
    # Nor do changes of votes, in which each batch takes a vote from each option.
    voters = [uuid4() for _ in range(1200)]
    first = [cast(voter, CHOICES[n % 12], 200) for n, voter in enumerate(voters)]
    await counting.count(engine, first)
    moved = [cast(voter, random.choice(CHOICES), 300) for voter in voters]
    random.shuffle(moved)
    parts = [moved[start : start + 24] for start in range(0, 1200, 24)]
    await asyncio.gather(*(counting.count(engine, part) for part in parts))
    chosen = [each.choice for each in moved]
    assert await stored_totals(engine) == tuple(100 + chosen.count(key) for key in CHOICES)
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
    start = datetime.fromisoformat(f"2030-01-02T{bucket}+00:00")
    assert await stored_tally(engine) == [(start, (1, 1), 1)]


async def test_a_row_of_the_tally_has_what_a_batch_added_to_its_option(engine):
    await ask(engine, 3)
    voter = uuid4()
    await counting.count(
        engine, [cast(voter, "a", 5), cast(uuid4(), "c", 6), cast(uuid4(), "c", 7)]
    )
    await counting.count(engine, [cast(voter, "b", 9)])
    rows = await execute(
        engine,
        "SELECT round, choice, sum(votes)::int, max(ms) FROM tally GROUP BY 1, 2 ORDER BY choice",
    )
    # Each has the newest version that touched it.
    assert [tuple(row) for row in rows] == [(1, "a", 0, 9), (1, "b", 1, 9), (1, "c", 2, 7)]


@pytest.mark.parametrize(
    ("recent", "earlier", "totals"),
    [((5, -1), (10, 3), (15, 2)), ((5, -1, 0), (10, 3, 4), (15, 2, 4))],
)
async def test_totals_are_the_sum_of_all_buckets(engine, recent, earlier, totals):
    await ask(engine, len(totals))
    for at, counts in (("now()", recent), ("now() - interval '1 hour'", earlier)):
        await insert_tally(engine, f"SELECT {at}, ARRAY{list(counts)}, 1")
    assert await stored_totals(engine) == totals


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
    for other in "mA`":
        with pytest.raises(DATABASE_ERRORS) as caught:
            await execute(engine, f"INSERT INTO votes VALUES (gen_random_uuid(), '{other}', 1, 1)")
        assert is_bad_data(caught.value)
    assert await stored_totals(engine) == (0, 0)


@pytest.mark.parametrize("options", [2, 11])
async def test_a_choice_that_the_round_does_not_have_is_bad_data(engine, options):
    await ask(engine, options)
    bad = cast(uuid4(), CHOICES[options], 2)
    # Whether or not another ballot of the batch is fine, and the voter has a vote already.
    voter = UUID(hex=bad.voter)
    await counting.count(engine, [cast(voter, "a", 1)])
    for batch in ([bad], [cast(uuid4(), "b", 3), bad, cast(uuid4(), "a", 4)]):
        with pytest.raises(DATABASE_ERRORS) as caught:
            await counting.count(engine, batch)
        assert is_bad_data(caught.value)
    # Nothing of the batch was counted.
    assert await stored_votes(engine) == {voter: ("a", 1, 0)}
    assert await stored_totals(engine) == (1,) + (0,) * (options - 1)


async def test_a_choice_that_only_an_earlier_round_had_is_not_counted_again(engine, operator):
    await ask(engine, 12)
    late = cast(uuid4(), "l", 9)
    await counting.count(engine, [late])
    await finish(engine, Version(10, 0))
    await start_round(operator, 1, question_of(2))
    # Redelivered after its worker died: of the round before, and no error either.
    await counting.count(engine, [late, cast(uuid4(), "b", 11)])
    assert await stored_totals(engine) == (0, 1)


@pytest.mark.parametrize("number", [1, 3])
async def test_a_ballot_of_another_round_is_not_counted_whatever_its_version(
    engine, number, operator
):
    await finish(engine, Version(10, 0))
    await start_round(operator, 1, question_of(2))
    one, two = cast(uuid4(), "a", 11), cast(uuid4(), "b", 12)._replace(round=2)
    other = cast(uuid4(), "c", 13)._replace(round=number)  # this round has no such option
    await counting.count(engine, [one, two, other])
    assert await stored_totals(engine) == (1, 1)
    # Nor does it replace a vote.
    await counting.count(engine, [two._replace(choice="a", ms=14, round=number)])
    assert await stored_totals(engine) == (1, 1)


async def test_deadlock_is_a_conflict_and_not_bad_data(engine):
    await insert_tally(engine, "SELECT to_timestamp(n), ARRAY[0], 0 FROM generate_series(1, 2) n")
    met = asyncio.Barrier(2)

    async def update(*seconds):
        async with transaction(engine) as connection:
            for second in seconds:
                change = f"UPDATE tally SET votes = 1 WHERE bucket = to_timestamp({second})"
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
