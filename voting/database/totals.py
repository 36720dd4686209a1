"""Reading totals: how many votes each option has, over time too, and what was declared final."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.models import Final, Poll, Tally
from voting.database.poll import as_poll
from voting.poll.results import FinalResult, PollResult, TimelineBucket, Totals

# At most this many buckets, of equal length, whatever the number of rows in the tally.
TIMELINE_POINTS = 80

# Each close, each reopening and each round adds one, and they are kept for ever.
FINAL_RESULTS = 100

_sums = select(func.sum(Tally.a).label("a"), func.sum(Tally.b).label("b")).subquery("sums")

# The totals that were declared final, otherwise the sum of the tally: a row for every ten seconds
# in which votes were counted, and fewer for older ones (see `folding`).
RESULT = (
    select(
        Poll.__table__,
        func.now().label("at"),
        func.coalesce(Final.a, _sums.c.a, 0).label("a"),
        func.coalesce(Final.b, _sums.c.b, 0).label("b"),
    )
    .select_from(Poll)
    .join(_sums, true())
    .outerjoin(Final, (Final.round == Poll.round) & (Final.final_at == Poll.final_at))
)

# Text rather than SQLAlchemy constructs, so that any DBA can read it and, after SELECT, run EXPLAIN
# on it. A column of the statement above, so that totals and timeline are of the same moment.
TIMELINE = text("""
  ARRAY(
    SELECT ARRAY[min(start), max(start) + 10, sum(a), sum(b)]::bigint[]
    FROM
      (SELECT extract(epoch FROM bucket)::float8 AS start, a, b FROM tally) AS added,
      (SELECT extract(epoch FROM min(bucket))::float8 AS first,
        extract(epoch FROM max(bucket))::float8 + 10 AS until FROM tally) AS span
    GROUP BY width_bucket(start, first, until, :points) ORDER BY 1
  ) AS timeline
""")


async def fetch_result(engine: AsyncEngine, *, timeline: bool = False) -> PollResult:
    """Return the poll and its totals, with TIMELINE_POINTS buckets at most if `timeline`."""
    async with engine.connect() as connection:
        if not timeline:
            return await fetch_result_in(connection)
        statement = RESULT.add_columns(TIMELINE)
        row = (await connection.execute(statement, {"points": TIMELINE_POINTS})).one()
    buckets = (
        TimelineBucket(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC), a, b)
        for start, end, a, b in row.timeline
    )
    return replace(_as_result(row), timeline=tuple(buckets))


async def fetch_result_in(connection: AsyncConnection) -> PollResult:
    """Return the poll and its totals as the transaction of `connection` sees them."""
    return _as_result((await connection.execute(RESULT)).one())


async def fetch_final_results(engine: AsyncEngine) -> list[FinalResult]:
    """Return the last FINAL_RESULTS totals that were declared final, the oldest first."""
    columns = (Final.round, Final.final_at, Final.closed_at, Final.a, Final.b)
    newest = select(*columns).order_by(Final.final_at.desc()).limit(FINAL_RESULTS)
    async with engine.connect() as connection:
        rows = (await connection.execute(newest)).all()
    return [FinalResult(*row) for row in reversed(rows)]


def _as_result(row: Row[Any]) -> PollResult:
    return PollResult(Totals(int(row.a), int(row.b), row.at), as_poll(row))
