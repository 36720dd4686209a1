"""The life of a poll, with real servers."""

import asyncio
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import text
from support.database import (
    ask,
    back_up,
    close_after,
    execute,
    finish,
    insert_tally,
    question_of,
    stored_tally,
    stored_totals,
    stored_votes,
    waits_for_lock,
)
from support.database import restore as restore_backup
from support.wait import until

from voting.commands import poll as poll_commands
from voting.database import counting
from voting.database.engine import DATABASE_ERRORS, transaction
from voting.database.poll import (
    RECORD_QUEUE_LOSS,
    Known,
    PollChanged,
    close_poll,
    close_poll_on_time,
    confirm_close,
    declare_final,
    fetch_poll,
    fetch_poll_for_share,
    fetch_version_floor,
    reopen_poll,
    replace_unseen_question,
    reveal_results,
    start_round,
)
from voting.database.totals import fetch_final_results, fetch_past_result, fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.poll.lifecycle import TRANSITIONS, Event, LifecycleState, Phase, Poll
from voting.poll.question import Question
from voting.queue.client import Queue, connect
from voting.queue.producer import NotRecorded, PollClosed, RoundOver
from voting.queue.state import PollConflict, QueueState
from voting.reconcile import changes
from voting.reconcile.changes import (
    ChangeError,
    change_poll,
    fetch_settled_status,
    fetch_status,
    wait_until_final,
)
from voting.reconcile.poll import finalize, reconcile

close_poll_later = partial(close_poll, at=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
async def open_poll(stream, engine):
    await reconcile(engine, stream)
    return stream


def ballot():
    return Ballot(uuid4(), Choice.A)


async def poll(engine):
    return (await fetch_result(engine)).poll


async def count(engine, *ballots):
    """Count ballots given as (voter, choice, ms)."""
    queued = (QueuedBallot(ms, 0, UUID(int=each).hex, choice) for each, choice, ms in ballots)
    await counting.count(engine, list(queued))


async def test_closed_poll_accepts_no_vote_and_knows_its_last_one(open_poll, engine):
    first, last = await open_poll.cast(ballot()), await open_poll.cast(ballot())
    assert first < last
    await close_poll(engine)
    assert (await poll(engine)).phase is Phase.COUNTING
    await open_poll.cast(ballot())  # Redis does not know yet
    newest = await open_poll.cast(ballot())

    found, lost = await reconcile(engine, open_poll)
    assert not lost
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())
    assert found == await poll(engine)
    assert found.last_version == newest
    assert abs(found.closed_at.timestamp() - await open_poll.clock()) < 30
    again, _ = await reconcile(engine, open_poll)
    assert again == found


async def test_poll_closes_at_its_time_by_redis_clock_before_postgres_knows(open_poll, engine):
    milliseconds = int(await open_poll.clock() * 1000) + 1_000
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    await close_poll(engine, at=at)
    found, _ = await reconcile(engine, open_poll)
    assert (found.phase, found.closes_at) == (Phase.OPEN, at)
    assert (await open_poll.cast_rules()).closes_at == at.replace(
        microsecond=at.microsecond // 1000 * 1000
    )
    last = await open_poll.cast(ballot())
    with suppress(PollClosed):
        while True:
            last = await open_poll.cast(ballot())
    assert last.ms < milliseconds
    assert (await poll(engine)).state == "open"  # Postgres does not know yet

    found, _ = await reconcile(engine, open_poll)
    assert (found.phase, found.last_version) == (Phase.COUNTING, last)
    assert found.closed_at == at
    assert found == await poll(engine)


async def test_poll_closes_when_redis_learns_of_a_time_that_has_passed(open_poll, engine):
    await close_poll(engine, at=datetime.fromtimestamp(await open_poll.clock() - 60, UTC))
    taken = await open_poll.cast(ballot())
    found, _ = await reconcile(engine, open_poll)
    assert found.closed_at.timestamp() * 1000 >= taken.ms
    assert found.last_version == taken


async def test_close_that_a_killed_command_began_is_completed_by_the_next(open_poll, engine):
    await close_poll(engine)
    synced = await open_poll.sync_poll(MIN_VERSION, await poll(engine))  # then it is killed
    await asyncio.sleep(0.01)
    found, _ = await reconcile(engine, open_poll)
    assert found.closed_at == synced.closed_at


