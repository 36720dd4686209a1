"""The models return the same replies and errors as the real servers."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial, wraps
from operator import itemgetter
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import OutOfMemoryError
from simulation.network import Faults, Server, client
from simulation.postgres_model import Engine, Postgres
from simulation.redis_model import BLOCKED, Redis
from simulation.replication import Machine as Replicated
from sqlalchemy.exc import DBAPIError
from support.database import ask, execute, question_of
from support.wait import until

from voting.database import counting
from voting.database.engine import _sqlstate, create_engine
from voting.database.poll import (
    Known,
    close_poll,
    confirm_close,
    declare_final,
    fetch_poll_for_share,
    fetch_version_floor,
    reopen_poll,
    start_round,
)
from voting.database.totals import fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.poll.lifecycle import Event, Poll
from voting.poll.question import CHOICES
from voting.queue.client import GROUP, Queue, StreamMissing, connect
from voting.queue.consumer import Consumer
from voting.queue.producer import Caster, CastError
from voting.queue.state import QueueState

VOTERS = [UUID(int=number + 1) for number in range(4)]
FAR_FUTURE_MS = 9_999_999_999_999  # ms
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)

CONSUMERS = st.sampled_from(["one", "two"])
PICKS = st.lists(st.integers(0, 30), max_size=6)
TRACES = st.sampled_from([None, None, f"00-{'a' * 32}-{'b' * 16}-01"])
ROUNDS = st.sampled_from([1, 1, 1, 2])
# Sorted: each round has one call, since concurrent calls may overtake each other.
BALLOTS = st.lists(
    st.tuples(ROUNDS, st.sampled_from(VOTERS), st.sampled_from(CHOICES[:4]), TRACES), max_size=5
).map(partial(sorted, key=itemgetter(0)))
# Only Postgres rejects a choice that its round does not have.
COUNTED = st.lists(
    st.tuples(
        st.sampled_from(VOTERS),
        st.sampled_from([*"aaaabbbbcclm"]),
        st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4, 4, 2**62, 2**63]),  # ms after the round before
        st.integers(0, 2),
        st.sampled_from([None, 0, 0, 0, 1, -1]),  # rounds ahead of the poll's
    ),
    max_size=4,
    unique_by=lambda ballot: ballot[2:4],
)
QUESTIONS = st.sampled_from([2, 3, 12]).map(question_of)


class Clock:
    """The model's time in seconds; the tests set it to the real server's."""

    now = 0.0

    def __call__(self):
        return self.now


class Side:
    """The app's queue code on the real Redis or on the model."""

    def __init__(self, queue):
        self.queue = queue
        self.redis = queue.redis
        self.state = QueueState(queue)
        self.caster = Caster(queue)

    def consumer(self, name="one"):
        return Consumer(self.queue, name)


def in_loop(method):
    """Run an async rule in the machine's event loop: Hypothesis calls rules synchronously."""

    @wraps(method)
    def run(self, **arguments):
        self.run(method(self, **arguments))

    return run


class Machine(RuleBasedStateMachine):
    """Runs each operation on a server and on its model, and compares the outcomes."""

    def __init__(self, servers, database_url, runner):
        super().__init__()
        self.servers = servers
        self.database_url = database_url
        self.runner = runner

    def run(self, coroutine):
        return self.runner.run(coroutine)


