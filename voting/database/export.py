"""Reading a round for export: all of it from one snapshot, and a few rows at a time."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

from voting.database.engine import read_only_snapshot, set_local
from voting.database.models import BUCKET, Tally, Vote
from voting.database.totals import fetch_past_result, fetch_result_in
from voting.poll.ballot import Choice
from voting.poll.formats import Format
from voting.poll.question import CHOICES
from voting.poll.results import (
    PublicResult,
    ShowResults,
    TimelinePoint,
    VoteCounts,
    publish,
)

# Rows that are fetched and written at a time, few enough for their memory not to matter.
BATCH = 500


class NoSuchRound(Exception):
    """There is no round of that number."""


class VotesHidden(Exception):
    """The votes are hidden, as the totals are."""


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
        sums = [0] * len(self.result.question.names)
        counts = VoteCounts.of(sums, hidden=self.result.hidden)
        yield form.head.encode()
        query = (
            select(
                (Tally.bucket + BUCKET).label("time"),
                func.array_agg(Tally.choice).label("choices"),
                func.array_agg(Tally.votes).label("votes"),
            )
            .where(Tally.round == self.result.poll.round)
            .group_by(Tally.bucket)
            .order_by(Tally.bucket)
        )
        rows = await self._rows(query)
        while batch := await rows.fetchmany(BATCH):
            points = []
            for each in batch:
                for choice, votes in zip(each.choices, each.votes, strict=True):
                    sums[CHOICES.index(choice)] += votes
                counts = VoteCounts.of(sums, hidden=self.result.hidden)
                points.append(TimelinePoint(each.time, counts))
            yield form.body(points).encode()
        if counts != self.result.counts:
            # The declared totals hold, even if the tally was altered since.
            yield form.body([TimelinePoint(self.result.at, self.result.counts)]).encode()
        yield form.tail.encode()

    async def votes(self, form: Format[Choice]) -> AsyncGenerator[bytes, None]:
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
        if past := round_number not in {None, result.poll.round}:
            found = await fetch_past_result(connection, round_number or 0)
            if found is None:
                raise NoSuchRound
            result = found
        yield Snapshot(publish(result, show_results), connection, past)
