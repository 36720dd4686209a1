"""Changing the poll: in Postgres, which is the truth, then in Redis, where it takes effect."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database import tally
from voting.poll.ballot import MAX_BIGINT, MIN_VERSION, Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.stream import BallotStream, SyncedPoll

# Wait for the lock longer than somebody can have it who says nothing any more.
_PATIENCE = text("""
SELECT set_config('lock_timeout', '6500ms', true), set_config('statement_timeout', '6500ms', true)
""")

_LOCK = text(f"{tally.LOCK_IDLE}, pg_advisory_xact_lock({tally.POLL_LOCK})")

# From when on, and after which ballot, is for Redis to tell.
_CLOSE = text("""
UPDATE poll SET revision = revision + 1, state = 'closed', closes_at = NULL
WHERE state = 'open' RETURNING round
""")

_CLOSE_AT = text("""
UPDATE poll SET revision = revision + 1, closes_at = :at WHERE state = 'open' RETURNING round
""")

_TIME_HAS_COME = text("""
UPDATE poll SET revision = revision + 1, state = 'closed', closed_at = :closed_at
WHERE state = 'open' AND revision = :revision
""")

_OPEN = text("""
UPDATE poll SET
  revision = revision + 1, state = 'open',
  closes_at = NULL, closed_at = NULL, until_ms = NULL, until_seq = NULL, final_at = NULL
WHERE round = :round AND final_at IS NOT DISTINCT FROM :final_at
RETURNING round
""")

_START_ROUND = text("SELECT start_round(:ended)")


class PollChanged(Exception):
    """The poll is not what it was when the operator looked: nothing was done."""


async def reconcile(
    engine: AsyncEngine, stream: BallotStream, *, known: bool = False
) -> tuple[Poll, bool]:
    """Tell Redis what Postgres says of the poll, and Postgres where Redis has closed it.

    Returns the poll, and whether the queue was lost: it was not there, though `known` or though
    something has been counted. May be done again where it failed: raises redis' own errors and
    DATABASE_ERRORS.
    """
    lost = False
    while True:
        # The poll stays locked until Redis has its state: a change in between can't be undone.
        async with _transaction(engine) as on:
            poll = await tally.share_poll(on)
            newest = await tally.version_after_all(on)
            synced = await stream.sync_poll(
                newest,
                poll.state,
                closes_at=poll.closes_at,
                after_version=poll.after_version,
                revision=poll.revision,
            )
            if synced.created and (known or newest > MIN_VERSION):
                lost = True
                await tally.set_lost(on)
            if poll.state == "closed":
                return await _closed(on, poll, synced), lost
        if synced.closed_at is None:
            return poll, lost
        # Its time has come. Who still tells Redis that it is open is waited for; only then is the
        # last id the last.
        async with _changing(engine) as connection:
            came = {"closed_at": synced.closed_at, "revision": poll.revision}
            await connection.execute(_TIME_HAS_COME, came)


async def _closed(on: AsyncConnection, poll: Poll, synced: SyncedPoll) -> Poll:
    """Write down when, and after which id, Redis has closed a poll that Postgres calls closed."""
    if poll.last_version is not None or synced.last_version is None or synced.closed_at is None:
        return poll
    closed_at, until = poll.closed_at or synced.closed_at, _fit(synced.last_version)
    await tally.set_closed(on, closed_at, until)
    return replace(poll, closed_at=closed_at, last_version=until)


async def finish(engine: AsyncEngine, stream: BallotStream, poll: Poll) -> bool:
    """Declare the totals final if everything accepted before the close is counted.

    Tells whether this did it. Raises StreamMissing, redis' own errors and DATABASE_ERRORS.
    """
    if poll.phase is not Phase.COUNTING or poll.last_version is None:
        return False
    # An acknowledge comes after its commit: what is not pending is in the tally.
    counted = (await stream.progress()).all_counted(poll.last_version)
    return counted and await tally.finish(engine, poll.last_version)


def _fit(version: Version) -> Version:
    """Make it fit into a bigint: somebody may have appended an entry with any id by hand."""
    return Version(min(version.ms, MAX_BIGINT), min(version.seq, MAX_BIGINT))


async def close(engine: AsyncEngine, *, at: datetime | None = None) -> None:
    """Close the poll, now or at a time. It takes effect with `reconcile`.

    Raises PollChanged where it is closed already.
    """
    async with _changing(engine) as connection:
        if at is None:
            done = await connection.execute(_CLOSE)
        else:
            done = await connection.execute(_CLOSE_AT, {"at": at})
    if done.one_or_none() is None:
        raise PollChanged


async def reopen(engine: AsyncEngine, seen: Poll) -> None:
    """Open the poll, and forget when it was to close. It takes effect with `reconcile`.

    Totals that were declared final stay in the table of finals. Raises PollChanged where they were
    not when somebody decided to open it.
    """
    round_ = {"round": seen.round, "final_at": seen.final_at}
    async with _changing(engine) as connection:
        done = await connection.execute(_OPEN, round_)
    if done.one_or_none() is None:
        raise PollChanged


async def start_round(engine: AsyncEngine, ended: int) -> None:
    """Keep the totals of the round that is final, and open the next. Raises PollChanged.

    It takes effect with `reconcile`.
    """
    async with _changing(engine) as connection:
        started = await connection.execute(_START_ROUND, {"ended": ended})
    if started.scalar_one() is None:
        raise PollChanged


@asynccontextmanager
async def _changing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Begin a transaction in which nobody else changes the poll or copies it to Redis."""
    async with _transaction(engine) as connection:
        await connection.execute(_PATIENCE)
        await connection.execute(_LOCK)
        yield connection


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        yield connection