class QueueMachine(Machine):
    """Valkey and the model of Redis."""

    @initialize()
    @in_loop
    async def begin(self):
        self.name = f"test-{uuid4().hex}"
        self.seen = {}
        self.clock = Clock()
        self.redis = Redis(self.clock)
        self.real = Side(Queue(connect(self.servers.redis_url()), name=self.name))
        self.model = Side(Queue(client(Server(Faults()), self.redis), name=self.name))
        await self._both(lambda on: _prepare(on, MIN_VERSION))

    @in_loop
    async def teardown(self):
        if not hasattr(self, "real"):  # Hypothesis ended the example before `begin`
            return
        keys = self.real.queue
        await self.real.redis.delete(keys.stream_key, keys.poll_key, keys.dead_letters_key)
        await self.real.queue.close()
        await self.model.queue.close()

    def both(self, operation):
        """Run an operation on both sides. Their results or errors must be equal."""
        return self.run(self._both(operation))

    async def _both(self, operation):
        real = await _outcome(operation(self.real))
        self.clock.now = await self.real.state.clock()
        model = await _outcome(operation(self.model))
        assert model == real
        return real

    @rule(
        ms=st.sampled_from([0, 5, FAR_FUTURE_MS]),
        seq=st.sampled_from([0, 7]),
        state=st.sampled_from(["open", "closed"]),
        closes_at=st.sampled_from([None, PAST, FUTURE]),
        has_queue=st.booleans(),
        queue_lost_at=st.sampled_from([None, PAST, FUTURE]),
        database_id=st.sampled_from([*["one"] * 5, "another"]),
        round=ROUNDS,
        question=QUESTIONS,
    )
    def prepare(self, ms, seq, **poll):
        after = Version(ms, seq)
        self.both(lambda on: _prepare(on, after, Poll(after_version=after, **poll)))

    @rule()
    def open(self):
        self.both(lambda on: _prepare(on, MIN_VERSION))

    @rule(ballots=BALLOTS)
    def cast(self, ballots):
        self.run(self._cast(ballots))

    async def _cast(self, ballots):
        self.clock.now = await self.real.state.clock()
        real = await _cast(self.real, ballots)
        # The model generates its ids from the time at which the real server generated its own.
        taken = next((each for each in real if isinstance(each, Version)), MIN_VERSION)
        if 0 < taken.ms < FAR_FUTURE_MS:
            self.clock.now = taken.ms / 1000 + 0.0001
        assert await _cast(self.model, ballots) == real

    @rule(consumer=CONSUMERS, count=st.integers(1, 4))
    def read(self, consumer, count):
        self._record(self.both(lambda on: on.consumer(consumer).read(count=count, block=0)))

    @rule(consumer=CONSUMERS, min_idle=st.sampled_from([0, 3600]), count=st.integers(1, 4))
    def claim_idle(self, consumer, min_idle, count):
        self._record(
            self.both(lambda on: on.consumer(consumer).claim_idle(min_idle=min_idle, count=count))
        )

    @rule(start=st.sampled_from(["0-0", "1-1"]), count=st.integers(1, 4))
    def claim_ids(self, start, count):
        arguments = (self.real.queue.stream_key, GROUP, "one", 0, start, "COUNT", count, "JUSTID")
        self.both(lambda on: on.queue.execute(("XAUTOCLAIM", *arguments)))

    @rule(replicas=st.integers(0, 1))
    def wait_for_replicas(self, replicas):
        self.both(partial(_acknowledgements, replicas=replicas))

    def _record(self, entries):
        if isinstance(entries, list):
            self.seen |= {entry.version: entry for entry in entries}

    def _pick(self, picks):
        seen = list(self.seen.values())
        return [seen[pick % len(seen)] for pick in picks] if seen else []

    @rule(picks=PICKS)
    def acknowledge(self, picks):
        ids = [each.id for each in self._pick(picks)]
        self.both(lambda on: on.consumer().acknowledge(ids))

    @rule(pick=st.integers(0, 30))
    def dead_letter(self, pick):
        for each in self._pick([pick]):
            self.both(lambda on, entry=each: on.consumer().dead_letter(entry, "no ballot"))

    @rule(ms=st.sampled_from([0, FAR_FUTURE_MS]))
    def trim(self, ms):
        self.both(lambda on: on.consumer().trim(Version(ms, 0)))

    @rule()
    def trim_all(self):
        self.both(lambda on: on.consumer().trim())

    @rule(min_idle=st.sampled_from([-1, 3600]))
    def delete_idle_consumers(self, min_idle):
        self.both(lambda on: on.consumer().delete_idle_consumers(min_idle))

    @rule(before=st.none() | st.integers(0, 30), count=st.integers(1, 4))
    def entries_before(self, before, count):
        version = None if before is None else next(iter(self._pick([before])), None)
        version = version and version.version
        self.both(lambda on: on.state.entries_before(version, count))

    @rule()
    def delete_the_stream(self):
        self.both(lambda on: on.redis.delete(on.queue.stream_key))

    @rule()
    def destroy_the_group(self):
        self.both(lambda on: on.redis.xgroup_destroy(on.queue.stream_key, GROUP))

    @rule(step=st.integers(1, 3), seq=st.sampled_from([0, 3, 2**63]))
    @in_loop
    async def append_poison(self, step, seq):
        last = await self.real.redis.xrevrange(self.real.queue.stream_key, count=1)
        [(version, _)] = last or [(None, 0)]
        if version:
            poison = Version(Version.parse(version).ms + step, seq)
            await self._append({"no": "vote"}, poison)

    async def _append(self, fields, version):
        await self._both(lambda on: on.redis.xadd(on.queue.stream_key, fields, id=str(version)))

    @rule(pick=st.integers(0, 30))
    def delete_an_entry(self, pick):
        for each in self._pick([pick]):
            self.both(lambda on, entry=each: on.redis.xdel(on.queue.stream_key, str(entry.version)))

    @rule(identity=st.sampled_from(["1-1", "$"]))
    def reset_the_group(self, identity):
        command = ("XGROUP", "SETID", self.real.queue.stream_key, GROUP, identity)
        self.both(lambda on: on.redis.execute_command(*command))

    @rule()
    @in_loop
    async def fill_memory(self):
        await self.real.redis.config_set("maxmemory", 1)
        self.redis.memory_full = True
        try:
            await self._both(lambda on: on.state.memory_is_low())
            await self._cast([(1, VOTERS[0], Choice.A, None)])
            await self._both(lambda on: _prepare(on, MIN_VERSION))
            await self._append({"no": "room"}, FAR_FUTURE_MS * 9)
        finally:
            await self.real.redis.config_set("maxmemory", "1gb")
            self.redis.memory_full = False

    @invariant()
    @in_loop
    async def the_queues_match(self):
        for operation in (
            lambda on: on.state.progress(),
            lambda on: on.state.midpoint(),
            lambda on: on.state.length(),
            lambda on: on.caster.ready(),
            lambda on: on.redis.xrange(on.queue.stream_key),
            lambda on: on.state.cast_rules(),
            _deliveries,
            _consumers,
            _dead_letters,
        ):
            await self._both(operation)


