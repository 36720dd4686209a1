import asyncio
import contextlib
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from voting.database import counting
from voting.database.engine import create_engine
from voting.database.poll import close_poll
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version
from voting.poll.lifecycle import Phase
from voting.queue.producer import PollClosed
from voting.queue.stream import BallotStream, connect
from voting.roles import worker as worker_module
from voting.roles.worker import Worker
from voting.telemetry import metrics, tracing


async def until(condition):
    """Wait until the condition, a coroutine function, holds."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def short_reads(monkeypatch):
    monkeypatch.setattr(worker_module, "BLOCK", 0.1)


@contextlib.asynccontextmanager
async def working(stream, engine, **options):
    """Run a worker; at the end it is asked to stop, and has to."""
    worker = Worker(stream, engine, consumer=uuid4().hex, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(20):
            await running


def fail_to_count(monkeypatch, failures):
    """Make counting raise each of these first."""
    count, failing = counting.count, iter(failures)

    async def fail_first(*arguments):
        for failure in failing:
            raise failure
        await count(*arguments)

    monkeypatch.setattr(counting, "count", fail_first)


async def cast(stream, number, choice=Choice.A):
    return await asyncio.gather(*(stream.cast(Ballot(uuid4(), choice)) for _ in range(number)))


async def votes(engine):
    return (await fetch_result(engine)).totals.votes


def counted(stream, engine, number):
    async def check():
        return await votes(engine) == number and (await stream.progress()).backlog == 0

    return check


@pytest.fixture
async def pending(stream):
    async def count():
        return (await stream.admin.xpending(stream._stream, "workers"))["pending"]

    return count


async def test_ballots_become_votes(stream, engine):
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 30, Choice.A)
        await cast(stream, 12, Choice.B)
        await until(counted(stream, engine, 42))
    totals = (await fetch_result(engine)).totals
    assert (totals.a, totals.b) == (30, 12)


async def test_several_workers_count_each_ballot_once(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "BATCH", 7)
    async with working(stream, engine), working(stream, engine), working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 500)
        await until(counted(stream, engine, 500))


async def test_ballots_cast_before_any_worker_came_are_counted(stream, engine):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 5)
    async with working(stream, engine):
        await until(counted(stream, engine, 5))


async def test_a_batch_is_acknowledged_only_after_its_commit(stream, engine, pending, database_url):
    other = create_engine(database_url, name="tests")
    transactions = other.execution_options(isolation_level="READ COMMITTED")
    async with working(stream, engine) as worker:
        await until(worker.ready)
        async with transactions.begin() as blocking:
            await blocking.execute(text("LOCK TABLE tally"))
            await cast(stream, 3)

            async def waiting():
                query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                return (await blocking.execute(text(query))).scalar_one() > 0

            await until(waiting)
            assert await pending() == 3
            # The next batch is read while the last one commits.
            await cast(stream, 2)

            async def five_pending():
                return await pending() == 5

            await until(five_pending)
        await until(counted(stream, engine, 5))
        assert await pending() == 0
    await other.dispose()


async def test_a_stopped_worker_has_finished_the_batch_in_hand(stream, engine, pending):
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 50)

        async def something_counted():
            return await votes(engine) > 0

        await until(something_counted)
    assert await pending() == 0
    assert await votes(engine) == 50


async def test_a_dead_workers_entries_are_taken_over(stream, engine, caplog):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    assert len(await stream.read("dead", count=10, block=1)) == 3
    async with working(stream, engine, idle=0):
        await until(counted(stream, engine, 3))
    said = [each for each in caplog.records if "took over" in each.getMessage()]
    assert said[0].entries == 3


async def test_entries_that_can_not_be_decoded_go_to_the_dead_letters(stream, engine):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 2)
    bad = await stream.admin.xadd(stream._stream, {"voter": b"short", "choice": b"a"})
    await cast(stream, 2)
    async with working(stream, engine):
        await until(counted(stream, engine, 4))
    [(_, letter)] = await stream.admin.xrange(stream._dead)
    assert letter[b"id"] == bad
    assert letter[b"voter"] == b"short"
    assert letter[b"reason"].startswith(b"no ballot")


async def test_an_entry_that_postgres_refuses_is_found_and_the_rest_is_counted(stream, engine):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 5)
    last = (await cast(stream, 1))[0]
    fields = {"voter": uuid4().bytes, "choice": b"b"}
    # A number that is fine for Redis and too large for a bigint.
    bad = await stream.admin.xadd(stream._stream, fields, id=f"{last.ms + 1}-{2**63}")
    await stream.admin.xadd(stream._stream, fields, id=f"{last.ms + 2}-0")
    async with working(stream, engine):
        await until(counted(stream, engine, 7))
    [(_, letter)] = await stream.admin.xrange(stream._dead)
    assert letter[b"id"] == bad
    assert letter[b"reason"].startswith(b"refused by Postgres")


async def test_a_lost_stream_is_made_anew_above_what_is_counted(stream, engine, caplog):
    async with working(stream, engine) as worker:
        await until(worker.ready)
        [version] = await cast(stream, 1)
        await until(counted(stream, engine, 1))
        await stream.admin.delete(stream._stream, stream._poll)
        await until(stream.ready)
        [after] = await cast(stream, 1)
        assert after > version
        await until(counted(stream, engine, 2))
    assert "made anew" in caplog.text


async def test_a_new_stream_of_a_new_poll_is_no_alarm(stream, engine, caplog):
    async with working(stream, engine) as worker:
        await until(worker.ready)
    assert "made anew" not in caplog.text


async def test_a_poll_closed_in_postgres_is_closed_in_redis(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "HOUSEKEEPING", 0.05)
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 1)
        async with engine.connect() as connection:
            await connection.execute(text("UPDATE poll SET state = 'closed'"))

        async def refused():
            try:
                await cast(stream, 1)
            except PollClosed:
                return True
            return False

        await until(refused)


async def test_counted_entries_are_kept_for_a_while(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "HOUSEKEEPING", 0.05)
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 5)
        await until(counted(stream, engine, 5))
        assert await stream.length() == 5
        monkeypatch.setattr(worker_module, "KEEP_ENTRIES", 2)

        async def trimmed():
            return await stream.length() <= 2

        await until(trimmed)
        assert await stream.length() > 0  # the older ones go first


async def test_when_memory_is_full_what_is_in_is_counted_and_makes_room(
    stream, engine, monkeypatch
):
    monkeypatch.setattr(worker_module, "HOUSEKEEPING", 0.05)
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 5)
    await stream.admin.xadd(stream._stream, {"no": "ballot"})
    await stream.admin.config_set("maxmemory", 1)
    try:
        async with working(stream, engine):
            await until(counted(stream, engine, 5))

            async def made_room():
                return await stream.length() <= 1

            await until(made_room)
        assert await stream.admin.xlen(stream._dead) == 1
    finally:
        await stream.admin.config_set("maxmemory", "1gb")


async def test_consumers_that_are_gone_are_forgotten(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "CONSUMER_EXPIRY", 0)
    await stream.sync_poll(MIN_VERSION, "open")
    await stream.read("an earlier pod", count=1, block=0.01)
    async with working(stream, engine):

        async def gone():
            consumers = await stream.admin.xinfo_consumers(stream._stream, "workers")
            return b"an earlier pod" not in [each["name"] for each in consumers]

        await until(gone)


async def test_a_worker_waits_for_postgres_and_says_so_once(stream, engine, caplog, monkeypatch):
    monkeypatch.setattr(worker_module, "PAUSES", (0.01,))
    fail_to_count(monkeypatch, [OSError("gone")] * 5)
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 3)
        await until(counted(stream, engine, 3))
        assert await worker.ready()
    away, back = [each for each in caplog.records if "Postgres" in each.getMessage()]
    assert away.getMessage() == "Postgres is away, waiting for it"
    assert away.reason == "OSError('gone')"
    assert back.getMessage() == "Postgres is back"


async def test_a_conflict_of_transactions_is_tried_again_and_no_outage(
    stream, engine, caplog, monkeypatch
):
    fail_to_count(monkeypatch, [_Deadlock()])
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 3)
        await until(counted(stream, engine, 3))
    assert "away" not in caplog.text


class _Deadlock(OSError):
    sqlstate = "40P01"


async def test_a_terminated_connection_is_made_again(stream, engine, database_url):
    other = create_engine(database_url, name="other")
    terminate = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with working(stream, engine) as worker:
        await until(worker.ready)
        for number in range(1, 4):
            async with other.connect() as connection:
                assert (await connection.execute(terminate)).scalar_one() > 0
            await cast(stream, 10)
            await until(counted(stream, other, 10 * number))
    await other.dispose()


async def test_without_redis_a_worker_waits_is_not_ready_and_can_be_stopped(
    engine, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(worker_module, "PAUSES", (0.01,))
    stream = BallotStream(connect(f"unix://{tmp_path}/nobody.sock"))
    async with working(stream, engine) as worker:

        async def said():
            return "Redis is away" in caplog.text

        await until(said)
        assert not await worker.ready()
    assert caplog.text.count("Redis is away") == 1
    await stream.close()


async def test_a_server_is_back_when_nobody_waits_for_it_any_more(stream, engine, caplog):
    worker = Worker(stream, engine, consumer="me")
    reading, counting = set(), set()
    worker._miss("Redis", reading, OSError())
    worker._miss("Redis", counting, OSError())
    worker._miss("Redis", counting, OSError())
    worker._found(reading)
    assert [record.message for record in caplog.records] == ["Redis is away, waiting for it"]
    worker._found(counting)
    assert caplog.records[-1].message == "Redis is back"


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter


async def test_a_worker_stopped_without_postgres_leaves_its_batch_pending(
    stream, engine, pending, monkeypatch, caplog, spans
):
    async def count(*_):
        raise OSError("gone")

    monkeypatch.setattr(counting, "count", count)
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 2)
        followed = await stream.cast(Ballot(uuid4(), Choice.B, f"00-{'a' * 32}-{'b' * 16}-01"))

        async def none_left():
            return await pending() == 3 and not await worker.ready()

        await until(none_left)
    assert await pending() == 3
    assert "stays pending" in caplog.text
    finished = spans.get_finished_spans()
    # The text of a database error may hold a voter and a choice: spans have no text of errors.
    assert not any(each.events or each.status.description for each in finished)
    [span] = [each for each in finished if each.name == "count ballot"]
    assert span.attributes["messaging.message.id"] == str(followed)
    assert (span.status.is_ok, span.attributes["error.type"]) == (False, "stopped")


async def test_the_log_at_debug_names_a_followed_ballot_when_it_is_counted(stream, engine, caplog):
    caplog.set_level("DEBUG", "voting.telemetry.tracing")
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 2)
    trace = f"00-{'a' * 32}-{'b' * 16}-00"
    followed = await stream.cast(Ballot(uuid4(), Choice.B, trace))
    fields = {"voter": b"short", "choice": b"a", "trace": trace}
    await stream.admin.xadd(stream._stream, fields)
    async with working(stream, engine):
        await until(counted(stream, engine, 3))
    [line] = [each for each in caplog.records if each.name == "voting.telemetry.tracing"]
    assert (line.message, line.request) == ("ballot counted", "a" * 32)
    assert line.ballot == str(followed)


async def test_a_mistake_in_the_code_ends_the_worker(stream, engine, monkeypatch):
    async def count(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(counting, "count", count)
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 1)
    with pytest.raises(ExceptionGroup) as caught:
        await Worker(stream, engine, consumer="me").run()
    assert caught.group_contains(ZeroDivisionError)


async def test_versions_are_redis_time(stream):
    await stream.sync_poll(Version(1, 1), "open")
    [version] = await cast(stream, 1)
    assert abs(version.ms / 1000 - await stream.clock()) < 60


async def phase(engine):
    return (await fetch_result(engine)).poll.phase


async def test_totals_are_final_once_all_that_was_accepted_is_counted(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "HOUSEKEEPING", 0.05)
    monkeypatch.setattr(worker_module, "COUNTING", 0.05)
    await stream.sync_poll(MIN_VERSION, "open")
    for choice in (Choice.A, Choice.B, Choice.B):
        await stream.cast(Ballot(uuid4(), choice))
    [held] = await stream.read("slow", count=1, block=0.01)  # by a worker that is still at it
    await close_poll(engine)
    async with working(stream, engine):

        async def counted():
            return await votes(engine) == 2

        async def looked():
            # Two more rounds of housekeeping have seen that all but one are counted.
            return len(looks) > 1

        await until(counted)
        looks, progress = [], stream.progress

        async def look():
            looks.append(await progress())
            return looks[-1]

        monkeypatch.setattr(stream, "progress", look)
        await until(looked)
        assert await phase(engine) is Phase.COUNTING

        await counting.count(engine, [held.ballot()])
        await stream.done([held.id])

        async def final():
            return await phase(engine) is Phase.FINAL

        await until(final)
    [declared] = await fetch_final_results(engine)
    assert (declared.a, declared.b) == (1, 2)


async def test_a_worker_closes_a_poll_when_its_time_has_come(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "HOUSEKEEPING", 3600)
    monkeypatch.setattr(worker_module, "COUNTING", 0.05)
    await close_poll(engine, at=datetime.fromtimestamp(await stream.clock() + 0.5, UTC))
    async with working(stream, engine):

        async def final():
            return await phase(engine) is Phase.FINAL

        await until(final)
    assert (await stream.cast_rules()).open is False


MEASURED = (
    "ballots_counted_total",
    "ballots_redelivered_total",
    "dead_letters_total",
    "batch_ballots_sum",
    "batch_ballots_count",
    "count_duration_seconds_count",
    "accept_to_count_seconds_count",
)


def measured():
    registry = metrics.OF_ROLE["worker"]
    return {name: registry.get_sample_value(f"voting_{name}") for name in MEASURED}


def grown(before):
    return {name: value - before[name] for name, value in measured().items()}


async def test_what_a_worker_does_is_measured(stream, engine):
    before = measured()
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    await stream.admin.xadd(stream._stream, {"no": "ballot"})
    async with working(stream, engine):
        await until(counted(stream, engine, 3))
    assert grown(before) == {
        "ballots_counted_total": 3,
        "ballots_redelivered_total": 0,
        "dead_letters_total": 1,
        "batch_ballots_sum": 3,
        "batch_ballots_count": 1,
        "count_duration_seconds_count": 1,
        "accept_to_count_seconds_count": 1,
    }


async def test_entries_that_are_taken_over_are_measured_and_so_is_each_time_they_are_counted(
    stream, engine
):
    before = measured()
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    assert len(await stream.read("dead", count=10, block=1)) == 3
    # With no idle time a worker takes over what it has in hand itself, too.
    async with working(stream, engine, idle=0):
        await until(counted(stream, engine, 3))
    grew = grown(before)
    assert grew["ballots_redelivered_total"] >= 3
    assert grew["ballots_redelivered_total"] == grew["ballots_counted_total"]
    assert grew["ballots_counted_total"] == grew["batch_ballots_sum"]


async def test_a_count_that_failed_is_not_measured(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "PAUSES", (0.01,))
    fail_to_count(monkeypatch, [OSError("gone")] * 3)
    before = measured()
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await cast(stream, 1)
        await until(counted(stream, engine, 1))
    assert grown(before)["count_duration_seconds_count"] == 1
    assert grown(before)["ballots_counted_total"] == 1


async def test_the_time_from_accept_to_count_is_that_of_the_oldest_of_a_batch(stream, engine):
    name = "voting_accept_to_count_seconds_sum"
    before = metrics.OF_ROLE["worker"].get_sample_value(name)
    await stream.sync_poll(MIN_VERSION, "open")
    now = int(await stream.clock() * 1000)
    for ago in (3600, 60, 1):
        fields = dict(zip(("voter", "choice"), Ballot(uuid4(), Choice.A).encode(), strict=True))
        await stream.admin.xadd(stream._stream, fields, id=f"{now - ago * 1000}-0")
    async with working(stream, engine):
        await until(counted(stream, engine, 3))
    assert 3600 <= metrics.OF_ROLE["worker"].get_sample_value(name) - before < 3660


async def test_a_ballot_counts_where_its_age_is_not_known(stream, engine, monkeypatch):
    assert stream.age(MIN_VERSION) is None  # nobody has asked for the time
    monkeypatch.setattr(stream, "age", lambda _: None)
    async with working(stream, engine) as worker:
        await until(worker.ready)
        await stream.cast(Ballot(uuid4(), Choice.A))

        async def counted():
            return await votes(engine) == 1

        await until(counted)
