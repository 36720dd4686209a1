"""Reading totals: how many votes each option has, over time too, and what was declared final."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.poll import COLUMNS, as_poll, as_question
from voting.poll.lifecycle import Poll
from voting.poll.results import FinalResult, PollResult, TimelineBucket, Totals

# At most this many buckets, of equal length, whatever the number of rows in the tally.
TIMELINE_POINTS = 80

# Each close of a round adds one, and they are kept for ever.
FINAL_RESULTS = 100

# As many rounds are listed.
LISTED_ROUNDS = 100

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run EXPLAIN on it.
#
# The totals that were declared final, otherwise the sums of the tally: a row for every ten seconds
# and option in which votes were counted, and fewer for older ones (see `folding`).
_RESULT = """
SELECT {columns}, title, asked, revealed, names, counts, now() AS at{more}
FROM poll JOIN rounds USING (round), LATERAL (
  SELECT array_agg(name ORDER BY key) AS names,
    array_agg(coalesce(final_totals.votes, added.votes, 0)::bigint ORDER BY key) AS counts
  FROM options
  LEFT JOIN final_totals
    ON (final_totals.round, final_totals.final_at, choice) = (poll.round, poll.final_at, key)
  LEFT JOIN (
    SELECT choice, sum(votes) AS votes FROM tally WHERE round = poll.round GROUP BY choice
  ) AS added ON added.choice = key
  WHERE options.round = poll.round
) AS counted
"""

# Whether a poll was reopened after a result, or another one replaced it.
_REVOKED = """finals.final_at IS DISTINCT FROM CASE finals.round
    WHEN poll.round THEN poll.final_at
    ELSE (SELECT max(final_at) FROM finals AS each WHERE each.round = finals.round)
  END"""

_FINALS = """
SELECT finals.round, finals.final_at, finals.closed_at, title, asked, revealed, names, counts,
  now() AS at{more}, {revoked} AS revoked
FROM finals JOIN rounds USING (round), LATERAL (
  SELECT array_agg(name ORDER BY key) AS names, array_agg(votes ORDER BY key) AS counts
  FROM options JOIN final_totals ON (final_totals.round, choice) = (options.round, key)
  WHERE (final_totals.round, final_totals.final_at) = (finals.round, finals.final_at)
) AS counted, poll
"""

# A column of the statements above, so that totals and timeline are of the same moment: for each
# bucket and option its start and end, the place of the option, and its votes.
_TIMELINE = """, ARRAY(
  SELECT ARRAY[
    min(min(start)) OVER each, max(max(start)) OVER each + 10, ascii(choice) - 97, sum(votes)
  ]::bigint[]
  FROM
    (SELECT extract(epoch FROM bucket)::float8 AS start, choice, votes
      FROM tally WHERE round = {table}.round) AS added,
    (SELECT extract(epoch FROM min(bucket))::float8 AS first,
      extract(epoch FROM max(bucket))::float8 + 10 AS until
      FROM tally WHERE round = {table}.round) AS span
  GROUP BY width_bucket(start, first, until, :points), choice
  WINDOW each AS (PARTITION BY width_bucket(start, first, until, :points))
  ORDER BY 1
) AS timeline"""

RESULT = text(_RESULT.format(columns=COLUMNS, more=""))
RESULT_AND_TIMELINE = text(_RESULT.format(columns=COLUMNS, more=_TIMELINE.format(table="poll")))
FINALS = text(
    _FINALS.format(more="", revoked=_REVOKED) + "ORDER BY finals.final_at DESC LIMIT :limit"
)
LAST_FINALS = text(
    _FINALS.format(more="", revoked="false")
    + f"WHERE NOT ({_REVOKED}) ORDER BY finals.round DESC LIMIT :limit"
)
_OF_ROUND = "WHERE finals.round = :round ORDER BY finals.final_at DESC LIMIT 1"
PAST_RESULT = text(_FINALS.format(more="", revoked=_REVOKED) + _OF_ROUND)
PAST_RESULT_AND_TIMELINE = text(
    _FINALS.format(more=_TIMELINE.format(table="finals"), revoked=_REVOKED) + _OF_ROUND
)


async def fetch_result(engine: AsyncEngine, *, timeline: bool = False) -> PollResult:
    """Return the poll and its totals, with TIMELINE_POINTS buckets at most if `timeline`."""
    async with engine.connect() as connection:
        if not timeline:
            return await fetch_result_in(connection)
        row = (await connection.execute(RESULT_AND_TIMELINE, {"points": TIMELINE_POINTS})).one()
    result = _as_result(row, as_poll(row))
    return replace(result, timeline=_as_buckets(row.timeline, len(row.names)))


async def fetch_result_in(connection: AsyncConnection) -> PollResult:
    """Return the poll and its totals as the transaction of `connection` sees them."""
    row = (await connection.execute(RESULT)).one()
    return _as_result(row, as_poll(row))


async def fetch_past_result(
    connection: AsyncConnection, number: int, *, timeline: bool = False
) -> PollResult | None:
    """Return the last final result of a round, also its timeline if `timeline`; None without one.

    A poll may be reopened and closed again.
    """
    if timeline:
        parameters = {"round": number, "points": TIMELINE_POINTS}
        rows = await connection.execute(PAST_RESULT_AND_TIMELINE, parameters)
    else:
        rows = await connection.execute(PAST_RESULT, {"round": number})
    row = rows.one_or_none()
    if row is None:
        return None
    poll = Poll(
        round=row.round,
        question=as_question(row),
        asked=row.asked,
        revealed=row.revealed,
        state="closed",
        closed_at=row.closed_at,
        final_at=row.final_at,
    )
    result = _as_result(row, poll)
    if not timeline:
        return result
    return replace(result, timeline=_as_buckets(row.timeline, len(row.names)))


async def fetch_final_results(engine: AsyncEngine) -> list[FinalResult]:
    """Return the last FINAL_RESULTS totals that were declared final, the oldest first."""
    async with engine.connect() as connection:
        rows = (await connection.execute(FINALS, {"limit": FINAL_RESULTS})).all()
    return [*map(_as_final_result, reversed(rows))]


async def fetch_last_results(engine: AsyncEngine) -> list[FinalResult]:
    """Return the result that holds of each of the last LISTED_ROUNDS rounds, the newest first.

    A round without one is left out.
    """
    async with engine.connect() as connection:
        rows = (await connection.execute(LAST_FINALS, {"limit": LISTED_ROUNDS})).all()
    return [*map(_as_final_result, rows)]


def _as_final_result(row: Row[Any]) -> FinalResult:
    return FinalResult(
        round=row.round,
        final_at=row.final_at,
        closed_at=row.closed_at,
        question=as_question(row),
        counts=tuple(row.counts),
        revoked=row.revoked,
        revealed=row.revealed,
    )


def _as_result(row: Row[Any], poll: Poll) -> PollResult:
    return PollResult(Totals(tuple(row.counts), row.at), poll)


def _as_buckets(rows: Iterable[Sequence[int]], options: int) -> tuple[TimelineBucket, ...]:
    buckets = []
    for (start, end), group in groupby(rows, itemgetter(0, 1)):
        counts = [0] * options
        for *_, option, votes in group:
            counts[option] = votes
        since, until = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
        buckets.append(TimelineBucket(since, until, tuple(counts)))
    return tuple(buckets)
