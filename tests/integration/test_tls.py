"""TLS to Redis and Postgres as their URLs request it, with certificates made for the test."""

import ssl
from contextlib import AsyncExitStack
from functools import partial
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import trustme
from redis.exceptions import RedisError
from support.database import all_counted, execute, stored_totals
from support.servers import passwords
from support.tls import Front
from support.wait import until
from support.workers import working

from voting.database.engine import DATABASE_ERRORS, create_engine
from voting.poll.ballot import Ballot, Choice
from voting.queue.client import Queue, connect
from voting.queue.producer import Caster, NotRecorded
from voting.queue.state import QueueState


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(authority, tmp_path_factory):
    """The authority's certificate as a file; a pod has it from a Secret."""
    path = tmp_path_factory.mktemp("tls") / "ca.crt"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The certificate of an authority that has signed none of the servers' certificates."""
    path = tmp_path_factory.mktemp("tls") / "other.crt"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def context(authority):
    """The TLS context of a server whose certificate is for localhost, not for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
async def front(servers, database):
    """Start a front of a server, with this certificate or none, and return it with its URLs."""
    urls = {"valkey.sock": redis_url, ".s.PGSQL.5432": partial(postgres_url, database)}
    async with AsyncExitStack() as fronts:

        async def start(socket, context):
            front = Front(servers.folders.run / socket, context, postgres="PGSQL" in socket)
            await fronts.enter_async_context(front)
            return front, partial(urls[socket], front)

        yield {"redis": partial(start, "valkey.sock"), "postgres": partial(start, ".s.PGSQL.5432")}


def redis_url(front, user, host="localhost", **options):
    password = passwords()[user]
    return f"rediss://{user}:{password}@{host}:{front.port}/0?{urlencode(options)}"


def postgres_url(database, front, user, host="localhost", **options):
    query = urlencode({"sslmode": "verify-full", **options})
    return f"postgresql://voting_{user}:secret@{host}:{front.port}/{database}?{query}"


async def test_a_vote_is_cast_and_counted_over_tls(front, stream, context, trusted):
    redis, redis_url = await front["redis"](context)
    postgres, postgres_url = await front["postgres"](context)
    url = partial(redis_url, ssl_ca_certs=trusted)
    voting, counting = (
        Queue(connect(url(user)), name=stream.queue.name) for user in ("vote", "worker")
    )
    engine = create_engine(postgres_url("worker", sslrootcert=trusted), name="tests")
    async with working(counting, engine):
        await Caster(voting).cast(Ballot(uuid4(), Choice.A), 1)
        await until(partial(all_counted, QueueState(voting)))
    assert await stored_totals(engine) == (1, 0)
    for each in (voting, counting):
        await each.close()
    await engine.dispose()
    assert redis.plain == postgres.plain == b""


# Why the client cannot verify the server.
WRONG = ["another authority", "no authority", "another name", "no TLS"]


def wrong(case, context, trusted, other):
    """Return the server's certificate, the client's authority if any, and the server's name."""
    return (
        None if case == "no TLS" else context,
        {"another authority": other, "no authority": None}.get(case, trusted),
        "127.0.0.1" if case == "another name" else "localhost",
    )


@pytest.mark.parametrize("case", WRONG)
async def test_redis_with_an_invalid_certificate_gets_no_data(
    front, prepared, case, context, trusted, other
):
    context, authority, host = wrong(case, context, trusted, other)
    redis, url = await front["redis"](context)
    options = {"ssl_ca_certs": authority} if authority else {}
    queue = Queue(connect(url("vote", host, **options)), name=prepared.queue.name)
    assert not await Caster(queue).ready()
    with pytest.raises(NotRecorded):
        await Caster(queue).cast(Ballot(uuid4(), Choice.A), 1)
    with pytest.raises(RedisError):
        await QueueState(queue).progress()
    await queue.close()
    assert await prepared.length() == 0
    assert passwords()["vote"].encode() not in redis.plain
    assert b"AUTH" not in redis.plain


@pytest.mark.parametrize("case", WRONG)
async def test_postgres_with_an_invalid_certificate_gets_no_data(
    front, case, context, trusted, other
):
    context, authority, host = wrong(case, context, trusted, other)
    postgres, url = await front["postgres"](context)
    # Without this, asyncpg reads the certificate authority of the home folder.
    options = {"sslrootcert": authority or "/nowhere/root.crt"}
    engine = create_engine(url("worker", host, **options), name="tests")
    with pytest.raises((*DATABASE_ERRORS, ssl.SSLError, ValueError)):
        await execute(engine, "SELECT 1")
    await engine.dispose()
    assert postgres.plain == b""


async def test_sslmode_require_encrypts_without_verification_and_refuses_plain_text(front, context):
    postgres, url = await front["postgres"](context)
    engine = create_engine(url("worker", sslmode="require"), name="tests")
    assert (await execute(engine, "SELECT 1")).scalar_one() == 1
    await engine.dispose()
    assert postgres.plain == b""
    postgres, url = await front["postgres"](None)
    engine = create_engine(url("worker", sslmode="require"), name="tests")
    with pytest.raises(DATABASE_ERRORS):
        await execute(engine, "SELECT 1")
    await engine.dispose()
    assert postgres.plain == b""
