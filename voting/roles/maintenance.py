"""The worker's periodic work: poll sync, entries of dead workers, trimming, final totals."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import STATEMENT_TIMEOUT
from voting.poll.ballot import Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.client import StreamMissing
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.queue.state import QueueState
from voting.reconcile.poll import finalize, reconcile
from voting.telemetry import metrics
from voting.telemetry.logging import ChangeLogger

CLAIM_COUNT = 2_000  # entries

# Counted entries are kept for `voting replay`, in case the database is restored from a backup. If
# they are too many, the older half is deleted; if memory is low, all of them.
RETENTION_SECONDS = 3600
RETENTION_ENTRIES = 1_000_000

CONSUMER_EXPIRY = 3600  # seconds: each new pod is a new consumer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds; tests shorten them."""

    claim_min_idle: float = STATEMENT_TIMEOUT * 3  # longer than any batch takes to count
    maintenance_interval: float = 5.0
    finalize_interval: float = 0.5  # while voters wait for the final totals


class Maintenance:
    """Any number of workers may do all of it at the same time.

    Methods raise redis' own errors and DATABASE_ERRORS, and may be retried.
    """

    def __init__(
        self, consumer: Consumer, state: QueueState, engine: AsyncEngine, timing: Timing
    ) -> None:
        self._consumer = consumer
        self._state = state
        self._engine = engine
        self._timing = timing
        self._syncing = asyncio.Lock()
        self.synced = False
        """Whether this worker has synced the poll at least once."""
        self._changes = ChangeLogger(log, f"the poll is {Phase.OPEN}")

    async def run_once(self) -> tuple[list[Entry], float]:
        """Do what is due. Returns claimed entries, and the seconds until the next run.

        A worker died with the claimed entries, or is slow. They have to be counted first: if there
        are any, it does nothing else.
        """
        poll = await self.sync_poll()
        with suppress(StreamMissing):  # the next read or run recreates it
            min_idle = self._timing.claim_min_idle
            if claimed := await self._consumer.claim_idle(min_idle=min_idle, count=CLAIM_COUNT):
                metrics.REDELIVERED.inc(len(claimed))
                log.warning("claimed idle entries", entries=len(claimed))
                return claimed, 0.0  # there may be more
            await self._trim()
            await self._consumer.delete_idle_consumers(CONSUMER_EXPIRY)
            if await finalize(self._engine, self._state, poll):
                log.info("totals are final", round=poll.round)
        return [], await self._next_in(poll)

    async def sync_poll(self) -> Poll:
        """Make Redis match Postgres, which has the authoritative state of the poll."""
        async with self._syncing:
            poll, lost = await reconcile(self._engine, self._state, known=self.synced)
        if lost:
            log.error("stream missing, recreated; uncounted ballots are lost")
        self.synced = True
        self._changes.log(f"the poll is {poll.phase}", round=poll.round)
        return poll

    async def _trim(self) -> None:
        if await self._state.memory_is_low():
            await self._consumer.trim()
            return
        before = Version(int((await self._state.clock() - RETENTION_SECONDS) * 1000), 0)
        if await self._state.length() > RETENTION_ENTRIES:
            before = max(before, await self._state.midpoint())
        await self._consumer.trim(before)

    async def _next_in(self, poll: Poll) -> float:
        if poll.phase is Phase.COUNTING:
            return self._timing.finalize_interval
        if poll.phase is Phase.OPEN and poll.closes_at is not None:
            left = poll.closes_at.timestamp() - await self._state.clock()
            return min(self._timing.maintenance_interval, max(left, self._timing.finalize_interval))
        return self._timing.maintenance_interval
