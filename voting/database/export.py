"""Reading what is exported: in one snapshot, so that all of it agrees, and never all at once."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

from voting.database import tally
from voting.database.tally import PollResult, Totals
from voting.poll.formats import Format
from voting.poll.lifecycle import Poll
from voting.poll.results import PublicResult, TimelinePoint, VoteCounts, publish
from voting.settings import ShowResults

# Rows that are fetched, and written, at a time: few enough to need no memory to speak of.
BATCH = 500

# What was declared final last counts: a poll may have been opened again and closed again.
_PAST = text("""
SELECT *, now() AS at FROM finals WHERE round = :round ORDER BY final_at DESC LIMIT 1
""")

_TIMELINE = text("""
SELECT bucket + interval '10 seconds' AS time, a, b FROM tally ORDER BY bucket
""")

_PAST_TIMELINE = text("""
SELECT bucket + interval '10 seconds' AS time, a, b FROM past_tally WHERE round = :round
ORDER BY bucket
""")

# In an order that tells neither who voted nor when.
_VOTES = text("SELECT choice FROM votes ORDER BY random()")

# For who waits at a terminal: sorting all votes takes as long as it takes, and a pager is read at
# leisure. Not for ever: as long as the snapshot is there, Postgres can't clean up behind changes.
_PATIENT = (
    text("SET LOCAL statement_timeout = 0"),
    text("SET LOCAL idle_in_transaction_session_timeout = '10min'"),
)


# Before the snapshot is taken: starting a round truncates the table, which no snapshot survives.
_KEEP_VOTES = text("LOCK TABLE votes IN ACCESS SHARE MODE")


class NoSuchRound(Exception):
    """There is no round of that number."""


class VotesHidden(Exception):
    """The votes are kept back until the poll is closed."""


class VotesNotKept(Exception):
    """The votes of a round that is over are not kept, only how many there were and when."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A round at one moment, for as long as its transaction lasts.

    Postgres ends that where nothing is fetched for a while: see `database.create_engine`.
    """

    shown: PublicResult
    _connection: AsyncConnection
    _past: bool

    async def timeline(self, form: Format[TimelinePoint]) -> AsyncGenerator[bytes, None]:
        """Write a point for each ten seconds in which something was counted; the last is the total.

        Raises one of DATABASE_ERRORS.
        """
        query = _PAST_TIMELINE if self._past else _TIMELINE
        a = b = 0
        counts = VoteCounts.of(a, b, hidden=self.shown.hidden)
        yield form.head().encode()
        rows = await self._rows(query, round=self.shown.poll.round)
        while batch := await rows.fetchmany(BATCH):
            points = []
            for each in batch:
                a, b = a + each.a, b + each.b
                counts = VoteCounts.of(a, b, hidden=self.shown.hidden)
                points.append(TimelinePoint(each.time, counts))
            yield form.body(points).encode()
        if counts != self.shown.counts:
            # What was declared final holds, also where somebody has altered the tally since.
            yield form.body([TimelinePoint(self.shown.at, self.shown.counts)]).encode()
        yield form.tail().encode()

    async def votes(self, form: Format[str]) -> AsyncGenerator[bytes, None]:
        """Write the choice of each vote, in random order, of a snapshot that was opened for it.

        Raises VotesHidden, VotesNotKept, or one of DATABASE_ERRORS.
        """
        if self._past:
            raise VotesNotKept
        if self.shown.hidden:
            raise VotesHidden
        yield form.head().encode()
        rows = await self._rows(_VOTES)
        while batch := await rows.fetchmany(BATCH):
            yield form.body([each.choice for each in batch]).encode()
        yield form.tail().encode()

    async def _rows(self, query: TextClause, **values: int) -> AsyncResult[Any]:
        # Left open where the reader stops: it ends with the transaction. SQLAlchemy's own context
        # manager would swallow GeneratorExit.
        return await self._connection.stream(query, values, execution_options={"yield_per": BATCH})


@asynccontextmanager
async def snapshot(
    engine: AsyncEngine,
    results: ShowResults,
    number: int | None = None,
    *,
    votes: bool = False,
    patient: bool = False,
) -> AsyncIterator[Snapshot]:
    """Open the round that runs now, or the one of that number; for its votes, if asked.

    No round is started as long as it is open for votes. Raises NoSuchRound.
    """
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    async with engine.execution_options(**options).connect() as connection:
        for each in _PATIENT if patient else ():
            await connection.execute(each)
        if votes:
            await connection.execute(_KEEP_VOTES)
        standing = await tally.fetch_result_on(connection)
        past = number is not None and number != standing.poll.round
        if number is not None and past:
            standing = await _past(connection, number)
        yield Snapshot(publish(standing, results), connection, past)


async def _past(connection: AsyncConnection, number: int) -> PollResult:
    row = (await connection.execute(_PAST, {"round": number})).one_or_none()
    if row is None:
        raise NoSuchRound
    poll = Poll(row.round, "closed", closed_at=row.closed_at, final_at=row.final_at)
    return PollResult(Totals(row.a, row.b, row.at), poll)
