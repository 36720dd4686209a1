import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import text
from support import workers
from support.database import execute, waits_for_lock
from support.wait import until

from voting.database import counting
from voting.database.engine import create_engine, transaction
from voting.database.poll import close_poll
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version
from voting.poll.lifecycle import Phase
from voting.queue.client import Queue, connect
from voting.queue.producer import PollClosed
from voting.queue.state import QueueState
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


def counted(stream, engine, number):
    async def check():
        return await votes(engine) == number and (await stream.progress()).backlog == 0

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
    assert (totals.a, totals.b) == (30, 12)
    assert "stream missing" not in caplog.text  # it is the first of this poll


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


async def test_entries_that_can_not_be_decoded_go_to_the_dead_letters(prepared, engine, grown):
    await prepared.cast_many(2)
    bad = await prepared.append({"voter": b"short", "choice": b"a"})
    await prepared.cast_many(2)
    async with working(prepared, engine):
        await until(counted(prepared, engine, 4))
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    assert Version.parse(letter[b"id"]) == bad
    assert letter[b"voter"] == b"short"
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
        monkeypatch.setattr(maintenance, "RETENTION_ENTRIES", 2)
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
    assert up.getMessage() == "Postgres is up again"


async def test_a_transaction_conflict_is_retried_without_a_warning(
    stream, engine, caplog, monkeypatch
):
    fail_to_count(monkeypatch, [_Deadlock()])
    async with working(stream, engine):
        await stream.cast_many(3)
        await until(counted(stream, engine, 3))
    assert "is down" not in caplog.text


class _Deadlock(OSError):
    sqlstate = "40P01"


async def test_a_terminated_connection_is_replaced(stream, engine, database_url):
    other = create_engine(database_url, name="other")
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with working(stream, engine):
        for number in range(1, 4):
            assert (await execute(other, terminate)).scalar_one() > 0
            await stream.cast_many(10)
            await until(counted(stream, other, 10 * number))
    await other.dispose()


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
    assert caplog.records[-1].message == "Redis is up again"


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
    assert (declared.a, declared.b) == (1, 2)


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
