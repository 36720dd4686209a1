"""A model of three servers that are primary and replicas, and of the Sentinels beside them.

Simpler than the servers are: a change is sent to replicas as the whole state after it, and a
replica that comes back copies the whole state, however little it lacks.
"""

import asyncio
import pickle
from collections import deque
from itertools import combinations
from math import inf

from simulation.loop import NO_PROCESS
from simulation.network import Server
from simulation.redis_model import BLOCKED, ErrorReply, Redis

MAX_LAG = 3.0  # seconds: min-replicas-max-lag

# Seconds between two messages of a Sentinel, at most; a real one sends PING each second, and greets
# the others each two.
PERIOD = 1.0
INFO_PERIOD, INFO_VALID = 10.0, 5.0  # seconds
ELECTION = (0.2, 1.2)  # seconds: as soon as the votes are there, or after a random delay
RETRY_AFTER = 4.0  # seconds, twice failover-timeout
RECONFIGURE_AFTER = 8.0  # seconds for which a server has to be what it should not be

WRITES = {
    *(b"EVAL", b"XADD", b"XACK", b"XREADGROUP", b"XAUTOCLAIM", b"XTRIM", b"XGROUP"),
    *(b"HSET", b"DEL"),
}


class Machine(Redis):
    """A server, which is a primary or follows one; `ahead` is of its clock, in seconds."""

    def __init__(self, name, loop, faults, ahead):
        super().__init__(lambda: loop.time() + self.ahead)
        self._loop = loop
        self.name = name
        self.ahead = ahead
        self.server = Server(faults)
        self.sentinel_up = True
        self.follows = None
        self.feeds = {}
        """What it sends, or has sent, to each of its replicas."""
        self.needs_replicas = False
        self._copied = (0, pickle.dumps({}), [])  # of its primary, as long as it is a replica
        self._sent = b""

    def execute(self, args, callback):
        if args[0] in WRITES:
            if self.follows is not None:
                return ErrorReply("READONLY You can't write against a read only replica.")
            heard_at = max((each.heard_at() for each in self.feeds.values()), default=-inf)
            if self.needs_replicas and self._loop.time() - heard_at > MAX_LAG:
                return ErrorReply("NOREPLICAS Not enough good replicas to write.")
        return super().execute(args, callback)

    def _reply(self, args):
        reply = super()._reply(args)
        if args[0] not in WRITES or reply is BLOCKED:
            return reply
        if not self.feeds:
            self.offset += 1
        elif (state := pickle.dumps(self.keys)) != self._sent:
            self.offset += 1
            self._sent = state
            for feed in self.feeds.values():
                feed.send(state)
        return reply

    def do_hello(self):
        return [*super().do_hello()[:-1], b"replica" if self.follows else b"master"]

    def do_hset(self, *args):
        self._sent = b""  # a change, also if the values stay
        return super().do_hset(*args)

    def acknowledged(self, offset):
        return sum(feed.acknowledged() >= offset for feed in self.feeds.values())

    def received(self):
        """Return the offset up to which it has the changes of its primary."""
        if self.follows is not None and (feed := self.follows.feeds.get(self)):
            feed.arrive()
        return self._copied[0]

    def copy(self, offset, state, appended):
        self._copied = offset, state, appended

    def promote(self):
        self.received()
        self.offset, self._sent, self.appended = self._copied
        self.keys = pickle.loads(self._sent)
        self.become(None)

    def become(self, follows):
        """Follow another server, or none. That closes the connections of all clients."""
        self.follows = follows
        self.feeds.clear()
        self.memory_full = False
        self.server.break_links()

    def lose_disk(self):
        self.server.stop()
        self.sentinel_up = False
        self.feeds.clear()
        self.keys, self.appended = {}, []
        self._copied = (0, pickle.dumps({}), [])


class Feed:
    """What a primary has sent to a replica: states in order, each with its offset."""

    def __init__(self, primary, replica, faults, delay):
        self._loop = asyncio.get_running_loop()
        self._primary, self._replica, self._faults = primary, replica, faults
        self._on_the_way, self._on_disk = deque(), deque()
        self._arrives = self._loop.time() + delay
        self._acknowledges = 0.0
        self._acknowledged = -1
        self._ended_at = None
        self.send(pickle.dumps(primary.keys))

    @property
    def ended(self):
        return self._ended_at is not None

    def end(self):
        """Lose what is on its way. The primary does not notice."""
        self.acknowledged()
        self._on_the_way.clear()
        self._on_disk.clear()
        self._ended_at = self._loop.time()

    def heard_at(self):
        return self._loop.time() if self._ended_at is None else self._ended_at

    def send(self, state):
        if self.ended:
            return
        self._arrives = max(self._arrives, self._loop.time() + self._lag())
        change = self._primary.offset, state, self._primary.appended
        self._on_the_way.append((self._arrives, len(self._primary.appended), change))

    def _lag(self):
        # Sometimes a network or a disk is slow for a moment.
        return self._faults.delay(self._faults.choose((0.001,) * 30 + (0.2, 1.5)))

    def arrive(self):
        """Let the replica have what has arrived by now."""
        while self._on_the_way and self._on_the_way[0][0] <= self._loop.time():
            at, length, (offset, state, appended) = self._on_the_way.popleft()
            self._replica.copy(offset, state, appended[:length])
            self._acknowledges = max(self._acknowledges, at + self._lag())
            self._on_disk.append((self._acknowledges, offset))

    def acknowledged(self):
        """Return the offset up to which the replica has said that it has all on disk."""
        self.arrive()
        while self._on_disk and self._on_disk[0][0] <= self._loop.time():
            self._acknowledged = self._on_disk.popleft()[1]
        return self._acknowledged


