"""The row of the poll: reading it, locking it, changing it.

`voting.poll.lifecycle.TRANSITIONS` has the states in which each change is allowed; the WHERE
clauses here enforce it. A change takes effect once `voting.reconcile.poll` has copied it to Redis.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Row,
    TextClause,
    Update,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database import models
from voting.database.engine import set_local, transaction
from voting.poll.ballot import MIN_VERSION, Version
from voting.poll.lifecycle import Poll
from voting.poll.question import Question

# The time to close of a poll that a worker has closed to ask another question. No operator can
# choose it. It shows every worker, also after a crash, that this is to be completed.
ASKING = datetime.fromtimestamp(0, UTC)

# The key of the advisory lock: any number that nothing else in this database uses.
POLL_LOCK = 0x706F6C6C

# Postgres ends a transaction that holds the lock and sends nothing for this long: a worker that is
# frozen or disconnected can't keep a poll from being closed. Longer than any wait for Redis.
_END_IF_IDLE = set_local(idle_in_transaction_session_timeout="5500ms")

# Any number of workers that copy the poll to Redis share the lock. A change takes it exclusively,
# so it waits for them.
LOCK_SHARED = _END_IF_IDLE.add_columns(func.pg_advisory_xact_lock_shared(POLL_LOCK))
LOCK_EXCLUSIVE = _END_IF_IDLE.add_columns(func.pg_advisory_xact_lock(POLL_LOCK))

# Waits longer than an idle transaction can hold the lock.
LONG_LOCK_TIMEOUT = set_local(lock_timeout="6500ms", statement_timeout="6500ms")

# Lists the columns: one that a later version adds changes nothing for this one.
COLUMNS = ", ".join(f"poll.{column.name}" for column in models.Poll.__table__.columns)

POLL = text(f"""
SELECT {COLUMNS}, title, asked, revealed,
  ARRAY(SELECT name FROM options WHERE options.round = poll.round ORDER BY key) AS names
FROM poll JOIN rounds USING (round)
""")  # noqa: S608 - constants

ENVIRONMENT_QUESTION = text("""
SELECT title,
  ARRAY(SELECT name FROM options WHERE options.round = rounds.round ORDER BY key) AS names
FROM rounds WHERE NOT asked ORDER BY round DESC LIMIT 1
""")

VERSION_FLOOR = select(
    func.greatest(
        select(func.max(models.Tally.ms))
        .where(models.Tally.round == models.Poll.round)
        .scalar_subquery(),
        models.Poll.after_ms,
        models.Poll.until_ms,
    )
)


def _change(**values: Any) -> Update:
    return update(models.Poll).values(revision=models.Poll.revision + 1, **values)


# This and the next add no revision: they change nothing that is copied to Redis.
CONFIRM_CLOSE = (
    update(models.Poll)
    .where(models.Poll.state == "closed", models.Poll.until_ms.is_(None))
    .values(
        closed_at=func.coalesce(models.Poll.closed_at, bindparam("at")),
        until_ms=bindparam("ms"),
        until_seq=bindparam("seq"),
    )
)

RECORD_QUEUE = update(models.Poll).values(has_queue=True)
RECORD_QUEUE_LOSS = update(models.Poll).values(has_queue=True, lost_at=bindparam("at"))

# A database that was restored from a backup may have a lower revision than Redis, which refuses it
# until an operator has decided: see `voting.queue.state.PollConflict`.
RAISE_REVISION = (
    update(models.Poll)
    .where(models.Poll.revision < bindparam("known_revision"))
    .values(revision=bindparam("known_revision"))
)

# Functions of the schema, for users who may not do all that these do.
CLOSE_ON_TIME = text("SELECT close_on_time(:at, :seen_revision)")
FINALIZE = text("SELECT declare_final(:ms, :seq)")
START_ROUND = text("SELECT start_round(:ended, :lowest, :title, CAST(:names AS text[]), true)")
START_ENVIRONMENT_ROUND = text(
    "SELECT start_environment_round(:ended, :lowest, :title, CAST(:names AS text[]))"
)
CLOSE_ENVIRONMENT_ROUND = text("SELECT close_environment_round(:seen_revision)")
REOPEN_ENVIRONMENT_ROUND = text("SELECT reopen_environment_round(:seen_round, :seen_final_at)")
REPLACE_QUESTION = text("SELECT replace_question(:title, CAST(:names AS text[]))")


class PollChanged(Exception):
    """The poll is in another state than the operator saw: nothing was changed."""


async def fetch_poll(connection: AsyncConnection) -> Poll:
    return as_poll((await connection.execute(POLL)).one())


async def fetch_environment_question(connection: AsyncConnection) -> Question | None:
    """Return the last question that came from the environment; None if none ever did."""
    row = (await connection.execute(ENVIRONMENT_QUESTION)).one_or_none()
    return None if row is None else as_question(row)


async def fetch_poll_for_share(connection: AsyncConnection) -> Poll:
    """Return the poll, which can't change until the transaction of `connection` ends."""
    await connection.execute(LOCK_SHARED)
    return await fetch_poll(connection)


