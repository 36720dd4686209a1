"""Servers that are not what the app needs, and connections that will not get better."""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest
from redis.exceptions import ReadOnlyError, RedisError
from sqlalchemy.exc import DBAPIError
from support.database import execute, fetch
from support.environ import ENVIRON
from support.proxy import Proxy

from voting.database.engine import SESSION, create_engine, is_uncertain
from voting.database.poll import close_poll
from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.poll.lifecycle import Poll
from voting.queue.client import Queue, UnsuitableRedis, connect
from voting.queue.consumer import Consumer
from voting.queue.producer import Caster, NotRecorded
from voting.queue.state import QueueState
from voting.roles import result
from voting.roles.result import ResultRole
from voting.roles.vote import VoteRole
from voting.settings import ResultSettings, SettingsError, VoteSettings, load_settings


def replacing(old: bytes, new: bytes):
    def change(data: bytes) -> bytes:
        return re.sub(old, new, data, flags=re.DOTALL)

    return change


@pytest.fixture
async def to_redis(servers):
    async with Proxy(servers.folders.run / "valkey.sock") as proxy:
        yield proxy


@pytest.fixture
async def to_postgres(servers):
    async with Proxy(servers.folders.run / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
async def behind(to_redis, prepared):
    """The queue through the proxy, with the rights of the vote role."""
    url = f"redis://vote:insecure@127.0.0.1:{to_redis.port}"
    queue = Queue(connect(url), name=prepared.queue.name)
    yield queue
    await queue.close()


def ballot():
    return Ballot(uuid4(), Choice.A)


# Servers that are not suitable

VERSION, MODE = rb"version\r\n\$\d+\r\n[^\r]+", rb"mode\r\n\$10\r\nstandalone"
HELLO = rb"\*\d+\r\n\$6\r\nserver.*"
# It tells no role.
SENTINEL = rb"*4\r\n$7\r\nversion\r\n$5\r\n9.1.2\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n"
REDIS = {
    "an old one": (VERSION, rb"version\r\n$5\r\n6.2.6", "the server is Redis 6.2.6, 7.2 or newer"),
    "a cluster": (MODE, rb"mode\r\n$7\r\ncluster", "runs as cluster, a single primary is needed"),
    "Sentinel": (HELLO, SENTINEL, "runs as sentinel, a single primary is needed"),
    "something else": (HELLO, rb"-ERR unknown command\r\n", "is no Redis"),
}


@pytest.mark.parametrize("case", REDIS)
async def test_a_redis_that_is_not_suitable_is_refused_in_words(behind, to_redis, case):
    found, other, words = REDIS[case]
    to_redis.back.change = replacing(found, other)
    for use in (QueueState(behind).clock, Consumer(behind, "me").read):
        with pytest.raises(UnsuitableRedis, match=f"REDIS_URL: .*{words}"):
            await (use() if use.__name__ == "clock" else use(count=1, block=0.01))
    with pytest.raises(NotRecorded):
        await Caster(behind).cast(ballot(), 1)
    environ = {"REDIS_URL": "redis://unused", "SECRET_KEYS": "k" * 32}
    role = VoteRole(Caster(behind), QueueState(behind), load_settings(VoteSettings, environ))
    with pytest.raises(SettingsError, match=words):
        await role.ready()


POOLER = (rb"(K\x00\x00\x00\x0c)....", b"\\1\x00\x00\x00\x01")
POSTGRES = {
    "an old one": (rb"server_version\x00\d\d", b"server_version\x0015", "18 or newer is needed"),
    "a fork": (rb"\Z", b"", "unrecognized configuration parameter"),
    "an encoding": (rb"(server_encoding\x00)UTF8", rb"\1BIG5", "has the encoding BIG5, UTF8 is"),
    "a pooler": (*POOLER, "a pooler such as PgBouncer"),
}


@pytest.mark.parametrize("case", POSTGRES)
async def test_a_postgres_that_is_not_suitable_is_refused_in_words(
    to_postgres, database, case, monkeypatch
):
    monkeypatch.setattr(result, "RESULT_TTL", 0)
    if case in {"an old one", "a fork"}:
        monkeypatch.setitem(SESSION, "a_setting_of_later_versions", "on")
    found, other, words = POSTGRES[case]
    to_postgres.back.change = replacing(found, other)
    url = f"postgresql://postgres@127.0.0.1:{to_postgres.port}/{database}"
    engine = create_engine(url, name="tests")
    with pytest.raises(SettingsError, match=f"DATABASE_URL: .*{words}"):
        await execute(engine, "SELECT 1")
    settings = load_settings(ResultSettings, {"DATABASE_URL": url})
    with pytest.raises(SettingsError, match=words):
        await ResultRole(engine, settings, exports=engine).ready()
    await engine.dispose()


async def test_a_pooler_that_refuses_settings_of_a_session_is_named():
    """As PgBouncer does, unless it is told to ignore them."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: jit\0\0"
        writer.write(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        engine = create_engine(f"postgresql://me@127.0.0.1:{port}/x?sslmode=disable", name="tests")
        with pytest.raises(SettingsError, match=r"pooler .*unsupported startup parameter"):
            await execute(engine, "SELECT 1")


@pytest.mark.parametrize(
    ("words", "old"),
    [
        (["migrate"], "DATABASE_URL"),
        (["wait"], "DATABASE_URL"),
        ("worker", "DATABASE_URL"),
        ("worker", "REDIS_URL"),
        ("vote", "REDIS_URL"),
        ("result", "DATABASE_URL"),
    ],
)
async def test_a_process_ends_with_what_was_found_and_what_is_needed(
    database, to_redis, to_postgres, words, old
):
    if old == "REDIS_URL":
        to_redis.back.change = replacing(*REDIS["an old one"][:2])
    else:
        to_postgres.back.change = replacing(*POSTGRES["an old one"][:2])
    environ = {
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{to_postgres.port}/{database}",
        "REDIS_URL": f"redis://127.0.0.1:{to_redis.port}",
        "SECRET_KEYS": "k" * 32,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "OPS_PORT": "0",
        "LOG_LEVEL": "error",
    }
    environ |= {"ROLE": words} if isinstance(words, str) else {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "voting", *(words if isinstance(words, list) else ())),
        env={**ENVIRON, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 2
    [*_, line] = said.decode().splitlines()
    assert re.fullmatch(rf"  {old}: the server is \w+ [\d.]+, [\d.]+ or newer is needed", line)


async def test_a_redis_that_refuses_the_password_is_named_in_the_log(to_redis, caplog):
    queue = Queue(connect(f"redis://vote:wrong@127.0.0.1:{to_redis.port}"))
    caster = Caster(queue)
    for _ in range(2):
        with pytest.raises(NotRecorded):
            await caster.cast(ballot(), 1)
    await queue.close()
    [error] = caplog.records
    assert error.getMessage().startswith("Redis refuses votes: ")
    assert "password" in error.getMessage()


# Connections that lead to a server that became a replica


@pytest.fixture
def folder():
    folder = Path(tempfile.mkdtemp(prefix="voting-tests-"))
    folder.chmod(0o711)
    (folder / "run").mkdir(mode=0o700)
    yield DataDir(folder, folder / "run")
    shutil.rmtree(folder)


@pytest.fixture
def other_redis(servers, folder):
    with servers.running(embedded.valkey(folder)):
        yield folder


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
async def test_after_a_failover_behind_a_balancer_votes_are_taken_by_the_new_primary(
    prepared, to_redis, other_redis, idle
):
    queue = Queue(connect(f"redis://127.0.0.1:{to_redis.port}"), name=prepared.queue.name)
    new = Queue(connect(other_redis.redis_url), name=prepared.queue.name)
    await QueueState(new).sync_poll(MIN_VERSION, Poll())
    caster = Caster(queue)
    assert await caster.ready()
    await asyncio.gather(*(caster.cast(ballot(), 1) for _ in range(3)), queue.redis.ping())
    if idle:
        caster._clocks.clear()
    try:
        await prepared.admin.replicaof("127.0.0.1", 1)
        assert not await caster.ready()  # it answers, and can't be written
        with pytest.raises(RedisError):
            await Consumer(queue, "me").read(count=1, block=0.01)
        to_redis.server = other_redis.run / "valkey.sock"
        await caster.cast(ballot(), 1)
        assert await caster.ready()
        assert await QueueState(new).length() == 1
        await queue.redis.set("written", "by the same client")
    finally:
        await prepared.admin.replicaof("NO", "ONE")
    await queue.close()
    await new.close()


async def test_a_closed_poll_is_ready_and_one_without_a_stream_is_not(prepared):
    caster = Caster(prepared.vote.queue)
    await prepared.sync_poll(MIN_VERSION, Poll(state="closed", revision=1))
    assert await caster.ready()
    await prepared.admin.delete(prepared.queue.stream_key)
    assert not await caster.ready()


async def test_a_command_that_finds_a_replica_closes_its_connection(prepared, servers):
    queue = Queue(connect(servers.redis_url()), name=prepared.queue.name)
    await queue.redis.ping()
    try:
        await prepared.admin.replicaof("127.0.0.1", 1)
        with pytest.raises(ReadOnlyError):
            await queue.redis.set("a", "b")
        with pytest.raises(RedisError, match="the server is a replica: nothing can be written"):
            await queue.redis.set("a", "b")
    finally:
        await prepared.admin.replicaof("NO", "ONE")
    await queue.redis.delete("a")
    await queue.close()


@pytest.fixture
def standby(servers, folder):
    """A standby that lost its primary; until it is promoted it can only be read."""
    programs = embedded.prepare_postgres(folder)
    signal = folder.data / "postgres" / "standby.signal"
    signal.touch()
    if (user := embedded.postgres_user()) is not None:
        os.chown(signal, user, user)
    with servers.running(embedded.postgres(folder, programs)):
        yield folder.database_url()


async def test_only_a_primary_is_written_and_a_standby_is_read(standby):
    writing = create_engine(standby, name="tests")
    reading = create_engine(standby, name="tests", writes=False)
    with pytest.raises(ConnectionError, match="Postgres is a standby: nothing can be written"):
        await execute(writing, "SELECT 1")
    await execute(reading, "SELECT 1")
    with pytest.raises(DBAPIError, match="read-only") as caught:
        await execute(reading, "CREATE TABLE made ()")
    assert caught.value.connection_invalidated
    assert not is_uncertain(caught.value)
    await fetch(standby, "SELECT pg_promote()")
    await execute(writing, "CREATE TABLE made ()")
    await execute(reading, "SELECT 1")
    for engine in (writing, reading):
        await engine.dispose()


async def test_sessions_that_became_read_only_are_replaced(engine, admin):
    read_only = "SELECT set_config('default_transaction_read_only', 'on', false), pg_sleep(0.1)"
    await asyncio.gather(*(execute(engine, read_only) for _ in range(2)))
    with pytest.raises(DBAPIError, match="read-only"):
        await close_poll(engine)
    await close_poll(engine)  # on either of the two
    await execute(admin, "UPDATE poll SET state = 'open'")
    await close_poll(engine)


async def test_a_connection_that_was_closed_while_idle_costs_no_reader_an_answer(
    to_postgres, database
):
    url = f"postgresql://voting_result@127.0.0.1:{to_postgres.port}/{database}"
    engine = create_engine(url, name="tests-idle", writes=False)
    for _ in range(2):
        await execute(engine, "SELECT 1")
        to_postgres.hang_up()
    await execute(engine, "SELECT 1")
    await engine.dispose()
