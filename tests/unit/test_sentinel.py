"""Which primary the pool trusts, by what Sentinels say."""

import asyncio
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError

from voting.queue import sentinel
from voting.queue.client import Queue, connect
from voting.queue.sentinel import LEASE, RENEW_AFTER, SETTLED, NotReplicated, PrimaryPool

ONE, OTHER = ("one", 6379), ("other", 6379)
DEAD = RedisConnectionError("dead")


def says(primary=ONE, *, flags="master", ping=100, epoch=1, others=2, quorum=2, patience=6500):
    """Return what a Sentinel answers."""
    return {
        "ip": primary[0],
        "port": primary[1],
        "flags": flags,
        "last-ok-ping-reply": str(ping),
        "config-epoch": epoch,
        "num-other-sentinels": others,
        "quorum": quorum,
        "down-after-milliseconds": patience,
    }


class FakeSentinel:
    def __init__(self, answer):
        self.answer = answer
        self.asked = 0
        self.closed = False

    async def sentinel_master(self, name):
        assert name == "voting"
        self.asked += 1
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Sentinels:
    """The Sentinels of a pool, whose clock the test sets."""

    def __init__(self, monkeypatch):
        self.sentinels = [FakeSentinel(says()) for _ in range(3)]
        self.pool = PrimaryPool("voting", self)
        self.now = 1_000.0
        loop = SimpleNamespace(time=lambda: self.now)
        monkeypatch.setattr(sentinel.asyncio, "get_running_loop", lambda: loop)
        monkeypatch.setattr(sentinel, "ASK_TIMEOUT", 0.01)

    def say(self, *answers):
        for each, answer in zip(self.sentinels, answers, strict=True):
            each.answer = answer

    async def confirm(self, address=ONE):
        await self.pool.confirm(SimpleNamespace(host=address[0], port=address[1]))

    async def aclose(self):
        for each in self.sentinels:
            each.closed = True


@pytest.fixture
def sentinels(monkeypatch):
    return Sentinels(monkeypatch)


@pytest.mark.parametrize(
    "answers",
    [
        (says(), says(), says()),
        (says(), says(), DEAD),
        (says(), says(), None),
        (says(), says(), says(flags="master,s_down")),  # it alone can't replace the primary
        (says(ping=4000), says(), says()),
        (says(epoch=2), says(epoch=2), says(OTHER)),  # has not heard of the latest failover
    ],
)
async def test_a_primary_that_enough_see_alive_is_confirmed(sentinels, answers):
    sentinels.say(*answers)
    assert await sentinels.pool.get_master_address() == ONE
    await sentinels.confirm()


@pytest.mark.parametrize(
    "answers",
    [
        (says(), DEAD, DEAD),
        (DEAD, DEAD, DEAD),
        (says(), says(flags="master,s_down"), says(flags="master,s_down")),
        (says(), says(), says(flags="master,o_down,s_down")),
        (says(), says(), says(flags="master,failover_in_progress")),
        (says(), says(ping=4001), says(ping=9000)),
        (says(), says(), says(OTHER, epoch=2)),
        (says(), says(OTHER), DEAD),
        (says(others=3), says(others=3), DEAD),  # two that it does not know may agree
        (says(quorum=1), says(quorum=1), DEAD),
        (says(patience=2500), says(patience=2500), says()),
    ],
)
async def test_a_primary_that_may_be_replaced_is_not(sentinels, answers):
    sentinels.say(*answers)
    with pytest.raises(MasterNotFoundError, match="do not agree"):
        await sentinels.pool.get_master_address()
    with pytest.raises(NotReplicated, match="do not agree"):
        await sentinels.confirm()


async def test_another_server_than_the_primary_is_not_confirmed(sentinels):
    with pytest.raises(NotReplicated, match="not the primary any more"):
        await sentinels.confirm(OTHER)


async def test_too_short_a_patience_is_named(sentinels):
    sentinels.say(*[says(patience=2000)] * 3)
    with pytest.raises(MasterNotFoundError, match="down-after-milliseconds is not above 2500"):
        await sentinels.pool.get_master_address()


