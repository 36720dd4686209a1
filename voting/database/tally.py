"""Counting ballots and adding them up: the SQL of the app."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.poll.ballot import MIN_VERSION, QueuedBallot, Version
from voting.poll.lifecycle import Poll

# One statement, so that counting a batch is all or nothing and costs one round trip.
#
# newest   the newest ballot of each voter: Postgres refuses to update a row twice in a statement.
#          Sorted, so that workers lock rows in the same order and never wait in a circle. Only
#          ballots of this round: those before come again where a worker was slow, those after its
#          end can't be cast.
# counted  inserted or updated only where newer than what is stored: a ballot that comes twice, or
#          late, changes nothing. `old` and `new` in RETURNING: Postgres 18.
# delta    what that changed for each option; no row where it changed nothing.
#
# The tally's row comes last, as all workers share it: it stays locked for the commit only.
_COUNT = text("""
WITH newest AS (
  SELECT DISTINCT ON (voter) voter, choice, ms, seq
  FROM unnest(
    CAST(:voters AS uuid[]), CAST(:choices AS text[]),
    CAST(:ms AS bigint[]), CAST(:seq AS bigint[])
  ) AS ballot (voter, choice, ms, seq), poll
  WHERE (ballot.ms, ballot.seq) > (after_ms, after_seq)
    AND (until_ms IS NULL OR (ballot.ms, ballot.seq) <= (until_ms, until_seq))
  ORDER BY voter, ms DESC, seq DESC
), counted AS (
  INSERT INTO votes AS stored (voter, choice, ms, seq)
  SELECT voter, choice, ms, seq FROM newest ORDER BY voter
  ON CONFLICT (voter) DO UPDATE
    SET choice = excluded.choice, ms = excluded.ms, seq = excluded.seq
    WHERE (excluded.ms, excluded.seq) > (stored.ms, stored.seq)
  RETURNING old.choice AS before, new.choice AS after, new.ms
), delta AS (
  SELECT
    max(ms) AS ms,
    count(*) FILTER (WHERE after = 'a') - count(*) FILTER (WHERE before = 'a') AS a,
    count(*) FILTER (WHERE after = 'b') - count(*) FILTER (WHERE before = 'b') AS b
  FROM counted
)
INSERT INTO tally AS stored (bucket, a, b, ms)
SELECT date_bin('10 seconds', clock_timestamp(), 'epoch'), a, b, ms FROM delta WHERE ms IS NOT NULL
ON CONFLICT (bucket) DO UPDATE SET
  a = stored.a + excluded.a, b = stored.b + excluded.b, ms = greatest(stored.ms, excluded.ms)
""")


# Any number that nothing else in this database takes.
POLL_LOCK = 0x706F6C6C

# Postgres ends a transaction that has the lock and says nothing for so long: one that is frozen, or
# cut off, can't keep a poll from being closed. Longer than anybody waits for an answer of Redis.
LOCK_IDLE = "SELECT set_config('idle_in_transaction_session_timeout', '5500ms', true)"

# Whoever changes the poll takes the same lock for itself alone, and so waits until the transaction
# that copies it to Redis has ended.
_SHARE_POLL = text(f"{LOCK_IDLE}, pg_advisory_xact_lock_shared({POLL_LOCK})")

# By name: a column that a later version adds changes nothing for this one.
_COLUMNS = """
  poll.round, poll.revision, state, closes_at, poll.closed_at, after_ms, after_seq, until_ms,
  until_seq, final_at, lost_at
"""

_POLL = text(f"SELECT {_COLUMNS} FROM poll")  # noqa: S608 - names of columns

_NEWEST = text("""
SELECT greatest((SELECT max(ms) FROM tally), after_ms, until_ms) FROM poll
""")

_CLOSED = text("""
UPDATE poll SET
  closed_at = coalesce(closed_at, :closed_at), until_ms = :ms, until_seq = :seq
WHERE state = 'closed' AND until_ms IS NULL
""")

_LOST = text("UPDATE poll SET lost_at = now()")

# Declared once, whoever asks: two workers may do so at the same moment, and an operator may have
# opened the poll again meanwhile.
_FINISH = text("""
WITH done AS (
  UPDATE poll SET final_at = now()
  WHERE final_at IS NULL AND (until_ms, until_seq) = (:ms, :seq)
  RETURNING round, closed_at, final_at
)
INSERT INTO finals (round, final_at, closed_at, a, b)
SELECT round, final_at, closed_at, sums.a, sums.b
FROM done, (SELECT coalesce(sum(a), 0) AS a, coalesce(sum(b), 0) AS b FROM tally) AS sums
RETURNING round
""")

_FINALS = text("SELECT round, final_at, closed_at, a, b FROM finals ORDER BY final_at")

# How many steps the way to the totals is told in, at most, whatever the number of buckets.
TIMELINE_POINTS = 80

_STANDING, _STANDING_AND_STEPS = (
    text(f"""
SELECT
  {_COLUMNS}, now() AS at,
  coalesce(finals.a, sums.a, 0) AS a, coalesce(finals.b, sums.b, 0) AS b, {steps} AS steps
FROM poll
  CROSS JOIN (SELECT sum(a) AS a, sum(b) AS b FROM tally) AS sums
  LEFT JOIN finals USING (round, final_at)