async def fetch_version_floor(connection: AsyncConnection) -> Version:
    """Return a version newer than every vote and every ballot of earlier rounds.

    MIN_VERSION if there are none.
    """
    ms = (await connection.execute(VERSION_FLOOR)).scalar_one()
    return Version(ms + 1, 0) if ms else MIN_VERSION


# Operators' changes


class Known(NamedTuple):
    """What Redis knows, by which operators change the poll."""

    revision: int = 0
    """The poll's revision, which a database that was restored may be behind."""
    now: datetime | None = None
    """The time, by which polls close; without it, Postgres' clock is used."""
    rounds: int = 0
    """The highest round so far: pages may show it, so its number is not given to another."""


# A poll whose time has come is closed, even if no worker has stored that yet: it refused voters.
_NOW = func.coalesce(bindparam("now", type_=models.Poll.closes_at.type), func.now())
_BEFORE_ITS_TIME = or_(models.Poll.closes_at.is_(None), models.Poll.closes_at > _NOW)


async def close_poll(
    engine: AsyncEngine,
    *,
    at: datetime | None = None,
    seen: Poll | None = None,
    known: Known = Known(),  # noqa: B008 - immutable
) -> None:
    """Close the poll, now or at a time.

    Raises PollChanged if it is closed already, or its round or its time to close is not as `seen`.
    """
    # The time of the close and its last ballot are added once Redis confirms them.
    change = _change(state="closed", closes_at=None) if at is None else _change(closes_at=at)
    change = change.where(models.Poll.state == "open", _BEFORE_ITS_TIME)
    if seen is not None:
        change = change.where(
            models.Poll.round == seen.round,
            models.Poll.closes_at.is_not_distinct_from(seen.closes_at),
        )
    await _change_poll(engine, change, known.revision, now=known.now)


async def reopen_poll(
    engine: AsyncEngine,
    seen: Poll,
    *,
    known: Known = Known(),  # noqa: B008 - immutable
) -> None:
    """Open the poll again and cancel its time to close. A final result stays in `finals`.

    Raises PollChanged if the round, its time to close, or whether it is closed or final, differs
    from `seen`.
    """
    cleared = ("closes_at", "closed_at", "until_ms", "until_seq", "final_at")
    change = _change(state="open", **dict.fromkeys(cleared)).where(
        models.Poll.round == seen.round,
        models.Poll.final_at.is_not_distinct_from(seen.final_at),
        models.Poll.state == seen.state,
        models.Poll.closes_at.is_not_distinct_from(seen.closes_at),
        or_(models.Poll.state == "closed", _BEFORE_ITS_TIME),
    )
    await _change_poll(engine, change, known.revision, now=known.now)


async def start_round(  # noqa: PLR0913 - what a round begins with
    engine: AsyncEngine,
    ended: int,
    question: Question,
    *,
    prepared: int | None = None,
    closes_at: datetime | None = None,
    known: Known = Known(),  # noqa: B008 - immutable
) -> None:
    """Keep the totals of the round `ended`, delete its votes, and ask the next question.

    `prepared`: the id of the question, if it is one of the prepared, of which it is removed.
    `closes_at`: when the next round closes by itself. Raises PollChanged if `ended` is not the
    current round, or not final, or if the prepared question is another by now, or gone.
    """
    async with _exclusive(engine, known.revision) as connection:
        if prepared is not None:
            await _remove_prepared(connection, prepared, question)
        await _call(connection, START_ROUND, **_next_round(ended, question, known))
        if closes_at is not None:
            await connection.execute(update(models.Poll).values(closes_at=closes_at))


async def reveal_results(
    engine: AsyncEngine,
    seen: Poll,
    *,
    number: int | None = None,
) -> None:
    """Show the totals of the round, or of an earlier one by its `number`, whatever is kept back.

    Raises PollChanged if the poll was changed since it was `seen`, or there is no such round.
    """
    reveal = (
        update(models.Round)
        .where(
            models.Round.round == (seen.round if number is None else number),
            select(models.Poll.revision).scalar_subquery() == seen.revision,
        )
        .values(revealed=True)
    )
    await _change_poll(engine, reveal, known_revision=0)


# Workers' changes


async def close_poll_to_ask(engine: AsyncEngine, seen: Poll) -> None:
    """Close the poll so that a worker can ask another question.

    Raises PollChanged if it was changed since it was `seen`, is not open without a time to close,
    has votes, or if an operator has asked its question.
    """
    async with _exclusive(engine, 0) as connection:
        await _call(connection, CLOSE_ENVIRONMENT_ROUND, seen_revision=seen.revision)


