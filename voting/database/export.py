"""Reading a round for export: all of it from one snapshot, and a few rows at a time."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

from voting.database.engine import read_only_snapshot, set_local
from voting.database.models import BUCKET, Final, PastTally, Tally, Vote
from voting.database.totals import fetch_result_in
from voting.poll.formats import Format
from voting.poll.lifecycle import Poll
from voting.poll.results import (
    PollResult,
    PublicResult,
    ShowResults,
    TimelinePoint,
    Totals,
    VoteCounts,
    publish,
)

# Rows that are fetched and written at a time, few enough for their memory not to matter.
BATCH = 500


class NoSuchRound(Exception):
    """There is no round of that number."""


class VotesHidden(Exception):
    """The votes are hidden until the poll is closed."""


class VotesNotKept(Exception):
    """The votes of earlier rounds are deleted: only their totals and timelines are kept."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A round at one moment, as long as its transaction lasts.

    Postgres ends the transaction if nothing is fetched for a while: see `engine.create_engine`.
    """

    result: PublicResult
    _connection: AsyncConnection
    _past: bool

    async def timeline(self, form: Format[TimelinePoint]) -> AsyncGenerator[bytes, None]:
        """Yield a document with a point for each ten seconds in which votes were counted.

        Where they are old, for each hour or day: see `folding`. A point has all votes that were
        counted before its time; the last is the total. Raises one of DATABASE_ERRORS.
        """
        a = b = 0
        counts = VoteCounts.of(a, b, hidden=self.result.hidden)
        yield form.head.encode()
        tally = PastTally if self._past else Tally
        query = select((tally.bucket + BUCKET).label("time"), tally.a, tally.b)
        if self._past:
            query = query.where(PastTally.round == self.result.poll.round)
        rows = await self._rows(query.order_by(tally.bucket))
        while batch := await rows.fetchmany(BATCH):
            points = []
            for each in batch:
                a, b = a + each.a, b + each.b
                counts = VoteCounts.of(a, b, hidden=self.result.hidden)
                points.append(TimelinePoint(each.time, counts))
            yield form.body(points).encode()
        if counts != self.result.counts:
            # The declared totals hold, even if the tally was altered since.
            yield form.body([TimelinePoint(self.result.at, self.result.counts)]).encode()
        yield form.tail.encode()

    async def votes(self, form: Format[str]) -> AsyncGenerator[bytes, None]:
        """Yield a document with the choice of each vote, of a snapshot opened with `votes`.

        Raises VotesHidden, VotesNotKept, or one of DATABASE_ERRORS.
        """
        if self._past:
            raise VotesNotKept
        if self.result.hidden:
            raise VotesHidden
        yield form.head.encode()
        # In random order, which reveals neither voters nor times.
        rows = await self._rows(select(Vote.choice).order_by(func.random()))
        while batch := await rows.fetchmany(BATCH):
            yield form.body([each.choice for each in batch]).encode()
        yield form.tail.encode()

    async def _rows(self, query: Select[*tuple[Any, ...]]) -> AsyncResult[*tuple[Any, ...]]:
        # Not closed if the reader stops: it ends with the transaction. SQLAlchemy's own context
        # manager would swallow GeneratorExit.
        return await self._connection.stream(query, execution_options={"yield_per": BATCH})


@asynccontextmanager
async def open_snapshot(
    engine: AsyncEngine,
    show_results: ShowResults,
    round_number: int | None = None,
    *,
    votes: bool = False,
    long_timeouts: bool = False,
) -> AsyncIterator[Snapshot]:
    """Open a snapshot of the current round, or of `round_number`. Raises NoSuchRound.

    With `votes`, no round can be started until the snapshot is closed.
    """
    async with read_only_snapshot(engine) as connection:
        if long_timeouts:
            # At a terminal, sorting all votes may take long, and so may reading them in a pager.
            # Not without limit: while the snapshot is open, Postgres can't vacuum later changes.
            limits = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "10min"}
            await connection.execute(set_local(**limits))
        if votes:
            # Starting a round truncates the table, which then is empty in older snapshots too: lock
            # it before the snapshot is taken.
            await connection.execute(text("LOCK TABLE votes IN ACCESS SHARE MODE"))
        result = await fetch_result_in(connection)
        past = round_number not in {None, result.poll.round}
        if past:
            result = await _fetch_past_result(connection, round_number)
        yield Snapshot(publish(result, show_results), connection, past)


async def _fetch_past_result(connection: AsyncConnection, round_number: int | None) -> PollResult:
    """Return the last final result of a round: a poll may be reopened and closed again."""
    results = select(Final.__table__, func.now().label("at")).where(Final.round == round_number)
    row = (await connection.execute(results.order_by(Final.final_at.desc()).limit(1))).one_or_none()
    if row is None:
        raise NoSuchRound
    poll = Poll(row.round, "closed", closed_at=row.closed_at, final_at=row.final_at)
    return PollResult(Totals(row.a, row.b, row.at), poll)