async def test_closed_poll_stays_closed_and_ids_rise_after_redis_lost_everything(open_poll, engine):
    before = await open_poll.cast(ballot())
    await close_poll(engine)
    closed, _ = await reconcile(engine, open_poll)
    await open_poll.admin.delete(open_poll.queue.stream_key, open_poll.queue.poll_key)
    with pytest.raises(NotRecorded):
        await open_poll.cast(ballot())

    found, lost = await reconcile(engine, open_poll)
    assert lost
    assert (await poll(engine)).queue_lost_at is not None
    assert (found.last_version, found.closed_at) == (closed.last_version, closed.closed_at)
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())
    await reopen_poll(engine, found)
    await reconcile(engine, open_poll)
    assert await open_poll.cast(ballot()) > before


async def test_queue_loss_is_recorded_before_any_vote_was_counted(open_poll, engine):
    await open_poll.admin.delete(open_poll.queue.stream_key, open_poll.queue.poll_key)
    _, lost = await reconcile(engine, open_poll)
    assert lost


@pytest.mark.parametrize("dies", ["the worker", "its transaction"])
async def test_queue_loss_is_recorded_by_the_next_worker_where_the_first_dies(
    open_poll, engine, dies
):
    voted = [await open_poll.cast(ballot()) for _ in range(3)]
    await open_poll.admin.delete(open_poll.queue.stream_key, open_poll.queue.poll_key)
    async with transaction(engine) as connection:
        seen = await fetch_poll(connection)
    synced = await open_poll.sync_poll(MIN_VERSION, seen)  # then it dies
    assert synced.created
    if dies == "its transaction":
        await open_poll.sync_poll(MIN_VERSION, seen)
    assert (await open_poll.cast_rules()).lost_version > voted[-1]
    await open_poll.cast(ballot())

    found, lost = await reconcile(engine, open_poll)
    assert lost
    assert found.queue_lost_at is None  # as it was read
    assert (await poll(engine)).queue_lost_at == synced.lost_at
    again, lost = await reconcile(engine, open_poll)
    assert not lost
    assert again.queue_lost_at == synced.lost_at
    rules = await open_poll.cast_rules()
    assert voted[-1] < rules.lost_version < await open_poll.cast(ballot())


async def test_queue_that_never_existed_is_not_lost(stream, engine):
    _, lost = await reconcile(engine, stream)
    assert not lost
    assert (await stream.cast_rules()).lost_version == MIN_VERSION
    found = await poll(engine)
    assert (found.has_queue, found.queue_lost_at) == (True, None)


async def test_queue_of_another_database_is_left_alone(open_poll, engine, admin):
    await execute(admin, "UPDATE poll SET database_id = gen_random_uuid()")
    with pytest.raises(PollConflict, match="belongs to another database"):
        await reconcile(engine, open_poll)
    assert await open_poll.cast(ballot())


@pytest.mark.parametrize("ballots", [0, 2])
async def test_an_id_that_is_too_high_for_ballots_ends_no_poll(open_poll, engine, ballots):
    """Otherwise no ballot of a later round could be above it."""
    versions = [await open_poll.cast(ballot()) for _ in range(ballots)]
    await open_poll.append({"no": "ballot"}, f"{2**63}-{2**63}")
    await close_poll(engine)
    found, _ = await reconcile(engine, open_poll)
    assert found.last_version == (versions[-1] if versions else MIN_VERSION)

    # Workers have counted what there was; an operator deletes the stream.
    await open_poll.admin.delete(open_poll.queue.stream_key)
    await reopen_poll(engine, found)
    await reconcile(engine, open_poll)
    assert (await open_poll.cast(ballot())).ms < 2**53


async def test_ballots_of_another_round_or_after_the_close_are_not_counted(engine, operator):
    await count(engine, (1, "a", 10))
    await finish(engine, Version(10, 0))
    await count(engine, (2, "a", 11), (1, "b", 12))
    assert await stored_totals(engine) == (1, 0)
    await start_round(operator, 1, question_of(3))
    await count(engine, (1, "a", 10), (2, "b", 11), (3, "b", 9))
    assert await stored_totals(engine) == (0, 1, 0)


async def test_totals_are_declared_final_once_and_only_for_the_confirmed_close(engine):
    await count(engine, (1, "a", 10), (2, "b", 11), (3, "b", 12))
    assert not await declare_final(engine, Version(12, 0))  # the poll is open
    await close_after(engine, Version(12, 0))
    assert not await declare_final(engine, Version(11, 0))
    assert [await declare_final(engine, Version(12, 0)) for _ in range(2)] == [True, False]
    found = await poll(engine)
    [final] = await fetch_final_results(engine)
    assert (final.round, final.final_at, final.closed_at) == (1, found.final_at, found.closed_at)
    assert (final.question, final.counts, final.revoked) == (Question(), (1, 2), False)