class PollMachine(Machine):
    """Postgres and its model."""

    @initialize(question=QUESTIONS)
    @in_loop
    async def begin(self, question):
        self.real = create_engine(self.database_url, name="tests")
        tables = "votes, tally, finals, final_totals, poll, rounds, options"
        await execute(self.real, f"TRUNCATE {tables}")
        await execute(self.real, "INSERT INTO poll DEFAULT VALUES")
        await execute(self.real, "INSERT INTO rounds VALUES (1, 'Which one?', false)")
        await ask(self.real, question)
        [row] = await execute(self.real, "SELECT database_id, revision FROM poll")
        self.clock = Clock()
        self.postgres = Postgres(self.clock, question)
        self.postgres.poll = replace(
            self.postgres.poll, database_id=str(row.database_id), revision=row.revision
        )
        self.model = Engine(Server(Faults()), self.postgres)

    @in_loop
    async def teardown(self):
        if hasattr(self, "real"):
            await self.real.dispose()

    async def both(self, operation):
        real = await _outcome(operation(self.real))
        assert await _outcome(operation(self.model)) == real

    @rule(ballots=COUNTED)
    @in_loop
    async def count(self, ballots):
        poll = self.postgres.poll
        batch = [
            QueuedBallot(
                poll.after_version.ms + ms,
                seq,
                voter.hex,
                choice,
                round=None if ahead is None else poll.round + ahead,
            )
            for voter, choice, ms, seq, ahead in ballots
        ]
        await self.both(lambda engine: counting.count(engine, batch))

    @rule(at=st.sampled_from([None, FUTURE]))
    def close(self, at):
        if self.postgres.poll.allows(Event.CLOSE):
            self.run(close_poll(self.real, at=at))
            self.postgres.close(at)

    @rule(ms=st.sampled_from([1, 2, 3, 2**62, 2**63]))
    @in_loop
    async def confirm_the_close(self, ms):
        until = Version(self.postgres.poll.after_version.ms + ms, 1)
        await self.both(lambda engine: _confirm_close(engine, until))

    @rule()
    @in_loop
    async def finalize(self):
        until = self.postgres.poll.last_version or MIN_VERSION
        await self.both(lambda engine: declare_final(engine, until))

    @rule()
    def reopen(self):
        seen = self.run(fetch_result(self.real)).poll
        self.run(reopen_poll(self.real, seen))
        self.postgres.reopen()

    @rule(
        question=QUESTIONS,
        ahead=st.sampled_from([0, 0, 0, 1]),
        rounds=st.integers(0, 9),
    )
    @in_loop
    async def start_another_round(self, question, ahead, rounds):
        ended, known = self.postgres.poll.round + ahead, Known(rounds=rounds)
        await self.both(lambda engine: start_round(engine, ended, question, known=known))

    @rule(ballots=COUNTED, question=QUESTIONS)
    def run_a_round(self, ballots, question):
        """Do at once what seldom happens in this order."""
        self.count(ballots=ballots)
        self.close(at=None)
        self.confirm_the_close(ms=3)
        self.finalize()
        self.start_another_round(question=question, ahead=0, rounds=0)

    @invariant()
    @in_loop
    async def the_votes_match(self):
        rows = await execute(self.real, "SELECT voter, choice, ms, seq FROM votes")
        votes = {row.voter: (row.choice, Version(row.ms, row.seq)) for row in rows}
        assert self.postgres.votes == votes
        answers = []
        for engine in (self.real, self.model):
            totals = (await fetch_result(engine)).totals
            async with engine.begin() as connection:
                newest = await fetch_version_floor(connection)
                poll = _without_times(await fetch_poll_for_share(connection))
            answers.append((totals.counts, newest, poll, poll.revision))
        assert answers[0] == answers[1]

    @invariant()
    @in_loop
    async def the_rounds_match(self):
        """The model keeps the tally and the final totals of all rounds too."""
        rows = await execute(self.real, "SELECT round, choice, votes, ms FROM tally")
        assert _sums((*key[::2], *row) for key, row in self.postgres.tally.items()) == _sums(rows)
        rows = await execute(
            self.real,
            "SELECT round, array_agg(votes ORDER BY choice) FROM final_totals"
            " GROUP BY round, final_at ORDER BY final_at",
        )
        assert [(poll.round, list(totals)) for poll, _, totals in self.postgres.finals] == list(
            map(tuple, rows)
        )