async def test_a_lease_is_renewed_while_it_is_used_and_ends_after_a_second(sentinels):
    await sentinels.confirm()
    sentinels.now += RENEW_AFTER
    await sentinels.confirm()
    assert [each.asked for each in sentinels.sentinels] == [1, 1, 1]
    sentinels.now += 0.01
    await sentinels.confirm()
    await sentinels.pool._asking
    assert [each.asked for each in sentinels.sentinels] == [2, 2, 2]
    sentinels.say(DEAD, DEAD, says())
    sentinels.now += LEASE
    await sentinels.confirm()  # by the lease, while they are asked
    await sentinels.pool._asking
    sentinels.now += 0.01
    with pytest.raises(NotReplicated):
        await sentinels.confirm()


async def test_those_who_ask_at_the_same_moment_ask_once(sentinels):
    await asyncio.gather(*(sentinels.confirm() for _ in range(5)))
    assert [each.asked for each in sentinels.sentinels] == [1, 1, 1]


async def test_who_gives_up_asking_does_not_end_it_for_others(sentinels):
    sentinels.say(says(), says(), None)
    first = asyncio.create_task(sentinels.confirm())
    second = asyncio.create_task(sentinels.confirm())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()


async def test_a_doubted_primary_is_not_trusted_while_a_sentinel_is_silent(sentinels):
    await sentinels.confirm()
    sentinels.now += LEASE + 1
    sentinels.say(says(flags="master,s_down"), says(flags="master,s_down"), says())
    with pytest.raises(NotReplicated):
        await sentinels.confirm()
    sentinels.say(says(), says(), DEAD)
    with pytest.raises(NotReplicated):
        await sentinels.confirm()
    sentinels.now += SETTLED + 0.1
    await sentinels.confirm()


async def test_another_primary_is_trusted_at_once(sentinels):
    await sentinels.confirm()
    sentinels.now += LEASE + 1
    sentinels.say(DEAD, says(flags="master,s_down"), says(flags="master,s_down"))
    with pytest.raises(NotReplicated):
        await sentinels.confirm()
    for _ in range(2):
        sentinels.say(DEAD, says(OTHER, epoch=2), says(OTHER, epoch=2))
        await sentinels.confirm(OTHER)
        sentinels.now += LEASE + 1


async def test_connections_to_the_last_primary_are_dropped(sentinels):
    await sentinels.confirm()
    idle = sentinels.pool.make_connection()
    used = sentinels.pool.make_connection()
    sentinels.pool._available_connections.append(idle)
    sentinels.pool._in_use_connections.add(used)
    dropped = []

    async def disconnect():
        dropped.append(idle)

    idle.disconnect = disconnect
    sentinels.now += LEASE + 1
    sentinels.say(*[says(OTHER, epoch=2)] * 3)
    await sentinels.confirm(OTHER)
    assert dropped == [idle]
    assert used.should_reconnect()


async def test_a_queue_asks_sentinels_once_replicas_have_a_write(sentinels):
    replies = iter(([1, 0], [1, 1]))

    async def read_response():
        return next(replies)

    sent = []

    async def send_command(*command):
        sent.append(command)

    connection = SimpleNamespace(
        host=ONE[0], port=ONE[1], send_command=send_command, read_response=read_response
    )
    queue = Queue(Redis(connection_pool=sentinels.pool), replicas=1)
    await queue.wait_for_replicas(connection)
    assert sent == [("WAITAOF", 1, 1, 2)] * 2
    assert [each.asked for each in sentinels.sentinels] == [1, 1, 1]


async def test_the_pool_closes_its_sentinels(sentinels):
    await sentinels.pool.aclose()
    await sentinels.confirm()
    await sentinels.pool.aclose()
    assert all(each.closed for each in sentinels.sentinels)


async def test_a_url_has_sentinels_a_name_and_one_user():
    redis = connect("rediss+sentinel://vote:p%40ss@a,b:26380,[::1]:1/voting?ssl_ca_certs=/ca.crt")
    pool = redis.connection_pool
    assert pool.service_name == "voting"
    found = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in found] == [
        ("a", 26379),
        ("b", 26380),
        ("::1", 1),
    ]
    for each in (pool.connection_kwargs, *found):
        assert (each["username"], each["password"]) == ("vote", "p@ss")
        assert each["ssl_ca_certs"] == "/ca.crt"
    assert "redis_connect_func" in pool.connection_kwargs
    await redis.aclose()
