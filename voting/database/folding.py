"""Folding old rows of the tally, so that what reads all of them does not grow with time."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import transaction

# Rows older than the first become one for each of the second. Whole hours and days of UTC.
STEPS = (
    (timedelta(days=30), timedelta(days=1)),
    (timedelta(days=1), timedelta(hours=1)),
)

# Starting a round empties the table: where rows are folded meanwhile, it would miss the new ones.
LOCK_ROUND = text("LOCK TABLE votes IN ACCESS SHARE MODE")

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run EXPLAIN on it.
#
# Rows are added to the last ten seconds of their hour or day, so that the sum up to a time is still
# what had been counted by then. At most a day's rows: the statement takes some 50 ms.
#
# oldest   the first row that is to be folded.
# removed  deleted; workers that fold the same rows wait, and then find none.
FOLD = text("""
WITH width AS (
  SELECT make_interval(secs => :seconds) AS width,
    date_bin(make_interval(secs => :seconds), now() - make_interval(secs => :age), 'epoch') AS until
), oldest AS (
  SELECT bucket AS oldest, width, until
  FROM tally, width
  WHERE bucket < until
    AND bucket <> date_bin(width, bucket, 'epoch') + width - interval '10 seconds'
  ORDER BY bucket LIMIT 1
), removed AS (
  DELETE FROM tally USING oldest
  WHERE bucket >= oldest AND bucket < until
    AND bucket < date_bin('24 hours', oldest, 'epoch') + interval '24 hours'
    AND bucket <> date_bin(width, bucket, 'epoch') + width - interval '10 seconds'
  RETURNING date_bin(width, bucket, 'epoch') + width - interval '10 seconds' AS last, a, b, ms
), added AS (
  INSERT INTO tally AS stored (bucket, a, b, ms)
  SELECT last, sum(a), sum(b), max(ms) FROM removed GROUP BY last
  ON CONFLICT (bucket) DO UPDATE SET
    a = stored.a + excluded.a, b = stored.b + excluded.b, ms = greatest(stored.ms, excluded.ms)
)
SELECT count(*) FROM removed
""")


async def fold_tally(engine: AsyncEngine) -> int:
    """Fold what is due of the tally, a day or two of it at most. Return how many rows it removed.

    Safe beside counting and in any number of workers. Raises one of DATABASE_ERRORS.
    """
    removed = 0
    for age, width in STEPS:
        seconds = {"age": age.total_seconds(), "seconds": width.total_seconds()}
        async with transaction(engine) as connection:
            await connection.execute(LOCK_ROUND)
            removed += (await connection.execute(FOLD, seconds)).scalar_one()
    return removed
