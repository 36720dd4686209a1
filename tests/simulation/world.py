"""One run: voters, vote processes, workers, servers and faults, all drawn from a seed."""

import asyncio
import logging
import random
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from unittest import mock
from uuid import UUID

from redis.exceptions import RedisError
from simulation.loop import NO_PROCESS, Process, State, VirtualLoop
from simulation.network import FAULTS, Faults, Server, client, client_of_primary
from simulation.postgres_model import Engine, Postgres
from simulation.redis_model import ErrorReply
from simulation.replication import FAILURES, Cluster, Machine
from support.checker import FinalState, Vote, check
from support.database import question_of

from voting.database.engine import DATABASE_ERRORS
from voting.database.poll import PollChanged, start_round
from voting.load.record import Acknowledgement, VoteResult
from voting.poll.ballot import Ballot, Version
from voting.poll.lifecycle import Phase
from voting.poll.question import CHOICES
from voting.queue import client as client_module
from voting.queue.client import GROUP, Queue, StreamMissing
from voting.queue.entry import Entry
from voting.queue.producer import (
    CLOCK_MAX_AGE,
    Caster,
    MaybeRecorded,
    NotRecorded,
    PollClosed,
    RoundOver,
)
from voting.queue.state import PollConflict, QueueState
from voting.reconcile.integrity import Untrusted
from voting.reconcile.poll import finalize, reconcile
from voting.roles import maintenance
from voting.roles import worker as worker_module
from voting.roles.maintenance import Timing
from voting.roles.worker import Worker
from voting.telemetry.logging import use_standard_library

use_standard_library()  # run() disables it

START = 1_700_000_000.0  # the servers' clocks at the start, in seconds since 1970
ANSWER_TIMEOUT = 1000.0  # seconds until each voter has all responses
RECOVERY_TIMEOUT = 60.0  # seconds from the end of the faults until every entry is counted
COMMAND_TIMEOUT = 20.0  # seconds after which an operator gives up a command
OPTIONS = (2, 2, 3, 4, 12)  # how many a question has
BALLOTS, DEAD = b"{voting}:ballots", b"{voting}:dead"


@dataclass
class Run:
    """The result of a seed."""

    seed: int
    wrong: list[str]
    trace: list
    seen: Counter
    """The number of times that each fault happened to each step."""
    acknowledgements: Counter

    def lines(self, last=None):
        return [f"{at:9.3f}  {actor}: {step}" for at, actor, step in self.trace[-(last or 0) :]]


def is_replicated(seed):
    """Whether the queue of a seed is on three machines."""
    return seed % 5 == 0


def run(seed):
    """Run a seed and return its result."""
    loop = VirtualLoop()
    world = World(seed, loop)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack:
        stack.callback(logging.disable, disabled)
        for (module, name), value in world.constants().items():
            stack.enter_context(mock.patch.object(module, name, value))
        return loop.run(world.run())


