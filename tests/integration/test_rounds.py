"""The life of a poll, with real servers."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import text

from voting.commands import poll as poll_commands
from voting.database import counting
from voting.database.engine import DATABASE_ERRORS
from voting.database.poll import (
    PollChanged,
    close_poll,
    confirm_close,
    declare_final,
    fetch_poll,
    fetch_poll_for_share,
    fetch_version_floor,
    record_queue_loss,
    reopen_poll,
    start_round,
)
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import MAX_BIGINT, MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.producer import NotRecorded, PollClosed
from voting.queue.stream import BallotStream
from voting.reconcile.poll import reconcile


@pytest.fixture
async def open_poll(stream, engine):
    await reconcile(engine, stream)
    return stream


def ballot(choice="a"):
    return Ballot(uuid4(), Choice(choice))


async def poll(engine):
    return (await fetch_result(engine)).poll


async def count(engine, *ballots):
    """Count ballots given as (voter, choice, ms)."""
    cast = [
        QueuedBallot(ms, 0, UUID(int=voter).hex, Choice(choice)) for voter, choice, ms in ballots
    ]
    await counting.count(engine, cast)


async def totals(engine):
    found = (await fetch_result(engine)).totals
    return found.a, found.b


async def close_at(engine, ms):
    """Close the poll after that version, without asking Redis."""
    await close_poll(engine)
    transactions = engine.execution_options(isolation_level="READ COMMITTED")
    async with transactions.begin() as connection:
        await confirm_close(connection, datetime.now(UTC), Version(ms, 0))


async def end(engine, ms):
    """Close the poll after that version, and declare it final."""
    await close_at(engine, ms)
    assert await declare_final(engine, Version(ms, 0))


async def test_a_poll_that_is_closed_takes_no_vote_and_knows_its_last_one(open_poll, engine):
    first, last = await open_poll.cast(ballot()), await open_poll.cast(ballot())
    assert first < last
    await close_poll(engine)
    assert (await poll(engine)).phase is Phase.COUNTING
    await open_poll.cast(ballot())  # until Redis is told
    newest = await open_poll.cast(ballot())

    told, lost = await reconcile(engine, open_poll)
    assert not lost
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())
    assert told == await poll(engine)
    assert told.last_version == newest
    assert abs(told.closed_at.timestamp() - await open_poll.clock()) < 30
    again, _ = await reconcile(engine, open_poll)
    assert again == told


async def test_a_poll_closes_by_itself_by_redis_clock_whatever_postgres_says(open_poll, engine):
    milliseconds = int(await open_poll.clock() * 1000) + 200
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    await close_poll(engine, at=at)
    told, _ = await reconcile(engine, open_poll)
    assert (told.phase, told.closes_at) == (Phase.OPEN, at)
    assert (await open_poll.cast_rules()).closes_at == at.replace(
        microsecond=at.microsecond // 1000 * 1000
    )
    last = await open_poll.cast(ballot())
    async with asyncio.timeout(30):
        while True:
            try:
                last = await open_poll.cast(ballot())
            except PollClosed:
                break
    assert last.ms < milliseconds
    assert (await poll(engine)).state == "open"  # nobody has told Postgres yet

    told, _ = await reconcile(engine, open_poll)
    assert (told.phase, told.last_version) == (Phase.COUNTING, last)
    assert told.closed_at == at
    assert told == await poll(engine)


async def test_a_time_that_redis_has_heard_of_too_late_is_not_when_the_poll_closed(
    open_poll, engine
):
    await close_poll(engine, at=datetime.fromtimestamp(await open_poll.clock() - 60, UTC))
    taken = await open_poll.cast(ballot())
    told, _ = await reconcile(engine, open_poll)
    assert told.closed_at.timestamp() * 1000 >= taken.ms
    assert told.last_version == taken


async def test_what_a_command_that_died_has_begun_is_ended_by_the_next(open_poll, engine):
    await close_poll(engine)
    since = (await open_poll.sync_poll(MIN_VERSION, "closed")).closed_at  # and no word to Postgres
    await asyncio.sleep(0.01)
    told, _ = await reconcile(engine, open_poll)
    assert told.closed_at == since


async def test_a_closed_poll_stays_closed_and_ids_rise_where_redis_lost_everything(
    open_poll, engine
):
    before = await open_poll.cast(ballot())
    await close_poll(engine)
    closed, _ = await reconcile(engine, open_poll)
    await open_poll.admin.delete(open_poll._stream, open_poll._poll)
    with pytest.raises(NotRecorded):
        await open_poll.cast(ballot())

    told, lost = await reconcile(engine, open_poll)
    assert lost
    assert (await poll(engine)).queue_lost_at is not None
    assert (told.last_version, told.closed_at) == (closed.last_version, closed.closed_at)
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())
    await reopen_poll(engine, told)
    await reconcile(engine, open_poll)
    assert await open_poll.cast(ballot()) > before


async def test_a_loss_is_known_where_nothing_was_counted_yet(open_poll, engine):
    await open_poll.admin.delete(open_poll._stream, open_poll._poll)
    assert await reconcile(engine, open_poll, known=True) == (Poll(), True)


async def test_an_id_that_postgres_can_not_keep_closes_the_poll_all_the_same(open_poll, engine):
    await open_poll.admin.xadd(open_poll._stream, {"no": "ballot"}, id=f"{2**63}-{2**63}")
    await close_poll(engine)
    told, _ = await reconcile(engine, open_poll)
    assert told.last_version == Version(MAX_BIGINT, MAX_BIGINT)


async def test_a_poll_without_votes_is_closed_and_final_too(open_poll, engine):
    await close_poll(engine)
    told, _ = await reconcile(engine, open_poll)
    assert (await open_poll.progress()).all_counted(told.last_version)
    assert await declare_final(engine, told.last_version)
    assert (await poll(engine)).phase is Phase.FINAL


async def test_ballots_of_another_round_or_after_the_end_are_not_counted(engine):
    await count(engine, (1, "a", 10))
    await end(engine, 10)
    await count(engine, (2, "a", 11), (1, "b", 12))
    assert await totals(engine) == (1, 0)
    await start_round(engine, 1)
    await count(engine, (1, "a", 10), (2, "b", 11), (3, "b", 9))
    assert await totals(engine) == (0, 1)


async def test_totals_are_declared_final_once_and_only_where_they_were_counted(engine):
    await count(engine, (1, "a", 10), (2, "b", 11), (3, "b", 12))
    assert not await declare_final(engine, Version(12, 0))  # it is open
    await close_at(engine, 12)
    assert not await declare_final(engine, Version(11, 0))
    assert [await declare_final(engine, Version(12, 0)) for _ in range(2)] == [True, False]
    found = await poll(engine)
    [final] = await fetch_final_results(engine)
    assert (final.round, final.final_at, final.closed_at) == (1, found.final_at, found.closed_at)
    assert (final.a, final.b) == (1, 2)


async def test_final_totals_are_shown_as_they_were_declared(engine):
    await count(engine, (1, "a", 10))
    await end(engine, 10)
    async with engine.connect() as connection:
        await connection.execute(text("UPDATE tally SET a = 99"))
    assert await totals(engine) == (1, 0)


async def test_a_final_result_that_is_undone_stays_to_be_seen(engine):
    await count(engine, (1, "a", 10))
    await end(engine, 10)
    await reopen_poll(engine, await poll(engine))
    assert await poll(engine) == Poll()
    await count(engine, (2, "a", 20))
    await end(engine, 20)
    assert [each.a for each in await fetch_final_results(engine)] == [1, 2]


async def test_a_poll_that_became_final_meanwhile_is_not_opened(engine):
    await close_at(engine, 10)
    seen = await poll(engine)
    await declare_final(engine, Version(10, 0))
    with pytest.raises(PollChanged):
        await reopen_poll(engine, seen)
    assert (await poll(engine)).phase is Phase.FINAL


async def test_another_round_keeps_the_tally_of_the_one_before(engine):
    await count(engine, (1, "a", 10), (2, "b", 11))
    async with engine.connect() as connection:
        before = (await connection.execute(text("SELECT bucket, a, b FROM tally"))).all()
    await end(engine, 11)
    await start_round(engine, 1)
    async with engine.connect() as connection:
        kept = (await connection.execute(text("SELECT bucket, a, b FROM past_tally"))).all()
        votes = (await connection.execute(text("SELECT count(*) FROM votes"))).scalar_one()
        newest = await fetch_version_floor(connection)
    assert kept == before
    assert votes == 0
    assert newest > Version(11, 0)
    assert await poll(engine) == Poll(round=2, after_version=Version(11, 0))


@pytest.mark.parametrize("ended", [1, 2])
async def test_no_round_is_started_unless_the_one_before_is_final(engine, ended):
    await count(engine, (1, "a", 10))
    if ended == 2:
        await end(engine, 10)
    with pytest.raises(PollChanged):
        await start_round(engine, ended)
    assert await totals(engine) == (1, 0)


async def test_a_batch_that_is_counted_while_a_round_starts_is_of_one_of_them(engine):
    await count(engine, (1, "a", 10))
    await end(engine, 10)
    transactions = engine.execution_options(isolation_level="READ COMMITTED")
    async with transactions.begin() as resetting:
        await resetting.execute(text("SELECT start_round(1)"))
        # It waits for the table, and looks what is of this round only then.
        late = asyncio.create_task(count(engine, (1, "b", 10), (2, "b", 9), (3, "b", 11)))
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL")
        async with asyncio.timeout(30):
            while not (await resetting.execute(waiting)).scalar_one():
                await asyncio.sleep(0.01)
    await late
    assert await totals(engine) == (0, 1)


async def test_the_poll_can_not_change_while_it_is_told_to_redis(engine):
    transactions = engine.execution_options(isolation_level="READ COMMITTED")
    async with transactions.begin() as telling:
        await fetch_poll_for_share(telling)
        closing = asyncio.create_task(close_poll(engine))
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
        async with asyncio.timeout(30):
            while not (await telling.execute(waiting)).scalar_one():
                await asyncio.sleep(0.01)
        assert (await fetch_poll(telling)).state == "open"
    await closing
    assert (await poll(engine)).state == "closed"


async def test_a_worker_that_is_frozen_can_not_keep_a_poll_from_being_closed(engine):
    transactions = engine.execution_options(isolation_level="READ COMMITTED")
    async with transactions.connect() as frozen:
        await fetch_poll_for_share(frozen)
        await close_poll(engine)
        with pytest.raises(DATABASE_ERRORS):
            await record_queue_loss(frozen)
        await frozen.invalidate()
    found = await poll(engine)
    assert (found.state, found.queue_lost_at) == ("closed", None)


async def test_who_only_waits_for_redis_keeps_the_lock_and_writes_down_what_it_heard(
    open_poll, engine, monkeypatch
):
    await count(engine, (1, "a", 1))
    await open_poll.admin.delete(open_poll._stream)
    prepare = open_poll.sync_poll

    async def prepare_slowly(*rules, **more):
        prepared = await prepare(*rules, **more)
        await asyncio.sleep(4.5)  # Redis' answer comes late, but it comes
        return prepared

    monkeypatch.setattr(open_poll, "sync_poll", prepare_slowly)
    _, lost = await reconcile(engine, open_poll)
    assert lost
    assert (await poll(engine)).queue_lost_at is not None


async def test_it_is_redis_that_is_away_where_redis_is_silent(open_poll, engine):
    await open_poll.admin.client_pause(6_000)  # longer than anybody waits
    with pytest.raises(RedisError):
        await reconcile(engine, open_poll)


async def test_a_command_that_can_not_reach_redis_any_more_says_who_will(engine, tmp_path):
    stream = BallotStream.at(f"unix://{tmp_path}/nobody.sock")
    await close_poll(engine)
    with pytest.raises(SystemExit, match="a worker will, once it can"):
        await poll_commands._tell(stream, engine)
    await stream.close()


async def test_who_comes_late_with_the_state_before_a_change_is_refused(open_poll, engine):
    """As a worker does that has lost its lock, and died, with this on its way."""
    before = await poll(engine)
    await close_poll(engine)
    await reconcile(engine, open_poll)
    late = {"revision": before.revision}
    with pytest.raises(ResponseError, match="LATE the poll was changed meanwhile"):
        await open_poll.sync_poll(MIN_VERSION, "open", **late)
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())

    # A database that was restored from a backup has an earlier state for good.
    changed = int(await open_poll.admin.hget(open_poll._poll, "revised"))
    await open_poll.admin.hset(open_poll._poll, "revised", changed - 61_000)
    await open_poll.sync_poll(MIN_VERSION, "open", **late)
    assert await open_poll.cast(ballot())


async def test_a_poll_whose_time_has_come_ends_after_all_who_still_open_it(open_poll, engine):
    transactions = engine.execution_options(isolation_level="READ COMMITTED")
    await close_poll(engine, at=datetime.fromtimestamp(await open_poll.clock() - 1, UTC))
    async with transactions.begin() as opening:
        await fetch_poll_for_share(opening)
        closing = asyncio.create_task(reconcile(engine, open_poll))
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
        async with asyncio.timeout(30):
            while not (await opening.execute(waiting)).scalar_one():
                await asyncio.sleep(0.01)
        # A worker of the version before knows of no time.
        await open_poll.admin.hset(
            open_poll._poll, mapping={"state": "open", "closes_at": "", "revision": 0}
        )
        taken = await open_poll.cast(ballot())
    told, _ = await closing
    assert told.phase is Phase.COUNTING
    assert told.last_version >= taken
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())


async def test_a_poll_that_is_closed_can_not_be_closed_again(engine):
    await close_poll(engine)
    for at in (None, datetime(2100, 1, 1, tzinfo=UTC)):
        with pytest.raises(PollChanged):
            await close_poll(engine, at=at)
