"""The users of Postgres and Redis as `deploy/` creates them have the rights they need, no more."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import isnan
from uuid import uuid4

import asyncpg
import pytest
from redis.exceptions import NoPermissionError, ResponseError
from sqlalchemy.exc import DBAPIError
from support.database import all_counted, fetch, question_of
from support.servers import DEPLOY, USERS, redis_url
from support.wait import until
from support.workers import working

from voting.database import schema
from voting.database.engine import create_engine
from voting.database.export import open_snapshot
from voting.database.totals import fetch_final_results, fetch_result
from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.poll import formats
from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.poll.lifecycle import Phase, Poll
from voting.queue.client import GROUP, Queue, connect
from voting.queue.consumer import Consumer
from voting.queue.fsync_probe import FsyncProbe
from voting.queue.producer import Caster, NotRecorded, PollClosed
from voting.queue.state import QueueState
from voting.reconcile.audit import audit
from voting.reconcile.poll import finalize, reconcile
from voting.reconcile.question import follow_environment
from voting.reconcile.replay import replay
from voting.roles import maintenance
from voting.roles import worker as worker_module
from voting.roles.maintenance import Timing
from voting.roles.vote import VoteRole
from voting.roles.worker_metrics import QueueMonitor
from voting.settings import VoteSettings, load_settings
from voting.telemetry import metrics

TABLES = (
    *("votes", "tally", "poll", "finals", "final_totals", "rounds", "options", "questions"),
    "voting_version",
)

FUNCTIONS = (
    *("declare_final(bigint,bigint)", "replace_question(text,text[])"),
    *("close_on_time(timestamptz,integer)", "close_environment_round(integer)"),
    "reopen_environment_round(integer,timestamptz)",
    "start_environment_round(integer,integer,text,text[])",
    "start_round(integer,integer,text,text[],boolean)",
)


@pytest.fixture(scope="module")
def database(servers):
    """Return a function from a user to the URL of a database."""
    name = f"test_{uuid4().hex}"
    servers.make_database(name)
    yield partial(servers.database_url, name)
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def redis(servers, tmp_path_factory):
    """A Valkey with the configuration and the users of the deployment."""
    folder = tmp_path_factory.mktemp("redis")
    folders = DataDir(folder, servers.folders.run / uuid4().hex[:8])
    folders.run.mkdir()
    program = embedded.valkey(folders)
    # Valkey changes to its directory while it reads its configuration, so set it there.
    configuration = folder / "valkey.conf"
    given = (DEPLOY / "base/valkey.conf").read_text()
    configuration.write_text(given.replace("dir /data", f"dir {folder}/valkey"))
    here = ("--port", "0", "--unixsocket", f"{folders.run}/valkey.sock", "--aclfile", str(USERS))
    command = [program.command[0], str(configuration), *here]
    with servers.running(replace(program, command=command)):
        yield partial(redis_url, folders)


@pytest.fixture
async def streams(redis):
    """An empty stream as the vote role and as a worker open it."""
    async with connect(redis("vote")) as vote, connect(redis("worker")) as worker:
        yield QueueState(Queue(vote)), QueueState(Queue(worker))
        # The next test has another database.
        await worker.hset(
            "{voting}:poll", mapping={"database": "", "revision": 0, "round": 0, "rounds": 0}
        )


async def test_users_may_do_all_that_their_roles_do(streams, database, monkeypatch):
    monkeypatch.setattr(worker_module, "READ_BLOCK", 0.1)
    vote, state = streams
    engine = create_engine(database("voting_worker"), name="tests")
    timing = Timing(maintenance_interval=0.1)
    async with working(state.queue, engine, timing=timing) as worker:
        assert await Caster(vote.queue).ready()
        for choice in (Choice.A, Choice.A, Choice.B):
            await Caster(vote.queue).cast(Ballot(uuid4(), choice), 1)
        await vote.queue.redis.xadd(vote.queue.stream_key, {"no": "ballot"})
        await until(partial(all_counted, vote))
        assert not await vote.memory_is_low()
        found = await audit(state, engine)
        assert (found.votes, found.dead_letters) == ((2, 1), 1)
        assert (await replay(state, engine)).votes == 0

        # Maintenance too: counted entries are trimmed, idle consumers deleted.
        assert await Consumer(state.queue, "silent").read(count=1, block=0.001) == []
        monkeypatch.setattr(maintenance, "RETENTION_SECONDS", -60)
        monkeypatch.setattr(maintenance, "CONSUMER_EXPIRY", 0)
        await until(state.length, check=lambda length: length <= 1)
        consumers = partial(state.queue.redis.xinfo_consumers, state.queue.stream_key, GROUP)
        await until(consumers, check=lambda found: "silent" not in str(found))
        assert await worker.ready()

    assert await state.midpoint() > MIN_VERSION
    poll = (await fetch_result(engine)).poll
    await state.sync_poll(MIN_VERSION, replace(poll, state="closed"))
    with pytest.raises(PollClosed):
        await Caster(vote.queue).cast(Ballot(uuid4(), Choice.A), 1)
    await engine.dispose()

    reading = create_engine(database("voting_result"), name="tests")
    assert (await fetch_result(reading)).totals.votes == 3
    await reading.dispose()


async def exported(engine, pieces, number=None):
    async with open_snapshot(engine, "always", number) as snapshot:
        return b"".join([piece async for piece in pieces(snapshot)])


def timeline(snapshot):
    return snapshot.timeline(formats.TIMELINE["csv"](snapshot.result))


def choices(snapshot):
    return snapshot.votes(formats.VOTES["csv"](snapshot.result))


async def test_the_result_role_may_export_totals_and_a_worker_votes_too(database):
    owner = database("voting")
    await fetch(owner, "INSERT INTO rounds VALUES (0, 'Which?', false)")
    for table, values in (("options", "'{}', 'Option {}'"), ("tally", "now(), '{}', {}, 1")):
        for key, votes in (("a", 3), ("b", 2)):
            row = f"INSERT INTO {table} VALUES (0, {values.format(key, votes)})"
            await fetch(owner, row)
    await fetch(owner, "INSERT INTO finals VALUES (0, to_timestamp(1), now())")
    for row in ("'a', 3", "'b', 2"):
        await fetch(owner, f"INSERT INTO final_totals VALUES (0, to_timestamp(1), {row})")
    for user in ("voting_worker", "voting_result"):
        engine = create_engine(database(user), name="tests")
        assert (await exported(engine, timeline)).startswith(b"time,votes")
        assert (await exported(engine, timeline, 0)).endswith(b",5,3,2\r\n")
        assert (await fetch_result(engine, timeline=True)).poll.round == 1
        assert len(await fetch_final_results(engine)) == 1
        if user == "voting_worker":
            assert (await exported(engine, choices)).startswith(b"vote,option")
        else:
            with pytest.raises(DBAPIError, match="permission denied"):
                await exported(engine, choices)
        await engine.dispose()
    for table in ("final_totals", "finals", "tally", "options", "rounds"):
        await fetch(owner, f"DELETE FROM {table} WHERE round = 0")


async def test_a_worker_may_ask_the_question_of_the_environment(streams, database):
    """First in place, then in a round of its own."""
    _, state = streams
    engine = create_engine(database("voting_worker"), name="tests")
    for statement in ("UPDATE poll SET has_queue = false", "TRUNCATE votes, tally"):
        await fetch(database("voting"), statement)
    await state.queue.redis.xtrim(state.queue.stream_key, maxlen=0, approximate=False)
    for options in (3, 12, 2):
        await follow_environment(engine, state, question_of(options))
        assert (await fetch_result(engine)).poll.question == question_of(options)
        await reconcile(engine, state)
    assert (await fetch_result(engine)).poll.round == 3
    await engine.dispose()


async def test_a_worker_may_close_a_poll_whose_time_has_come(streams, database):
    _, state = streams
    engine = create_engine(database("voting_worker"), name="tests")
    for statement in (
        "UPDATE poll SET closes_at = now(), revision = revision + 1",
        "TRUNCATE votes, tally",
    ):
        await fetch(database("voting"), statement)
    await state.queue.redis.xtrim(state.queue.stream_key, maxlen=0, approximate=False)
    try:
        found, _ = await reconcile(engine, state)
        assert found.phase is Phase.COUNTING
        await until(partial(finalize, engine, state, found))
        assert (await fetch_result(engine)).poll.phase is Phase.FINAL
    finally:
        await engine.dispose()
        for statement in (REOPEN, "TRUNCATE finals, final_totals"):
            await fetch(database("voting"), statement)


REOPEN = """
UPDATE poll SET state = 'open', closes_at = NULL, closed_at = NULL, until_ms = NULL,
  until_seq = NULL, final_at = NULL
