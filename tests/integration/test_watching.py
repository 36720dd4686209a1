import asyncio
import os
import signal
from dataclasses import replace
from math import isnan
from uuid import uuid4

import pytest

from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.queue.fsync_probe import LOOKS
from voting.queue.stream import BallotStream, connect
from voting.roles import worker_metrics as watching
from voting.roles.worker_metrics import Watch
from voting.telemetry import metrics


@pytest.fixture(autouse=True)
def unknown():
    for gauge in (*watching._QUEUE, *watching._SERVER):
        gauge.set(float("nan"))


def seen(name):
    return metrics.OF_ROLE["worker"].get_sample_value(f"voting_{name}")


async def cast(stream, number):
    return await asyncio.gather(*(stream.cast(Ballot(uuid4(), Choice.A)) for _ in range(number)))


async def test_what_waits_is_seen_whether_a_worker_has_it_or_not(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 5)
    taken = await stream.read("a worker", count=2, block=1)
    watch = Watch(stream)
    await watch.look()
    assert (seen("backlog_ballots"), seen("pending_ballots")) == (5, 2)
    assert seen("stream_entries") == 5
    await stream.done([each.id for each in taken])
    await watch.look()
    assert (seen("backlog_ballots"), seen("pending_ballots")) == (3, 0)
    assert seen("stream_entries") == 5


