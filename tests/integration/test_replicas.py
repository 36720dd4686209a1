"""A real primary and its replica: what is promised by a write is on the replica's disk."""

import asyncio
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import psutil
import pytest
from redis.exceptions import ResponseError
from support.wait import until

from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.poll.lifecycle import Poll
from voting.queue import client
from voting.queue.client import Queue, connect
from voting.queue.consumer import Consumer
from voting.queue.producer import Caster, MaybeRecorded, NotRecorded
from voting.queue.sentinel import NotReplicated
from voting.queue.state import QueueState


class Pair:
    """A primary and its replica, each with a client that may do all."""

    def __init__(self, running):
        self.process, self.replica_process = (psutil.Process(child.pid) for child, _ in running)
        self.admin, self.replica_admin = (client.Redis.from_url(url) for _, url in running)
        self.url = ""

    async def connect(self):
        """Have the primary listen on a port that is free, and the replica follow it."""
        port = (await self.admin.config_get("port"))["port"]
        while port == "0":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                candidate = free.getsockname()[1]
            with suppress(ResponseError):  # taken meanwhile
                await self.admin.config_set("port", candidate)
                port = str(candidate)
        self.url = f"redis://127.0.0.1:{port}"
        await self.replica_admin.replicaof("127.0.0.1", port)
        await until(self._in_sync)

    async def _in_sync(self):
        return (await self.replica_admin.info("replication"))["master_link_status"] == "up"

    @contextmanager
    def frozen(self):
        self.replica_process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.replica_process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def running_pair(servers, tmp_path_factory):
    with ExitStack() as exits:
        running = []
        for name in ("one", "two"):
            run = servers.folders.run / name
            run.mkdir()
            folders = DataDir(tmp_path_factory.mktemp(name), run)
            child = exits.enter_context(servers.running(embedded.valkey(folders)))
            running.append((child, folders.redis_url))
        yield running


@pytest.fixture
async def pair(running_pair, monkeypatch):
    monkeypatch.setattr(client, "REPLICAS_TIMEOUT", 0.5)
    pair = Pair(running_pair)
    await pair.connect()
    yield pair
    await pair.admin.config_set("appendonly", "yes")
    await pair.admin.config_set("min-replicas-to-write", 0)
    await pair.admin.aclose()
    await pair.replica_admin.aclose()


@pytest.fixture
async def state(pair):
    queue = Queue(connect(pair.url), name=f"test-{uuid4().hex}", replicas=1)
    state = QueueState(queue)
    await state.sync_poll(MIN_VERSION, Poll())
    yield state
    await queue.close()


def ballot():
    return Ballot(uuid4(), Choice.A)


async def test_a_recorded_ballot_is_on_the_replica(pair, state):
    caster = Caster(state.queue)
    versions = await asyncio.gather(*(caster.cast(ballot(), 1) for _ in range(50)))
    found = await pair.replica_admin.xrange(state.queue.stream_key)
    assert [id_ for id_, _ in found] == [str(each).encode() for each in versions]
    assert await state.replicas() == 1


async def test_without_the_replica_it_is_not_known_whether_a_ballot_counts(pair, state):
    caster = Caster(state.queue, timeout=0.3)
    with pair.frozen(), pytest.raises(MaybeRecorded):
        await caster.cast(ballot(), 1)
    await caster.cast(ballot(), 1)
    assert await state.length() == 2


async def test_a_primary_that_is_alone_refuses_ballots(pair, state, caplog):
    await pair.admin.config_set("min-replicas-to-write", 1)
    await pair.admin.config_set("min-replicas-max-lag", 1)
    caster = Caster(state.queue)

    async def good_replicas():
        return (await pair.admin.info("replication"))["min_slaves_good_slaves"]

    with pair.frozen():
        await until(good_replicas, check=lambda found: found == 0)
        with pytest.raises(NotRecorded):
            await caster.cast(ballot(), 1)
        assert "Redis refuses votes: NOREPLICAS" in caplog.text
        assert await caster.ready() is False
        await until(state.replicas, check=lambda found: found == 0)
    await until(good_replicas)
    await caster.cast(ballot(), 1)


async def test_a_close_is_not_told_before_the_replica_has_it(pair, state):
    closed = Poll(state="closed", revision=1)
    with pair.frozen(), pytest.raises(NotReplicated, match="no replica"):
        await state.sync_poll(MIN_VERSION, closed)
    synced = await state.sync_poll(MIN_VERSION, closed)
    assert synced.closed_at < datetime.now(UTC)
    assert await pair.replica_admin.hget(state.queue.poll_key, "state") == b"closed"


async def test_a_worker_gets_no_entry_that_no_replica_has(pair, state):
    await Caster(state.queue).cast(ballot(), 1)
    consumer = Consumer(state.queue, "me")
    with pair.frozen():
        with pytest.raises(NotReplicated):
            await consumer.read(count=10, block=0.01)
        with pytest.raises(NotReplicated):
            await consumer.claim_idle(min_idle=0, count=10)
    [entry] = await consumer.claim_idle(min_idle=0, count=10)
    assert entry.ballot()
    assert await consumer.read(count=10, block=0.01) == []


async def test_a_read_that_waited_gets_no_entry_that_no_replica_has(pair, state):
    reading = asyncio.create_task(Consumer(state.queue, "me").read(count=10, block=5))

    async def blocked():
        return (await pair.admin.info("clients"))["blocked_clients"]

    await until(blocked)
    fields = dict(zip(("voter", "choice"), ballot().encode(), strict=True))
    with pair.frozen():
        await pair.admin.xadd(state.queue.stream_key, fields)
        with pytest.raises(NotReplicated):
            await reading


async def test_a_dead_letter_is_on_the_replica_before_its_entry_is_acknowledged(pair, state):
    await pair.admin.xadd(state.queue.stream_key, {"no": "ballot"})
    consumer = Consumer(state.queue, "me")
    [entry] = await consumer.read(count=1, block=0.01)
    with pair.frozen(), pytest.raises(NotReplicated):
        await consumer.dead_letter(entry, "no ballot")
    assert await state.dead_letter_count() == 1


@pytest.mark.parametrize("reason", ["appendonly is disabled", "no permissions"])
async def test_a_server_that_cannot_wait_has_the_ballot_nevertheless(pair, state, reason, caplog):
    """So it is not called refused: the voter may vote again, but the first may count."""
    url = pair.url
    if reason == "no permissions":
        await pair.admin.execute_command(
            *("ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "-waitaof")
        )
        url = url.replace("//", "//mute:secret@")
    else:
        await pair.admin.config_set("appendonly", "no")
    queue = Queue(connect(url), name=state.queue.name, replicas=1)
    with pytest.raises(MaybeRecorded):
        await Caster(queue, timeout=0.3).cast(ballot(), 1)
    assert reason in caplog.text
    assert await state.length() == 1
    await queue.close()