async def test_final_totals_stay_as_they_were_declared(engine):
    await count(engine, (1, "a", 10))
    await finish(engine, Version(10, 0))
    await execute(engine, "UPDATE tally SET votes = 99")
    assert await stored_totals(engine) == (1, 0)


async def finals(engine):
    """Read what was declared final: the counts, and whether that was revoked."""
    return [(each.counts, each.revoked) for each in await fetch_final_results(engine)]


async def test_revoked_final_result_stays_in_the_list(engine, operator):
    question = await ask(engine, 3)
    await count(engine, (1, "a", 10))
    await finish(engine, Version(10, 0))
    assert await finals(engine) == [((1, 0, 0), False)]
    await reopen_poll(engine, await poll(engine))
    assert await poll(engine) == Poll(question=question)
    assert await finals(engine) == [((1, 0, 0), True)]
    await count(engine, (2, "c", 20))
    await finish(engine, Version(20, 0))
    assert await finals(engine) == [((1, 0, 0), True), ((1, 0, 1), False)]
    # The same holds once the round is over.
    await start_round(operator, 1, question_of(2))
    assert await finals(engine) == [((1, 0, 0), True), ((1, 0, 1), False)]


async def test_totals_questions_and_timelines_of_all_rounds_are_kept(engine, reader, operator):
    kept = []
    for number, options in enumerate((2, 5, 12), start=1):
        question = question_of(options, f"Question {number}?")
        if number == 1:
            await ask(engine, question)
        else:
            await start_round(operator, number - 1, question)
        found = await poll(engine)
        assert (found.round, found.question, found.asked) == (number, question, number > 1)
        # One more vote for each option than for the one before; two buckets.
        ms = 1000 * number
        voters = [(n, key) for n, key in enumerate(question.choices) for _ in range(n + 1)]
        await count(engine, *((v, key, ms + v) for v, (_, key) in enumerate(voters)))
        await insert_tally(engine, f"SELECT to_timestamp(0), ARRAY{[1] * options}, 1", number)
        kept.append((question, tuple(range(2, options + 2))))
        last = Version(ms + 999, 0)
        if number == 2:  # it is opened again, and gets another vote
            await finish(engine, Version(ms + 100, 0))
            await reopen_poll(engine, await poll(engine))
            await count(engine, (999, "b", ms + 999))
            kept[-1] = question, (2, 4, 4, 5, 6)
        await finish(engine, last)
    declared = await fetch_final_results(reader)
    assert [(each.round, each.revoked) for each in declared] == [
        (1, False),
        (2, True),
        (2, False),
        (3, False),
    ]
    valid = [each for each in declared if not each.revoked]
    assert [(each.question, each.counts) for each in valid] == kept
    async with reader.connect() as connection:
        for each in valid:
            past = await fetch_past_result(connection, each.round, timeline=True)
            assert (past.poll.round, past.poll.question) == (each.round, each.question)
            assert (past.poll.phase, past.poll.final_at) == (Phase.FINAL, each.final_at)
            assert past.totals.counts == each.counts
            first, *_ = past.timeline
            assert first.counts == (1,) * len(each.question.names)
            sums = map(sum, zip(*(bucket.counts for bucket in past.timeline), strict=True))
            assert tuple(sums) == each.counts
        assert await fetch_past_result(connection, 4) is None
    shown = await fetch_result(reader, timeline=True)
    assert (shown.poll.question, shown.totals.counts) == kept[-1]
    assert tuple(map(sum, zip(*(each.counts for each in shown.timeline), strict=True))) == (
        shown.totals.counts
    )


async def test_a_round_that_is_open_again_has_no_valid_result(engine, operator):
    await count(engine, (1, "a", 10))
    await finish(engine, Version(10, 0))
    await start_round(operator, 1, question_of(3))
    await finish(engine, Version(20, 0))
    await reopen_poll(engine, await poll(engine))
    found = await fetch_final_results(engine)
    assert [(each.round, each.revoked) for each in found] == [(1, False), (2, True)]


