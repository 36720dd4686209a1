"""Folding old rows of the tally, so that what reads all of them does not grow with time."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# Rows older than the first become one for each of the second. Whole hours and days of UTC.
STEPS = (
    (timedelta(days=30), timedelta(days=1)),
    (timedelta(days=1), timedelta(hours=1)),
)

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run EXPLAIN on it.
#
# Rows are added to the last ten seconds of their hour or day, so that the sum up to a time is still
# what had been counted by then. At most a day's rows: the statement takes some 50 ms with two
# options, 400 ms with twelve.
#
# oldest   the first row of this round that is to be folded.
# removed  deleted; workers that fold the same rows wait, and then find none.
FOLD = text("""
WITH width AS (
  SELECT make_interval(secs => :seconds) AS width,
    date_bin(make_interval(secs => :seconds), now() - make_interval(secs => :age), 'epoch') AS until
), oldest AS (
  SELECT tally.round, bucket AS oldest, width, until
  FROM tally JOIN poll USING (round), width
  WHERE bucket < until
    AND bucket <> date_bin(width, bucket, 'epoch') + width - interval '10 seconds'
  ORDER BY bucket LIMIT 1
), removed AS (
  DELETE FROM tally USING oldest
  WHERE tally.round = oldest.round AND bucket >= oldest AND bucket < until
    AND bucket < date_bin('24 hours', oldest, 'epoch') + interval '24 hours'
    AND bucket <> date_bin(width, bucket, 'epoch') + width - interval '10 seconds'
  RETURNING tally.round, date_bin(width, bucket, 'epoch') + width - interval '10 seconds' AS last,
    choice, votes, ms
), added AS (
  INSERT INTO tally AS stored (round, bucket, choice, votes, ms)
  SELECT round, last, choice, sum(votes), max(ms) FROM removed
  GROUP BY round, last, choice ORDER BY last, choice
  ON CONFLICT (round, bucket, choice) DO UPDATE
    SET votes = stored.votes + excluded.votes, ms = greatest(stored.ms, excluded.ms)
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
        async with engine.connect() as connection:
            removed += (await connection.execute(FOLD, seconds)).scalar_one()
    return removed
