"""What is on its way when a voter is told that nobody knows: it must not be applied afterwards."""

import asyncio
from uuid import uuid4

import pytest
from proxy import Proxy
from redis.exceptions import RedisError

from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.queue import producer as casting
from voting.queue.producer import MaybeRecorded, NotRecorded
from voting.queue.stream import BallotStream, connect


@pytest.fixture
async def proxy(servers, tmp_path):
    server = servers.folders.run / "valkey.sock"
    async with Proxy(server, address=tmp_path / "redis.sock") as proxy:
        yield proxy


async def deliver(proxy):
    """Send on what was held, and wait until Redis has answered it."""
    proxy.back.passed.clear()
    proxy.forth.release()
    await proxy.back.passed.wait()


@pytest.fixture
async def through(proxy, stream, tmp_path):  # noqa: ARG001 - it is there by its path
    """The stream by way of the proxy, with the clock known."""
    await stream.sync_poll(MIN_VERSION, "open")
    client = BallotStream(
        connect(f"unix://{tmp_path}/redis.sock"), name=stream.name, cast_timeout=0.4
    )
    await client.cast(Ballot(uuid4(), Choice.A))
    yield client
    await client.close()


@pytest.mark.parametrize("hang_up", [True, False], ids=["broken", "silent"])
async def test_a_vote_of_unknown_fate_can_not_come_after_the_one_that_replaces_it(
    through, stream, proxy, hang_up
):
    voter = uuid4()
    proxy.forth.hold()
    unknown = asyncio.create_task(through.cast(Ballot(voter, Choice.A)))
    await proxy.forth.caught.wait()
    if hang_up:
        proxy.hang_up()
    with pytest.raises(MaybeRecorded):
        await unknown
    # Now the voter knows and votes again; what was held arrives only then.
    replacing = await stream.cast(Ballot(voter, Choice.B))
    await deliver(proxy)
    [*_, newest] = await stream.read("me", count=10, block=1)
    assert newest.version == replacing
    assert await stream.length() == 2


async def test_an_append_whose_reply_is_lost_is_not_sent_again(through, stream, proxy):
    before = await stream.length()
    with proxy.back.dropping():
        unknown = asyncio.create_task(through.cast(Ballot(uuid4(), Choice.A)))
        await proxy.back.caught.wait()
        proxy.hang_up()
    with pytest.raises(MaybeRecorded):
        await unknown
    assert await stream.length() == before + 1


async def test_a_clock_that_can_not_be_asked_means_not_recorded(
    through, stream, proxy, monkeypatch
):
    monkeypatch.setattr(casting, "CLOCK_SECONDS", -1)
    proxy.forth.hold()
    with pytest.raises(NotRecorded, match="answer"):
        await through.cast(Ballot(uuid4(), Choice.A))
    assert await stream.length() == 1


async def test_after_an_answer_that_did_not_come_the_clock_is_asked_again(through, proxy):
    proxy.forth.hold()
    with pytest.raises(MaybeRecorded):
        await through.cast(Ballot(uuid4(), Choice.A))
    assert through._caster._clock_read == float("-inf")


async def test_a_poll_is_not_reopened_by_what_was_on_its_way(through, stream, proxy, monkeypatch):
    monkeypatch.setattr("voting.queue.stream.SYNC_TIMEOUT", 0.4)
    clock = through.clock

    async def then_hold():
        now = await clock()
        proxy.forth.hold()
        return now

    monkeypatch.setattr(through, "clock", then_hold)
    opening = asyncio.create_task(through.sync_poll(MIN_VERSION, "open"))
    await proxy.forth.caught.wait()
    proxy.hang_up()
    with pytest.raises(RedisError):
        await opening
    await stream.sync_poll(MIN_VERSION, "closed")
    await deliver(proxy)
    assert await stream.admin.hget(stream._poll, "state") == b"closed"