async def test_poll_that_became_final_meanwhile_is_not_reopened(engine):
    await close_after(engine, Version(10, 0))
    seen = await poll(engine)
    await declare_final(engine, Version(10, 0))
    with pytest.raises(PollChanged):
        await reopen_poll(engine, seen)
    assert (await poll(engine)).phase is Phase.FINAL


async def test_a_close_that_was_moved_is_not_cancelled(engine):
    soon, later = (datetime.now(UTC) + timedelta(hours=n) for n in (1, 2))
    await close_poll(engine, at=soon)
    seen = await poll(engine)
    await close_poll(engine, at=later)
    with pytest.raises(PollChanged):
        await reopen_poll(engine, seen)
    assert (await poll(engine)).closes_at == later


async def test_next_round_keeps_the_tally_of_the_previous_one(engine, operator):
    await count(engine, (1, "a", 10), (2, "b", 11))
    before = await stored_tally(engine)
    await finish(engine, Version(11, 0))
    question = question_of(12)
    await start_round(operator, 1, question)
    assert await stored_tally(engine) == before
    assert (await stored_tally(engine, 2), await stored_votes(engine)) == ([], {})
    async with engine.connect() as connection:
        assert await fetch_version_floor(connection) > Version(11, 0)
    assert await poll(engine) == Poll(
        round=2, question=question, asked=True, after_version=Version(11, 0)
    )


@pytest.mark.parametrize("ended", [1, 2])
async def test_next_round_starts_only_after_a_final_one(engine, ended, operator):
    await count(engine, (1, "a", 10))
    if ended == 2:
        await finish(engine, Version(10, 0))
    with pytest.raises(PollChanged):
        await start_round(operator, ended, question_of(3))
    assert await stored_totals(engine) == (1, 0)
    assert (await poll(engine)).question == Question()


async def test_only_one_of_two_operators_at_once_starts_the_next_round(engine, operator):
    await finish(engine, Version(10, 0))
    asked = (start_round(operator, 1, question_of(options)) for options in (3, 4))
    ended = await asyncio.gather(*asked, return_exceptions=True)
    [refused] = [each for each in ended if each is not None]
    assert isinstance(refused, PollChanged)
    found = await poll(engine)
    assert (found.round, found.question) == (2, question_of(4 if ended[0] else 3))


async def test_a_question_that_the_database_refuses_starts_no_round(engine, admin, operator):
    await finish(engine, Version(10, 0))
    before = await poll(engine)
    for question in (Question("x" * 201), Question("Which?", ("One", "x" * 61))):
        with pytest.raises(DATABASE_ERRORS):
            await start_round(operator, 1, question)
    assert await poll(engine) == before
    # Nothing of it is left.
    assert (await execute(admin, "SELECT round FROM rounds")).scalars().all() == [1]
    await start_round(operator, 1, question_of(2))


async def test_a_question_that_pages_may_show_is_not_replaced(open_poll, engine):
    assert (await poll(engine)).has_queue
    assert not await replace_unseen_question(engine, question_of(3))
    assert (await poll(engine)).question == Question()
    assert (await open_poll.cast_rules()).question == Question()


async def test_redis_has_the_question_of_the_round(stream, engine, operator):
    first = Question("قطط 🐈?", ('"One"', "Zwei\\n", "三"))
    await ask(engine, first)
    await reconcile(engine, stream)
    rules = await stream.cast_rules()
    assert (rules.round, rules.question) == (1, first)
    await stream.cast(ballot())
    await close_poll(engine)
    closed, _ = await reconcile(engine, stream)
    assert await declare_final(engine, closed.last_version)
    await start_round(operator, 1, question_of(12))
    with pytest.raises(RoundOver):  # Redis does not know of the next yet
        await stream.cast(ballot(), 2)
    await reconcile(engine, stream)
    rules = await stream.cast_rules()
    assert (rules.round, rules.question) == (2, question_of(12))
    with pytest.raises(RoundOver):
        await stream.cast(ballot())
    assert await stream.cast(ballot(), 2) > closed.last_version


async def test_batch_counted_while_a_round_starts_belongs_to_one_round(engine, operator):
    await count(engine, (1, "a", 10))
    await finish(engine, Version(10, 0))
    async with transaction(operator) as resetting:
        await resetting.execute(text("SELECT start_round(1, 1, 'Which?', '{One,Two,Three}', true)"))
        # It waits for the table, and only then reads which versions are of this round.
        late = asyncio.create_task(count(engine, (1, "b", 10), (2, "b", 9), (3, "c", 11)))
        await until(partial(waits_for_lock, resetting, "relation IS NOT NULL"))
    await late
    assert await stored_totals(engine) == (0, 0, 1)


