import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import text
from support import workers
from support.database import (
    all_counted,
    ask,
    execute,
    fetch,
    finish,
    question_of,
    stored_totals,
    stored_votes,
    waits_for_lock,
)
from support.wait import DEADLINE, until

from voting.database import counting, durability
from voting.database import engine as engine_module
from voting.database.engine import create_engine, transaction
from voting.database.poll import close_poll, start_round
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version
from voting.poll.lifecycle import Phase
from voting.queue.client import Queue, connect
from voting.queue.producer import PollClosed
from voting.queue.state import QueueState
from voting.reconcile.audit import audit
from voting.reconcile.integrity import Untrusted
from voting.reconcile.poll import finalize, reconcile
from voting.reconcile.replay import replay
from voting.roles import maintenance
from voting.roles import worker as worker_module
from voting.roles.maintenance import Timing
from voting.roles.worker import Worker
from voting.telemetry import metrics

OFTEN = Timing(maintenance_interval=0.05)


@pytest.fixture(autouse=True)
def short_reads(monkeypatch):
    monkeypatch.setattr(worker_module, "READ_BLOCK", 0.1)


def working(stream, engine, number=1, **options):
    return workers.working(stream.queue, engine, number, **options)


def fail_to_count(monkeypatch, failures):
    """Make counting raise each of these first."""
    count, failing = counting.count, iter(failures)

    async def fail_first(*arguments):
        for failure in failing:
            raise failure
        await count(*arguments)

    monkeypatch.setattr(counting, "count", fail_first)


async def votes(engine):
    return (await fetch_result(engine)).totals.votes


async def has_votes(engine, number):
    return await votes(engine) == number


def counted(stream, engine, number):
    async def check():
        return await has_votes(engine, number) and (await stream.progress()).backlog == 0

    return check


MEASURED = (
    *("ballots_counted_total", "ballots_redelivered_total", "dead_letters_total"),
    *("batch_ballots_sum", "batch_ballots_count"),
    *("count_duration_seconds_count", "accept_to_count_seconds_count"),
    "accept_to_count_seconds_sum",
)


@pytest.fixture
def grown():
    """Return a function from a metric to its increase since the start of the test."""

    def value(name):
        return metrics.OF_ROLE["worker"].get_sample_value(f"voting_{name}")

    before = {name: value(name) for name in MEASURED}
    return lambda name: value(name) - before[name]


@pytest.fixture
async def pending(stream):
    async def count():
        return (await stream.admin.xpending(stream.queue.stream_key, "workers"))["pending"]

    return count


async def test_ballots_become_votes(stream, engine, caplog):
    async with working(stream, engine):
        await stream.cast_many(30, Choice.A)
        await stream.cast_many(12, Choice.B)
        await until(counted(stream, engine, 42))
    totals = (await fetch_result(engine)).totals
    assert totals.counts == (30, 12)
    assert "stream missing" not in caplog.text  # it is the first of this poll


async def test_after_a_read_entries_gather(stream, engine, monkeypatch, pending):
    monkeypatch.setattr(worker_module, "CONCURRENT_BATCHES", 1)
    monkeypatch.setattr(worker_module, "LINGER", DEADLINE)
    async with working(stream, engine):
        await stream.cast_many(1)
        await until(partial(has_votes, engine, 1))  # the first does not wait
        await stream.cast_many(5)
    assert (await stream.progress()).backlog == 5
    assert await pending() == 0  # stopped, it has acknowledged what it counted


async def test_a_worker_that_is_behind_reads_at_once(prepared, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "BATCH_SIZE", 5)
    monkeypatch.setattr(worker_module, "CONCURRENT_BATCHES", 1)
    monkeypatch.setattr(worker_module, "LINGER", 2 * DEADLINE)
    await prepared.cast_many(12)
    async with working(prepared, engine):
        await until(partial(has_votes, engine, 12))


async def test_several_workers_count_each_ballot_once(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "BATCH_SIZE", 7)
    async with working(stream, engine, 3):
        await stream.cast_many(500)
        await until(counted(stream, engine, 500))