async def reopen_poll_not_asked(engine: AsyncEngine, seen: Poll) -> None:
    """Open a poll again that `close_poll_to_ask` has closed.

    Raises PollChanged if it is not that, or if the round, or whether it is final, differs from
    `seen`.
    """
    values = {"seen_round": seen.round, "seen_final_at": seen.final_at}
    async with _exclusive(engine, 0) as connection:
        await _call(connection, REOPEN_ENVIRONMENT_ROUND, **values)


async def start_environment_round(
    engine: AsyncEngine,
    ended: int,
    question: Question,
    *,
    known: Known = Known(),  # noqa: B008 - immutable
) -> None:
    """Ask the question of the environment after a round that `close_poll_to_ask` has closed.

    Raises PollChanged if `ended` is no such round, is not final, or has votes.
    """
    async with _exclusive(engine, known.revision) as connection:
        await _call(connection, START_ENVIRONMENT_ROUND, **_next_round(ended, question, known))


async def replace_unseen_question(engine: AsyncEngine, question: Question) -> bool:
    """Replace the question if no page has ever shown it. Return whether that was done."""
    values = {"title": question.title, "names": question.names}
    async with _exclusive(engine, 0) as connection:
        replaced = await connection.execute(REPLACE_QUESTION, values)
    return replaced.scalar_one() is not None


async def record_queue_loss(engine: AsyncEngine, at: datetime) -> None:
    """Record that ballots which were not counted by then are lost."""
    async with engine.connect() as connection:
        await connection.execute(RECORD_QUEUE_LOSS, {"at": at})


async def close_poll_on_time(engine: AsyncEngine, poll: Poll, at: datetime) -> None:
    """Close a poll whose time came at `at` by Redis' clock. Raises PollChanged if `poll` is stale.

    It waits for every worker that is still copying the open poll to Redis, so that Redis accepts no
    ballot after the one it then reports as the last.
    """
    async with _exclusive(engine, 0) as connection:
        await _call(connection, CLOSE_ON_TIME, at=at, seen_revision=poll.revision)


async def confirm_close(connection: AsyncConnection, at: datetime, last_version: Version) -> None:
    """Record when, and after which ballot, Redis closed a poll that is closed in Postgres."""
    await connection.execute(CONFIRM_CLOSE, {"at": at, **last_version._asdict()})


async def declare_final(engine: AsyncEngine, last_version: Version) -> bool:
    """Declare the totals final. Return whether this call did it.

    Call it once all ballots up to `last_version`, the last before the close, are counted.
    """
    async with engine.connect() as connection:
        declared = await connection.execute(FINALIZE, last_version._asdict())
        return bool(declared.scalar_one())


async def _remove_prepared(connection: AsyncConnection, number: int, question: Question) -> None:
    """Remove a prepared question. Raises PollChanged if it is another by now, or gone."""
    asked = delete(models.PreparedQuestion).where(
        models.PreparedQuestion.id == number,
        models.PreparedQuestion.title == question.title,
        models.PreparedQuestion.names == question.names,
    )
    if (await connection.execute(asked)).rowcount == 0:
        raise PollChanged


def _next_round(ended: int, question: Question, known: Known) -> dict[str, Any]:
    asked = {"title": question.title, "names": question.names}
    return {"ended": ended, "lowest": known.rounds + 1, **asked}


async def _call(connection: AsyncConnection, function: TextClause, **arguments: Any) -> None:
    """Call a function of the schema. Raises PollChanged if its conditions are not met."""
    if not (await connection.execute(function, arguments)).scalar_one():
        raise PollChanged


async def _change_poll(
    engine: AsyncEngine, change: Update, known_revision: int, **parameters: Any
) -> None:
    async with _exclusive(engine, known_revision) as connection:
        changed = await connection.execute(change, parameters)
    if changed.rowcount == 0:
        raise PollChanged


@asynccontextmanager
async def _exclusive(engine: AsyncEngine, known_revision: int) -> AsyncIterator[AsyncConnection]:
    """Begin a transaction in which nothing else changes the poll or copies it to Redis."""
    async with transaction(engine) as connection:
        await connection.execute(LONG_LOCK_TIMEOUT)
        await connection.execute(LOCK_EXCLUSIVE)
        if known_revision:
            await connection.execute(RAISE_REVISION, {"known_revision": known_revision})
        yield connection


def as_question(row: Row[Any]) -> Question:
    return Question(row.title, tuple(row.names))


def as_poll(row: Row[Any]) -> Poll:
    """Convert a row that has the columns of the poll, and its question."""
    return Poll(
        round=row.round,
        question=as_question(row),
        asked=row.asked,
        revealed=row.revealed,
        revision=row.revision,
        state=row.state,
        closes_at=row.closes_at,
        closed_at=row.closed_at,
        after_version=Version(row.after_ms, row.after_seq),
        last_version=None if row.until_ms is None else Version(row.until_ms, row.until_seq),
        final_at=row.final_at,
        queue_lost_at=row.lost_at,
        database_id=str(row.database_id),
        has_queue=row.has_queue,
    )
