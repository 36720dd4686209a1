"""The models return the same replies and errors as the real servers."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
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
from sqlalchemy.exc import DBAPIError
from support.database import execute

from voting.database import counting
from voting.database.engine import _sqlstate, create_engine
from voting.database.poll import (
    PollChanged,
    confirm_close,
    declare_final,
    fetch_poll_for_share,
    fetch_version_floor,
    reopen_poll,
    start_round,
)
from voting.database.totals import fetch_result
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.poll.lifecycle import Poll
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
BALLOTS = st.lists(
    st.tuples(st.sampled_from(VOTERS), st.sampled_from(list(Choice)), TRACES), max_size=5
)


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
    """Runs each operation on the servers and on the models, and compares the outcomes."""

    def __init__(self, real_servers, database_url, runner):
        super().__init__()
        self.runner = runner
        self.seen = {}
        self.servers = real_servers
        self.database_url = database_url

    @initialize()
    @in_loop
    async def begin(self):
        self.name = f"test-{uuid4().hex}"
        self.real = Side(Queue(connect(self.servers.redis_url()), name=self.name))
        self.engine = create_engine(self.database_url, name="tests")
        await execute(self.engine, "TRUNCATE votes, tally, finals, past_tally, poll")
        await execute(self.engine, "INSERT INTO poll DEFAULT VALUES")
        self.clock, faults = Clock(), Faults()
        self.redis, self.postgres = Redis(self.clock), Postgres(self.clock)
        [[identity]] = await execute(self.engine, "SELECT database_id FROM poll")
        self.postgres.poll = replace(self.postgres.poll, database_id=str(identity))
        self.model = Side(Queue(client(Server(faults), self.redis), name=self.name))
        self.model_engine = Engine(Server(faults), self.postgres)

    @in_loop
    async def teardown(self):
        if not hasattr(self, "engine"):  # Hypothesis ended the example before `begin`
            return
        keys = self.real.queue
        await self.real.redis.delete(keys.stream_key, keys.poll_key, keys.dead_letters_key)
        await self.real.queue.close()
        await self.model.queue.close()
        await self.engine.dispose()

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def both(self, operation):
        """Run an operation on both sides. Their results or errors must be equal."""
        return self.run(self._both(operation))

    async def _both(self, operation):
        real = await _outcome(operation(self.real))
        self.clock.now = await self.real.state.clock()
        model = await _outcome(operation(self.model))
        assert model == real
        return real

    # Stream

    @rule(
        ms=st.sampled_from([0, 5, FAR_FUTURE_MS]),
        seq=st.sampled_from([0, 7]),
        state=st.sampled_from(["open", "closed"]),
        closes_at=st.sampled_from([None, PAST, FUTURE]),
        has_queue=st.booleans(),
        lost_at=st.sampled_from([None, PAST, FUTURE]),
        database_id=st.sampled_from([*["one"] * 5, "another"]),
    )
    def prepare(self, ms, seq, state, closes_at, has_queue, lost_at, database_id):
        after = Version(ms, seq)
        poll = Poll(
            state=state,
            closes_at=closes_at,
            after_version=after,
            has_queue=has_queue,
            queue_lost_at=lost_at,
            database_id=database_id,
        )
        self.both(lambda on: _prepare(on, after, poll))

    @rule()
    def open(self):
        self.both(lambda on: _prepare(on, MIN_VERSION))

    @rule(ballots=BALLOTS)
    def cast(self, ballots):
        self.run(self._cast(ballots))

    async def _cast(self, ballots):
        mine = [Ballot(*ballot) for ballot in ballots]
        self.clock.now = await self.real.state.clock()
        real = await asyncio.gather(*map(self.real.caster.cast, mine), return_exceptions=True)
        # The model generates its ids from the time at which the real server generated its own.
        if real and isinstance(real[0], Version) and real[0].ms < FAR_FUTURE_MS:
            self.clock.now = real[0].ms / 1000 + 0.0001
        model = await asyncio.gather(*map(self.model.caster.cast, mine), return_exceptions=True)
        assert [_comparable(each) for each in model] == [_comparable(each) for each in real]

    @rule(consumer=CONSUMERS, count=st.integers(1, 4))
    def read(self, consumer, count):
        self._record(self.both(lambda on: on.consumer(consumer).read(count=count, block=0)))

    @rule(consumer=CONSUMERS, min_idle=st.sampled_from([0, 3600]), count=st.integers(1, 4))
    def claim_idle(self, consumer, min_idle, count):
        self._record(
            self.both(lambda on: on.consumer(consumer).claim_idle(min_idle=min_idle, count=count))
        )

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
            await self._cast([(VOTERS[0], Choice.A)])
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

    # Votes

    @rule(
        ballots=st.lists(
            st.tuples(
                st.sampled_from(VOTERS),
                st.sampled_from(["a", "a", "b", "b", "c"]),
                st.sampled_from([1, 2, 3, 4, 5, 2**63 - 1, 2**63]),
                st.integers(0, 2),
            ),
            max_size=6,
            unique_by=lambda ballot: ballot[2:],
        )
    )
    @in_loop
    async def count(self, ballots):
        # Only Postgres rejects an invalid choice.
        batch = [QueuedBallot(ms, seq, voter.hex, choice) for voter, choice, ms, seq in ballots]
        real = await _outcome(counting.count(self.engine, batch))
        assert await _outcome(counting.count(self.model_engine, batch)) == real

    @rule(picks=PICKS)
    def count_read_entries(self, picks):
        batch = {}
        for entry in self._pick(picks):
            if b"voter" in entry.fields and entry.version.seq < 2**63:
                batch[entry.version] = entry.ballot()
        for engine in (self.engine, self.model_engine):
            self.run(counting.count(engine, list(batch.values())))

    # Poll

    @rule(until=st.sampled_from([Version(3, 1), Version(2**63 - 1, 0), Version(2**63, 0)]))
    @in_loop
    async def confirm_the_close(self, until):
        real = await _outcome(_confirm_close(self.engine, until))
        assert await _outcome(_confirm_close(self.model_engine, until)) == real

    @rule()
    @in_loop
    async def finalize(self):
        until = self.postgres.poll.last_version or MIN_VERSION
        real = await declare_final(self.engine, until)
        assert await declare_final(self.model_engine, until) == real

    @rule()
    def reopen(self):
        seen = self.run(fetch_result(self.engine)).poll
        self.run(reopen_poll(self.engine, seen))
        self.postgres.reopen()

    @rule()
    def start_another_round(self):
        ended = self.postgres.poll
        try:
            self.run(start_round(self.engine, ended.round))
        except PollChanged:
            assert ended.final_at is None
        else:
            self.postgres.start_round()

    @invariant()
    @in_loop
    async def the_votes_match(self):
        rows = await execute(self.engine, "SELECT voter, choice, ms, seq FROM votes")
        votes = {row.voter: (row.choice, Version(row.ms, row.seq)) for row in rows}
        assert self.postgres.votes == votes
        answers = []
        for engine in (self.engine, self.model_engine):
            totals = (await fetch_result(engine)).totals
            async with engine.begin() as connection:
                newest = await fetch_version_floor(connection)
                poll = _without_times(await fetch_poll_for_share(connection))
            answers.append((totals.a, totals.b, newest, poll))
        assert answers[0] == answers[1]


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


async def _consumers(on):
    consumers = await on.redis.xinfo_consumers(on.queue.stream_key, GROUP)
    return [(each["name"], each["pending"]) for each in consumers]


async def _dead_letters(on):
    return [entry.fields for entry in await on.state.dead_letters()]


def test_the_models_match_the_servers(servers, database):
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: Machine(servers, servers.database_url(database), runner),
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