async def test_poll_does_not_change_while_it_is_copied_to_redis(engine):
    async with transaction(engine) as copying:
        await fetch_poll_for_share(copying)
        closing = asyncio.create_task(close_poll(engine))
        await until(partial(waits_for_lock, copying, "locktype = 'advisory'"))
        assert (await fetch_poll(copying)).state == "open"
    await closing
    assert (await poll(engine)).state == "closed"


async def test_frozen_worker_does_not_prevent_a_close(engine):
    async with engine.execution_options(isolation_level="READ COMMITTED").connect() as frozen:
        await fetch_poll_for_share(frozen)
        await close_poll(engine)
        with pytest.raises(DATABASE_ERRORS):
            await frozen.execute(RECORD_QUEUE_LOSS, {"at": datetime.now(UTC)})
        await frozen.invalidate()
    found = await poll(engine)
    assert (found.state, found.queue_lost_at) == ("closed", None)


async def test_worker_that_waits_for_a_slow_redis_keeps_the_lock_and_records_its_reply(
    open_poll, engine, monkeypatch
):
    await count(engine, (1, "a", 1))
    await open_poll.admin.delete(open_poll.queue.stream_key)
    sync_poll = open_poll.sync_poll

    async def sync_slowly(*rules):
        synced = await sync_poll(*rules)
        await asyncio.sleep(4.5)  # the reply is late, but within the time limit
        return synced

    monkeypatch.setattr(open_poll, "sync_poll", sync_slowly)
    _, lost = await reconcile(engine, open_poll)
    assert lost
    assert (await poll(engine)).queue_lost_at is not None


async def test_silent_redis_raises_an_error_of_redis(open_poll, engine):
    await open_poll.admin.client_pause(6_000)  # longer than any client waits
    with pytest.raises(RedisError):
        await reconcile(engine, open_poll)


async def test_command_that_can_not_reach_redis_reports_that_a_worker_will(engine, tmp_path):
    stream = QueueState(Queue(connect(f"unix://{tmp_path}/missing.sock")))
    with pytest.raises(ChangeError, match="a worker will retry"):
        await change_poll(stream, engine, close_poll)
    assert (await poll(engine)).state == "closed"
    await stream.queue.close()


async def test_stale_state_is_refused_by_redis(open_poll, engine):
    """A worker that lost its lock, or was killed, may have sent the state before."""
    before = await poll(engine)
    await close_poll(engine)
    await reconcile(engine, open_poll)
    with pytest.raises(ResponseError, match="LATE the poll was changed meanwhile"):
        await open_poll.sync_poll(MIN_VERSION, before)
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())


async def test_poll_of_a_database_restored_from_before_the_close_stays_closed(
    open_poll, engine, admin
):
    """Redis knows a later state: an operator has to decide."""
    await open_poll.cast(ballot())
    await close_poll(engine)
    closed, _ = await reconcile(engine, open_poll)
    await restore(admin, open_poll, Poll())
    for _ in range(2):
        with pytest.raises(PollConflict, match="restored from an older backup"):
            await reconcile(engine, open_poll)
        with pytest.raises(PollClosed):
            await open_poll.cast(ballot())

    await close_poll(engine, known=Known((await open_poll.poll_identity())[1]))
    found, _ = await reconcile(engine, open_poll)
    assert (found.phase, found.last_version) == (Phase.COUNTING, closed.last_version)
    assert found.closed_at == closed.closed_at


@pytest.mark.parametrize("decision", [reopen_poll, None])
async def test_open_poll_of_a_restored_database_is_closed_until_an_operator_decides(
    open_poll, engine, admin, decision
):
    await close_poll(engine)
    await reopen_poll(engine, await poll(engine))
    await reconcile(engine, open_poll)
    await open_poll.cast(ballot())
    await restore(admin, open_poll, Poll())
    with pytest.raises(PollConflict):
        await reconcile(engine, open_poll)
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())
    if decision:
        seen = await poll(engine)
        await decision(engine, seen, known=Known((await open_poll.poll_identity())[1]))
        await reconcile(engine, open_poll)
        assert await open_poll.cast(ballot())


