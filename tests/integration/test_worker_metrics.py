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
from voting.queue.client import Queue, connect
from voting.queue.fsync_probe import CHECKS, FsyncProbe
from voting.queue.producer import Caster
from voting.queue.state import QueueState
from voting.roles import worker_metrics
from voting.roles.worker_metrics import QueueMonitor
from voting.telemetry import metrics

GAUGES = (*worker_metrics._QUEUE_GAUGES, *worker_metrics._SERVER_GAUGES)


@pytest.fixture(autouse=True)
def unknown():
    for gauge in GAUGES:
        gauge.set(float("nan"))


def gauge_value(name):
    return metrics.OF_ROLE["worker"].get_sample_value(f"voting_{name}")


async def cast(caster, number):
    return await asyncio.gather(*(caster.cast(Ballot(uuid4(), Choice.A)) for _ in range(number)))


async def test_the_backlog_includes_pending_entries(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 5)
    entries = await stream.consumer("worker").read(count=2, block=1)
    monitor = QueueMonitor(stream.queue)
    await monitor.collect()
    assert (gauge_value("backlog_ballots"), gauge_value("pending_ballots")) == (5, 2)
    assert gauge_value("stream_entries") == 5
    await stream.consumer("me").acknowledge([each.id for each in entries])
    await monitor.collect()
    assert (gauge_value("backlog_ballots"), gauge_value("pending_ballots")) == (3, 0)
    assert gauge_value("stream_entries") == 5


