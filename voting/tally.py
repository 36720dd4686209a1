"""Counting ballots and adding them up: the SQL of the app."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.ballots import ZERO, CastBallot, Version
from voting.models import Poll, Tally

# One statement, so that counting a batch is all or nothing and costs one round trip.
#
# newest   the newest ballot of each voter: Postgres refuses to update a row twice in a statement.
#          Sorted, so that workers lock rows in the same order and never wait in a circle.
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
  ) AS ballot (voter, choice, ms, seq)
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


@dataclass(frozen=True, slots=True)
class Totals:
    """Votes for each option, and when Postgres said so."""

    a: int
    b: int
    at: datetime

    @property
    def votes(self) -> int:
        return self.a + self.b


async def count(engine: AsyncEngine, ballots: Sequence[CastBallot]) -> None:
    """Count a batch in one transaction. Counting it again, or in another order, is harmless.

    Raises one of DATABASE_ERRORS; whether the batch was counted is not known then.
    """
    if not ballots:
        return
    async with engine.connect() as connection:
        await connection.execute(_COUNT, columns(ballots))


def columns(ballots: Sequence[CastBallot]) -> dict[str, list[Any]]:
    """Turn ballots into the arrays that a statement unnests: one for each column of `votes`."""
    return {
        "voters": [each.ballot.voter for each in ballots],
        "choices": [each.ballot.choice.value for each in ballots],
        "ms": [each.version.ms for each in ballots],
        "seq": [each.version.seq for each in ballots],
    }


async def totals(engine: AsyncEngine) -> Totals:
    """Add up the buckets: a row for every ten seconds in which a vote was counted."""
    sums = select(
        func.coalesce(func.sum(Tally.a), 0), func.coalesce(func.sum(Tally.b), 0), func.now()
    )
    async with engine.connect() as connection:
        a, b, at = (await connection.execute(sums)).one()
    return Totals(int(a), int(b), at)


async def version_after_all(connection: AsyncConnection) -> Version:
    """A version that is newer than that of every vote."""
    ms = (await connection.execute(select(func.max(Tally.ms)))).scalar_one()
    return ZERO if ms is None else Version(ms + 1, 0)


async def poll_state(connection: AsyncConnection) -> str:
    """Tell "open" or "closed".

    Whoever changes it takes the same lock for itself alone, and so waits until the caller's
    transaction has ended. Not a lock of the row: the worker's database user only reads it.
    """
    await connection.execute(select(func.pg_advisory_xact_lock_shared(POLL_LOCK)))
    return str((await connection.execute(select(Poll.state))).scalar_one())