"""

# An open round that has not been voted in; votes and `asked` are filled in.
OPEN = """
TRUNCATE votes;
INSERT INTO rounds VALUES (70, 'Which?', {asked});
INSERT INTO votes SELECT gen_random_uuid(), 'a', 1, 1 FROM generate_series(1, {votes});
UPDATE poll SET round = 70, revision = 7, state = 'open', closed_at = NULL, until_ms = NULL,
  until_seq = NULL, closes_at = NULL, final_at = NULL;
"""

# One that a worker has closed to ask another question.
ASKING = "UPDATE poll SET state = 'closed', closes_at = to_timestamp(0);"
FINAL = "UPDATE poll SET closed_at = now(), until_ms = 1, until_seq = 1, final_at = now();"


@pytest.mark.parametrize(
    ("asked", "votes", "change", "call", "changes"),
    [
        (False, 0, "", "close_environment_round(7)", True),
        (True, 0, "", "close_environment_round(7)", False),
        (False, 1, "", "close_environment_round(7)", False),
        (False, 0, "", "close_environment_round(6)", False),
        (False, 0, "UPDATE poll SET closes_at = now()", "close_environment_round(7)", False),
        (False, 0, "UPDATE poll SET state = 'closed'", "close_environment_round(7)", False),
        (False, 0, ASKING, "reopen_environment_round(70, NULL)", True),
        (False, 1, ASKING, "reopen_environment_round(70, NULL)", True),
        (False, 0, ASKING + FINAL, "reopen_environment_round(70, now())", True),
        (False, 0, ASKING + FINAL, "reopen_environment_round(70, NULL)", False),
        (False, 0, ASKING, "reopen_environment_round(70, now())", False),
        (False, 0, ASKING, "reopen_environment_round(69, NULL)", False),
        (False, 0, "UPDATE poll SET state = 'closed'", "reopen_environment_round(70, NULL)", False),
        (False, 0, "UPDATE poll SET closes_at = now()", "close_on_time(now(), 7)", True),
        (False, 0, "UPDATE poll SET closes_at = now()", "close_on_time(now(), 6)", False),
        (False, 0, "", "close_on_time(now(), 7)", False),
        (False, 0, ASKING, "close_on_time(now(), 7)", False),
    ],
)
async def test_a_worker_closes_and_opens_a_round_only_on_time_or_to_ask(
    database, asked, votes, change, call, changes
):
    owner = await asyncpg.connect(database("voting"))
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(OPEN.format(asked=asked, votes=votes) + change)
        before = await owner.fetchrow("SELECT * FROM poll")
        assert await owner.fetchval(f"SELECT {call}") is changes
        after = await owner.fetchrow("SELECT * FROM poll")
        assert (after["state"] != before["state"]) is changes
        assert after["revision"] == before["revision"] + changes
        assert (after == before) is not changes
    finally:
        await transaction.rollback()
        await owner.close()


# A final round that a worker closed to ask another question; votes and `asked` are filled in.
ENDED = """
TRUNCATE votes;
INSERT INTO rounds VALUES (70, 'Which?', {asked}), (7, 'Which?', false);
INSERT INTO votes SELECT gen_random_uuid(), 'a', 1, 1 FROM generate_series(1, {votes});
UPDATE poll SET round = 70, state = 'closed', closed_at = now(), until_ms = 1, until_seq = 1,
  closes_at = to_timestamp(0), final_at = now();