async def test_a_batch_is_acknowledged_only_after_its_commit(stream, engine, pending, admin):
    async with working(stream, engine):
        async with transaction(admin) as blocking:
            await blocking.execute(text("LOCK TABLE tally"))
            await stream.cast_many(3)
            await until(partial(waits_for_lock, blocking, "relation = 'tally'::regclass"))
            assert await pending() == 3
            # The next batch is read while the last one commits.
            await stream.cast_many(2)
            await until(pending, check=lambda number: number == 5)
        await until(counted(stream, engine, 5))
        assert await pending() == 0


async def test_a_stopped_worker_finishes_its_current_batch(stream, engine, pending):
    async with working(stream, engine):
        await stream.cast_many(50)
        await until(partial(votes, engine))
    assert await pending() == 0
    assert await votes(engine) == 50


async def test_the_entries_of_a_dead_worker_are_claimed(prepared, engine, caplog, grown):
    await prepared.cast_many(3)
    assert len(await prepared.consumer("dead").read(count=10, block=1)) == 3
    # With an idle time of 0 a worker claims the entries of its own current batch, too.
    async with working(prepared, engine, timing=Timing(claim_min_idle=0)):
        await until(counted(prepared, engine, 3))
    claims = [each for each in caplog.records if "claimed idle" in each.getMessage()]
    assert claims[0].entries == 3
    # They are measured each time they are counted.
    assert grown("ballots_redelivered_total") >= 3
    assert grown("ballots_redelivered_total") == grown("ballots_counted_total")
    assert grown("ballots_counted_total") == grown("batch_ballots_sum")


@pytest.mark.parametrize(
    "fields",
    [{"voter": b"short", "choice": b"1a"}, {"voter": bytes(16), "choice": b"1m"}],
    ids=["voter", "choice"],
)
async def test_entries_that_can_not_be_decoded_go_to_the_dead_letters(
    prepared, engine, grown, fields
):
    await prepared.cast_many(2)
    bad = await prepared.append(fields)
    await prepared.cast_many(2)
    async with working(prepared, engine):
        await until(counted(prepared, engine, 4))
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    assert Version.parse(letter[b"id"]) == bad
    assert letter.items() >= {name.encode(): value for name, value in fields.items()}.items()
    assert letter[b"reason"].startswith(b"no ballot")
    assert [grown(name) for name in MEASURED[:-1]] == [4, 0, 1, 4, 1, 1, 1]


async def test_an_entry_that_postgres_refuses_is_dead_lettered_the_rest_counted(prepared, engine):
    last = (await prepared.cast_many(6))[-1]
    fields = {"voter": uuid4().bytes, "choice": b"b"}
    # A number that is fine for Redis and too large for a bigint.
    bad = await prepared.append(fields, f"{last.ms + 1}-{2**63}")
    await prepared.append(fields, f"{last.ms + 2}-0")
    async with working(prepared, engine):
        await until(counted(prepared, engine, 7))
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    assert Version.parse(letter[b"id"]) == bad
    assert letter[b"reason"].startswith(b"refused by Postgres")


