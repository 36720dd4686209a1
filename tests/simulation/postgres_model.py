"""A model of the Postgres that workers use, in memory: engine, connections, statements.

The functions of `voting.database` run unchanged. Their statements are constants: the model
recognises each by identity, and executes its effect.

If the model and a real server differ, the model is wrong: `test_models.py` compares them.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from types import SimpleNamespace
from uuid import UUID

from simulation.network import POSTGRES_FAULTS, Link, connect_to
from sqlalchemy.exc import DBAPIError

from voting.database.counting import COUNT
from voting.database.durability import UNSAFE_SETTINGS
from voting.database.engine import STATEMENT_TIMEOUT
from voting.database.folding import FOLD
from voting.database.poll import (
    CLOSE_ON_TIME,
    CONFIRM_CLOSE,
    FINALIZE,
    LOCK_EXCLUSIVE,
    LOCK_SHARED,
    LONG_LOCK_TIMEOUT,
    POLL,
    RECORD_QUEUE,
    RECORD_QUEUE_LOSS,
    START_ROUND,
    VERSION_FLOOR,
)
from voting.database.totals import RESULT
from voting.poll.ballot import Version
from voting.poll.lifecycle import Event, Poll
from voting.poll.question import CHOICES, Question
from voting.reconcile.audit import COMPARE

DATABASE_ID = str(UUID(int=1))
REPLY_TIMEOUT = STATEMENT_TIMEOUT + 2
IDLE_IN_TRANSACTION = STATEMENT_TIMEOUT * 2
REOPENED = {
    "state": "open",
    **dict.fromkeys(("closes_at", "closed_at", "last_version", "final_at")),
}


class Rejected(Exception):
    """The driver's error, with its SQLSTATE."""

    def __init__(self, sqlstate):
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def error(sqlstate):
    return DBAPIError("a statement", {}, Rejected(sqlstate))


def _fit(*numbers):
    if max(numbers, default=0) >= 2**63:
        raise error("22000")


