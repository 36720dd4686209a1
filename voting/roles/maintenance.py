"""The worker's periodic work: poll sync, entries of dead workers, trimming, final totals."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

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

CLAIM_MIN_IDLE = STATEMENT_TIMEOUT * 3  # seconds: longer than any batch takes to count
CLAIM_COUNT = 2_000  # entries
MAINTENANCE_INTERVAL = 5.0  # seconds
FINALIZE_INTERVAL = 0.5  # seconds, while voters wait for the final totals

# Counted entries are kept for `voting replay`, in case the database is restored from a backup. If
# they are too many, the older half is deleted; if memory is low, all of them.
RETENTION_SECONDS = 3600
RETENTION_ENTRIES = 1_000_000

CONSUMER_EXPIRY = 3600  # seconds: each new pod is a new consumer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds; tests shorten them."""

    claim_min_idle: float = CLAIM_MIN_IDLE
    maintenance_interval: float = MAINTENANCE_INTERVAL
    finalize_interval: float = FINALIZE_INTERVAL


class MaintenanceResult(NamedTuple):
    """What one run of the maintenance leaves to the worker."""

    claimed: list[Entry]
    """Entries to count; a worker died with them, or is slow."""
    next_in: float
    """Seconds until the next run."""


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

    async def run_once(self) -> MaintenanceResult:
        """Do what is due. Stops early if it claims entries, which have to be counted first."""
        poll = await self.sync_poll()
        with suppress(StreamMissing):  # the next read or run recreates it
            if claimed := await self._consumer.claim_idle(
                min_idle=self._timing.claim_min_idle, count=CLAIM_COUNT
            ):
                metrics.REDELIVERED.inc(len(claimed))
                log.warning("claimed idle entries", entries=len(claimed))
                return MaintenanceResult(claimed, next_in=0.0)  # there may be more
            await self._trim()
            await self._consumer.delete_idle_consumers(CONSUMER_EXPIRY)
            if await finalize(self._engine, self._state, poll):
                log.info("totals are final", round=poll.round)
        return MaintenanceResult([], await self._next_in(poll))

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