async def test_the_backlog_age_is_that_of_the_oldest_uncounted_ballot(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    monitor = QueueMonitor(stream.queue)
    await monitor.collect()
    assert gauge_value("backlog_age_seconds") == 0
    # By Redis' clock: as if two ballots had been cast an hour and a minute ago.
    now = int(await stream.clock() * 1000)
    fields = dict(zip(("voter", "choice"), Ballot(uuid4(), Choice.A).encode(), strict=True))
    for ago in (3600, 60):
        await stream.admin.xadd(stream.queue.stream_key, fields, id=f"{now - ago * 1000}-0")
    await monitor.collect()
    assert 3600 <= gauge_value("backlog_age_seconds") < 3660
    # A pending ballot is not counted yet.
    entries = await stream.consumer("worker").read(count=1, block=1)
    await monitor.collect()
    assert 3600 <= gauge_value("backlog_age_seconds") < 3660
    await stream.consumer("me").acknowledge([each.id for each in entries])
    await monitor.collect()
    assert 60 <= gauge_value("backlog_age_seconds") < 120


async def test_the_dead_letters_are_counted(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    for entry in await stream.consumer("worker").read(count=2, block=1):
        await stream.consumer("me").dead_letter(entry, "for the test")
    await QueueMonitor(stream.queue).collect()
    assert gauge_value("dead_letter_entries") == 2
    assert gauge_value("backlog_ballots") == 1


async def test_the_memory_ratio_is_nan_without_a_limit(stream):
    monitor = QueueMonitor(stream.queue)
    await monitor.collect()
    assert 0 < gauge_value("redis_memory_used_ratio") < 1
    await stream.admin.config_set("maxmemory", 0)
    try:
        await monitor.collect()
        assert isnan(gauge_value("redis_memory_used_ratio"))
    finally:
        await stream.admin.config_set("maxmemory", "1gb")


async def test_without_a_stream_the_gauges_of_the_server_are_set(stream):
    await QueueMonitor(stream.queue).collect()
    for name in ("backlog_ballots", "pending_ballots", "backlog_age_seconds"):
        assert isnan(gauge_value(name))
    assert gauge_value("redis_fsync_always") == 1
    assert gauge_value("stream_entries") == 0


async def test_gauges_are_nan_not_stale_if_redis_is_unreachable(stream, tmp_path):
    await stream.sync_poll(MIN_VERSION, "open")
    await cast(stream, 3)
    await QueueMonitor(stream.queue).collect()
    assert gauge_value("backlog_ballots") == 3
    unreachable = Queue(connect(f"unix://{tmp_path}/missing.sock"))
    await QueueMonitor(unreachable).collect()
    await unreachable.close()
    for gauge in GAUGES:
        assert isnan(gauge._value.get())


async def test_an_unexpected_error_is_logged_once_and_does_not_end_the_monitor(
    stream, monkeypatch, caplog
):
    monitor = QueueMonitor(stream.queue, interval=0)
    calls = 0

    async def fail():
        nonlocal calls
        calls += 1
        if calls == 3:
            monitor.stop()
        raise ZeroDivisionError

    monkeypatch.setattr(monitor._state, "progress", fail)
    async with asyncio.timeout(30):
        await monitor.run()
    assert calls == 3
    assert caplog.text.count("unexpected error") == 1


async def test_the_monitor_creates_neither_the_stream_nor_the_poll(stream):
    await QueueMonitor(stream.queue).collect()
    # Only a worker that has read the poll from Postgres may create them.
    assert not await stream.ready()
    assert (await stream.sync_poll(MIN_VERSION, "open")).created
    before = await stream.admin.hgetall(stream.queue.poll_key)
    await QueueMonitor(stream.queue).collect()
    assert await stream.admin.hgetall(stream.queue.poll_key) == before


@pytest.fixture
def another_url(servers, tmp_path, request):
    """The URL of a Valkey of the test's own, with the settings of the test's parameter."""
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
        yield Queue(redis)


@pytest.mark.parametrize(
    ("another_url", "fsynced"),
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
async def test_the_probe_finds_whether_redis_fsyncs_before_it_replies(another, fsynced):
    probe = FsyncProbe(another)
    assert [await probe.check() for _ in range(20)] == [fsynced] * 20


async def test_the_probe_succeeds_while_redis_rewrites_its_log(another):
    probe = FsyncProbe(another)
    await another.redis.set("large", b"x" * 50_000_000)
    await another.redis.bgrewriteaof()
    while (await another.redis.info("persistence"))["aof_rewrite_in_progress"]:
        assert await probe.check() is True


@pytest.mark.parametrize("another_url", [{"appendfsync": "everysec"}], indirect=True)
async def test_the_probe_finds_a_server_that_fsyncs_later_under_load(another):
    state, caster = QueueState(another), Caster(another)
    await state.sync_poll(MIN_VERSION, "open")
    done = asyncio.Event()

    async def load():
        while not done.is_set():
            await cast(caster, 1)
            await state.progress()

    loads = [asyncio.create_task(load()) for _ in range(10)]
    checks = [await FsyncProbe(another).check() for _ in range(CHECKS)]
    done.set()
    await asyncio.gather(*loads)
    assert not all(checks)


async def test_a_change_of_appendfsync_is_logged_once_each_way(another, caplog):
    monitor = QueueMonitor(another)
    for setting, collections, fsynced in (
        ("always", 2, 1),
        ("everysec", 2, 0),
        ("always", CHECKS - 1, 0),  # not certain yet
        ("always", 2, 1),
    ):
        await another.redis.config_set("appendfsync", setting)
        for _ in range(collections):
            await monitor.collect()
            assert gauge_value("redis_fsync_always") == fsynced
    lost, again = [record.getMessage() for record in caplog.records]
    assert "`appendonly yes` and `appendfsync always`" in lost
    assert "again" in again


async def test_gauges_are_nan_while_redis_does_not_reply(another):
    await QueueState(another).sync_poll(MIN_VERSION, "open")
    server = (await another.redis.info("server"))["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        # Much longer than the monitor's timeout, shorter than that of its connection.
        async with asyncio.timeout(4):
            await QueueMonitor(another, timeout=0.05).collect()
    finally:
        os.kill(server, signal.SIGCONT)
    assert isnan(gauge_value("backlog_ballots"))
    assert isnan(gauge_value("redis_fsync_always"))
    await QueueMonitor(another).collect()
    assert gauge_value("backlog_ballots") == 0
    assert gauge_value("redis_fsync_always") == 1
