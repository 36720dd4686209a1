"""Calls that arrive late: none may be applied after its client has returned an error."""

import asyncio
from uuid import uuid4

import pytest
from redis.exceptions import RedisError
from support.proxy import Proxy
from support.servers import set_clock_back

from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.poll.lifecycle import Poll
from voting.queue import producer
from voting.queue.client import Queue, connect
from voting.queue.producer import Caster, MaybeRecorded, NotRecorded
from voting.queue.state import QueueState


@pytest.fixture
async def proxy(servers, tmp_path):
    server = servers.folders.run / "valkey.sock"
    async with Proxy(server, address=tmp_path / "redis.sock") as proxy:
        yield proxy


async def deliver(proxy):
    """Deliver what was held, and wait for the reply of Redis."""
    proxy.back.passed.clear()
    proxy.forth.release()
    await proxy.back.passed.wait()


@pytest.fixture
async def through(proxy, prepared, tmp_path):  # noqa: ARG001 - it is there by its path
    """The queue by way of the proxy."""
    queue = Queue(connect(f"unix://{tmp_path}/redis.sock"), name=prepared.queue.name)
    yield queue
    await queue.close()


@pytest.fixture
async def caster(through):
    """Casts by way of the proxy, and has read Redis' clock."""
    caster = Caster(through, timeout=0.4)
    await caster.cast(Ballot(uuid4(), Choice.A), 1)
    return caster


@pytest.mark.parametrize("hang_up", [True, False], ids=["broken", "silent"])
async def test_a_vote_of_unknown_outcome_is_not_applied_after_the_one_that_replaces_it(
    caster, stream, proxy, hang_up
):
    voter = uuid4()
    proxy.forth.hold()
    unknown = asyncio.create_task(caster.cast(Ballot(voter, Choice.A), 1))
    await proxy.forth.caught.wait()
    if hang_up:
        proxy.hang_up()
    with pytest.raises(MaybeRecorded):
        await unknown
    # The voter gets the error and votes again; the held call arrives only then.
    replacing = await stream.cast(Ballot(voter, Choice.B))
    await deliver(proxy)
    [*_, newest] = await stream.consumer("me").read(count=10, block=1)
    assert newest.version == replacing
    assert await stream.length() == 2


def cast_for_nobody(stream):
    return stream.caster.cast(Ballot(uuid4(), Choice.A), 1, lambda _: False)


@pytest.mark.parametrize("others", [0, 2])
async def test_a_ballot_whose_client_has_given_up_is_not_sent(prepared, others):
    casts = [prepared.cast(Ballot(uuid4(), Choice.B)) for _ in range(others)]
    refused, *versions = await asyncio.gather(
        cast_for_nobody(prepared), *casts, return_exceptions=True
    )
    assert isinstance(refused, NotRecorded)
    assert len(set(versions)) == others == await prepared.length()


async def test_a_ballot_that_is_given_up_and_cancelled_harms_no_other(prepared):
    leaving = asyncio.create_task(cast_for_nobody(prepared))
    staying = asyncio.create_task(prepared.cast(Ballot(uuid4(), Choice.A)))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert await prepared.length() == 1


async def test_a_cast_whose_reply_is_lost_is_not_sent_again(caster, stream, proxy):
    before = await stream.length()
    with proxy.back.dropping():
        unknown = asyncio.create_task(caster.cast(Ballot(uuid4(), Choice.A), 1))
        await proxy.back.caught.wait()
        proxy.hang_up()
    with pytest.raises(MaybeRecorded):
        await unknown
    assert await stream.length() == before + 1


async def test_a_cast_is_not_recorded_if_redis_clock_can_not_be_read(
    caster, stream, proxy, monkeypatch
):
    monkeypatch.setattr(producer, "CLOCK_MAX_AGE", -1)
    proxy.forth.hold()
    with pytest.raises(NotRecorded, match="reached"):
        await caster.cast(Ballot(uuid4(), Choice.A), 1)
    assert await stream.length() == 1


async def test_after_a_missing_reply_the_clock_is_read_again(caster, proxy):
    proxy.forth.hold()
    with pytest.raises(MaybeRecorded):
        await caster.cast(Ballot(uuid4(), Choice.A), 1)
    proxy.forth.release()
    set_clock_back(caster)  # as if that of another server were ahead
    await caster.cast(Ballot(uuid4(), Choice.A), 1)


async def test_a_connection_that_went_silent_while_idle_costs_no_vote(
    caster, proxy, stream, monkeypatch
):
    monkeypatch.setattr(producer, "CLOCK_MAX_AGE", -1)
    with proxy.silent():
        await caster.cast(Ballot(uuid4(), Choice.A), 1)
    assert await stream.length() == 2


async def test_a_late_sync_does_not_reopen_a_poll(through, stream, proxy, monkeypatch):
    monkeypatch.setattr("voting.queue.state.SYNC_TIMEOUT", 0.4)
    state = QueueState(through)
    clock = state.clock

    async def then_hold():
        now = await clock()
        proxy.forth.hold()
        return now

    monkeypatch.setattr(state, "clock", then_hold)
    opening = asyncio.create_task(state.sync_poll(MIN_VERSION, Poll()))
    await proxy.forth.caught.wait()
    proxy.hang_up()
    with pytest.raises(RedisError):
        await opening
    await stream.sync_poll(MIN_VERSION, Poll(state="closed"))
    await deliver(proxy)
    assert await stream.admin.hget(stream.queue.poll_key, "state") == b"closed"
