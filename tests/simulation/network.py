"""The network between the app and the models of its servers, and its faults.

A step is one request of a process to a server. A fault may happen to each step.
"""

import asyncio
import re
from collections import Counter
from functools import cache, partial

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from simulation.loop import NO_PROCESS, PROCESS, State
from simulation.redis_model import BLOCKED, ErrorReply, Status

from voting.queue.client import connect

FAULTS = (
    "crash before",  # the process is killed and the server never gets the request
    "crash after",  # the process is killed after the server has executed the request
    "stop before",  # the process gets SIGSTOP; the request arrives after SIGCONT
    "stop after",
    "break before",  # the connection breaks
    "break after",
    "silence before",  # the connection drops all later data without an error
    "silence after",
    "late request",  # the request arrives late, perhaps after the client's timeout
    "late reply",
    "twice",  # only casts: the server executes the request twice, and the connection breaks
    "conflict",  # only Postgres: another transaction wins
)
REDIS_FAULTS = FAULTS[:-2]
POSTGRES_FAULTS = (*FAULTS[:-2], "conflict")

WEIGHTS = {
    "dead_letter": 10,
    "confirm close": 10,
    "finalize": 25,
    "start round": 25,
    "count": 3,
    "xack": 2,
}
"""Factors on the rate of faults, for steps that matter most or are rare."""


class Faults:
    """Draws the faults of each step from the seed, and records them in a trace."""

    def __init__(self, random=None, *, rate=0.0, kinds=()):
        self._random = random
        self._rate = rate
        self._kinds = kinds
        self.enabled = False
        self.seen = Counter()
        self.trace = []
        self.settled_at = 0.0
        """The time at which no late request or suspended process is left."""
        self.no_delays_until = 0.0
        """Until this time no step gets a new long delay."""
        self.repeating = False
        """Whether the server is executing the first of two copies of a request."""

    def log(self, process, what):
        now = asyncio.get_running_loop().time()
        self.trace.append((now, getattr(process, "name", process), what))

    def draw(self, process, step, kinds):
        """Draw the fault of a step: one of `kinds`, or None."""
        fault = None
        if self.enabled and self._random.random() < min(0.5, self._rate * WEIGHTS.get(step, 1)):
            kinds = [each for each in kinds if each in self._kinds]
            if asyncio.get_running_loop().time() < self.no_delays_until:
                kinds = [each for each in kinds if each not in {"late request", "stop before"}]
            fault = self._random.choice(kinds) if kinds else None
        if self._random is not None:
            self.log(process, f"{step}: {fault}" if fault else step)
        if fault:
            self.seen[fault, step] += 1
        return fault

    def choose(self, among):
        return self._random.choice(among)

    def delay(self, longest=0.002):
        """Draw a delay in seconds; 0 without a seed."""
        return self._random.uniform(0, longest) if self._random else 0.0

    def long_delay(self, shortest, longest):
        seconds = self._random.uniform(shortest, longest)
        self.settled_at = max(self.settled_at, asyncio.get_running_loop().time() + seconds + 1)
        return seconds


class Server:
    """A server. A restart breaks its connections and keeps its data.

    Suspended, it does what it is asked to once it is resumed.
    """

    def __init__(self, faults):
        self.faults = faults
        self.up = True
        self.suspended = False
        self.links = []
        self._deferred = []

    def stop(self):
        self.up = False
        self.break_links()

    def run(self, effect, *args):
        if self.suspended:
            self._deferred.append(partial(effect, *args))
        else:
            effect(*args)

    def resume(self):
        self.suspended = False
        deferred, self._deferred = self._deferred, []
        for effect in deferred:
            effect()

    def break_links(self):
        links, self.links = self.links, []
        for link in links:
            link.reset()