""")  # noqa: S608 - names of columns, and what stands here
    for steps in (
        "NULL",
        """ARRAY(
    SELECT ARRAY[min(start), max(start) + 10, sum(a), sum(b)]::bigint[]
    FROM
      (SELECT extract(epoch FROM bucket)::float8 AS start, a, b FROM tally) AS added,
      (SELECT extract(epoch FROM min(bucket))::float8 AS first,
        extract(epoch FROM max(bucket))::float8 + 10 AS until FROM tally) AS span
    GROUP BY width_bucket(start, first, until, :steps) ORDER BY 1
  )""",
    )
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Votes for each option, and when Postgres said so."""

    a: int
    b: int
    at: datetime

    @property
    def votes(self) -> int:
        return self.a + self.b


async def count(engine: AsyncEngine, ballots: Sequence[QueuedBallot]) -> None:
    """Count a batch in one transaction. Counting it again, or in another order, is harmless.

    Raises one of DATABASE_ERRORS; whether the batch was counted is not known then.
    """
    if not ballots:
        return
    async with engine.connect() as connection:
        await connection.execute(_COUNT, columns(ballots))


def columns(ballots: Sequence[QueuedBallot]) -> dict[str, list[Any]]:
    """Turn ballots into the arrays that a statement unnests: one for each column of `votes`."""
    return {
        "voters": [each.voter for each in ballots],
        "choices": [each.choice for each in ballots],
        "ms": [each.ms for each in ballots],
        "seq": [each.seq for each in ballots],
    }


class TimelineBucket(NamedTuple):
    """What the votes counted from `start` to `end` added: negative where minds changed."""

    start: datetime
    end: datetime
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class PollResult:
    """Where in its life a poll is, and its totals: those declared final, once it is."""

    totals: Totals
    poll: Poll
    steps: tuple[TimelineBucket, ...] = ()
    """The way there, where that was asked."""


async def fetch_result(engine: AsyncEngine, *, steps: bool = False) -> PollResult:
    """Add up the buckets: a row for every ten seconds in which a vote was counted.

    `steps`: tell too how it came to that, in TIMELINE_POINTS steps of equal length at most.
    """
    async with engine.connect() as connection:
        if not steps:
            return await fetch_result_on(connection)
        row = (await connection.execute(_STANDING_AND_STEPS, {"steps": TIMELINE_POINTS})).one()
    return replace(_standing(row), steps=tuple(map(_step, row.steps)))


async def fetch_result_on(connection: AsyncConnection) -> PollResult:
    """Tell it as the transaction of `connection` sees it."""
    return _standing((await connection.execute(_STANDING)).one())


def _standing(row: Row[Any]) -> PollResult:
    return PollResult(Totals(int(row.a), int(row.b), row.at), _poll(row))


@dataclass(frozen=True, slots=True)
class Final:
    """Totals that were declared final, whether or not the poll was opened again since."""

    round: int
    final_at: datetime
    closed_at: datetime
    a: int
    b: int


async def finals(engine: AsyncEngine) -> list[Final]:
    """List them, the newest last."""
    async with engine.connect() as connection:
        return [Final(*row) for row in await connection.execute(_FINALS)]


async def version_after_all(connection: AsyncConnection) -> Version:
    """A version that is newer than that of every vote, and of every ballot of the rounds before."""
    ms = (await connection.execute(_NEWEST)).scalar_one()
    return Version(ms + 1, 0) if ms else MIN_VERSION


def _step(row: tuple[int, int, int, int]) -> TimelineBucket:
    start, end, a, b = row
    return TimelineBucket(
        datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC), a, b
    )


async def share_poll(connection: AsyncConnection) -> Poll:
    """Tell the poll, which nobody can change until the transaction of `connection` ends.

    Not a lock of the row: any number of workers hold it at once.
    """
    await connection.execute(_SHARE_POLL)
    return await poll(connection)


async def poll(connection: AsyncConnection) -> Poll:
    return _poll((await connection.execute(_POLL)).one())


async def set_closed(connection: AsyncConnection, closed_at: datetime, until: Version) -> None:
    """Write down when, and after which ballot, Redis has closed the poll."""
    await connection.execute(_CLOSED, {"closed_at": closed_at, **until._asdict()})


async def set_lost(connection: AsyncConnection) -> None:
    """Write down that the queue was lost."""
    await connection.execute(_LOST)


async def finish(engine: AsyncEngine, until: Version) -> bool:
    """Declare the totals final, unless somebody has. Tell whether this did it.

    To be called once all ballots up to `until`, where the poll was closed, are counted.
    """
    async with engine.connect() as connection:
        done = await connection.execute(_FINISH, until._asdict())
        return done.one_or_none() is not None


def _poll(row: Row[Any]) -> Poll:
    return Poll(
        round=row.round,
        revision=row.revision,
        state=row.state,
        closes_at=row.closes_at,
        closed_at=row.closed_at,
        after_version=Version(row.after_ms, row.after_seq),
        last_version=None if row.until_ms is None else Version(row.until_ms, row.until_seq),
        final_at=row.final_at,
        queue_lost_at=row.lost_at,
    )
