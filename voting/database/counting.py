"""Counting ballots: the one statement that writes votes and the tally."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.poll.ballot import QueuedBallot

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run EXPLAIN on it.
#
# One statement for the ballots of a round, so that counting them is all or nothing and costs one
# round trip.
#
# newest   the newest ballot of each voter: Postgres refuses to update a row twice in a statement.
#          Sorted, so that workers lock rows in the same order and never deadlock. Only ballots of
#          this round: a slow worker may redeliver those of the previous one, and entries that were
#          appended after the close are not ballots. A database that was restored may not know the
#          round of a ballot. Entries of earlier versions have none: their ids tell.
# counted  inserts, or updates only if newer than the stored vote: a ballot that is delivered twice,
#          or late, changes nothing. `old` and `new` in RETURNING need Postgres 18.
# changed  how many voters changed from which option to which.
# delta    the change for each option. One that the round does not have violates the foreign key of
#          the tally: nothing is counted then, and the worker looks for the ballot.
#
# The tally's rows are written last, as all workers share them: they stay locked for the commit
# only. The row that is returned tells a worker that the database is not the one that it knows.
COUNT = text("""
WITH newest AS (
  SELECT DISTINCT ON (voter) voter, choice, ms, seq
  FROM ROWS FROM (
    unnest(CAST(:voters AS uuid[])), string_to_table(CAST(:choices AS text), NULL),
    unnest(CAST(:ms AS bigint[])), unnest(CAST(:seq AS bigint[]))
  ) AS ballot (voter, choice, ms, seq), poll
  WHERE (CAST(:round AS integer) IS NULL OR round = :round)
    AND (ballot.ms, ballot.seq) > (after_ms, after_seq)
    AND (until_ms IS NULL OR (ballot.ms, ballot.seq) <= (until_ms, until_seq))
  ORDER BY voter, ms DESC, seq DESC
), counted AS (
  INSERT INTO votes AS stored (voter, choice, ms, seq)
  SELECT voter, choice, ms, seq FROM newest ORDER BY voter
  ON CONFLICT (voter) DO UPDATE
    SET choice = excluded.choice, ms = excluded.ms, seq = excluded.seq
    WHERE (excluded.ms, excluded.seq) > (stored.ms, stored.seq)
  RETURNING old.choice AS before, new.choice AS after, new.ms
), changed AS (
  SELECT before, after, count(*) AS votes, max(ms) AS ms FROM counted GROUP BY before, after
), delta AS (
  SELECT choice, sum(votes) AS votes, max(ms) AS ms
  FROM (
    SELECT after AS choice, votes, ms FROM changed
    UNION ALL
    SELECT before, -votes, ms FROM changed WHERE before IS NOT NULL
  ) AS each
  GROUP BY choice
), tallied AS (
  INSERT INTO tally AS stored (round, bucket, choice, votes, ms)
  SELECT round, date_bin('10 seconds', clock_timestamp(), 'epoch'), choice, votes, ms
  FROM delta, poll ORDER BY choice
  ON CONFLICT (round, bucket, choice) DO UPDATE
    SET votes = stored.votes + excluded.votes, ms = greatest(stored.ms, excluded.ms)
)
SELECT database_id, revision FROM poll
""")

# The voters whose votes other transactions have locked.
LOCKED_VOTERS = text("""
SELECT voter FROM votes WHERE voter = ANY (CAST(:voters AS uuid[]))
EXCEPT
SELECT voter FROM (
  SELECT voter FROM votes WHERE voter = ANY (CAST(:voters AS uuid[])) FOR UPDATE SKIP LOCKED
) AS free
""")


class CountedIn(NamedTuple):
    """The database that a batch was counted in, and the revision of its poll at that moment."""

    database_id: str
    revision: int


async def count(engine: AsyncEngine, ballots: Sequence[QueuedBallot]) -> CountedIn | None:
    """Count a batch, in a transaction a round. Counting it again, or in another order, is harmless.

    Returns None for an empty batch. Raises one of DATABASE_ERRORS; it is unknown then whether the
    batch was counted.
    """
    found = None
    # A batch has one, but for the moment when the next begins.
    for number in {each.round for each in ballots}:
        columns = as_columns([each for each in ballots if each.round == number])
        async with engine.connect() as connection:
            row = (await connection.execute(COUNT, {**columns, "round": number})).one()
        found = CountedIn(str(row.database_id), row.revision)
    return found


async def fetch_locked_voters(engine: AsyncEngine, ballots: Sequence[QueuedBallot]) -> set[str]:
    """Return the voters of a batch that can't be counted now, as 32 hexadecimal digits.

    Raises one of DATABASE_ERRORS.
    """
    async with engine.connect() as connection:
        voters = await connection.scalars(LOCKED_VOTERS, {"voters": [b.voter for b in ballots]})
        return {voter.hex for voter in voters}


def as_columns(ballots: Sequence[QueuedBallot]) -> dict[str, Any]:
    """Return an array for each column of `votes`, as statements unnest them.

    The choices are a string: asyncpg takes 0.3 µs for each element of an array.
    """
    return {
        "voters": [each.voter for each in ballots],
        "choices": "".join([each.choice for each in ballots]),
        "ms": [each.ms for each in ballots],
        "seq": [each.seq for each in ballots],
    }
