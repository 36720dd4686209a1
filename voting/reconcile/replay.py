"""Counting again what the queue still has and a restored database does not."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.counting import count
from voting.database.models import Round, Vote
from voting.database.poll import fetch_poll, fetch_version_floor
from voting.poll.ballot import MIN_VERSION, Version
from voting.queue.state import QueueState
from voting.reconcile.entries import (
    Gap,
    cast_at,
    counted_versions,
    decode,
    find_gap,
    oldest_left,
    pages,
)

STORED_VERSIONS = select(Vote.voter, Vote.ms, Vote.seq).where(
    Vote.voter == any_(bindparam("voters", type_=ARRAY(Uuid(as_uuid=False))))
)

ROUNDS = select(Round.round)


@dataclass(frozen=True, slots=True)
class Replay:
    """How many entries were compared, since when, and how many lost votes were counted again."""

    entries: int
    votes: int
    since: datetime | None
    gap: Gap | None
    """Votes that it could not count, since the queue does not have them any more either."""
    left: int
    """Ballots of rounds that the database does not know: asked after its backup."""


async def replay(state: QueueState, engine: AsyncEngine) -> Replay:
    """Count again the ballots that the queue calls counted and that a restored database lacks.

    Of its current round only. Newest first, so that each voter is counted once. Workers may run
    meanwhile: ballots that are not counted yet are left to them. Raises StreamMissing, redis' own
    errors and DATABASE_ERRORS.
    """
    progress = await state.progress()
    oldest_there = await oldest_left(state, progress)
    letters = await state.dead_letters()
    async with engine.connect() as connection:
        poll = await fetch_poll(connection)
        floor = await fetch_version_floor(connection)
    counted = counted_versions(progress, letters, poll.after_version, poll.last_version)
    gap = find_gap(oldest_there, floor, counted)
    entries, votes, oldest = 0, 0, None
    rounds: Counter[int | None] = Counter()
    async for page in pages(state):
        decoded = decode(page)
        rounds.update(each.round for each in decoded)
        ballots = [each for each in decoded if each.is_of(poll.round) and counted(each.version)]
        newest = {each.voter: each for each in reversed(ballots)}
        async with engine.connect() as connection:
            rows = await connection.execute(STORED_VERSIONS, {"voters": list(newest)})
            stored = {row.voter.hex: Version(row.ms, row.seq) for row in rows}
        lost = [
            each for voter, each in newest.items() if each.version > stored.get(voter, MIN_VERSION)
        ]
        await count(engine, lost)
        entries += len(ballots)
        votes += len(lost)
        oldest = ballots[-1].version if ballots else oldest
    async with engine.connect() as connection:
        known = {None, *await connection.scalars(ROUNDS)}  # last: the database knew them before
    left = sum(ballots for number, ballots in rounds.items() if number not in known)
    return Replay(entries, votes, oldest and cast_at(oldest), gap, left)