class Link:
    """A connection of a process to a server. Each direction delivers in order, or drops."""

    kinds = ()

    def __init__(self, server):
        self._loop = asyncio.get_running_loop()
        self._faults = server.faults
        self._server = server
        self.process = PROCESS.get()
        self._arrived = self._replied = 0.0
        self._closed = False  # by the client
        self.broken = False  # the client knows, or will know with its next step
        self._silent = False
        server.links.append(self)
        if self.process is not None:
            self.process.on_exit.append(self.close)

    def send(self, step, effect, kinds=None):
        """Send a request. The server calls `effect` with a callback for the reply."""
        process = self.process
        if self.broken or self._closed or (process and process.state is not State.RUNNING):
            return
        fault = self._faults.draw(process, step, kinds or self.kinds)
        delay = self._faults.delay()
        match fault:
            case "crash before":
                process.kill()
                return
            case "break before":
                self._loop.call_later(delay, self.reset, context=NO_PROCESS)
                return
            case "stop before":
                delay = self._faults.long_delay(1, 40)
                process.suspend(delay)
            case "silence before":
                self._silent = True
            case "late request":
                delay = self._faults.long_delay(0.1, 30)
        if not self._silent:
            self._arrived = max(self._arrived, self._loop.time() + delay)
            arrive = partial(self._server.run, self._arrive, step, fault, effect)
            self._loop.call_at(self._arrived, arrive, context=NO_PROCESS)

    def _arrive(self, step, fault, effect):
        if not self._server.up or (self.broken and self not in self._server.links):
            self.reset()
            return
        if fault == "conflict":
            effect = self.conflict
        if fault == "twice":
            self._faults.repeating = True
            effect(lambda _: None)
            self._faults.repeating = False
        effect(partial(self._done, step, fault))

    def _done(self, step, fault, reply):
        delay = self._faults.delay()
        if fault and fault.endswith((" after", " reply")):
            self._faults.log(self.process, f"{step}: done, {fault}")
        match fault:
            case "crash after":
                self.process.kill()
            case "stop after":
                self.process.suspend(self._faults.long_delay(1, 40))
            case "break after" | "twice":
                self._loop.call_later(delay, self.reset)
                return
            case "silence after":
                self._silent = True
            case "late reply":
                delay = self._faults.long_delay(0.1, 10)
        if not self._silent:
            self._replied = max(self._replied, self._loop.time() + delay)
            self._loop.call_at(self._replied, self._reply, reply)

    def _reply(self, reply):
        if not (self._closed or self.broken):
            self.receive(reply)

    def reset(self):
        """Break the connection: the client gets an error, data in transit is lost."""
        if not self.broken:
            self.broken = True
            self._disconnect()
            if not self._closed:
                self.connection_lost()

    def close(self):
        """Close the client's side: requests in transit still arrive."""
        if not self._closed:
            self._closed = True
            when = max(self._arrived, self._loop.time())
            self._loop.call_at(when, self._disconnect, context=NO_PROCESS)

    def _disconnect(self):
        if self in self._server.links:
            self._server.links.remove(self)
        self.disconnected()

    def disconnected(self):
        """Release what the server holds for this client."""


async def connect_to(server, kinds):
    """Wait until the server accepts a connection. Raises OSError."""
    loop, process, faults = asyncio.get_running_loop(), PROCESS.get(), server.faults
    fault = faults.draw(process, "connect", kinds)
    if fault == "silence before" or (process and process.state is not State.RUNNING):
        await loop.create_future()
    await asyncio.sleep(faults.delay())
    if fault or not server.up:
        raise ConnectionRefusedError(111, "Connection refused")


class RedisLink(Link):
    """The socket of a redis-py connection: bytes in, bytes out."""

    kinds = REDIS_FAULTS

    def __init__(self, server, redis):
        super().__init__(server)
        self._redis = redis
        self._written = 0
        """The server's offset after the latest command of this connection that changed it."""
        self._parser = hiredis.Reader()
        self.reader = asyncio.StreamReader(loop=self._loop)
        self._waits = []

    def writelines(self, chunks):
        for chunk in chunks:
            self._parser.feed(chunk)
        commands = []
        while (command := self._parser.gets()) is not False:
            commands.append(command)
        # Each command of a pipeline is a separate step; a transaction is one step.
        steps = [commands] if commands[0] == [b"MULTI"] else [[each] for each in commands]
        for each in steps:
            step = _step(each[0])
            kinds = FAULTS[:-1] if step == "cast" else self.kinds
            self.send(step, partial(self._execute, each), kinds)

    async def drain(self):
        if self.process and self.process.state is not State.RUNNING:
            await self._loop.create_future()

    async def wait_closed(self):
        pass

    def _execute(self, commands, done):
        if commands[0] == [b"MULTI"]:
            replies = self._redis.transaction(commands[1:-1])
            done([Status(b"OK"), *[Status(b"QUEUED")] * len(replies), replies])
            return
        [command] = commands

        def answer(reply):
            done([reply])

        if command[0] == b"WAITAOF":
            self._wait_for_replicas(*map(int, command[2:]), answer)
            return
        before = self._redis.offset
        reply = self._redis.execute(command, answer)
        if reply is not BLOCKED:
            if self._redis.offset != before:
                self._written = self._redis.offset
            answer(reply)
            return
        # The change that ends the wait is not this connection's: WAITAOF does not wait for it.
        self._waits.append(answer)
        block = int(command[command.index(b"BLOCK") + 1]) / 1000
        self._later(block, self._redis.time_out, answer)

    def _wait_for_replicas(self, replicas, milliseconds, answer):
        def count(least):
            if (found := self._redis.acknowledged(self._written)) >= least:
                answer([1, found])
                return True
            return False

        if not count(replicas):
            self._later(milliseconds / 1000, count, 0)

    def _later(self, seconds, effect, *args):
        self._loop.call_later(seconds, self._server.run, effect, *args)

    def receive(self, replies):
        self.reader.feed_data(b"".join(map(encode, replies)))

    def connection_lost(self):
        self.reader.set_exception(ConnectionResetError(104, "Connection reset by peer"))
        self.reader.feed_eof()

    def disconnected(self):
        for answer in self._waits:
            self._redis.cancel_wait(answer)