class World:
    """The state of a run; `wrong` lists the violations of the app's promises."""

    def __init__(self, seed, loop):
        self.seed = seed
        self._loop = loop
        self._random = random.Random(seed)
        kinds = [each for each in FAULTS if self._random.random() < 0.6]
        rate = self._random.choice((0.0, 0.04, 0.1, 0.2))
        self._faults = Faults(self._random, rate=rate, kinds=kinds)
        self._redis = Machine("one", loop, self._faults, START)
        self._cluster = None
        question = question_of(self._random.choice(OPTIONS))
        self._postgres = Postgres(lambda: loop.time() + START, question)
        self._postgres_server = Server(self._faults)
        self._queues = []
        self._timing = Timing()
        self._results = []
        self._poison = set()
        self._repeated = set()
        self._names = Counter()
        self._vote, self._workers = {}, {}
        self._healing = False
        self._failovers = 0
        self.wrong = []

    def _redis_clock(self):
        return self._loop.time() + self._redis.ahead

    def constants(self):
        """Draw the worker's constants."""
        draw = self._random.choice
        batch_size = draw((1, 2, 3, 5))
        concurrent_batches = draw((1, 2, 4))
        self._timing = Timing(maintenance_interval=draw((5.0, 10.0)))
        return {
            (worker_module, "BATCH_SIZE"): batch_size,
            (worker_module, "CONCURRENT_BATCHES"): concurrent_batches,
            (worker_module, "READ_BLOCK"): 4.0,
            (client_module, "_WAIT_MS"): 20,  # fewer steps than with 2
            (worker_module, "random"): self._random,
            (maintenance, "CLAIM_COUNT"): batch_size,
            (maintenance, "RETENTION_SECONDS"): draw((3600, 2)),
            (maintenance, "RETENTION_MEMORY"): draw((0.5, 0.0)),
            (maintenance, "CONSUMER_EXPIRY"): draw((3600, 10)),
        }

    async def run(self):
        machines = [self._redis]
        if is_replicated(self.seed):
            behind = [START - self._random.choice((0, 0, 1, 5)) for _ in range(2)]
            for name, ahead in zip(("two", "three"), behind, strict=True):
                machines.append(Machine(name, self._loop, self._faults, ahead))
            self._cluster = Cluster(machines, self._random, self._faults, self._promoted)
        for each in machines:
            self._mark_repeats(each)
        self._faults.enabled = True
        for slot in range(self._random.randint(1, 2)):
            self._spawn(self._supervise(self._vote, slot, self._vote_process))
        for slot in range(self._random.choice((1, 1, 2, 3))):
            self._spawn(self._supervise(self._workers, slot, self._worker))
        voters = [self._spawn(self._voter()) for _ in range(self._random.randint(2, 5))]
        events = [self._spawn(self._run_events())]
        if self._cluster is not None:
            events.append(self._spawn(self._run_failures()))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await asyncio.gather(*voters, *events)
        except TimeoutError:
            self.wrong.append(f"a voter has no response after {ANSWER_TIMEOUT:.0f} s")
        healed_at = self._loop.time()
        await self._heal()
        await self._wait_until_stable(healed_at)
        await self._check_rounds()
        await self._loop.cancel_all()
        for queue in self._queues:
            await queue.close()
        self.wrong += [f"a callback failed: {each}" for each in self._loop.errors]
        acknowledgements = Counter(each.acknowledgement.name for each in self._results)
        return Run(self.seed, self.wrong, self._faults.trace, self._faults.seen, acknowledgements)

    def _spawn(self, coroutine):
        return self._loop.create_task(coroutine, context=NO_PROCESS.copy())

    # Processes

    async def _supervise(self, processes, slot, start):
        """Restart a process whenever it exits, as Kubernetes does."""
        while not self._healing:
            self._names[start.__name__] += 1
            process = Process(self._loop, f"{start.__name__[1:]} {self._names[start.__name__]}")
            ended = self._loop.create_future()
            process.on_exit.append(partial(processes.pop, slot, None))
            process.on_exit.append(partial(self._ended, process, ended))
            self._faults.log(process, "starts")
            processes[slot] = start(process), process
            await ended
            await asyncio.sleep(self._random.uniform(0, 4))

    def _ended(self, process, ended):
        self._faults.log(process, process.state.value)
        if not ended.done():
            ended.set_result(None)

    def _queue(self):
        if (cluster := self._cluster) is None:
            queue = Queue(client(self._redis.server, self._redis))
        else:
            redis = client_of_primary(cluster.machines, cluster.sentinels, self._faults)
            queue = Queue(redis, replicas=1)
        self._queues.append(queue)
        return queue

    def _vote_process(self, _):
        queue = self._queue()
        return Caster(queue), QueueState(queue)

    def _worker(self, process):
        engine = Engine(self._postgres_server, self._postgres)
        name = process.name.replace(" ", "-")
        worker = Worker(self._queue(), engine, consumer=name, timing=self._timing)
        process.start(self._work(process, worker.run))
        return worker

    async def _work(self, process, run):
        try:
            await run()
        except Exception as error:
            self.wrong.append(f"{process.name} ended with {error!r}")
            raise
        process.state = State.EXITED
        for callback in process.on_exit:
            self._loop.call_soon(callback, context=NO_PROCESS)

    # Voters

    async def _voter(self):
        voter = UUID(int=self._random.getrandbits(128), version=4)
        await asyncio.sleep(self._random.uniform(0, 1))
        page = None
        for _ in range(self._random.randint(2, 6)):
            await asyncio.sleep(self._random.choice((0, 0.01, 1, 4, 12)) * self._random.random())
            # Voters keep a page, which shows the question of its round, for any time.
            if page is None or self._random.random() < 0.4:
                page = await self._load_page()
                await asyncio.sleep(self._random.choice((0, 0.01, 4)) * self._random.random())
            ballot = Ballot(voter, self._random.choice(page.question.choices))
            acknowledgement, version, refusal = await self._request(
                partial(self._serve_vote, ballot, page.round), Acknowledgement.NO_RESPONSE
            )
            result = VoteResult(voter.hex, ballot.choice, acknowledgement, version)
            self._results.append(result._replace(round=page.round))
            self._faults.log(
                f"voter {voter.hex[:4]}",
                f"{ballot.choice} in round {page.round}: {acknowledgement.name} {version}",
            )
            if refusal is not None:
                self._faults.seen["world", refusal.__name__] += 1
                await asyncio.sleep(self._random.choice((0, 8)) * self._random.random())
            if refusal is RoundOver:
                page = None

    async def _load_page(self):
        """Return the rules that a vote process has read, of which a page shows the question."""
        while True:
            rules, *_ = await self._request(self._serve_page, None)
            if rules is not None:
                return rules
            await asyncio.sleep(0.5)

    async def _request(self, serve, no_response):
        """Return the response of any vote process; `no_response` if it is killed before."""
        while not self._vote:
            await asyncio.sleep(0.5)
        services, process = self._vote[self._random.choice(sorted(self._vote))]
        response = self._loop.create_future()
        process.on_exit.append(partial(self._resolve, response, no_response))
        process.start(serve(*services, response))
        return await response

    async def _serve_page(self, _, state, response):
        try:
            rules = await state.cast_rules()
        except RedisError:
            rules = None
        self._resolve(response, rules)

    async def _serve_vote(self, ballot, number, caster, _, response):
        try:
            version = await caster.cast(ballot, number)
        except (PollClosed, RoundOver, NotRecorded) as error:
            self._resolve(response, Acknowledgement.REFUSED, None, type(error))
        except MaybeRecorded:
            self._resolve(response, Acknowledgement.UNKNOWN)
        else:
            self._resolve(response, Acknowledgement.ACKNOWLEDGED, version)

    @staticmethod
    def _resolve(response, outcome=None, version=None, refusal=None):
        if not response.done():
            response.set_result((outcome, version, refusal))

    # Events

    async def _run_events(self):
        for _ in range(self._random.choice((0, 2, 4, 6))):
            await asyncio.sleep(self._random.uniform(0, 5))
            event = self._random.choice(EVENTS)
            if self._cluster is not None and event in ONE_SERVER_ALONE:
                continue
            if await event(self) is not False:
                self._faults.log("world", event.__name__.replace("_", " ").strip())
                self._faults.seen["world", event.__name__] += 1

    async def _run_failures(self):
        """Have one machine fail at a time: the next only when all are in sync again."""
        for _ in range(self._random.randint(1, 3)):
            await asyncio.sleep(self._random.uniform(0, 5))
            failure = self._random.choice(FAILURES)
            name = failure.__name__
            before, primary = self._postgres.poll, self._cluster.primary
            self._faults.log("world", f"begins to {name.replace('_', ' ')}")
            asking = self._spawn(self._ask_meanwhile()) if self._random.random() < 0.5 else None
            await failure(self._cluster)
            while not self._cluster.in_sync():
                await asyncio.sleep(0.1)
            self._faults.log("world", "all machines are in sync")
            if asking is not None:
                await asking
            poll, seen = self._postgres.poll, self._faults.seen
            seen["world", name] += 1
            seen["another round", name] += poll.round > before.round
            seen["close", name] += poll.last_version not in {None, before.last_version}
            seen["failover", name] += self._cluster.primary is not primary

    async def _ask_meanwhile(self):
        await asyncio.sleep(self._random.uniform(0, 8))
        await self._ask()

    def _promoted(self, machine):
        """Forget what the primary before had alone: it is not in the queue any more."""
        self._redis = machine
        self._failovers += 1
        kept = {version for key, version, _ in machine.appended if key == BALLOTS}
        self._poison &= kept
        self._repeated &= kept

    def _random_process(self):
        processes = self._random.choice((self._vote, self._workers))
        found = [processes[slot][1] for slot in sorted(processes)]
        return self._random.choice(found) if found else None

    async def _kill_a_process(self):
        process = self._random_process()
        return process.kill() if process else False

    async def _stop_a_worker(self):
        if not self._workers:
            return False
        worker, process = self._workers[self._random.choice(sorted(self._workers))]
        if process.state is not State.RUNNING:
            return False
        return worker.stop()

    async def _suspend_a_process(self):
        process = self._random_process()
        return process.suspend(self._faults.long_delay(1, 40)) if process else False

    async def _restart_redis(self):
        self._redis.server.stop()
        await asyncio.sleep(self._random.uniform(0.01, 4))
        self._redis.server.up = True

    async def _destroy_group(self):
        if self._redis.server.suspended:
            return False
        self._redis.execute([b"XGROUP", b"DESTROY", BALLOTS, GROUP.encode()], None)
        return None

    async def _add_poison(self):
        stream = self._redis.keys.get(BALLOTS)
        if stream is None or self._redis.server.suspended:
            return False
        ms = max(stream.last_id.ms, self._redis.now()) + 1
        good = [b"voter", self._random.randbytes(16), b"choice", b"a"]
        kinds = [
            # Redis accepts this sequence number, Postgres does not. A smaller id follows it.
            [(Version(ms, 2**63), good), (Version(ms + 1, 0), [b"choice", b"a"])],
            [(Version(ms, 0), [b"voter", b"short", b"choice", b"a"])],
            [(Version(ms, 0), [*good[:3], b"m"])],
            [(Version(ms, 0), [*good[:3], b"0a"])],
        ]
        poll = self._postgres.poll
        if poll.phase is Phase.OPEN and poll.question.choices != CHOICES:
            other = CHOICES[len(poll.question.choices)].encode()
            kinds += [[(Version(ms, 0), [*good[:3], other])]] * 2  # only this round lacks it
        for version, fields in self._random.choice(kinds):
            command = [b"XADD", BALLOTS, str(version).encode(), *fields]
            if not isinstance(self._redis.execute(command, None), ErrorReply):
                self._poison.add(version)
        return None

    async def _fill_memory(self):
        redis = self._redis
        redis.memory_full = True
        await asyncio.sleep(self._random.uniform(1, 12))
        redis.memory_full = False

    async def _lose_volume(self):
        # The app can't recover uncounted entries of a lost volume, nor measure delays by a Redis
        # clock that is set back: wait until no entry and no request is in transit.
        until = self._loop.time() + 10
        while self._backlog() != 0 or self._loop.time() < self._faults.settled_at:
            if self._loop.time() > until:
                return False
            await asyncio.sleep(0.05)
        self._redis.server.stop()
        self._redis.execute([b"FLUSHALL"], None)
        self._redis.ahead -= self._random.choice((0, 1, 3600))
        self._faults.no_delays_until = self._loop.time() + CLOCK_MAX_AGE + 5
        self._redis.server.up = True
        return None

    async def _step_clock_forward(self):
        self._redis.ahead += self._random.choice((0.5, 3))

    async def _stop_postgres(self):
        self._postgres_server.stop()
        await asyncio.sleep(self._random.choice((0.01, 3, 40)) * self._random.random())
        self._postgres_server.up = True

    async def _change_poll(self):
        if not self._postgres.may_change_poll(self._loop.time()):
            return False
        poll = self._postgres.poll
        if poll.phase is Phase.OPEN:
            in_a_while = self._random.uniform(0, 8)
            at = datetime.fromtimestamp(self._redis_clock() + in_a_while, UTC)
            self._postgres.close(self._random.choice((None, at)))
            return None
        self._check_no_late_votes(poll)
        if poll.phase is Phase.FINAL and self._random.random() < 0.7:
            question = self._random.choice((poll.question, self._another_question()))
            self._postgres.start_round(poll.round, question.title, question.names)
            self._faults.seen["world", "another round"] += 1
        else:
            self._postgres.reopen()
            self._faults.seen["world", f"{poll.phase} undone"] += 1
        return None

    async def _finish_poll(self):
        """Close the poll, and wait up to 20 s for its final totals."""
        if self._postgres.poll.phase is Phase.OPEN and await self._change_poll() is False:
            return False
        until = self._loop.time() + 20
        while self._postgres.poll.phase is not Phase.FINAL and self._loop.time() < until:
            await asyncio.sleep(self._random.uniform(0, 1))
        return None

    def _another_question(self):
        poll = self._postgres.poll
        options = [each for each in OPTIONS if each != len(poll.question.names)]
        return question_of(self._random.choice(options), f"What in round {poll.round + 1}?")

    async def _ask(self):
        """Close the poll, and ask another question once it is final, as `voting ask` does."""
        if self._postgres.poll.phase is Phase.OPEN and await self._change_poll() is False:
            return False
        number = self._postgres.poll.round
        process, ended = Process(self._loop, "operator"), self._loop.create_future()
        process.on_exit.append(partial(self._resolve, ended))
        command = partial(self._ask_once_final, number, self._another_question())
        process.start(self._work(process, command))
        await ended
        self._faults.seen["world", "another question"] += self._postgres.poll.round > number
        return None

    async def _ask_once_final(self, number, question):
        """Start the next round, and copy it to Redis. Retries, as an operator would."""
        engine = Engine(self._postgres_server, self._postgres)
        state = QueueState(self._queue())
        errors = (PollChanged, PollConflict, Untrusted, StreamMissing, RedisError, *DATABASE_ERRORS)
        until = self._loop.time() + COMMAND_TIMEOUT
        while self._loop.time() < until:
            with suppress(*errors):
                poll, _ = await reconcile(engine, state)
                if poll.round != number:
                    break
                if poll.phase is Phase.FINAL or await finalize(engine, state, poll):
                    self._check_no_late_votes(self._postgres.poll)
                    await start_round(engine, number, question)
                    continue
            await asyncio.sleep(self._random.uniform(0.1, 0.5))

    def _check_no_late_votes(self, poll):
        """Check that Redis accepted no ballot after the close or the closing time."""
        mine = [
            version
            for key, version, _ in self._redis.appended
            if key == BALLOTS and version not in self._poison and version > poll.after_version
        ]
        if poll.last_version is not None:
            late = [each for each in mine if each > poll.last_version]
            self.wrong += [
                f"{each} was taken after the close at {poll.last_version}" for each in late
            ]
        # Ids are times, unless a higher id exists that Redis did not generate from its clock.
        from_elsewhere = {("world", "_add_poison"), ("world", "_lose_volume")}
        clocks = 1 + self._failovers
        if poll.closed_at and clocks == 1 and not from_elsewhere & self._faults.seen.keys():
            until = poll.closed_at.timestamp() * 1000
            if poll.closes_at is None:
                until += 1  # an operator may close the poll within a ballot's millisecond
            late = [each for each in mine if each.ms >= until]
            self.wrong += [f"{each} was taken after the close at {until}" for each in late]

    # Recovery and checks

    async def _heal(self):
        self._faults.log("world", "heals")
        self._healing, self._faults.enabled = True, False
        kill = self._random.random() < 0.7
        for _, process in [*self._workers.values(), *self._vote.values()]:
            process.kill() if kill else process.resume()
        fresh = Process(self._loop, "fresh worker")
        self._workers["fresh"] = self._worker(fresh), fresh

    async def _wait_until_stable(self, healed_at):
        """Wait until every entry is counted, then until every late request has arrived."""
        while self._backlog() != 0 or not self._poll_is_stable():
            if self._loop.time() > healed_at + RECOVERY_TIMEOUT:
                self.wrong.append(
                    f"after {RECOVERY_TIMEOUT:.0f} s the backlog is {self._backlog()}"
                    f" and the poll {self._postgres.poll}"
                )
                break
            await asyncio.sleep(0.5)
        for worker, process in self._workers.values():
            if process.state is State.RUNNING:
                worker.stop()
        await asyncio.sleep(max(10, self._faults.settled_at - self._loop.time()))

    def _backlog(self):
        """Return the number of unacknowledged entries, or None if the stream has no group."""
        stream = self._redis.keys.get(BALLOTS)
        group = stream and stream.groups.get(GROUP.encode())
        if not group:
            return None
        return len(group.pending) + sum(each > group.last_delivered for each in stream.entries)

    def _poll_is_stable(self):
        """Whether Redis has the poll's state, and the poll is open or final."""
        poll = self._postgres.poll
        if self._rules_in_redis() != (poll.state, poll.round):
            return False
        if poll.phase is Phase.OPEN and poll.closes_at is not None:
            # After the timeout, if Redis' clock was set back.
            return poll.closes_at.timestamp() > self._redis_clock() + RECOVERY_TIMEOUT
        return poll.phase is not Phase.COUNTING

    def _rules_in_redis(self):
        stored = self._redis.keys.get(b"{voting}:poll", {})
        return stored.get(b"state", b"").decode(), int(stored.get(b"round", 0))

    async def _check_rounds(self):
        poll = self._postgres.poll
        dead, entries = set(), {}
        queued = {version for key, version, _ in self._redis.appended if key == BALLOTS}
        for key, version, fields in self._redis.appended:
            if key == DEAD:
                dead.add(Version.parse(fields[fields.index(b"id") + 1]))
            elif version not in self._poison | self._repeated:
                ballot = Entry(str(version).encode(), fields).ballot()
                entries.setdefault(ballot.voter, []).append(version)
        now = poll, self._postgres.votes, self._postgres.totals()
        for at, votes, totals in [*self._postgres.finals, now]:
            backlog = self._backlog() or 0 if at is poll else 0
            self._check_round(at, votes, totals, (backlog, dead, entries))
            counted = {version for _, version in votes.values()}
            self.wrong += [f"{each} is counted, and not queued" for each in counted - queued]
        self._check_places()
        self._check_no_late_votes(poll)
        if poll.queue_lost_at is not None and ("world", "_lose_volume") not in self._faults.seen:
            self.wrong.append(f"the queue was called lost at {poll.queue_lost_at}")
        if dead != self._poison:
            self.wrong.append(f"dead letters: {sorted(dead)}, poison: {sorted(self._poison)}")
        backlog = self._backlog()
        if backlog is not None:  # `wrong` has a missing group already
            reported = (await QueueState(self._queue()).progress()).backlog
            if reported not in {None, backlog}:
                self.wrong.append(f"the backlog is {backlog}, and the app reports {reported}")
        await self._check_rules()

    async def _check_rules(self):
        """Check that Redis has the poll of Postgres."""
        poll = self._postgres.poll
        rules = await QueueState(self._queue()).cast_rules()
        if rules is None or rules.open != (poll.state == "open"):
            self.wrong.append(f"the poll is {poll.state}, and Redis has {rules}")
        elif (rules.round, rules.question) != (poll.round, poll.question):
            self.wrong.append(f"round {poll.round} asks {poll.question}, and Redis has {rules}")

    def _check_round(self, poll, votes, totals, queue):
        """Check the votes of one round against all of its ballots."""
        backlog, dead, entries = queue

        def in_round(version):
            return version > poll.after_version and (
                poll.last_version is None or version <= poll.last_version
            )

        # The round may have been reopened after this result.
        results = [
            each
            for each in self._results
            if each.round == poll.round
            and each.acknowledgement is not Acknowledgement.REFUSED
            and (each.version is None or in_round(each.version))
        ]
        state = FinalState(
            {voter.hex: Vote(choice, version) for voter, (choice, version) in votes.items()},
            {"tally": dict(zip(poll.question.choices, totals, strict=True))},
            backlog,
            dead,
            {voter: list(filter(in_round, found)) for voter, found in entries.items()},
        )
        self.wrong += [f"{each} (round {poll.round})" for each in check(results, state).wrong]

    def _check_places(self):
        """Check that each vote is in the round that its voter saw, and that its totals stay."""
        current = self._postgres.poll
        last = {poll.round: (poll, totals) for poll, _, totals in self._postgres.finals}
        ends = {number: poll.last_version for number, (poll, _) in last.items()}
        ends.pop(current.round, None)
        for each in self._results:
            if each.version is not None:
                found = sum(each.version > end for end in ends.values()) + 1
                if found != each.round:
                    self.wrong.append(f"{each} is in round {found}")
        for number in ends:
            poll, totals = last[number]
            if (now := self._postgres.totals(poll)) != totals:
                self.wrong.append(f"round {number} ended with {totals}, and has {now}")

    def _mark_repeats(self, redis):
        """Record the entries that the fault `twice` appends: the app does not cause them."""
        append = redis.do_xadd

        def do_xadd(key, *args):
            reply = append(key, *args)
            if self._faults.repeating and reply is not None and redis is self._redis:
                self._repeated.add(Version.parse(reply))
            return reply

        redis.do_xadd = do_xadd


EVENTS = (
    World._kill_a_process,
    World._stop_a_worker,
    World._suspend_a_process,
    World._restart_redis,
    World._destroy_group,
    World._add_poison,
    World._add_poison,  # some runs add several
    World._fill_memory,
    World._lose_volume,
    World._step_clock_forward,
    World._stop_postgres,
    World._change_poll,
    World._change_poll,
    *(World._finish_poll,) * 3,
    *(World._ask,) * 4,
)

# Of all three machines this would be more than one failure.
ONE_SERVER_ALONE = {World._restart_redis, World._lose_volume}
