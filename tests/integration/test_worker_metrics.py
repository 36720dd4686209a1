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
from voting.poll.lifecycle import Poll
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


def values(*names):
    return tuple(map(gauge_value, names))


async def test_the_gauges_of_the_queue_include_pending_entries_and_dead_letters(prepared):
    names = ("backlog_ballots", "pending_ballots", "dead_letter_entries", "stream_entries")
    await prepared.cast_many(5)
    me = prepared.consumer("me")
    one, two = await me.read(count=2, block=1)
    monitor = QueueMonitor(prepared.queue)
    await monitor.collect()
    assert values(*names) == (5, 2, 0, 5)
    await me.acknowledge([one.id])
    await me.dead_letter(two, "for the test")
    await monitor.collect()
    assert values(*names) == (3, 0, 1, 5)


async def test_the_backlog_age_is_that_of_the_oldest_uncounted_ballot(prepared):
    monitor = QueueMonitor(prepared.queue)
    await monitor.collect()
    assert gauge_value("backlog_age_seconds") == 0
    for ago in (3600, 60):
        await prepared.append_ballot(ago=ago)
    await monitor.collect()
    assert 3600 <= gauge_value("backlog_age_seconds") < 3660
    # A pending ballot is not counted yet.
    [entry] = await prepared.consumer("me").read(count=1, block=1)
    await monitor.collect()
    assert 3600 <= gauge_value("backlog_age_seconds") < 3660
    await prepared.consumer("me").acknowledge([entry.id])
    await monitor.collect()
    assert 60 <= gauge_value("backlog_age_seconds") < 120


async def test_a_backlog_of_none_has_no_age_whatever_is_cast_meanwhile(prepared):
    progress = await prepared.progress()
    await prepared.append_ballot(ago=60)
    assert await prepared.backlog_age(progress) == 0


async def test_the_memory_ratio_is_of_the_machine_without_a_limit(stream):
    monitor = QueueMonitor(stream.queue)
    await monitor.collect()
    assert 0 < gauge_value("redis_memory_used_ratio") < 1
    async with stream.memory_limit("0"):
        await monitor.collect()
        assert 0 < gauge_value("redis_memory_used_ratio") < 1


async def test_without_a_stream_the_gauges_of_the_server_are_set(stream):
    await QueueMonitor(stream.queue).collect()
    unknown = values("backlog_ballots", "pending_ballots", "backlog_age_seconds")
    assert all(map(isnan, unknown))
    assert values("redis_fsync_always", "stream_entries") == (1, 0)


async def test_gauges_are_nan_not_stale_if_redis_is_unreachable(prepared, tmp_path):
    await prepared.cast_many(3)
    await QueueMonitor(prepared.queue).collect()
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
    assert (await stream.sync_poll(MIN_VERSION, Poll())).created
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
    await state.sync_poll(MIN_VERSION, Poll())
    done = asyncio.Event()

    async def load():
        while not done.is_set():
            await caster.cast(Ballot(uuid4(), Choice.A), 1)
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
    await QueueState(another).sync_poll(MIN_VERSION, Poll())
    server = (await another.redis.info("server"))["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        # Much longer than the monitor's timeout, shorter than that of its connection.
        async with asyncio.timeout(4):
            await QueueMonitor(another, timeout=0.05).collect()
    finally:
        os.kill(server, signal.SIGCONT)
    names = ("backlog_ballots", "redis_fsync_always")
    assert all(map(isnan, values(*names)))
    await QueueMonitor(another).collect()
    assert values(*names) == (0, 1)
