"""What lies between the app and the models of its servers, and everything that goes wrong there.

A step is one thing that a process asks of a server. Each may meet a fault.
"""

import asyncio
import re
from collections import Counter
from functools import cache, partial

import hiredis
from redis.asyncio.connection import AbstractConnection
from simulation.loop import PROCESS, WORLD, State
from simulation.redis_model import BLOCKED, Refused, Status

from voting.queue.client import connect

FAULTS = (
    "crash before",  # the process is killed and the server hears nothing of it
    "crash after",  # it is killed when the server has done it
    "stop before",  # the process gets SIGSTOP, and the server hears of it after SIGCONT
    "stop after",
    "break before",  # the connection breaks
    "break after",
    "silence before",  # nothing comes through any more, and nobody is told
    "silence after",
    "late request",  # it arrives later, perhaps long after the process gave it up
    "late reply",
    "twice",  # only casts: the server does it twice, and the connection breaks
    "conflict",  # only Postgres: the transaction loses against another
)
REDIS_FAULTS = FAULTS[:-2]
POSTGRES_FAULTS = (*FAULTS[:-2], "conflict")

OFTEN = {"dead_letter": 10, "confirm close": 10, "finalize": 25, "count": 3, "xack": 2}
"""How much more often a step meets a fault: those that matter most, or are seldom taken."""


class Faults:
    """Decides from the seed what happens to each step, and writes down what did."""

    def __init__(self, random=None, *, rate=0.0, kinds=()):
        self._random = random
        self._rate = rate
        self._kinds = kinds
        self.on = False
        self.seen = Counter()
        self.trace = []
        self.quiet_from = 0.0
        """When everything that is late, or a process that is stopped, will have had its effect."""
        self.punctual_until = 0.0
        """Until when nothing new is late."""
        self.repeats = False
        """Whether the server does now what it is about to do again."""

    def log(self, process, what):
        now = asyncio.get_running_loop().time()
        self.trace.append((now, getattr(process, "name", process), what))

    def draw(self, process, step, kinds):
        """Decide which fault a step meets: one of `kinds`, or None."""
        fault = None
        if self.on and self._random.random() < min(0.5, self._rate * OFTEN.get(step, 1)):
            kinds = [each for each in kinds if each in self._kinds]
            if asyncio.get_running_loop().time() < self.punctual_until:
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
        """Make up a time in seconds; none where nothing goes wrong."""
        return self._random.uniform(0, longest) if self._random else 0.0

    def late(self, shortest, longest):
        seconds = self._random.uniform(shortest, longest)
        self.quiet_from = max(self.quiet_from, asyncio.get_running_loop().time() + seconds + 1)
        return seconds


class Server:
    """What is there to connect to. A restart breaks the connections, what is executed stays."""

    def __init__(self, faults):
        self.faults = faults
        self.up = True
        self.links = []

    def go_down(self):
        self.up = False
        self.break_links()

    def break_links(self):
        links, self.links = self.links, []
        for link in links:
            link.break_off()


