"""Copying the poll from Postgres, which is the truth, to Redis, where it takes effect."""

from contextlib import suppress
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.engine import transaction
from voting.database.poll import (
    RECORD_QUEUE,
    RECORD_QUEUE_LOSS,
    PollChanged,
    close_poll_on_time,
    confirm_close,
    declare_final,
    fetch_poll_for_share,
    fetch_version_floor,
)
from voting.poll.ballot import MAX_ID, Version
from voting.poll.lifecycle import Event, Poll
from voting.queue.fsync_probe import FsyncProbe
from voting.queue.state import QueueState, SyncedPoll
from voting.reconcile.integrity import FINAL_ENTRIES, Untrusted, find_problems


async def reconcile(engine: AsyncEngine, state: QueueState) -> tuple[Poll, bool]:
    """Copy the poll to Redis, and record in Postgres what Redis knows of its close.

    Returns the poll, and whether the queue was lost since the last call that was completed. Safe to
    retry. Raises PollConflict, redis' own errors and DATABASE_ERRORS.
    """
    lost = False
    while True:
        # The poll stays locked until Redis has it: Redis never gets a state that was changed since.
        async with transaction(engine) as connection:
            poll = await fetch_poll_for_share(connection)
            floor = await fetch_version_floor(connection)
            synced = await state.sync_poll(floor, poll)
            if synced.lost_at is not None:
                lost = True
                await connection.execute(RECORD_QUEUE_LOSS, {"at": synced.lost_at})
            elif not poll.has_queue:
                await connection.execute(RECORD_QUEUE)
            if poll.state == "closed":
                return await _confirm_close(connection, state, poll, synced), lost
        if synced.closed_at is None:
            return poll, lost
        with suppress(PollChanged):  # then copy what it was changed to
            await close_poll_on_time(engine, poll, synced.closed_at)


async def _confirm_close(
    connection: AsyncConnection, state: QueueState, poll: Poll, synced: SyncedPoll
) -> Poll:
    """Record when, and after which ballot, Redis closed a poll, unless that is known."""
    if poll.last_version is not None or synced.last_version is None or synced.closed_at is None:
        return poll
    last_version = synced.last_version
    if last_version.ms >= MAX_ID:
        # Of an entry that was appended by hand: `cast.lua` accepts no ballot after it.
        entries = await state.entries_before(Version(MAX_ID, 0), 1)
        last_version = entries[0].version if entries else poll.after_version
    closed_at = poll.closed_at or synced.closed_at
    await confirm_close(connection, closed_at, last_version)
    return replace(poll, closed_at=closed_at, last_version=last_version)


async def finalize(engine: AsyncEngine, state: QueueState, poll: Poll) -> bool:
    """Declare the totals final if every ballot accepted before the close is counted, for good.

    Returns whether this call did it. Raises Untrusted, StreamMissing, redis' own errors and
    DATABASE_ERRORS.
    """
    if not poll.allows(Event.ALL_COUNTED) or poll.last_version is None:
        return False
    # Workers acknowledge after the commit: an entry that is not pending is in the tally.
    if not (await state.progress()).all_counted(poll.last_version):
        return False
    problems = await find_problems(engine, state, entries=FINAL_ENTRIES)
    if await FsyncProbe(state.queue).check() is False:
        problems.append("Redis: appendfsync is not always")
    if problems:
        raise Untrusted(problems)
    return await declare_final(engine, poll.last_version)