@pytest.mark.parametrize("others", [7, 3_000])
async def test_a_choice_that_the_round_does_not_have_is_dead_lettered_the_rest_counted(
    prepared, engine, others
):
    question = await ask(engine, 3)
    for choice in (*question.choices, Choice.A):
        await prepared.cast_many(others // 4, choice)
        if choice is Choice.B:  # amid the others of its batch
            bad = await prepared.append_ballot(choice=Choice.D)
    number = others // 4 * 4
    async with working(prepared, engine):
        await until(counted(prepared, engine, number))
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    assert Version.parse(letter[b"id"]) == bad
    assert letter[b"choice"] == b"d"
    assert letter[b"reason"].startswith(b"refused by Postgres")
    assert await stored_totals(engine) == (number // 2, number // 4, number // 4)
    assert len(await stored_votes(engine)) == number


async def test_a_choice_beyond_the_last_key_is_no_ballot(prepared, engine):
    await ask(engine, 12)
    await prepared.cast_many(1, Choice.L)
    await prepared.append({"voter": uuid4().bytes, "choice": b"m"})
    async with working(prepared, engine):
        await until(counted(prepared, engine, 1))
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    assert letter[b"reason"].startswith(b"no ballot")


async def test_a_backlog_of_before_the_upgrade_is_counted(stream, engine, operator):
    """Its entries have no round: their versions tell that they are of this one."""
    await finish(engine, Version(10, 0))
    await start_round(operator, 1, question_of(3))
    await reconcile(engine, stream)
    for choice in (Choice.A, Choice.C, Choice.C):
        await stream.append_ballot(choice=choice)
    await stream.cast_many(2, Choice.B, number=2)
    async with working(stream, engine):
        await until(counted(stream, engine, 5))
    assert await stored_totals(engine) == (1, 2, 2)
    assert await stream.dead_letter_count() == 0


async def test_an_entry_of_the_round_before_is_not_counted_in_the_next(stream, engine, operator):
    """Its choice is one that only the round before had: it is no dead letter either."""
    await ask(engine, 12)
    await reconcile(engine, stream)
    await stream.cast_many(2, Choice.L)
    taken = await stream.consumer("dead").read(count=10, block=1)
    await counting.count(engine, [each.ballot() for each in taken])  # committed; then it died
    await finish(engine, taken[-1].version)
    await start_round(operator, 1, question_of(2))
    async with working(stream, engine, timing=Timing(claim_min_idle=0)) as worker:
        await until(worker.ready)
        await stream.cast_many(3, Choice.B, number=2)
        await until(counted(stream, engine, 3))
    assert await stored_totals(engine) == (0, 3)
    assert await stream.dead_letter_count() == 0
    assert [each.counts for each in await fetch_final_results(engine)] == [(0,) * 11 + (2,)]


@pytest.mark.parametrize("options", [3, 12])
async def test_several_workers_count_every_option(stream, engine, monkeypatch, options):
    monkeypatch.setattr(worker_module, "BATCH_SIZE", 50)
    choices = (await ask(engine, options)).choices
    ballots = [Ballot(uuid4(), each) for each in choices * 30]
    random.shuffle(ballots)
    async with working(stream, engine, 3):
        await asyncio.gather(*map(stream.cast, ballots))
        await until(counted(stream, engine, 30 * options))
        # Each voter for the next option, and the last for the first.
        following = dict(zip(choices, (*choices[1:], choices[0]), strict=True))
        changes = [Ballot(each.voter, following[each.choice]) for each in ballots]
        await asyncio.gather(*map(stream.cast, changes))
        await until(partial(all_counted, stream))
    assert await stored_totals(engine) == (30,) * options
    assert (await audit(stream, engine)).problems == []


async def test_a_lost_stream_is_recreated_above_the_counted_versions(stream, engine, caplog):
    async with working(stream, engine):
        [version] = await stream.cast_many(1)
        await until(counted(stream, engine, 1))
        await stream.admin.delete(stream.queue.stream_key, stream.queue.poll_key)
        await until(stream.ready)
        [after] = await stream.cast_many(1)
        assert after > version
        await until(counted(stream, engine, 2))
    assert "stream missing, recreated" in caplog.text


async def test_a_poll_closed_in_postgres_is_closed_in_redis(stream, engine):
    async with working(stream, engine, timing=OFTEN):
        await stream.cast_many(1)
        await execute(engine, "UPDATE poll SET state = 'closed'")

        async def refused():
            try:
                await stream.cast_many(1)
            except PollClosed:
                return True
            return False

        await until(refused)


async def test_counted_entries_are_kept_for_a_while(stream, engine, monkeypatch):
    async with working(stream, engine, timing=OFTEN):
        await stream.cast_many(5)
        await until(counted(stream, engine, 5))
        assert await stream.length() == 5
        monkeypatch.setattr(maintenance, "RETENTION_MEMORY", 0)
        await until(stream.length, check=lambda length: length <= 2)
        assert await stream.length() > 0  # the older ones go first


async def test_when_memory_is_full_the_backlog_is_counted_and_trimmed(prepared, engine):
    await prepared.cast_many(5)
    await prepared.append({"no": "ballot"})
    async with prepared.memory_limit("1"), working(prepared, engine, timing=OFTEN):
        await until(counted(prepared, engine, 5))
        await until(prepared.length, check=lambda length: length <= 1)
    assert await prepared.admin.xlen(prepared.queue.dead_letters_key) == 1


async def test_idle_consumers_are_deleted(prepared, engine, monkeypatch):
    monkeypatch.setattr(maintenance, "CONSUMER_EXPIRY", 0)
    await prepared.consumer("an earlier pod").read(count=1, block=0.01)
    names = partial(prepared.admin.xinfo_consumers, prepared.queue.stream_key, "workers")
    async with working(prepared, engine):
        await until(names, check=lambda found: "an earlier pod" not in str(found))


async def test_a_worker_retries_postgres_and_logs_it_once(
    stream, engine, caplog, monkeypatch, grown
):
    monkeypatch.setattr(worker_module, "BACKOFF", (0.01,))
    fail_to_count(monkeypatch, [OSError("gone")] * 5)
    async with working(stream, engine) as worker:
        await stream.cast_many(3)
        await until(counted(stream, engine, 3))
        assert await worker.ready()
    # What failed is not measured.
    assert grown("count_duration_seconds_count") == 1
    assert grown("ballots_counted_total") == 3
    down, up = [each for each in caplog.records if "Postgres" in each.getMessage()]
    assert down.getMessage() == "Postgres is down, retrying"
    assert down.reason == "OSError('gone')"
    assert up.getMessage() == "Postgres works again"


async def test_a_server_that_refuses_is_not_called_down(stream, engine, admin, caplog, monkeypatch):
    monkeypatch.setattr(worker_module, "BACKOFF", (0.01,))
    async with working(stream, engine):
        await execute(admin, "REVOKE INSERT ON votes FROM voting_worker")
        await stream.cast_many(1)
        await until(lambda: "Postgres refuses to work, retrying" in caplog.text)
        await execute(admin, "GRANT INSERT ON votes TO voting_worker")
        await until(counted(stream, engine, 1))
    assert "is down" not in caplog.text


async def test_a_transaction_conflict_is_retried_without_a_warning(
    stream, engine, caplog, monkeypatch
):
    fail_to_count(monkeypatch, [_Deadlock()])
    async with working(stream, engine):
        await stream.cast_many(3)
        await until(counted(stream, engine, 3))
    assert "is down" not in caplog.text


async def test_a_statement_that_took_too_long_without_a_lock_is_retried(
    stream, engine, monkeypatch
):
    fail_to_count(monkeypatch, [_TooLong()])
    async with working(stream, engine):
        await stream.cast_many(3)
        await until(counted(stream, engine, 3))


class _TooLong(OSError):
    sqlstate = "57014"


class _Deadlock(OSError):
    sqlstate = "40P01"


async def test_a_terminated_connection_is_replaced(stream, engine, admin):
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with working(stream, engine):
        for number in range(1, 4):
            assert (await execute(admin, terminate)).scalar_one() > 0
            await stream.cast_many(10)
            await until(counted(stream, admin, 10 * number))


async def test_without_redis_a_worker_is_not_ready_and_can_be_stopped(
    engine, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(worker_module, "BACKOFF", (0.01,))
    stream = QueueState(Queue(connect(f"unix://{tmp_path}/missing.sock")))
    async with working(stream, engine, ready=False) as worker:
        await until(lambda: "Redis is down" in caplog.text)
        assert not await worker.ready()
    assert caplog.text.count("Redis is down") == 1
    await stream.queue.close()


async def test_a_server_is_up_once_no_task_waits_for_it(stream, engine, caplog):
    worker = Worker(stream.queue, engine, consumer="me")
    reading, counting = set(), set()
    worker._mark_down("Redis", reading, OSError())
    worker._mark_down("Redis", counting, OSError())
    worker._mark_down("Redis", counting, OSError())
    worker._mark_up(reading)
    assert [record.message for record in caplog.records] == ["Redis is down, retrying"]
    worker._mark_up(counting)
    assert caplog.records[-1].message == "Redis works again"


async def test_a_cancellation_that_a_call_swallows_is_raised_after_it(stream, engine):
    calling = asyncio.Event()

    async def swallow():
        calling.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    worker = Worker(stream.queue, engine, consumer="me")
    task = asyncio.create_task(worker._retry(swallow))
    await calling.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_worker_stopped_without_postgres_leaves_its_batch_pending(
    stream, engine, pending, monkeypatch, caplog, spans
):
    async def count(*_):
        raise OSError("gone")

    monkeypatch.setattr(counting, "count", count)
    async with working(stream, engine) as worker:
        await stream.cast_many(2)
        followed = await stream.cast(Ballot(uuid4(), Choice.B, f"00-{'a' * 32}-{'b' * 16}-01"))

        async def none_left():
            return await pending() == 3 and not await worker.ready()

        await until(none_left)
    assert await pending() == 3
    assert "stay pending" in caplog.text
    finished = spans.get_finished_spans()
    # The text of a database error may hold a voter and a choice: spans have no text of errors.
    assert not any(each.events or each.status.description for each in finished)
    [span] = [each for each in finished if each.name == "count ballot"]
    assert span.attributes["messaging.message.id"] == str(followed)
    assert (span.status.is_ok, span.attributes["error.type"]) == (False, "stopped")


async def test_the_log_at_debug_names_a_followed_ballot_when_it_is_counted(
    prepared, engine, caplog
):
    caplog.set_level("DEBUG", "voting.telemetry.tracing")
    await prepared.cast_many(2)
    trace = f"00-{'a' * 32}-{'b' * 16}-00"
    followed = await prepared.cast(Ballot(uuid4(), Choice.B, trace))
    await prepared.append({"voter": b"short", "choice": b"a", "trace": trace})
    async with working(prepared, engine):
        await until(counted(prepared, engine, 3))
    [line] = [each for each in caplog.records if each.name == "voting.telemetry.tracing"]
    assert (line.message, line.request) == ("ballot counted", "a" * 32)
    assert line.ballot == str(followed)


async def test_an_unexpected_error_ends_the_worker(prepared, engine, monkeypatch):
    fail_to_count(monkeypatch, [ZeroDivisionError()])
    await prepared.cast_many(1)
    with pytest.raises(ExceptionGroup) as caught:
        await Worker(prepared.queue, engine, consumer="me").run()
    assert caught.group_contains(ZeroDivisionError)


async def is_final(engine):
    return (await fetch_result(engine)).poll.phase is Phase.FINAL


async def test_totals_are_final_once_all_accepted_ballots_are_counted(
    prepared, engine, monkeypatch
):
    timing = Timing(maintenance_interval=0.05, finalize_interval=0.05)
    for choice in (Choice.A, Choice.B, Choice.B):
        await prepared.cast(Ballot(uuid4(), choice))
    [held] = await prepared.consumer("slow").read(count=1, block=0.01)  # still pending there
    await close_poll(engine)
    async with working(prepared, engine, timing=timing):
        await until(partial(votes, engine), check=lambda number: number == 2)
        looks, progress = [], QueueState.progress

        async def look(state):
            looks.append(await progress(state))
            return looks[-1]

        monkeypatch.setattr(QueueState, "progress", look)
        # Maintenance has run twice since all but one were counted.
        await until(lambda: len(looks) > 1)
        assert not await is_final(engine)

        await counting.count(engine, [held.ballot()])
        await prepared.consumer("me").acknowledge([held.id])
        await until(partial(is_final, engine))
    [declared] = await fetch_final_results(engine)
    assert declared.counts == (1, 2)


async def test_a_worker_closes_a_poll_when_its_time_has_come(stream, engine):
    timing = Timing(maintenance_interval=3600, finalize_interval=0.05)
    await close_poll(engine, at=datetime.fromtimestamp(await stream.clock() + 0.5, UTC))
    async with working(stream, engine, timing=timing):
        await until(partial(is_final, engine))
    assert (await stream.cast_rules()).open is False


async def test_the_time_from_accept_to_count_is_that_of_a_batchs_oldest_ballot(
    prepared, engine, grown
):
    for ago in (3600, 60, 1):
        await prepared.append_ballot(ago=ago)
    async with working(prepared, engine):
        await until(counted(prepared, engine, 3))
    assert 3600 <= grown("accept_to_count_seconds_sum") < 3660


async def test_a_ballot_of_unknown_age_is_counted(stream, engine, monkeypatch):
    assert stream.age(MIN_VERSION) is None  # the clock was not read
    async with working(stream, engine) as worker:
        monkeypatch.setattr(worker._state, "age", lambda _: None)
        await stream.cast_many(1)
        await until(counted(stream, engine, 1))


# --- locked votes


@pytest.fixture
def impatient(monkeypatch, database_url):
    """An engine whose statements wait a second for a lock."""
    monkeypatch.setitem(engine_module.SESSION, "lock_timeout", "1s")
    return create_engine(database_url, name="tests", pool_size=4)


async def test_a_locked_vote_holds_up_its_voter_only(stream, engine, impatient, admin, caplog):
    timing = Timing(0.2, maintenance_interval=0.05, finalize_interval=0.05)
    voter = uuid4()
    async with working(stream, impatient, timing=timing):
        await stream.cast(Ballot(voter, Choice.A))
        await until(counted(stream, engine, 1))
        async with transaction(admin) as locking:
            await locking.execute(text(f"SELECT FROM votes WHERE voter = '{voter}' FOR UPDATE"))
            changed = await stream.cast(Ballot(voter, Choice.B))
            others = await stream.cast_many(20)
            await close_poll(engine, at=datetime.fromtimestamp(await stream.clock() + 0.1, UTC))
            await until(
                partial(fetch_result, engine),
                check=lambda result: result.poll.phase is Phase.COUNTING,
            )
            await until(partial(votes, engine), check=lambda number: number == 21)
            await until(lambda: "their ballots stay pending" in caplog.text)
            assert not await is_final(engine)
            assert (await stream.progress()).oldest_pending == changed
            assert all(each > changed for each in others)
        await until(partial(is_final, engine))
    totals = (await fetch_result(engine)).totals
    assert totals.counts == (20, 1)
    await impatient.dispose()


async def test_a_locked_tally_holds_up_a_batch_that_no_vote_does(stream, engine, impatient, admin):
    async with working(stream, impatient) as worker:
        async with transaction(admin) as locking:
            await locking.execute(text("LOCK TABLE tally"))
            await stream.cast_many(3)
            await until(worker.ready, check=lambda ready: not ready)
        await until(counted(stream, engine, 3))
    await impatient.dispose()


# --- another database, and one that was restored


@pytest.fixture
async def other_engine(servers):
    name = f"test_{uuid4().hex}"
    servers_url = await asyncio.to_thread(_make_database, servers, name)
    engine = create_engine(servers_url, name="tests")
    await fetch(servers.database_url(name), "UPDATE poll SET database_id = gen_random_uuid()")
    yield engine
    await engine.dispose()
    await asyncio.to_thread(servers.sql, f"DROP DATABASE {name} WITH (FORCE)")


def _make_database(servers, name):
    servers.make_database(name)  # a copy of a template: its identity too
    return servers.database_url(name, "voting_worker")


async def test_a_worker_of_another_database_waits(stream, engine, other_engine, caplog):
    async with (
        working(stream, engine, timing=OFTEN),
        working(stream, other_engine, ready=False, timing=OFTEN) as stranger,
    ):
        await stream.cast_many(200)
        await until(counted(stream, engine, 200))
        await until(lambda: "belongs to another database" in caplog.text)
        assert not await stranger.ready()
        assert await votes(other_engine) == 0


async def test_a_batch_that_another_database_counted_stays_pending(
    stream, engine, admin, pending, caplog
):
    """The address of Postgres may lead to another server at any time."""
    # Maintenance would find out too, and then no batch is read.
    async with working(stream, engine, timing=Timing(maintenance_interval=DEADLINE)) as worker:
        await execute(admin, "UPDATE poll SET database_id = gen_random_uuid()")
        await stream.cast_many(3)
        await until(lambda: "the database is another one" in caplog.text)
        await until(pending, check=lambda number: number == 3)
        assert not await worker.ready()
        known = (await stream.admin.hget(stream.queue.poll_key, "database")).decode()
        await execute(admin, f"UPDATE poll SET database_id = '{known}'")
        await until(counted(stream, engine, 3))
        await until(worker.ready)


async def test_entries_that_are_deleted_before_they_are_counted_are_reported(
    prepared, engine, caplog
):
    await prepared.cast_many(4)
    consumer = prepared.consumer("earlier")
    [entry] = await consumer.read(count=1, block=0.01)
    await consumer.acknowledge([entry.id])
    # The vote user may do this.
    await prepared.vote.queue.redis.xadd(
        prepared.queue.stream_key, {"no": "ballot"}, maxlen=1, approximate=False
    )
    assert await prepared.vanished_entries() == 3
    async with working(prepared, engine, timing=OFTEN):
        await until(lambda: "deleted before they were counted" in caplog.text)
        await until(partial(fetch_result, engine), check=lambda result: result.poll.queue_lost_at)
    assert any("queue was lost" in each for each in (await audit(prepared, engine)).problems)


# --- what must not be declared final


PROBLEMS = {
    "fsync": "Postgres: fsync is off",
    "unlogged": "Postgres: table votes is unlogged",
    "eviction": "Redis: maxmemory-policy is allkeys-lru",
    "appendonly": "Redis: appendonly is no",
    "missing": "Postgres lacks 1 of the last 3 counted ballots",
    "behind": "Postgres lacks 2 of the last 3 counted ballots",
}


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_totals_that_can_not_be_trusted_are_not_declared_final(
    stream, engine, admin, monkeypatch, caplog, problem
):
    timing = Timing(maintenance_interval=0.05, finalize_interval=0.05)
    await stream.append({"no": "ballot"})
    async with working(stream, engine, timing=timing):
        await stream.cast_many(3)
        await until(counted(stream, engine, 3))
        match problem:
            case "fsync":
                monkeypatch.setattr(durability, "NAMES", ["fsync"])
            case "unlogged":
                await execute(admin, "ALTER TABLE votes SET UNLOGGED")
            case "eviction":
                await stream.admin.config_set("maxmemory-policy", "allkeys-lru")
            case "appendonly":
                await stream.admin.config_set("appendonly", "no")
            case "missing":
                await execute(
                    admin, "DELETE FROM votes WHERE voter = (SELECT voter FROM votes LIMIT 1)"
                )
            case "behind":
                await execute(
                    admin,
                    "UPDATE votes SET ms = 1 WHERE voter <> "
                    "(SELECT voter FROM votes ORDER BY voter LIMIT 1)",
                )
        try:
            await until(lambda: "can't be declared final" in caplog.text)
            await close_poll(engine)
            await until(
                partial(fetch_result, engine), check=lambda result: result.poll.last_version
            )
            runs = metrics.OF_ROLE["worker"].get_sample_value
            # Without an append-only file, nothing is synced either.
            await until(lambda: runs("voting_integrity_problems") >= 1)
            with pytest.raises(Untrusted):
                await finalize(engine, stream, (await fetch_result(engine)).poll)
        finally:
            await stream.admin.config_set("maxmemory-policy", "noeviction")
            await stream.admin.config_set("appendonly", "yes")
        assert PROBLEMS[problem] in caplog.text
        match problem:
            case "fsync":
                monkeypatch.setattr(durability, "NAMES", [])
            case "unlogged":
                await execute(admin, "ALTER TABLE votes SET LOGGED")
            case "missing" | "behind":
                assert (await replay(stream, engine)).votes
        await until(partial(is_final, engine))
        await until(lambda: "can be declared final again" in caplog.text)


async def test_totals_are_not_declared_final_while_redis_does_not_sync(stream, engine):
    await close_poll(engine)
    await reconcile(engine, stream)
    found = (await fetch_result(engine)).poll
    await stream.admin.config_set("appendfsync", "no")
    try:
        with pytest.raises(Untrusted, match="appendfsync"):
            await finalize(engine, stream, found)
    finally:
        await stream.admin.config_set("appendfsync", "always")
    assert await finalize(engine, stream, found)


@pytest.mark.parametrize("asked", [False, True])
async def test_final_totals_are_logged_by_name_unless_another_question_is_asked_meanwhile(
    prepared, engine, monkeypatch, caplog, asked, operator
):
    async def finalize_and_ask(engine, state, poll):
        done = await finalize(engine, state, poll)
        if done and asked:
            await start_round(operator, poll.round, question_of(3))
        return done

    monkeypatch.setattr(maintenance, "finalize", finalize_and_ask)
    caplog.set_level("INFO")
    await prepared.cast(Ballot(uuid4(), Choice.B))
    await close_poll(engine)
    timing = Timing(maintenance_interval=0.05, finalize_interval=0.05)
    async with working(prepared, engine, timing=timing) as worker:
        await until(partial(fetch_final_results, engine))
        await until(worker.ready)
    votes = [line.votes for line in caplog.records if line.msg == "totals are final"]
    assert votes == ([] if asked else ["Cats 0, Dogs 1"])
