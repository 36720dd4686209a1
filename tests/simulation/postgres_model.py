"""What the app's workers use of Postgres, in memory: an engine, its connections, their statements.

Where this and a real server differ, this is wrong: `test_models.py` compares them.
"""

import asyncio
from datetime import UTC, datetime
from functools import partial

from simulation.network import POSTGRES_FAULTS, Link, connect_to
from sqlalchemy.exc import DBAPIError

from voting import tally
from voting.ballots import Version
from voting.database import STATEMENT_TIMEOUT

PATIENCE = STATEMENT_TIMEOUT + 2
IDLE_IN_TRANSACTION = STATEMENT_TIMEOUT * 2


class Rejected(Exception):
    """What the driver raises, with Postgres' code."""

    def __init__(self, sqlstate):
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def error(sqlstate):
    return DBAPIError("a statement", {}, Rejected(sqlstate))


class Postgres:
    """The tables. `clock` tells the time in seconds, for the tally's buckets."""

    def __init__(self, clock):
        self.votes = {}
        self.tally = {}
        self.state = "open"
        self.locks = {}  # who has the poll's lock, and since when it does nothing with it
        self._clock = clock

    def may_change_state(self, now):
        return all(now - since > IDLE_IN_TRANSACTION for since in self.locks.values())

    def count(self, voters, choices, ms, seq):
        """Do what the statement of `tally.count` promises, all of it or nothing."""
        if max(*ms, *seq) >= 2**63:
            raise error("22000")
        if not set(choices) <= {"a", "b"}:
            raise error("23514")
        newest = {}
        for version, voter, choice in sorted(zip(map(Version, ms, seq), voters, choices)):  # noqa: B905
            newest[voter] = version, choice
        delta = {"a": 0, "b": 0}
        changed = []
        for voter, (version, choice) in newest.items():
            before = self.votes.get(voter)
            if before is None or version > before[1]:
                if before is not None:
                    delta[before[0]] -= 1
                delta[choice] += 1
                self.votes[voter] = choice, version
                changed.append(version.ms)
        if changed:
            bucket = int(self._clock()) // 10 * 10
            a, b, highest = self.tally.get(bucket, (0, 0, 0))
            row = a + delta["a"], b + delta["b"], max(highest, *changed)
            self.tally[bucket] = row

    def totals(self):
        return tuple(sum(row[i] for row in self.tally.values()) for i in (0, 1))

    def newest(self):
        return max((ms for _, _, ms in self.tally.values()), default=None)


class PostgresLink(Link):
    """A connection, which the engine's pool may use again. The statements are those of `tally`."""

    kinds = POSTGRES_FAULTS

    def __init__(self, server, postgres):
        super().__init__(server)
        self._postgres = postgres
        self._waiting = None

    async def ask(self, step, effect):
        """Send a statement. Raises what the driver raises."""
        if self.broken:
            raise error("08003")
        self._waiting = self._loop.create_future()
        self.send(step, partial(self._run, step, effect))
        async with asyncio.timeout(PATIENCE):
            return await self._waiting

    def _run(self, step, effect, done):
        locked_since = self._postgres.locks.get(self, self._loop.time())
        try:
            if self._loop.time() - locked_since > IDLE_IN_TRANSACTION:
                raise error("25P03")
            reply = effect()
            self._faults.log(self.process, f"{step}: done")
        except DBAPIError as refused:
            reply = refused
        done(reply)

    def lose(self, done):
        done(error(self._faults.choose(("40001", "40P01"))))

    def answer(self, reply):
        if self._waiting.done():
            return  # its process has given up
        if isinstance(reply, Exception):
            self._waiting.set_exception(reply)
        else:
            self._waiting.set_result(reply)

    def tell_broken(self):
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(error("08006"))

    def left(self):
        self._postgres.locks.pop(self, None)

    def lock(self):
        self._postgres.locks[self] = self._loop.time()


class Engine:
    """Stands in for an AsyncEngine: `connect()`, and `begin()` for a transaction."""

    def __init__(self, server, postgres):
        self.server = server
        self.postgres = postgres
        self.free = []

    def execution_options(self, **_):
        return self

    def connect(self):
        return _Connection(self, in_transaction=False)

    def begin(self):
        return _Connection(self, in_transaction=True)


class _Connection:
    def __init__(self, engine, *, in_transaction):
        self._engine = engine
        self._postgres = engine.postgres
        self._in_transaction = in_transaction

    async def __aenter__(self):
        if self._engine.free:
            self._link = self._engine.free.pop()
        else:
            await connect_to(self._engine.server, ("break before",))
            self._link = PostgresLink(self._engine.server, self._postgres)
        return self

    async def __aexit__(self, kind, *_):
        try:
            if self._in_transaction and kind is None:
                await self._link.ask("commit", self._link.left)
        except BaseException:
            self._link.close()
            raise
        if kind is None:
            self._engine.free.append(self._link)
        else:
            self._link.close()

    async def execute(self, statement, parameters=None):
        step, effect = self._effect(statement, parameters)
        return _Result(await self._link.ask(step, effect))

    def _effect(self, statement, parameters):
        """Find out what a statement is, by what it asks for first."""
        if statement is tally._COUNT:
            return "count", partial(self._postgres.count, **parameters)
        match statement.exported_columns[0].name:
            case "pg_advisory_xact_lock_shared":
                return "lock", self._link.lock
            case "state":
                return "state", lambda: self._postgres.state
            case "max":
                return "newest", self._postgres.newest
            case "coalesce":
                return "totals", lambda: (*self._postgres.totals(), datetime.now(UTC))
        raise AssertionError(f"a new statement: {statement}")


class _Result:
    def __init__(self, reply):
        self._reply = reply

    def scalar_one(self):
        return self._reply

    def one(self):
        return self._reply