class Postgres:
    """The tables. `clock` returns the time in seconds, `question` is the first."""

    def __init__(self, clock, question=Question()):  # noqa: B008 - frozen
        self.votes = {}
        self.tally = {}  # votes and highest ms, by round, bucket and choice
        self.poll = Poll(database_id=DATABASE_ID, question=question)
        self.finals = []  # for each result, the poll, its votes and its totals at that time
        self.locks = {}  # holders of the poll's lock, with the time of their last statement
        self.changing = None  # the holder of the exclusive lock
        self._clock = clock

    def may_change_poll(self, now):
        return all(now - since > IDLE_IN_TRANSACTION for since in self.locks.values())

    def now(self):
        return datetime.fromtimestamp(self._clock(), UTC)

    # Operators

    def _change(self, **as_dict):
        self.poll = replace(self.poll, revision=self.poll.revision + 1, **as_dict)

    def close(self, at=None):
        assert self.poll.allows(Event.CLOSE if at is None else Event.SCHEDULE)
        if at is None:
            self._change(state="closed", closes_at=None)
        else:
            self._change(closes_at=at)

    def reopen(self):
        assert self.poll.allows(Event.REOPEN)
        self._change(**REOPENED)

    def may_start_round(self, ended):
        return self.poll.round == ended and self.poll.allows(Event.START_ROUND)

    def start_round(self, ended, title, names, lowest=0):
        if not self.may_start_round(ended):
            return
        self._change(
            round=max(ended + 1, lowest),
            question=Question(title, tuple(names)),
            asked=True,
            after_version=self.poll.last_version,
            queue_lost_at=None,
            **REOPENED,
        )
        self.votes = {}

    # Workers

    def close_on_time(self, at, seen_revision):
        if self.poll.allows(Event.TIME_REACHED) and self.poll.revision == seen_revision:
            self._change(state="closed", closed_at=at)

    def confirm_close(self, at, ms, seq):
        if self.poll.allows(Event.CLOSE_CONFIRMED):
            closed_at = self.poll.closed_at or at
            self.poll = replace(self.poll, closed_at=closed_at, last_version=Version(ms, seq))

    def record_queue(self):
        self.poll = replace(self.poll, has_queue=True)

    def record_queue_loss(self, at):
        self.poll = replace(self.poll, has_queue=True, queue_lost_at=at)

    def finalize(self, ms, seq):
        if not self.poll.allows(Event.ALL_COUNTED) or self.poll.last_version != (ms, seq):
            return False
        totals = self.totals()
        self.poll = replace(self.poll, final_at=self.now())
        self.finals.append((self.poll, dict(self.votes), totals))
        return True

    def row(self):
        poll = self.poll
        until = poll.last_version or Version(None, None)
        return SimpleNamespace(
            round=poll.round,
            title=poll.question.title,
            names=list(poll.question.names),
            asked=poll.asked,
            revealed=poll.revealed,
            revision=poll.revision,
            state=poll.state,
            closes_at=poll.closes_at,
            closed_at=poll.closed_at,
            after_ms=poll.after_version.ms,
            after_seq=poll.after_version.seq,
            until_ms=until.ms,
            until_seq=until.seq,
            final_at=poll.final_at,
            lost_at=poll.queue_lost_at,
            database_id=UUID(poll.database_id),
            has_queue=poll.has_queue,
            at=self.now(),
            counts=self.finals[-1][-1] if poll.final_at else self.totals(),
        )

    def counts(self, version, number):
        """Whether a ballot belongs to this round."""
        if number not in {None, self.poll.round}:
            return False
        until = self.poll.last_version
        return version > self.poll.after_version and (until is None or version <= until)

    def count(self, voters, choices, ms, seq, round):  # noqa: A002 - the statement's name
        """Execute COUNT: all of its effects or none."""
        _fit(*ms, *seq)
        newest = {}
        ballots = zip(map(Version, ms, seq), map(UUID, voters), choices, strict=True)
        for version, voter, choice in sorted(ballots, key=itemgetter(0)):
            if self.counts(version, round):
                newest[voter] = version, choice
        if any(choice not in CHOICES for _, choice in newest.values()):
            raise error("23514")
        counted, delta = {}, []
        for voter, (version, choice) in newest.items():
            before = self.votes.get(voter)
            if before is None or version > before[1]:
                counted[voter] = choice, version
                delta.append((choice, 1, version.ms))
                if before is not None:
                    delta.append((before[0], -1, version.ms))
        if not all(self.has_option(choice) for choice, *_ in delta):
            raise error("23503")
        self.votes |= counted
        bucket = int(self._clock()) // 10 * 10
        for choice, change, newest_ms in delta:
            key = self.poll.round, bucket, choice
            votes, highest = self.tally.get(key, (0, 0))
            self.tally[key] = votes + change, max(highest, newest_ms)
        return self.row()

    def has_option(self, choice):
        """Whether the round has an option, to which its tally refers."""
        return choice in self.poll.question.choices

    def compare(self, voters, choices, ms, seq, counted):
        """Execute COMPARE."""
        _fit(*ms, *seq)
        found = SimpleNamespace(missing=0, behind=0, matched=0)
        ballots = zip(map(Version, ms, seq), map(UUID, voters), choices, counted, strict=True)
        for version, voter, choice, due in ballots:
            stored = self.votes.get(voter)
            found.missing += due and stored is None
            found.behind += due and stored is not None and stored[1] < version
            found.matched += stored == (choice, version)
        return found

    def totals(self, poll=None):
        """Return the sums of a round's tally, by default of the current one."""
        poll = poll or self.poll
        sums = dict.fromkeys(poll.question.choices, 0)
        for (number, _, choice), (votes, _) in self.tally.items():
            if number == poll.round and choice in sums:
                sums[choice] += votes
        return tuple(sums.values())

    def newest(self):
        """Execute VERSION_FLOOR."""
        of_the_poll = [
            each.ms for each in (self.poll.after_version, self.poll.last_version) if each
        ]
        of_the_tally = (ms for (n, *_), (_, ms) in self.tally.items() if n == self.poll.round)
        return max([*of_the_poll, *of_the_tally])