class Sentinel:
    """Watches the primary, and promotes a replica with the vote of another Sentinel."""

    def __init__(self, cluster, number):
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._random = cluster.random
        self.machine = cluster.machines[number]
        self.primary = cluster.machines[0]
        self.patience = 6.5 + 0.5 * number
        self.epoch = self.voted = 0
        self._alive_at = 0.0
        self._retry_at = 0.0
        self._failing_over = self._objectively_down = False
        self._offsets = {}
        self._wrong_since = {}

    @property
    def up(self):
        return self.machine.sentinel_up

    @property
    def down(self):
        return self._loop.time() - self._alive_at > self.patience

    def describe(self):
        flags = {"s_down": self.down, "o_down": self._objectively_down}
        flags["failover_in_progress"] = self._failing_over
        return {
            "ip": self.primary.name,
            "port": 6379,
            "flags": ",".join(["master", *(name for name, is_set in flags.items() if is_set)]),
            "last-ok-ping-reply": int((self._loop.time() - self._alive_at) * 1000),
            "down-after-milliseconds": int(self.patience * 1000),
            "config-epoch": self.epoch,
            "num-other-sentinels": 2,
            "quorum": 2,
        }

    async def watch(self):
        while True:
            await asyncio.sleep(self._random.uniform(0.1, PERIOD))
            if self.up:
                self._look()

    def _others(self):
        return [
            each
            for each in self._cluster.sentinels
            if each is not self and each.up and self._cluster.connected(self.machine, each.machine)
        ]

    def _reaches(self, machine):
        is_blind = (self, machine) in self._cluster.blind
        is_connected = self._cluster.connected(self.machine, machine) and not is_blind
        return machine.server.up and not machine.server.suspended and is_connected

    def _look(self):
        now, others = self._loop.time(), self._others()
        for other in others:
            if other.epoch > self.epoch and self._random.random() < 0.5:
                self._switch(other.primary, other.epoch)
        if self._reaches(self.primary) and self.primary.follows is None:
            self._alive_at = now
        self._objectively_down = self.down and any(
            each.down and each.primary is self.primary for each in others
        )
        period = PERIOD if self._objectively_down else INFO_PERIOD
        for each in self._cluster.machines:
            if each is not self.primary and self._reaches(each):
                self._correct(each)
                if now - self._offsets.get(each, (-inf, 0))[0] >= period:
                    self._offsets[each] = now, each.received()
        if self._objectively_down and not self._failing_over and now > self._retry_at:
            self._failing_over = True
            self._cluster.spawn(self._fail_over(others))

    def _correct(self, machine):
        """Have a server follow the primary if it has not done so for a while."""
        sane = not self.down and self._reaches(self.primary) and not self._failing_over
        if machine.follows is self.primary or not sane or self.primary.follows is not None:
            self._wrong_since.pop(machine, None)
        elif self._loop.time() - self._wrong_since.setdefault(machine, self._loop.time()) > (
            RECONFIGURE_AFTER
        ):
            self._cluster.follow(machine, self.primary)

    def vote(self, epoch):
        """Vote once in each epoch, whether the primary is down or not."""
        if epoch <= self.voted:
            return False
        self.voted = epoch
        self._retry_at = self._loop.time() + RETRY_AFTER  # give that one time
        return True

    async def _fail_over(self, others):
        epoch = max(each.voted for each in (self, *others)) + 1
        votes = [each.vote(epoch) for each in (self, *others)]
        await asyncio.sleep(self._random.uniform(*ELECTION))
        if sum(votes) >= 2 and self.up and self.epoch < epoch:
            since = self._loop.time() - INFO_VALID
            found = [
                (offset, each.name, each)
                for each, (at, offset) in self._offsets.items()
                if at >= since and self._reaches(each)
            ]
            if found:
                await self._promote(max(found)[-1], epoch)
        self._failing_over = self._objectively_down = False

    async def _promote(self, promoted, epoch):
        self._cluster.promote(promoted)
        await asyncio.sleep(self._random.uniform(0, PERIOD))
        for each in self._cluster.machines:
            if each not in {promoted, self.primary} and self._reaches(each):
                self._cluster.follow(each, promoted)
        await asyncio.sleep(self._random.uniform(0, PERIOD))
        if self.epoch < epoch:
            self._switch(promoted, epoch)

    def _switch(self, primary, epoch):
        self.primary, self.epoch = primary, epoch
        self.voted = max(self.voted, epoch)
        self._alive_at = self._loop.time()


