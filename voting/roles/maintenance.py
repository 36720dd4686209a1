"""The worker's periodic work: poll sync, entries of dead workers, trimming, final totals.

None of it waits for the counting of a batch.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.counting import CountedIn
from voting.database.engine import STATEMENT_TIMEOUT
from voting.database.folding import fold_tally
from voting.database.poll import record_queue_loss
from voting.database.totals import fetch_result
from voting.poll.ballot import Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.client import StreamMissing
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.queue.state import PollConflict, QueueState
from voting.reconcile.integrity import Untrusted, find_problems
from voting.reconcile.poll import finalize, reconcile
from voting.telemetry import metrics
from voting.telemetry.logging import ChangeLogger

CLAIM_COUNT = 2_000  # entries

# Counted entries are kept for `voting replay`, in case the database is restored from a backup. If
# Redis uses more than this share of its memory, the older half is deleted; if memory is low, all.
RETENTION_SECONDS = 3600
RETENTION_MEMORY = 0.5

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
        self._poll: Poll | None = None
        self._changes = ChangeLogger(log, f"the poll is {Phase.OPEN}")
        self._problems: list[str] = []

    @property
    def synced(self) -> bool:
        """Whether Redis has the poll of this database, so that this worker may count."""
        return self._poll is not None

    async def run_once(self) -> float:
        """Do what is due. Returns the seconds until the next run. Raises PollConflict."""
        poll = await self.sync_poll()
        with suppress(StreamMissing):  # the next read or run recreates it
            await self._trim()
            await self._consumer.delete_idle_consumers(CONSUMER_EXPIRY)
            problems = await find_problems(self._engine, self._state)
            try:
                if await finalize(self._engine, self._state, poll):
                    result = await fetch_result(self._engine)
                    if result.poll.round == poll.round:  # no other question was asked meanwhile
                        votes = poll.question.describe(result.totals.counts)
                        log.info("totals are final", round=poll.round, votes=votes)
            except Untrusted as error:
                problems = error.problems
            self._report(problems)
        await fold_tally(self._engine)
        return await self._next_in(poll)

    async def claim(self) -> list[Entry]:
        """Claim entries with which a worker has died, or is slow."""
        with suppress(StreamMissing):
            min_idle = self._timing.claim_min_idle
            if claimed := await self._consumer.claim_idle(min_idle=min_idle, count=CLAIM_COUNT):
                metrics.REDELIVERED.inc(len(claimed))
                log.warning("claimed idle entries", entries=len(claimed))
                return claimed
        return []

    async def sync_poll(self) -> Poll:
        """Make Redis match Postgres, which has the authoritative state of the poll.

        Raises PollConflict.
        """
        async with self._syncing:
            try:
                poll, lost = await reconcile(self._engine, self._state)
            except PollConflict:
                self._poll = None
                raise
            # Before the first read, after which Redis does not tell any more.
            with suppress(StreamMissing):
                await self._look_for_vanished_entries()
        if lost:
            log.error("stream missing, recreated; uncounted ballots are lost")
        self._poll = poll
        self._changes.log(
            f"the poll is {poll.phase}", round=poll.round, question=poll.question.title
        )
        return poll

    async def _look_for_vanished_entries(self) -> None:
        if vanished := await self._state.vanished_entries():
            log.error("entries were deleted before they were counted", entries=vanished)
            at = datetime.fromtimestamp(await self._state.clock(), UTC)
            await record_queue_loss(self._engine, at)

    def check(self, counted_in: CountedIn | None) -> None:
        """Raise PollConflict if a batch was counted in a database that is not the synced one.

        The entries of the batch stay pending. Otherwise ballots could be excluded by the poll of a
        restored database, and acknowledged.
        """
        if counted_in is None:
            return
        known = self._poll
        if known is not None and (
            counted_in.database_id == known.database_id and counted_in.revision >= known.revision
        ):
            return
        self._poll = None
        raise PollConflict("the database is another one, or was restored from a backup")

    def _report(self, problems: list[str]) -> None:
        metrics.PROBLEMS.set(len(problems))
        if problems == self._problems:
            return
        self._problems = problems
        if problems:
            log.error("totals can't be declared final: %s", "; ".join(problems))
        else:
            log.warning("totals can be declared final again")

    async def _trim(self) -> None:
        if await self._state.memory_is_low():
            await self._consumer.trim()
            return
        before = Version(int((await self._state.clock() - RETENTION_SECONDS) * 1000), 0)
        if await self._state.memory_used_ratio() > RETENTION_MEMORY:
            before = max(before, await self._state.midpoint())
        await self._consumer.trim(before)

    async def _next_in(self, poll: Poll) -> float:
        if poll.phase is Phase.COUNTING:
            return self._timing.finalize_interval
        if poll.phase is Phase.OPEN and poll.closes_at is not None:
            left = poll.closes_at.timestamp() - await self._state.clock()
            return min(self._timing.maintenance_interval, max(left, self._timing.finalize_interval))
        return self._timing.maintenance_interval