async def restore(admin, stream, earlier):
    """Give the database an earlier state of the poll, as a restore does a minute later."""
    await execute(
        admin,
        f"UPDATE poll SET state = '{earlier.state}', revision = {earlier.revision}, round = 1,"
        " closes_at = NULL, closed_at = NULL, until_ms = NULL, until_seq = NULL, final_at = NULL",
    )
    changed = int(await stream.admin.hget(stream.queue.poll_key, "revised"))
    await stream.admin.hset(stream.queue.poll_key, "revised", changed - 61_000)


async def test_poll_closes_at_its_time_after_every_worker_that_still_opens_it(open_poll, engine):
    await close_poll(engine, at=datetime.fromtimestamp(await open_poll.clock() - 1, UTC))
    async with transaction(engine) as opening:
        await fetch_poll_for_share(opening)
        closing = asyncio.create_task(reconcile(engine, open_poll))
        await until(partial(waits_for_lock, opening, "locktype = 'advisory'"))
        # A worker of the previous version opens the poll without a time.
        await open_poll.admin.hset(
            open_poll.queue.poll_key, mapping={"state": "open", "closes_at": "", "revision": 0}
        )
        taken = await open_poll.cast(ballot())
    found, _ = await closing
    assert found.phase is Phase.COUNTING
    assert found.last_version >= taken
    with pytest.raises(PollClosed):
        await open_poll.cast(ballot())


@pytest.mark.parametrize("change", [close_poll, close_poll_later, reopen_poll])
async def test_a_poll_whose_time_has_come_is_not_extended(open_poll, engine, change):
    """Redis refuses votes since then, even if no worker has stored the close yet."""
    at = datetime.fromtimestamp(await open_poll.clock() + 30, UTC)
    await close_poll(engine, at=at)
    seen = await poll(engine)
    if change is reopen_poll:
        change = partial(reopen_poll, seen=seen)
    with pytest.raises(PollChanged):
        await change(engine, known=Known(now=at))  # by Redis' clock
    assert await poll(engine) == seen
    await change(engine, known=Known(now=at - timedelta(milliseconds=1)))
    assert await poll(engine) != seen


async def test_a_poll_that_was_closed_meanwhile_is_not_opened(engine):
    seen = await poll(engine)
    await close_poll(engine)
    with pytest.raises(PollChanged):
        await reopen_poll(engine, seen)


async def test_commands_store_a_close_whose_time_has_come_first(open_poll, engine):
    await close_poll(engine, at=datetime.fromtimestamp(await open_poll.clock() - 1, UTC))
    status = await fetch_settled_status(open_poll, engine, "always")
    assert status.phase is Phase.COUNTING


async def test_an_operator_decides_after_a_restore(open_poll, engine, admin):
    await close_poll(engine)
    await reconcile(engine, open_poll)
    await restore(admin, open_poll, Poll())
    status = await fetch_settled_status(open_poll, engine, "always")
    assert "restored from an older backup" in status.conflict
    assert any("conflict" in line for line in poll_commands._lines(status))
    change = partial(reopen_poll, seen=status.poll)
    await change_poll(open_poll, engine, change)
    assert (await fetch_settled_status(open_poll, engine, "always")).conflict is None
    assert await open_poll.cast(ballot())


async def test_the_number_of_a_round_that_a_restore_has_lost_is_not_given_to_another(
    open_poll, engine, operator, admin
):
    """Pages may still show its question."""

    async def change(operation):
        await change_poll(open_poll, operator, operation)

    await back_up(admin)
    for lost in (2, 3):
        await finish(engine, MIN_VERSION)
        await change(partial(start_round, ended=lost - 1, question=question_of(3)))
    await restore_backup(admin)
    await change(partial(reopen_poll, seen=await poll(engine)))
    assert (await poll(engine)).round == 1
    await finish(engine, MIN_VERSION)
    await change(partial(start_round, ended=1, question=question_of(2)))
    found = await poll(engine)
    assert (found.round, found.question) == (4, question_of(2))
    for lost in (2, 3):
        with pytest.raises(RoundOver):
            await open_poll.cast(ballot(), lost)
    assert await open_poll.cast(ballot(), 4)
    # The last and the highest round are the same from now on.
    await finish(engine, MIN_VERSION)
    await change(partial(start_round, ended=4, question=question_of(2)))
    assert (await poll(engine)).round == 5