def _sums(rows):
    """Add up rows of the tally: clocks of models and servers may put them into other buckets."""
    sums = {}
    for number, choice, votes, ms in rows:
        before, highest = sums.get((number, choice), (0, 0))
        sums[number, choice] = before + votes, max(highest, ms)
    return sums


async def _cast(on, ballots):
    casts = (on.caster.cast(Ballot(*ballot), number) for number, *ballot in ballots)
    return [_comparable(each) for each in await asyncio.gather(*casts, return_exceptions=True)]


async def _prepare(on, newest, poll=Poll(database_id="one")):  # noqa: B008 - frozen
    prepared = await on.state.sync_poll(newest, poll)
    times = ("closed_at", "lost_at")
    return prepared._replace(**{each: getattr(prepared, each) is not None for each in times})


async def _confirm_close(engine, until):
    async with engine.begin() as connection:
        await confirm_close(connection, PAST, until)


def _without_times(poll):
    times = ("closes_at", "closed_at", "final_at", "queue_lost_at")
    return replace(poll, **{each: getattr(poll, each) is not None for each in times})


def _comparable(outcome):
    """Reduce an error to what the app distinguishes."""
    if isinstance(outcome, DBAPIError):
        return "SQLSTATE", _sqlstate(outcome)
    if isinstance(outcome, StreamMissing | CastError | OutOfMemoryError):
        return type(outcome), str(outcome)[:20]
    if isinstance(outcome, Exception):
        return type(outcome), str(outcome).split(" ")[0]
    return outcome


async def _outcome(awaitable):
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - all of them are compared
        return _comparable(error)


