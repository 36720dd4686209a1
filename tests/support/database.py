"""What tests write and read directly in the servers, past the roles."""

import asyncio
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, text
from sqlalchemy.ext.asyncio import AsyncEngine

from support.servers import Stream
from voting.database.totals import fetch_result
from voting.poll.ballot import Ballot, Choice, Version


async def execute(engine: AsyncEngine, statement: str) -> CursorResult:
    async with engine.connect() as connection:
        return await connection.execute(text(statement))


async def stored_votes(engine: AsyncEngine) -> dict[UUID, tuple[str, int, int]]:
    """Return the choice and version (ms, seq) of each voter."""
    rows = await execute(engine, "SELECT voter, choice, ms, seq FROM votes")
    return {row.voter: (row.choice, row.ms, row.seq) for row in rows}


async def stored_totals(engine: AsyncEngine) -> tuple[int, int]:
    """Return the votes for a and b by the tally."""
    totals = (await fetch_result(engine)).totals
    return totals.a, totals.b


async def cast_ballots(stream: Stream, number: int, choice: Choice = Choice.A) -> list[Version]:
    """Cast that many ballots at once, each of a new voter."""
    return await asyncio.gather(*(stream.cast(Ballot(uuid4(), choice)) for _ in range(number)))