async def test_a_round_of_before_the_upgrade_is_known_to_redis(prepared):
    await prepared.sync_poll(MIN_VERSION, Poll(round=3, revision=1))
    key = prepared.queue.poll_key
    await prepared.admin.hdel(key, "rounds")
    assert (await prepared.poll_identity()).rounds == 3
    await prepared.sync_poll(MIN_VERSION, Poll(round=1, revision=2))
    assert (await prepared.poll_identity()).rounds == 3


async def test_the_status_tells_that_the_queue_belongs_to_another_database(
    open_poll, engine, admin
):
    await execute(admin, "UPDATE poll SET database_id = gen_random_uuid()")
    status = await fetch_settled_status(open_poll, engine, "always")
    assert "belongs to another database" in status.conflict


async def test_a_change_of_unknown_outcome_is_not_called_failed(open_poll, engine):
    async def lose_the_connection(_, *, known):
        assert known.now is not None
        raise TimeoutError

    with pytest.raises(ChangeError, match="may have been changed: see `voting status`"):
        await change_poll(open_poll, engine, lose_the_connection)


async def test_a_change_that_postgres_refuses_is_an_error(open_poll, engine):
    async def refuse(engine, **_):
        await execute(engine, "SELECT nothing")

    with pytest.raises(DATABASE_ERRORS):
        await change_poll(open_poll, engine, refuse)


async def test_commands_name_the_reason_why_totals_do_not_become_final(
    open_poll, engine, admin, monkeypatch
):
    monkeypatch.setattr(changes, "POLL_INTERVAL", 0.01)
    await close_poll(engine)
    seen, _ = await reconcile(engine, open_poll)
    await execute(admin, "ALTER TABLE votes SET UNLOGGED")
    said = []
    with pytest.raises(ChangeError, match=r"not final after 2 s: .* votes is unlogged"):
        await wait_until_final(open_poll, engine, seen, 2, show=said.append)
    assert len(said) == 1  # it is said once
    await execute(admin, "ALTER TABLE votes SET LOGGED")
    await open_poll.admin.rename(open_poll.queue.stream_key, "aside")
    with pytest.raises(ChangeError, match=r"not final after 0\.1 s$"):
        await wait_until_final(open_poll, engine, seen, 0.1)
    await open_poll.admin.rename("aside", open_poll.queue.stream_key)
    await wait_until_final(open_poll, engine, seen, 30)
    await reopen_poll(engine, (await fetch_result(engine)).poll)
    with pytest.raises(PollChanged):
        await wait_until_final(open_poll, engine, seen)
    await close_poll(engine)
    again, _ = await reconcile(engine, open_poll)
    await wait_until_final(open_poll, engine, again, 30)
    with pytest.raises(PollChanged):
        await wait_until_final(open_poll, engine, seen)


# The columns of a poll in each state. The round ends with version 10-0.
CLOSED = "state = 'closed', closed_at = now(), until_ms = 10, until_seq = 0"
COLUMNS = {
    LifecycleState.OPEN: "state = 'open'",
    LifecycleState.SCHEDULED: "closes_at = now() + interval '1 hour'",
    LifecycleState.CLOSING: "state = 'closed'",
    LifecycleState.COUNTING: CLOSED,
    LifecycleState.FINAL: f"{CLOSED}, final_at = now()",
}
AT = datetime(2100, 1, 1, tzinfo=UTC)


async def attempt(event, engine, operator, seen):
    """Cause `event` as operators and workers do."""
    match event:
        case Event.CLOSE:
            await close_poll(operator)
        case Event.SCHEDULE:
            await close_poll(operator, at=AT)
        case Event.TIME_REACHED:
            await close_poll_on_time(engine, seen, AT)
        case Event.CLOSE_CONFIRMED:
            async with engine.connect() as connection:
                await confirm_close(connection, AT, Version(10, 0))
        case Event.ALL_COUNTED:
            await declare_final(engine, Version(10, 0))
        case Event.REOPEN:
            await reopen_poll(operator, seen)
        case Event.START_ROUND:
            await start_round(operator, seen.round, question_of(3))