async def _deliveries(on):
    pending = await on.redis.xpending_range(on.queue.stream_key, GROUP, "-", "+", 100)
    names = ("message_id", "consumer", "times_delivered")
    summary = await on.redis.xpending(on.queue.stream_key, GROUP)
    return [[each[name] for name in names] for each in pending], summary


async def _acknowledgements(on, replicas):
    """Return how many replicas have it on disk: without one, none. The primary may not yet."""
    [[_, acknowledged]] = await on.queue.execute(("WAITAOF", 0, replicas, 1))
    return acknowledged


async def _consumers(on):
    consumers = await on.redis.xinfo_consumers(on.queue.stream_key, GROUP)
    return [(each["name"], each["pending"]) for each in consumers]


async def _dead_letters(on):
    return [entry.fields for entry in await on.state.dead_letters()]


@pytest.mark.parametrize("machine", [QueueMachine, PollMachine])
def test_the_models_match_the_servers(machine, servers, database):
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: machine(servers, servers.database_url(database), runner),
            settings=settings(
                max_examples=15,
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                # No shrinking: it would take ten minutes with real servers.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.parametrize("after", ["append", "destroyed", "nothing"])
def test_a_blocked_read_gets_its_reply(after):
    redis, answers = Redis(lambda: 1.0), []
    redis.execute([b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"], None)
    read = [b"XREADGROUP", b"GROUP", b"g", b"me", b"BLOCK", b"9", b"STREAMS", b"s", b">"]
    answer = answers.append
    assert redis.execute(read, answer) is BLOCKED
    match after:
        case "append":
            redis.execute([b"XADD", b"s", b"1-1", b"field", b"value"], None)
            assert answers == [[[b"s", [[b"1-1", [b"field", b"value"]]]]]]
        case "destroyed":
            redis.execute([b"XGROUP", b"DESTROY", b"s", b"g"], None)
            assert str(answers[0]).startswith("NOGROUP")
        case "nothing":
            redis.time_out(answer)
            assert answers == [None]


@pytest.mark.parametrize(("blocked", "covered"), [(False, 0), (True, 1)])
async def test_waitaof_does_not_wait_for_what_a_blocked_read_has_got(servers, blocked, covered):
    primary = Replicated("one", asyncio.get_running_loop(), Faults(), 1.0)
    primary.feeds["a replica"] = SimpleNamespace(
        send=lambda _: None, acknowledged=lambda: 0, heard_at=lambda: 0
    )
    _, replica = await asyncio.open_unix_connection(servers.folders.run / "valkey.sock")
    replica.write(b"PSYNC ? -1\r\n")  # and never acknowledge what follows
    real = [connect(servers.redis_url()) for _ in range(2)]

    async def is_online():
        info = await real[0].info("replication")
        return info["connected_slaves"] == 1 and info["slave0"]["state"] == "online"

    try:
        await until(is_online)
        await real[0].connection_pool.disconnect()
        model = [client(primary.server, primary) for _ in range(2)]
        for clients in (model, real):
            assert await _acknowledgements_of_a_read(*clients, blocked=blocked) == covered
            for each in clients:
                await each.aclose()
    finally:
        replica.close()
        await replica.wait_closed()


async def _acknowledgements_of_a_read(reader, other, *, blocked):
    """Read as a client that has written nothing. Return how many replicas have what it read."""
    queue, other = (Queue(each, name="test-blocked") for each in (reader, other))
    await other.execute(("XGROUP", "CREATE", queue.stream_key, GROUP, "0", "MKSTREAM"))
    append = ("XADD", queue.stream_key, "1-1", "field", "value")
    if not blocked:
        await other.execute(append)
    read = ("XREADGROUP", "GROUP", GROUP, "me", "BLOCK", 9000, "STREAMS", queue.stream_key, ">")
    reading = asyncio.create_task(queue.execute(read))
    if blocked:
        await until(lambda: other.redis.xinfo_consumers(queue.stream_key, GROUP))
        await other.execute(append)
    [[[_, [entry]]]] = await reading
    assert entry[0] == b"1-1"
    [[_, acknowledged]] = await queue.execute(("WAITAOF", 0, 1, 1))
    await other.execute(("DEL", queue.stream_key))
    return acknowledged