class Link:
    """One connection between a process and a server: in each direction in order, or not at all."""

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
            self.process.at_death.append(self.close)

    def send(self, step, effect, kinds=None):
        """Have the server run `effect`, which is given where to send its reply."""
        process = self.process
        if self.broken or self._closed or (process and process.state is not State.RUNS):
            return
        fault = self._faults.draw(process, step, kinds or self.kinds)
        delay = self._faults.delay()
        match fault:
            case "crash before":
                process.kill()
                return
            case "break before":
                self._loop.call_later(delay, self.break_off, context=WORLD)
                return
            case "stop before":
                delay = self._faults.late(1, 40)
                process.stop(delay)
            case "silence before":
                self._silent = True
            case "late request":
                delay = self._faults.late(0.1, 30)
        if not self._silent:
            self._arrived = max(self._arrived, self._loop.time() + delay)
            arrive = partial(self._arrive, step, fault, effect)
            self._loop.call_at(self._arrived, arrive, context=WORLD)

    def _arrive(self, step, fault, effect):
        if not self._server.up or (self.broken and self not in self._server.links):
            self.break_off()
            return
        if fault == "conflict":
            effect = self.lose
        if fault == "twice":
            self._faults.repeats = True
            effect(lambda _: None)
            self._faults.repeats = False
        effect(partial(self._done, step, fault))

    def _done(self, step, fault, reply):
        delay = self._faults.delay()
        if fault and fault.endswith((" after", " reply")):
            self._faults.log(self.process, f"{step}: done, {fault}")
        match fault:
            case "crash after":
                self.process.kill()
            case "stop after":
                self.process.stop(self._faults.late(1, 40))
            case "break after" | "twice":
                self._loop.call_later(delay, self.break_off)
                return
            case "silence after":
                self._silent = True
            case "late reply":
                delay = self._faults.late(0.1, 10)
        if not self._silent:
            self._replied = max(self._replied, self._loop.time() + delay)
            self._loop.call_at(self._replied, self._reply, reply)

    def _reply(self, reply):
        if not (self._closed or self.broken):
            self.answer(reply)

    def break_off(self):
        """Break the connection: the client is told, what is on its way is lost."""
        if not self.broken:
            self.broken = True
            self._leave()
            if not self._closed:
                self.tell_broken()

    def close(self):
        """Close it from the client's side: what is on its way arrives all the same."""
        if not self._closed:
            self._closed = True
            when = max(self._arrived, self._loop.time())
            self._loop.call_at(when, self._leave, context=WORLD)

    def _leave(self):
        if self in self._server.links:
            self._server.links.remove(self)
        self.left()

    def left(self):
        """The server sees that the client is gone."""


async def connect_to(server, kinds):
    """Wait until the server takes a connection. Raises OSError."""
    loop, process, faults = asyncio.get_running_loop(), PROCESS.get(), server.faults
    fault = faults.draw(process, "connect", kinds)
    if fault == "silence before" or (process and process.state is not State.RUNS):
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
        self._parser = hiredis.Reader()
        self.reader = asyncio.StreamReader(loop=self._loop)
        self._waits = []

    def writelines(self, chunks):
        for chunk in chunks:
            self._parser.feed(chunk)
        commands = []
        while (command := self._parser.gets()) is not False:
            commands.append(command)
        # Each command is a step of its own, also where several come at once.
        steps = [commands] if commands[0] == [b"MULTI"] else [[each] for each in commands]
        for each in steps:
            step = _step(each[0])
            kinds = FAULTS[:-1] if step == "cast" else self.kinds
            self.send(step, partial(self._execute, each), kinds)

    async def drain(self):
        if self.process and self.process.state is not State.RUNS:
            await self._loop.create_future()

    async def wait_closed(self):
        pass

    def _execute(self, commands, done):
        if commands[0] == [b"MULTI"]:
            replies = self._redis.transaction(commands[1:-1])
            done([Status(b"OK"), *[Status(b"QUEUED")] * len(replies), replies])
            return
        [command] = commands
        answer = partial(self._one, done)
        reply = self._redis.execute(command, answer)
        if reply is not BLOCKED:
            answer(reply)
            return
        self._waits.append(answer)
        block = int(command[command.index(b"BLOCK") + 1]) / 1000
        self._loop.call_later(block, self._redis.stop_waiting, answer)

    @staticmethod
    def _one(done, reply):
        done([reply])

    def answer(self, replies):
        self.reader.feed_data(b"".join(map(encode, replies)))

    def tell_broken(self):
        self.reader.set_exception(ConnectionResetError(104, "Connection reset by peer"))
        self.reader.feed_eof()

    def left(self):
        for answer in self._waits:
            self._redis.forget(answer)


class RedisConnection(AbstractConnection):
    """redis-py's own connection, but for the socket."""

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
    """Make the client that the app makes, whose connections lead to a model."""
    made = connect("redis://model")
    pool = made.connection_pool
    pool.connection_class = RedisConnection
    del pool.connection_kwargs["host"]
    pool.connection_kwargs |= {"server": server, "redis": redis, "driver_info": None}
    return made


def encode(reply):
    """Write a reply as Redis does in version 2 of its protocol."""
    match reply:
        case None:
            return b"$-1\r\n"
        case Status():
            return b"+%s\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case Refused():
            return b"-%s\r\n" % str(reply).encode()
    return b"*%d\r\n%s" % (len(reply), b"".join(map(encode, reply)))


# By the first word of a script's comment: controls change the rest of its text.
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