@pytest.mark.parametrize("state", LifecycleState)
@pytest.mark.parametrize("event", Event)
async def test_database_changes_a_poll_exactly_as_the_table_allows(
    engine, operator, admin, state, event
):
    await execute(admin, f"UPDATE poll SET {COLUMNS[state]}")
    before = await poll(engine)
    assert before.lifecycle_state is state
    # What a worker repeats until it succeeds changes nothing; other changes are refused.
    repeated = event in {Event.CLOSE_CONFIRMED, Event.ALL_COUNTED}
    with nullcontext() if repeated or before.allows(event) else pytest.raises(PollChanged):
        await attempt(event, engine, operator, before)
    after = await poll(engine)
    if before.allows(event):
        assert after.lifecycle_state is TRANSITIONS[event].target
        assert (after, after.revision) != (before, before.revision)
    else:
        assert (after, after.revision) == (before, before.revision)


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.TIME_REACHED, LifecycleState.SCHEDULED),
        (Event.REOPEN, LifecycleState.FINAL),
        (Event.START_ROUND, LifecycleState.FINAL),
    ],
)
async def test_change_based_on_an_outdated_poll_is_refused(engine, operator, admin, event, state):
    await execute(admin, "INSERT INTO rounds VALUES (2, 'Which?', true)")
    await execute(admin, "INSERT INTO options VALUES (2, 'a', 'One'), (2, 'b', 'Two')")
    await execute(admin, f"UPDATE poll SET {COLUMNS[state]}, round = 2, revision = 5")
    outdated = replace(await poll(engine), round=1, revision=4)
    with suppress(PollChanged):
        await attempt(event, engine, operator, outdated)
    assert (await poll(engine)).revision == 5


async def test_a_poll_is_closed_only_as_its_operator_saw_it(stream, engine, operator):
    await reconcile(engine, stream)
    seen = (await fetch_result(engine)).poll
    await close_poll(engine, at=in_2100(1), seen=seen)
    with pytest.raises(PollChanged):  # it has a time to close by now
        await close_poll(engine, seen=seen)
    await close_poll(engine, seen=(await fetch_result(engine)).poll)
    await reconcile(engine, stream)
    assert await finalize(engine, stream, (await fetch_result(engine)).poll)
    await start_round(operator, 1, Question(), closes_at=in_2100(2))
    with pytest.raises(PollChanged):  # another round
        await close_poll(engine, seen=seen)
    found = (await fetch_result(engine)).poll
    assert (found.round, found.closes_at, found.phase) == (2, in_2100(2), Phase.OPEN)


def in_2100(hours):
    return datetime(2100, 1, 1, hours, tzinfo=UTC)


async def test_revealed_totals_stay_so_and_only_of_the_poll_that_the_operator_saw(
    engine, operator, reader
):
    seen = await poll(engine)
    assert not seen.revealed
    await close_poll(operator)
    with pytest.raises(PollChanged):
        await reveal_results(operator, seen)
    assert not (await poll(engine)).revealed
    seen = await poll(engine)
    for _ in range(2):  # two operators at once
        await reveal_results(operator, seen)
    found = await poll(engine)
    assert (found, found.revision) == (replace(seen, revealed=True), seen.revision)
    await reopen_poll(operator, found)
    assert (await poll(reader)).revealed
    async with engine.connect() as connection:
        assert (await fetch_poll(connection)).revealed


async def test_each_round_is_revealed_by_itself(engine, operator):
    for number in (1, 2):
        await finish(engine, Version(10 * number, 0))
        await start_round(operator, number, question_of(3))
    await reveal_results(operator, await poll(engine), number=1)

    async def revealed():
        async with engine.connect() as connection:
            past = [await fetch_past_result(connection, number) for number in (1, 2)]
        return [each.poll.revealed for each in past], (await poll(engine)).revealed

    assert await revealed() == ([True, False], False)
    assert [each.revealed for each in await fetch_final_results(engine)] == [True, False]
    await reveal_results(operator, await poll(engine))
    assert await revealed() == ([True, False], True)
    with pytest.raises(PollChanged):
        await reveal_results(operator, await poll(engine), number=4)


async def test_the_status_hides_totals_until_they_are_revealed(open_poll, engine, operator):
    await count(engine, (1, "a", 10), (2, "b", 11), (3, "a", 12))
    await finish(engine, Version(12, 0))

    async def totals(show_results):
        found = await fetch_status(open_poll, operator, show_results)
        lines = list(poll_commands._lines(found))
        return [lines[2].partition(" ")[2].strip(), lines[-1].rpartition(": ")[2]]

    assert await totals("when_revealed") == ["3 in total"] * 2
    assert await totals("after_close") == ["Cats 2, Dogs 1"] * 2
    await reveal_results(operator, await poll(engine))
    assert await totals("when_revealed") == ["Cats 2, Dogs 1"] * 2