"""


@pytest.mark.parametrize(
    ("asked", "votes", "change", "starts"),
    [
        (False, 0, "", True),
        (True, 0, "", False),
        (False, 1, "", False),
        (False, 0, "UPDATE poll SET closes_at = now()", False),
        (False, 0, "UPDATE poll SET closes_at = NULL", False),
        (False, 0, "UPDATE poll SET final_at = NULL", False),
        (False, 0, "UPDATE poll SET round = 7", False),
    ],
)
async def test_a_worker_starts_a_round_only_for_the_environment_and_deletes_no_vote(
    database, asked, votes, change, starts
):
    owner = await asyncpg.connect(database("voting"))
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(ENDED.format(asked=asked, votes=votes) + change)
        started = await owner.fetchval("SELECT start_environment_round(70, 1, 'x', '{x,y}')")
        assert started == (71 if starts else None)
        assert await owner.fetchval("SELECT count(*) FROM votes") == votes
        rounds = await owner.fetch("SELECT round, asked FROM rounds WHERE round > 70")
        assert [tuple(each) for each in rounds] == ([(71, False)] if starts else [])
    finally:
        await transaction.rollback()
        await owner.close()


@pytest.mark.parametrize("user", ["voting_worker", "voting_result", "voting_admin", "voting"])
async def test_every_user_may_read_the_revision_of_the_schema(database, user):
    async with asyncio.timeout(30):
        await schema.wait_for_schema(database(user))


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        *(("voting_worker", f"DROP TABLE {table}") for table in TABLES),
        *(("voting_worker", f"TRUNCATE {table}") for table in TABLES),
        *(("voting_worker", f"DELETE FROM {table}") for table in TABLES if table != "tally"),
        ("voting_worker", "UPDATE final_totals SET votes = 1"),
        ("voting_worker", "UPDATE finals SET closed_at = now()"),
        ("voting_worker", "UPDATE rounds SET title = 'x'"),
        ("voting_worker", "INSERT INTO rounds VALUES (9, 'x', true)"),
        ("voting_worker", "UPDATE options SET name = 'x'"),
        ("voting_worker", "INSERT INTO options VALUES (1, 'c', 'x')"),
        ("voting_worker", "INSERT INTO finals VALUES (1, now(), now())"),
        ("voting_worker", "INSERT INTO final_totals VALUES (1, now(), 'a', 1)"),
        *(
            ("voting_worker", f"UPDATE poll SET {change}")
            for change in (
                *("state = 'open'", "closes_at = now()", "revision = 9", "final_at = now()"),
                "round = 2",
            )
        ),
        ("voting_worker", "UPDATE poll SET after_ms = 1"),
        ("voting_worker", "UPDATE voting_version SET version_num = '0'"),
        *(("voting_worker", f"ALTER TABLE {table} ADD mine int") for table in TABLES),
        ("voting_worker", "SELECT start_round(1, 1, 'x', '{x,y}', true)"),
        ("voting_worker", "SELECT * FROM questions"),
        ("voting_worker", "INSERT INTO questions VALUES (DEFAULT, 1, 'x', '{x,y}')"),
        ("voting_worker", "UPDATE rounds SET revealed = true"),
        *(
            (user, f"DROP FUNCTION {function}")
            for user in ("voting_worker", "voting_admin")
            for function in FUNCTIONS
        ),
        *(
            ("voting_admin", write.format(table))
            for table in TABLES
            for write in ("TRUNCATE {}", "DROP TABLE {}", "ALTER TABLE {} ADD mine int")
        ),
        *(
            ("voting_admin", write.format(table))
            for table in TABLES
            if table != "questions"
            for write in ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", "COPY {} FROM STDIN")
        ),
        ("voting_admin", "UPDATE votes SET choice = 'a'"),
        ("voting_admin", "UPDATE tally SET votes = 1"),
        ("voting_admin", "UPDATE finals SET closed_at = now()"),
        ("voting_admin", "UPDATE final_totals SET votes = 1"),
        ("voting_admin", "UPDATE rounds SET title = 'x'"),
        ("voting_admin", "UPDATE rounds SET asked = true"),
        ("voting_admin", "UPDATE options SET name = 'x'"),
        ("voting_admin", "UPDATE poll SET round = 2"),
        ("voting_admin", "UPDATE poll SET after_ms = 1"),
        ("voting_admin", "UPDATE poll SET database_id = gen_random_uuid()"),
        ("voting_admin", "UPDATE voting_version SET version_num = '0'"),
        ("voting_admin", "SELECT start_environment_round(1, 1, 'x', '{x,y}')"),
        ("voting_admin", "SELECT replace_question('x', '{x,y}')"),
        ("voting_admin", "SELECT close_environment_round(1)"),
        ("voting_admin", "SELECT reopen_environment_round(1, NULL)"),
        ("voting_admin", "CREATE TABLE mine ()"),
        ("voting_admin", "CREATE TEMPORARY TABLE mine ()"),
        ("voting_admin", "SET ROLE voting_worker"),
        ("voting_admin", "SELECT rolpassword FROM pg_authid"),
        ("voting_worker", "CREATE TABLE mine ()"),
        ("voting_worker", "CREATE TEMPORARY TABLE mine ()"),
        ("voting_worker", "SELECT rolpassword FROM pg_authid"),
        *(
            ("voting_result", write.format(table))
            for table in TABLES
            for write in (
                *("DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}", "ALTER TABLE {} ADD mine int"),
                *("INSERT INTO {} DEFAULT VALUES", "COPY {} FROM STDIN"),
                "SELECT 1 FROM {} FOR UPDATE",
            )
        ),
        ("voting_result", "UPDATE tally SET votes = 1"),
        ("voting_result", "UPDATE poll SET state = 'closed'"),
        ("voting_result", "UPDATE votes SET choice = 'a'"),
        ("voting_result", "CREATE TEMPORARY TABLE mine ()"),
        ("voting_result", "SET ROLE voting_worker"),
        ("voting_result", "SET SESSION AUTHORIZATION voting"),
        ("voting_result", "COPY tally TO PROGRAM 'true'"),
        ("voting_result", "SELECT voter FROM votes"),
        ("voting_result", "SELECT * FROM questions"),
        ("voting_result", "SELECT start_round(1, 1, 'x', '{x,y}', true)"),
        ("voting_result", "SELECT start_environment_round(1, 1, 'x', '{x,y}')"),
        ("voting_result", "SELECT declare_final(1, 1)"),
        ("voting_result", "SELECT replace_question('x', '{x,y}')"),
        ("voting_result", "SELECT close_on_time(now(), 1)"),
        ("voting_result", "SELECT close_environment_round(1)"),
        ("voting_result", "SELECT reopen_environment_round(1, NULL)"),
        ("voting_result", "CREATE TABLE mine ()"),
        ("voting", "CREATE ROLE other"),
        ("voting", "SELECT rolpassword FROM pg_authid"),
    ],
)
async def test_no_user_of_postgres_may_do_more(database, user, statement):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(database(user), statement)


@pytest.mark.parametrize("user", ["vote", "keda"])
async def test_users_of_redis_do_not_exist_in_postgres(database, user):
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="does not exist"):
        await fetch(database(user), "SELECT 1")


async def test_no_other_user_may_connect_to_the_database(database, servers):
    await fetch(servers.database_url("postgres"), "CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fetch(database("stranger"), "SELECT 1")
    finally:
        await fetch(servers.database_url("postgres"), "DROP ROLE stranger")


@pytest.mark.usefixtures("database")
async def test_every_password_is_stored_as_a_hash(servers):
    query = "SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'voting%'"
    rows = await fetch(servers.database_url("postgres"), query)
    assert len(rows) == 4
    assert all(row["rolpassword"].startswith("SCRAM-SHA-256$") for row in rows)


async def test_migration_revokes_rights_that_are_not_listed(database):
    await fetch(database("voting"), "GRANT ALL ON ALL TABLES IN SCHEMA public TO voting_result")
    await asyncio.to_thread(schema.migrate, database("voting"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(database("voting_result"), "SELECT voter FROM votes")
    assert await fetch(database("voting_result"), "SELECT votes FROM tally WHERE false") == []


@pytest.mark.parametrize("owner", ["voting", "postgres"])
def test_migration_lets_users_connect_that_were_made_later_if_it_may(servers, owner):
    name = f"Test-{uuid4().hex}"  # which needs quotes
    servers.sql(f'CREATE DATABASE "{name}" OWNER {owner}')
    url = partial(servers.database_url, name)
    try:
        for statement in (
            f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
            f'GRANT CONNECT ON DATABASE "{name}" TO voting',
            "GRANT CREATE ON SCHEMA public TO voting",
        ):
            asyncio.run(fetch(url(), statement))
        schema.migrate(url("voting"))
        connecting = fetch(url("voting_admin"), "TABLE questions")
        if owner == "voting":
            assert asyncio.run(connecting) == []
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                asyncio.run(connecting)
    finally:
        servers.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *(
            (user, command)
            for user in ("vote", "worker", "admin")
            for command in (
                "FLUSHALL",
                "CONFIG GET dir",
                "KEYS *",
                "SCAN 0",
                "ACL LIST",
                "SHUTDOWN NOSAVE",
                "DEL {voting}:ballots",
                "XADD other * a b",
                "MONITOR",
                "DBSIZE",
                "SELECT 1",
                "EVALSHA 0 0",
                "FUNCTION LIST",
                "CLIENT LIST",
                "REPLICAOF NO ONE",
                "EXISTS other",
                "GET other",
                "HGET other state",
                "XRANGE other - +",
                "XINFO GROUPS other",
            )
        ),
        ("vote", "XTRIM {voting}:ballots MAXLEN 0"),
        ("vote", "XREADGROUP GROUP workers me STREAMS {voting}:ballots >"),
        ("vote", "XRANGE {voting}:ballots - +"),
        ("vote", "XACK {voting}:ballots workers 1-1"),
        ("vote", "HSET {voting}:poll state open"),
        ("vote", "XADD {voting}:dead * a b"),
        ("worker", "HGETALL {voting}:poll"),
        ("worker", "XGROUP DESTROY {voting}:ballots workers"),
        ("admin", "XADD {voting}:ballots * a b"),
        ("admin", "XADD {voting}:dead * a b"),
        ("admin", "XTRIM {voting}:ballots MAXLEN 0"),
        ("admin", "XDEL {voting}:ballots 1-1"),
        ("admin", "XREADGROUP GROUP workers me STREAMS {voting}:ballots >"),
        ("admin", "XACK {voting}:ballots workers 1-1"),
        ("admin", "XAUTOCLAIM {voting}:ballots workers me 0 0"),
        ("admin", "XGROUP DESTROY {voting}:ballots workers"),
        ("admin", "XGROUP CREATE {voting}:dead workers 0"),
        ("admin", "XSETID {voting}:dead 9-9"),
        ("admin", "HGETALL {voting}:poll"),
    ],
)
async def test_no_user_of_redis_may_do_more(redis, user, command):
    async with connect(redis(user)) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command.split())


async def test_autoscaler_may_read_the_length_of_the_queue(streams, redis):
    _, working = streams
    await working.sync_poll(MIN_VERSION, Poll())
    async with connect(redis("keda")) as client:
        assert "redis_version" in await client.info()
        [group] = await client.xinfo_groups(working.queue.stream_key)
        assert group["lag"] is not None
        assert await client.xlen(working.queue.stream_key) >= 0
        for command in ("XTRIM {voting}:ballots MAXLEN 0", "XADD {voting}:ballots * a b"):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command.split())


WATCHED = (
    *("backlog_ballots", "backlog_age_seconds", "dead_letter_entries"),
    *("stream_entries", "redis_memory_used_ratio", "redis_fsync_always"),
)


def watched():
    registry = metrics.OF_ROLE["worker"]
    return {name: registry.get_sample_value(f"voting_{name}") for name in WATCHED}


async def test_worker_may_read_all_that_its_metrics_show(streams):
    _, working = streams
    await working.sync_poll(MIN_VERSION, Poll())
    await working.queue.redis.xadd(working.queue.stream_key, {"no": "ballot"})
    await QueueMonitor(working.queue).collect()
    found = watched()
    assert found["backlog_ballots"] > 0
    assert found["redis_fsync_always"] == 1
    assert not [name for name, value in found.items() if isnan(value)]


@pytest.fixture
async def without(servers):
    """Return a function that opens the queue as a user of the deployment without one right."""
    admin, made, clients = connect(servers.redis_url()), [], []

    async def open_queue(user, right):
        [line] = [line for line in USERS.read_text().splitlines() if f"user {user} " in line]
        rights = line.split()[2:]
        rights.remove(right)
        made.append(f"{user}-{uuid4().hex}")
        await admin.execute_command("ACL", "SETUSER", made[-1], *rights)
        url = servers.redis_url().replace("unix://", f"unix://{made[-1]}@")
        clients.append(connect(f"{url}?password=insecure"))
        return Queue(clients[-1])

    yield open_queue
    for each in clients:
        await each.aclose()
    await admin.acl_deluser(*made)
    await admin.delete("{voting}:probe", "{voting}:poll", "{voting}:ballots")
    await admin.aclose()


async def test_worker_without_the_right_to_waitaof_says_so_once_and_reads_the_rest(without, caplog):
    monitor = QueueMonitor(await without("worker", "+waitaof"))
    for _ in range(2):
        await monitor.collect()
    found = watched()
    assert isnan(found["redis_fsync_always"])
    assert found["redis_memory_used_ratio"] > 0
    [error] = caplog.records
    assert (error.levelname, "waitaof" in error.getMessage()) == ("ERROR", True)


async def test_worker_without_the_right_to_read_the_poll_does_not_sync_it(without):
    """Otherwise it would not notice that the poll of its database is an older one."""
    state = QueueState(await without("worker", "+hmget"))
    with pytest.raises(ResponseError, match="hmget"):
        await state.sync_poll(MIN_VERSION, Poll())


async def test_vote_role_without_the_right_to_read_the_memory_is_not_ready(without, caplog):
    await QueueState(await without("worker", "+waitaof")).sync_poll(MIN_VERSION, Poll())
    environ = {"REDIS_URL": "redis://unused", "SECRET_KEYS": "k" * 32}
    settings = load_settings(VoteSettings, environ)
    for right, ready in (("+info", False), ("+client|setinfo", True)):
        queue = await without("vote", right)
        assert await VoteRole(Caster(queue), QueueState(queue), settings).ready() is ready
    assert "info" in caplog.records[0].reason


async def test_vote_role_without_a_right_of_the_cast_says_so_once(without, caplog):
    await QueueState(await without("worker", "+waitaof")).sync_poll(MIN_VERSION, Poll())
    caster = Caster(await without("vote", "+xinfo|stream"))
    for _ in range(2):
        with pytest.raises(NotRecorded):
            await caster.cast(Ballot(uuid4(), Choice.A), 1)
    [error] = caplog.records
    assert (error.levelname, "xinfo" in error.getMessage()) == ("ERROR", True)


@pytest.mark.parametrize("user", ["vote", "worker", "admin"])
@pytest.mark.parametrize(
    ("call", "key"),
    [
        ("'DEL', KEYS[1]", "{voting}:ballots"),
        ("'EXISTS', KEYS[1]", "other"),
        ("'XADD', KEYS[1], '*', 'a', 'b'", "other"),
        ("'FLUSHALL'", "{voting}:ballots"),
        ("'CONFIG', 'GET', 'dir'", "{voting}:ballots"),
        ("'KEYS', '*'", "{voting}:ballots"),
    ],
)
async def test_scripts_may_not_do_more(redis, user, call, key):
    async with connect(redis(user)) as client:
        with pytest.raises(ResponseError, match=r"ACL|not allowed|No permissions"):
            await client.eval(f"return redis.call({call})", 1, key)


async def test_unauthenticated_client_may_only_ping(redis):
    async with connect(redis("vote").replace("vote@", "").partition("?")[0]) as client:
        assert await client.ping()
        for command in ("INFO", "EXISTS {voting}:poll", "TIME"):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command.split())


BEFORE = {
    "vote": "+eval +time +exists +hget +xadd +info +multi +exec +xinfo|groups +xinfo|stream"
    " +xpending",
    "worker": "+eval +time +exists +hmget +hset +info +multi +exec +xadd +xack +xautoclaim"
    " +xgroup|create +xgroup|delconsumer +xinfo|consumers +xinfo|groups +xinfo|stream +xlen"
    " +xpending +xrange +xreadgroup +xrevrange +xsetid +xtrim",
}


async def test_essentials_work_with_the_rights_of_the_previous_version(servers):
    """A deployment creates its users of Redis once, and an upgrade does not change them."""
    name = f"test-{uuid4().hex}"
    async with connect(servers.redis_url()) as client:
        streams = {}
        for role, rights in BEFORE.items():
            user = f"{role}-{uuid4().hex}"
            each = (f"~{{{name}}}:*", "-@all", "+client|setinfo", *rights.split())
            await client.execute_command("ACL", "SETUSER", user, "on", ">secret", *each)
            url = servers.redis_url().replace("unix://", f"unix://{user}@")
            streams[role] = QueueState(Queue(connect(f"{url}?password=secret"), name=name))
        voting, working = streams["vote"], streams["worker"]
        at = datetime(2030, 1, 1, tzinfo=UTC)
        assert (await working.sync_poll(MIN_VERSION, Poll(closes_at=at))).created
        assert (await voting.cast_rules()).closes_at == at
        version = await Caster(voting.queue).cast(Ballot(uuid4(), Choice.A), 1)
        closed = await working.sync_poll(MIN_VERSION, Poll(state="closed"))
        assert closed.last_version == version
        assert closed.closed_at is not None
        with pytest.raises(PollClosed):
            await Caster(voting.queue).cast(Ballot(uuid4(), Choice.A), 1)
        assert not (await voting.cast_rules()).open
        assert await FsyncProbe(working.queue).check() is None
        for stream in streams.values():
            await stream.queue.close()
        await client.delete(working.queue.stream_key, working.queue.poll_key)