class PostgresLink(Link):
    """A connection of the engine's pool."""

    kinds = POSTGRES_FAULTS

    def __init__(self, server, postgres):
        super().__init__(server)
        self._postgres = postgres
        self._waiting = None

    async def execute(self, step, effect):
        """Send a statement and return its reply. Raises DBAPIError or TimeoutError."""
        if self.broken:
            raise error("08003")
        self._waiting = self._loop.create_future()
        self.send(step, partial(self._run, step, effect))
        async with asyncio.timeout(REPLY_TIMEOUT):
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

    def conflict(self, done):
        done(error(self._faults.choose(("40001", "40P01"))))

    def receive(self, reply):
        if self._waiting.done():
            return  # the process has stopped waiting
        if isinstance(reply, Exception):
            self._waiting.set_exception(reply)
        else:
            self._waiting.set_result(reply)

    def connection_lost(self):
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(error("08006"))

    def disconnected(self):
        self._postgres.locks.pop(self, None)
        if self._postgres.changing is self:
            self._postgres.changing = None

    def lock(self):
        if self._postgres.changing not in {None, self}:
            raise error("55P03")  # lock_timeout
        self._postgres.locks[self] = self._loop.time()

    def lock_exclusive(self):
        now = self._loop.time()
        if self._postgres.changing not in {None, self} or not self._postgres.may_change_poll(now):
            raise error("55P03")
        self._postgres.locks[self] = now
        self._postgres.changing = self

    def commit(self, changes):
        for change in changes:
            change()
        self.disconnected()


class Engine:
    """Implements the part of AsyncEngine that workers use."""

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
        self._changes = []  # applied at commit

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
                await self._link.execute("commit", partial(self._link.commit, self._changes))
        except BaseException:
            self._link.close()
            raise
        if kind is None:
            self._engine.free.append(self._link)
        else:
            self._link.close()

    async def scalars(self, statement, parameters=None):
        return (await self.execute(statement, parameters)).one()

    async def execute(self, statement, parameters=None):
        step, effect = self._effect(statement, parameters)
        return _Result(await self._link.execute(step, effect))

    def _effect(self, statement, parameters):
        """Return the name and the effect of one of the app's constant statements."""
        model, arguments = self._postgres, parameters or {}
        effects = {
            COUNT: ("count", model.count),
            LOCK_SHARED: ("lock", self._link.lock),
            LONG_LOCK_TIMEOUT: ("timeout", lambda: None),
            LOCK_EXCLUSIVE: ("lock exclusive", self._link.lock_exclusive),
            POLL: ("poll", model.row),
            VERSION_FLOOR: ("version floor", model.newest),
            FINALIZE: ("finalize", model.finalize),
            COMPARE: ("compare", model.compare),
            FOLD: ("fold", lambda **_: 0),  # no run takes a day
            UNSAFE_SETTINGS: ("settings", lambda names: []),  # noqa: ARG005 - the statement's
            RESULT: ("result", model.row),
        }
        changes = {
            CLOSE_ON_TIME: ("close on time", model.close_on_time),
            CONFIRM_CLOSE: ("confirm close", model.confirm_close),
            RECORD_QUEUE: ("record queue", model.record_queue),
            RECORD_QUEUE_LOSS: ("record loss", model.record_queue_loss),
        }
        if statement is START_ROUND:
            return "start round", partial(self._start_round, arguments)
        if statement in effects:
            step, effect = effects[statement]
            return step, partial(effect, **arguments)
        # An unknown statement ends the worker, which fails the run.
        assert statement in changes, f"the model does not know the statement {statement}"
        step, change = changes[statement]
        _fit(arguments.get("ms", 0), arguments.get("seq", 0))
        return step, partial(self._at_commit, partial(change, **arguments))

    def _at_commit(self, change):
        """Note a change, which checks its conditions at commit only. Return that they are met."""
        self._changes.append(change)
        return True

    def _start_round(self, arguments):
        if not self._postgres.may_start_round(arguments["ended"]):
            return None
        self._changes.append(partial(self._postgres.start_round, **arguments))
        return max(arguments["ended"] + 1, arguments["lowest"])


class _Result:
    def __init__(self, reply):
        self._reply = reply

    def one(self):
        return self._reply

    scalar_one = one_or_none = all = one
