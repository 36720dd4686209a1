"""Copying the poll from Postgres, which is the truth, to Redis, where it takes effect."""

from contextlib import suppress
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.engine import transaction
from voting.database.poll import (
    RECORD_QUEUE_LOSS,
    PollChanged,
    close_poll_on_time,
    confirm_close,
    declare_final,
    fetch_poll_for_share,
    fetch_version_floor,
)
from voting.poll.ballot import MAX_BIGINT, MIN_VERSION, Version
from voting.poll.lifecycle import Event, Poll
from voting.queue.state import QueueState, SyncedPoll


async def reconcile(
    engine: AsyncEngine, state: QueueState, *, known: bool = False
) -> tuple[Poll, bool]:
    """Copy the poll to Redis, and record in Postgres what Redis knows of its close.

    Returns the poll, and whether the queue was lost, i.e. missing although this worker had created
    it (`known`) or votes exist. Safe to retry. Raises redis' own errors and DATABASE_ERRORS.
    """
    lost = False
    while True:
        # The poll stays locked until Redis has it: Redis never gets a state that was changed since.
        async with transaction(engine) as connection:
            poll = await fetch_poll_for_share(connection)
            floor = await fetch_version_floor(connection)
            synced = await state.sync_poll(
                floor,
                poll.state,
                closes_at=poll.closes_at,
                after_version=poll.after_version,
                revision=poll.revision,
            )
            if synced.created and (known or floor > MIN_VERSION):
                lost = True
                await connection.execute(RECORD_QUEUE_LOSS)
            if poll.state == "closed":
                return await _confirm_close(connection, poll, synced), lost
        if synced.closed_at is None:
            return poll, lost
        with suppress(PollChanged):  # then copy what it was changed to
            await close_poll_on_time(engine, poll, synced.closed_at)


async def _confirm_close(connection: AsyncConnection, poll: Poll, synced: SyncedPoll) -> Poll:
    """Record when, and after which ballot, Redis closed a poll, unless that is known."""
    if poll.last_version is not None or synced.last_version is None or synced.closed_at is None:
        return poll
    # An entry that was appended by hand may have any id: make it fit into Postgres' bigint.
    last_version = Version(*(min(each, MAX_BIGINT) for each in synced.last_version))
    closed_at = poll.closed_at or synced.closed_at
    await confirm_close(connection, closed_at, last_version)
    return replace(poll, closed_at=closed_at, last_version=last_version)


async def finalize(engine: AsyncEngine, state: QueueState, poll: Poll) -> bool:
    """Declare the totals final if every ballot accepted before the close is counted.

    Returns whether this call did it. Raises StreamMissing, redis' own errors and DATABASE_ERRORS.
    """
    if not poll.allows(Event.ALL_COUNTED) or poll.last_version is None:
        return False
    # Workers acknowledge after the commit: an entry that is not pending is in the tally.
    counted = (await state.progress()).all_counted(poll.last_version)
    return counted and await declare_final(engine, poll.last_version)
