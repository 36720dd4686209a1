"""What is on its way when a voter is told that nobody knows: it must not be applied afterwards."""

import asyncio
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from voting import casting
from voting.ballots import ZERO, Ballot, Choice
from voting.casting import MaybeRecorded, NotRecorded
from voting.stream import BallotStream, connect


class Proxy:
    """Stands before Redis; can hold what clients send, hang up on them, and deliver it later."""

    def __init__(self, path, server):
        self._path, self._server = path, server
        self._writers = []
        self._clients = []
        self._pumps = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.holding = asyncio.Event()
        self._answered = asyncio.Event()

    async def __aenter__(self):
        self._listener = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_):
        self._listener.close()
        for writer in self._writers:
            writer.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def hold(self):
        self._flowing.clear()

    def hang_up(self):
        """Break the connections of all clients; Redis does not notice."""
        while self._clients:
            self._clients.pop().close()

    async def deliver(self):
        """Send on what was held, and wait until Redis has answered it."""
        self._answered.clear()
        self._flowing.set()
        await self._answered.wait()

    async def _serve(self, reader, writer):
        back, forth = await asyncio.open_unix_connection(self._server)
        self._clients.append(writer)
        self._writers += [writer, forth]
        self._pumps += map(
            asyncio.create_task, (self._forth(reader, forth), self._back(back, writer))
        )

    async def _forth(self, reader, writer):
        while data := await reader.read(65536):
            if not self._flowing.is_set():
                self.holding.set()
                await self._flowing.wait()
            writer.write(data)

    async def _back(self, reader, writer):
        while data := await reader.read(65536):
            self._answered.set()
            if not writer.is_closing():
                writer.write(data)


@pytest.fixture
async def proxy(servers, tmp_path):
    async with Proxy(tmp_path / "redis.sock", f"{servers.folders.run}/valkey.sock") as proxy:
        yield proxy


@pytest.fixture
async def through(proxy, stream, tmp_path):  # noqa: ARG001 - it is there by its path
    """The stream by way of the proxy, with the clock known."""
    await stream.prepare(ZERO, "open")
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
    proxy.hold()
    unknown = asyncio.create_task(through.cast(Ballot(voter, Choice.A)))
    await proxy.holding.wait()
    if hang_up:
        proxy.hang_up()
    with pytest.raises(MaybeRecorded):
        await unknown
    # Now the voter knows and votes again; what was held arrives only then.
    replacing = await stream.cast(Ballot(voter, Choice.B))
    await proxy.deliver()
    [*_, newest] = await stream.read("me", count=10, block=1)
    assert newest.version == replacing
    assert await stream.length() == 2


async def test_a_clock_that_can_not_be_asked_means_not_recorded(
    through, stream, proxy, monkeypatch
):
    monkeypatch.setattr(casting, "CLOCK_SECONDS", -1)
    proxy.hold()
    with pytest.raises(NotRecorded, match="answer"):
        await through.cast(Ballot(uuid4(), Choice.A))
    assert await stream.length() == 1


async def test_after_an_answer_that_did_not_come_the_clock_is_asked_again(through, proxy):
    proxy.hold()
    with pytest.raises(MaybeRecorded):
        await through.cast(Ballot(uuid4(), Choice.A))
    assert through._caster._clock_read == float("-inf")


async def test_a_poll_is_not_reopened_by_what_was_on_its_way(through, stream, proxy, monkeypatch):
    monkeypatch.setattr("voting.stream.PREPARE_SECONDS", 0.4)
    clock = through.clock

    async def then_hold():
        now = await clock()
        proxy.hold()
        return now

    monkeypatch.setattr(through, "clock", then_hold)
    opening = asyncio.create_task(through.prepare(ZERO, "open"))
    await proxy.holding.wait()
    proxy.hang_up()
    with pytest.raises(RedisError):
        await opening
    await stream.prepare(ZERO, "closed")
    await proxy.deliver()
    assert await stream._redis.hget(stream._poll, "state") == b"closed"