async def test_the_age_is_that_of_the_oldest_ballot_that_waits(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    watch = Watch(stream)
    await watch.look()
    assert seen("backlog_age_seconds") == 0
    # By Redis' clock: as if two ballots had been cast an hour and a minute ago.
    now = int(await stream.clock() * 1000)
    fields = dict(zip(("voter", "choice"), Ballot(uuid4(), Choice.A).encode(), strict=True))
    for ago in (3600, 60):
        await stream.admin.xadd(stream._stream, fields, id=f"{now - ago * 1000}-0")
    await watch.look()
    assert 3600 <= seen("backlog_age_seconds") < 3660
    # In a worker's hands it waits as before.
    taken = await stream.read("a worker", count=1, block=1)
    await watch.look()
    assert 3600 <= seen("backlog_age_seconds") < 3660
    await stream.done([each.id for each in taken])
    await watch.look()
    assert 60 <= seen("backlog_age_seconds") < 120


async def test_dead_letters_are_seen_as_many_as_there_are(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    for entry in await stream.read("a worker", count=2, block=1):
        await stream.dead_letter(entry, "for the test")
    await Watch(stream).look()
    assert seen("dead_letter_entries") == 2
    assert seen("backlog_ballots") == 1


async def test_the_share_of_memory_is_seen_where_there_is_a_limit(stream):
    watch = Watch(stream)
    await watch.look()
    assert 0 < seen("redis_memory_used_ratio") < 1
    await stream.admin.config_set("maxmemory", 0)
    try:
        await watch.look()
        assert isnan(seen("redis_memory_used_ratio"))
    finally:
        await stream.admin.config_set("maxmemory", "1gb")


async def test_without_a_stream_nothing_is_said_of_it_and_the_server_is_seen(stream):
    await Watch(stream).look()
    for name in ("backlog_ballots", "pending_ballots", "backlog_age_seconds"):
        assert isnan(seen(name))
    assert seen("redis_fsync_always") == 1
    assert seen("stream_entries") == 0


async def test_numbers_of_a_redis_that_is_gone_are_unknown_not_old(stream, tmp_path):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    await Watch(stream).look()
    assert seen("backlog_ballots") == 3
    gone = BallotStream(connect(f"unix://{tmp_path}/nobody.sock"))
    await Watch(gone).look()
    await gone.close()
    for gauge in (*watching._QUEUE, *watching._SERVER):
        assert isnan(gauge._value.get())


async def test_a_mistake_while_looking_is_said_once_and_ends_nothing(stream, monkeypatch, caplog):
    monkeypatch.setattr(watching, "INTERVAL", 0)
    asked = 0

    async def fail():
        nonlocal asked
        asked += 1
        raise ZeroDivisionError

    monkeypatch.setattr(stream, "progress", fail)
    watch = Watch(stream)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch.run())
        while asked < 3:
            await asyncio.sleep(0.01)
        watch.stop()
    assert caplog.text.count("nobody expected") == 1


async def test_looking_leaves_what_a_cast_and_a_worker_see_as_it_was(stream):
    await Watch(stream).look()
    # Only a worker that has asked Postgres may make the stream and the poll.
    assert not await stream.ready()
    assert (await stream.sync_poll(MIN_VERSION, "open")).created
    before = await stream.admin.hgetall(stream._poll)
    await Watch(stream).look()
    assert await stream.admin.hgetall(stream._poll) == before


@pytest.fixture
def another_url(servers, tmp_path, request):
    """The address of a Valkey of the test's own, with settings that the test may give."""
    folders = DataDir(tmp_path, servers.folders.run / uuid4().hex[:8])
    folders.run.mkdir()
    program = embedded.valkey(folders)
    settings = getattr(request, "param", {})
    given = [part for key, value in settings.items() for part in (f"--{key}", value)]
    with servers.running(replace(program, command=[*program.command, *given])):
        yield folders.redis_url


@pytest.fixture
async def another(another_url):
    async with connect(another_url) as redis:
        yield BallotStream(redis)


@pytest.mark.parametrize(
    ("another_url", "durable"),
    [
        ({}, True),
        ({"appendfsync": "everysec"}, False),
        ({"appendfsync": "no"}, False),
        ({"appendonly": "no"}, False),
        ({"maxmemory": "1"}, None),
    ],
    ids=["always", "every second", "never", "no log", "full"],
    indirect=["another_url"],
)
async def test_whether_redis_syncs_before_it_answers_is_found_out(another, durable):
    assert [await another.is_durable() for _ in range(20)] == [durable] * 20


async def test_a_log_that_is_rewritten_is_durable_all_the_while(another):
    await another._redis.set("large", b"x" * 50_000_000)
    await another._redis.bgrewriteaof()
    while (await another._redis.info("persistence"))["aof_rewrite_in_progress"]:
        assert await another.is_durable() is True


@pytest.mark.parametrize("another_url", [{"appendfsync": "everysec"}], indirect=True)
async def test_under_load_too_a_server_that_syncs_later_is_found_out(another):
    await another.sync_poll(MIN_VERSION, "open")
    done = asyncio.Event()

    async def ask():
        while not done.is_set():
            await cast(another, 1)
            await another.progress()

    asking = [asyncio.create_task(ask()) for _ in range(10)]
    found = [await another.is_durable() for _ in range(LOOKS)]
    done.set()
    await asyncio.gather(*asking)
    assert not all(found)


async def test_a_redis_that_stops_to_sync_is_said_once_and_so_is_its_end(another, caplog):
    watch = Watch(another)
    for setting, looks, durable in (
        ("always", 2, 1),
        ("everysec", 2, 0),
        ("always", LOOKS - 1, 0),  # it may only seem so
        ("always", 2, 1),
    ):
        await another._redis.config_set("appendfsync", setting)
        for _ in range(looks):
            await watch.look()
            assert seen("redis_fsync_always") == durable
    lost, again = [record.getMessage() for record in caplog.records]
    assert "`appendonly yes` and `appendfsync always`" in lost
    assert "again" in again


async def test_a_redis_that_does_not_answer_makes_its_numbers_unknown(another, monkeypatch):
    monkeypatch.setattr(watching, "PATIENCE", 0.05)
    await another.sync_poll(MIN_VERSION, "open")
    watch = Watch(another)
    server = (await another._redis.info("server"))["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        # Much longer than it is patient, much shorter than its connection would wait.
        async with asyncio.timeout(4):
            await watch.look()
    finally:
        os.kill(server, signal.SIGCONT)
    assert isnan(seen("backlog_ballots"))
    assert isnan(seen("redis_fsync_always"))
    monkeypatch.undo()
    await watch.look()
    assert seen("backlog_ballots") == 0
    assert seen("redis_fsync_always") == 1