class RedisConnection(AbstractConnection):
    """redis-py's connection with a model in place of the socket."""

    def __init__(self, *, server, redis, **options):
        self._server, self._redis = server, redis
        super().__init__(**options)

    def repr_pieces(self):
        return [("server", "model")]

    def _host_error(self):
        return "model"

    async def _connect(self):
        async with asyncio.timeout(self.socket_connect_timeout):
            await connect_to(self._server, ("break before", "silence before"))
        link = RedisLink(self._server, self._redis)
        self._reader, self._writer = link.reader, link


def client(server, redis):
    """Create the app's Redis client with connections to a model."""
    made = connect("redis://model")
    pool = made.connection_pool
    pool.connection_class = RedisConnection
    del pool.connection_kwargs["host"]
    pool.connection_kwargs |= {"server": server, "redis": redis, "driver_info": None}
    return made


class PrimaryConnection(RedisConnection, SentinelManagedConnection):
    """Leads to the machine that the Sentinels call the primary."""

    def __init__(self, *, machines, **options):
        self._machines = machines
        super().__init__(server=None, redis=None, **options)

    async def _connect(self):
        self._redis = next(each for each in self._machines if each.name == self.host)
        self._server = self._redis.server
        await super()._connect()


class SentinelClient:
    """The client of a Sentinel, which is on the other side of the network too."""

    def __init__(self, sentinel, faults):
        self._sentinel = sentinel
        self._faults = faults

    async def sentinel_master(self, _):
        fault = self._faults.draw(PROCESS.get(), "ask a Sentinel", ("silence before", "late reply"))
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        if fault != "silence before":
            later = partial(loop.call_later, context=NO_PROCESS)
            later(self._faults.delay(), self._answer, reply, fault, later)
        return await reply

    def _answer(self, reply, fault, later):
        if self._sentinel.up:
            delay = self._faults.delay(1.0 if fault else 0.002)
            later(delay, _resolve, reply, self._sentinel.describe())

    async def aclose(self):
        pass


def _resolve(reply, result):
    if not reply.done():
        reply.set_result(result)


def client_of_primary(machines, sentinels, faults):
    """Create the app's client of a primary that Sentinels watch, with connections to models."""
    made = connect("redis+sentinel://one,two,three/voting")
    pool = made.connection_pool
    pool.connection_class = PrimaryConnection
    pool.connection_kwargs |= {"machines": machines, "driver_info": None}
    pool.sentinel_manager.sentinels = [SentinelClient(each, faults) for each in sentinels]
    return made


def encode(reply):
    """Encode a reply in RESP2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case Status():
            return b"+%s\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case ErrorReply():
            return b"-%s\r\n" % str(reply).encode()
    return b"*%d\r\n%s" % (len(reply), b"".join(map(encode, reply)))


# Scripts by the first word of their comment: controls change the rest of the text.
_WORDS = {
    "accept": "cast",
    "make": "sync_poll",
    "move": "dead_letter",
    "delete": "delete_idle_consumers",
    "multi": "progress",
}


def _step(command):
    name = command[0].decode().lower()
    if name == "eval":
        name = _first_word(command[1])
    return _WORDS.get(name, name)


@cache
def _first_word(script):
    return re.search(rb"-- (\w+)", script)[1].decode().lower()