class Cluster:
    """Three machines, each with a server and a Sentinel, and the network between them.

    `on_promotion` is called with the new primary.
    """

    def __init__(self, machines, random, faults, on_promotion):
        self._loop = asyncio.get_running_loop()
        self._faults = faults
        self._on_promotion = on_promotion
        self.random = random
        self.machines = machines
        self.primary, *replicas = machines
        self.cut = set()
        """Pairs of machines that can't reach each other."""
        self.blind = set()
        """Sentinels, each with the machine that it can't reach."""
        for each in machines:
            each.needs_replicas = True
        for each in replicas:
            each.follows = self.primary
        self.connect(delay=0)
        self.sentinels = [Sentinel(self, number) for number in range(len(machines))]
        for each in self.sentinels:
            self.spawn(each.watch())

    def spawn(self, coroutine):
        return self._loop.create_task(coroutine, context=NO_PROCESS.copy())

    def connected(self, *pair):
        return frozenset(pair) not in self.cut

    def connect(self, delay=2.0):
        """Connect and disconnect replicas as it should be now."""
        for primary in self.machines:
            for replica in self.machines:
                is_possible = (
                    primary.server.up
                    and replica.server.up
                    and self.connected(primary, replica)
                    and replica.follows is primary
                    and primary.follows is None
                )
                feed = primary.feeds.get(replica)
                if is_possible and not primary.server.suspended and (feed is None or feed.ended):
                    delay = self.random.uniform(0, delay)
                    primary.feeds[replica] = Feed(primary, replica, self._faults, delay)
                elif not (is_possible or feed is None or feed.ended):
                    feed.end()

    def promote(self, machine):
        self._faults.log("Sentinels", f"promote {machine.name}, with {machine.received()}")
        machine.promote()
        self.primary = machine
        self.connect()
        self._on_promotion(machine)

    def follow(self, machine, primary):
        self._faults.log("Sentinels", f"have {machine.name} follow {primary.name}")
        machine.become(primary)
        self.connect()

    def in_sync(self):
        """Whether all machines are well, and have and know the same."""
        primary = self.primary
        return (
            not self.cut
            and not self.blind
            and all(each.server.up and not each.server.suspended for each in self.machines)
            and all(each.follows is primary for each in self.machines if each is not primary)
            and primary.acknowledged(primary.offset) == len(self.machines) - 1
            and all(
                each.up and each.primary is primary and "," not in each.describe()["flags"]
                for each in self.sentinels
            )
        )

    # Failures, each until all is well again but for what the machines still have to copy

    async def lose_the_primary(self):
        lost = self.primary
        lost.lose_disk()
        self.connect()
        while self.primary is lost:
            await asyncio.sleep(0.1)
        await asyncio.sleep(self.random.uniform(0, 10))
        self._restart_empty(lost)

    async def lose_a_replica(self):
        lost = self._replica()
        lost.lose_disk()
        self.connect()
        await asyncio.sleep(self.random.uniform(0, 15))
        self._restart_empty(lost)

    def _restart_empty(self, machine):
        machine.server.up = machine.sentinel_up = True
        self.follow(machine, self.primary)

    async def freeze_the_primary(self):
        frozen = self.primary
        frozen.server.suspended = True
        frozen.sentinel_up = self.random.random() < 0.5  # the machine or its server alone
        await asyncio.sleep(self.random.uniform(3, 15))
        frozen.sentinel_up = True
        frozen.server.resume()
        self.connect()

    async def cut_off_the_primary(self):
        others = [each for each in self.machines if each is not self.primary]
        await self._cut({frozenset((self.primary, each)) for each in others})

    async def cut_off_a_replica(self):
        replica = self._replica()
        pairs = {frozenset(pair) for pair in combinations(self.machines, 2) if replica in pair}
        await self._cut(
            pairs if self.random.random() < 0.5 else {frozenset((self.primary, replica))}
        )

    async def _cut(self, pairs):
        self.cut = pairs
        self.connect()
        await asyncio.sleep(self.random.uniform(2, 20))
        self.cut = set()
        self.connect()

    async def blind_sentinels(self):
        found = self.random.sample(self.sentinels, self.random.randint(2, 3))
        self.blind = {(each, self.primary) for each in found}
        await asyncio.sleep(self.random.uniform(2, 20))
        self.blind = set()

    async def restart_the_primary(self):
        primary = self.primary
        primary.server.stop()
        primary.feeds.clear()
        await asyncio.sleep(self.random.uniform(0.01, 4))
        primary.server.up = True
        self.connect()

    def _replica(self):
        return self.random.choice([each for each in self.machines if each is not self.primary])


FAILURES = (
    Cluster.lose_the_primary,
    Cluster.lose_a_replica,
    Cluster.freeze_the_primary,
    Cluster.cut_off_the_primary,
    Cluster.cut_off_a_replica,
    Cluster.blind_sentinels,
    Cluster.restart_the_primary,
)
