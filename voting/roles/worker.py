"""ROLE=worker: moves ballots from Redis into Postgres, each counted exactly once."""

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from time import perf_counter
from typing import NamedTuple, TypeVar

import structlog
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database import counting
from voting.database.engine import (
    DATABASE_ERRORS,
    create_engine,
    is_bad_data,
    is_conflict,
    is_refusal,
    is_timeout,
)
from voting.poll.ballot import QueuedBallot, Version
from voting.poll.question import Question
from voting.queue.client import Queue, StreamMissing
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.queue.state import PollConflict, QueueState
from voting.reconcile.question import follow_environment
from voting.roles.maintenance import Maintenance, Timing
from voting.roles.worker_metrics import QueueMonitor
from voting.settings import SettingsError, WorkerSettings
from voting.telemetry import metrics, tracing
from voting.web.server import serve

BATCH_SIZE = 2_000  # entries: larger batches are hardly faster, and take more memory
CONCURRENT_BATCHES = 2  # one waits for a server while the other runs: 1.4 times as fast as 1
READ_BLOCK = 1.0  # seconds that a read waits for the first entry

# Seconds between two reads, so that entries gather: each batch takes two fsyncs of Redis, for which
# votes wait, and a commit. With a worker beside them, two vote processes accept 0.95 of what they
# accept without; 0.7 if it reads at once.
LINGER = 0.1
BACKOFF = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0)  # seconds before each retry; the last repeats

log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")

# Beside "Redis" and "Postgres", what may be down: nothing is counted after a PollConflict.
_COUNTING = "Counting"


class _Batch(NamedTuple):
    """The content of entries that were read together. The entries are not kept: they are large."""

    ids: list[bytes]
    ballots: list[QueuedBallot]
    undecodable: list[tuple[Entry, str]]
    """Entries that hold no ballot, each with the reason."""


_EMPTY = _Batch([], [], [])


class Worker:
    """Reads a batch while another commits; acknowledges a batch only after its commit.

    Any number of workers may run, each with a `consumer` name of its own. `question` is that of the
    environment, which is asked first.
    """

    def __init__(
        self,
        queue: Queue,
        engine: AsyncEngine,
        *,
        consumer: str,
        question: Question | None = None,
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ) -> None:
        self._consumer = Consumer(queue, consumer)
        self._state = QueueState(queue)
        self._engine = engine
        self._question = question
        self._timing = timing
        self._maintenance = Maintenance(self._consumer, self._state, engine, timing)
        self._tracing = tracing.CountTracing()
        self._stop = asyncio.Event()
        self._next_read = 0.0  # by the event loop's clock
        # For each server, the number of tasks that retry because it is down.
        self._down: Counter[str] = Counter()

    async def ready(self) -> bool:
        return self._maintenance.synced and not self._down.total()

    def stop(self) -> None:
        """Make `run` finish the current batches and return."""
        self._stop.set()

    async def run(self) -> None:
        """Count ballots until `stop`."""
        with suppress(_Stopping):
            await self._retry(self._follow_environment)
            await self._retry(self._maintenance.sync_poll)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._maintain())
            tasks.create_task(self._count_claimed())
            for _ in range(CONCURRENT_BATCHES):
                tasks.create_task(self._move_batches())

    async def _follow_environment(self) -> None:
        if self._question is not None:
            await follow_environment(self._engine, self._state, self._question)

    async def _move_batches(self) -> None:
        batch = _EMPTY
        try:
            while not self._stop.is_set():
                batch = await self._retry(partial(self._read_after, batch))
                await self._count_batch(batch)
                await self._linger()
            await self._retry(partial(self._consumer.acknowledge, batch.ids))
        except _Stopping:
            self._abandon(batch)

    async def _linger(self) -> None:
        """Wait until the next read is due, or for `stop`."""
        loop = asyncio.get_running_loop()
        while not self._stop.is_set() and loop.time() < self._next_read:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_read):
                    await self._stop.wait()

    async def _maintain(self) -> None:
        with suppress(_Stopping):
            while not self._stop.is_set():
                await self._pause(await self._retry(self._maintenance.run_once))

    async def _count_claimed(self) -> None:
        claimed = _EMPTY
        try:
            while not self._stop.is_set():
                claimed = self._decode(await self._retry(self._claim))
                await self._count_batch(claimed)
                await self._retry(partial(self._consumer.acknowledge, claimed.ids))
                if not claimed.ids:  # otherwise there may be more
                    await self._pause(self._timing.maintenance_interval)
        except _Stopping:
            self._abandon(claimed)

    async def _claim(self) -> list[Entry]:
        await self._sync_after_conflict()
        return await self._maintenance.claim()

    async def _sync_after_conflict(self) -> None:
        """Let no task read while Redis refuses the poll of this database. Raises PollConflict."""
        if not self._maintenance.synced:
            await self._maintenance.sync_poll()

    async def _read_after(self, counted: _Batch) -> _Batch:
        """Acknowledge a batch and read the next."""
        await self._sync_after_conflict()
        try:
            entries = await self._consumer.read(
                count=BATCH_SIZE, block=READ_BLOCK, acknowledge=counted.ids
            )
        except StreamMissing:
            await self._maintenance.sync_poll()
            return _EMPTY
        if 0 < len(entries) < BATCH_SIZE:  # after a full batch there may be more
            self._next_read = asyncio.get_running_loop().time() + LINGER
        return self._decode(entries)

    def _decode(self, entries: Sequence[Entry]) -> _Batch:
        batch = _Batch([each.id for each in entries], [], [])
        for entry in entries:
            try:
                batch.ballots.append(entry.ballot())
            except ValueError as error:
                batch.undecodable.append((entry, f"no ballot: {error}"))
        self._tracing.received(_traceparents(batch))
        return batch

    async def _count_batch(self, batch: _Batch) -> None:
        for entry, reason in batch.undecodable:
            await self._dead_letter(entry, reason)
        if batch.ballots:
            if locked := await self._count(batch.ballots):
                # They stay pending, and are claimed again.
                left = {str(each.version).encode() for each in locked}
                batch.ids[:] = [each for each in batch.ids if each not in left]
            batch.ballots.clear()  # before the next read, which would double the memory

    def _abandon(self, batch: _Batch) -> None:
        if batch.ids:
            log.warning("stopped with an uncounted batch; its entries stay pending")
        self._tracing.failed(map(Version.parse, batch.ids), "stopped")

    async def _count(self, ballots: list[QueuedBallot]) -> list[QueuedBallot]:
        """Count the ballots that Postgres accepts; bisect to find those that it refuses.

        Returns the ballots of voters whose votes are locked.
        """
        try:
            with self._tracing.batch(len(ballots), (each.version for each in ballots)):
                await self._retry(lambda: self._commit(ballots), may_refuse=True)
        except _BadData as error:
            if len(ballots) == 1:
                await self._dead_letter(Entry.of(ballots[0]), f"refused by Postgres: {error}")
                return []
            middle = len(ballots) // 2
            return await self._count(ballots[:middle]) + await self._count(ballots[middle:])
        except _Locked as error:
            log.warning("votes are locked; their ballots stay pending", votes=len(error.voters))
            locked = [each for each in ballots if each.voter in error.voters]
            rest = [each for each in ballots if each.voter not in error.voters]
            return locked + (await self._count(rest) if rest else [])
        self._tracing.counted(each.version for each in ballots)
        return []

    async def _commit(self, ballots: list[QueuedBallot]) -> None:
        started = perf_counter()
        try:
            self._maintenance.check(await counting.count(self._engine, ballots))
        except DATABASE_ERRORS as error:
            if not is_timeout(error):
                raise
            voters = await counting.fetch_locked_voters(self._engine, ballots)
            if not voters:
                raise
            raise _Locked(voters) from error
        metrics.COUNT_SECONDS.observe(perf_counter() - started)
        metrics.BATCH_BALLOTS.observe(len(ballots))
        metrics.COUNTED.inc(len(ballots))
        if (age := self._state.age(ballots[0].version)) is not None:
            metrics.ACCEPT_TO_COUNT_SECONDS.observe(age)

    async def _dead_letter(self, entry: Entry, reason: str) -> None:
        log.error("moving an entry to the dead letters", ballot=str(entry.version), reason=reason)
        await self._retry(lambda: self._consumer.dead_letter(entry, reason))
        self._tracing.failed([entry.version], "dead letter")
        metrics.DEAD.inc()

    async def _retry(
        self, attempt: Callable[[], Awaitable[_Result]], *, may_refuse: bool = False
    ) -> _Result:
        """Call `attempt` until it succeeds. Logs when a server goes down, and when it is up.

        Raises _Stopping after `stop`, SettingsError if a server can't be used, and what `attempt`
        raises of its own; with `may_refuse` also _BadData, if Postgres refuses values.
        """
        down: set[str] = set()
        pauses = chain(BACKOFF, repeat(BACKOFF[-1]))
        while True:
            try:
                result = await attempt()
            except SettingsError:
                raise
            except RedisError as error:
                self._mark_down("Redis", down, error)
            except PollConflict as error:
                self._mark_down(_COUNTING, down, error)
            except DATABASE_ERRORS as error:
                if may_refuse and is_bad_data(error):
                    raise _BadData(type(error).__name__) from error
                if not is_conflict(error):
                    self._mark_down("Postgres", down, error)
            else:
                self._mark_up(down)
                _raise_if_cancelled()
                return result
            await self._pause(next(pauses))

    async def _pause(self, seconds: float) -> None:
        # Jitter, so that many workers do not retry at the same moment.
        try:
            async with asyncio.timeout(seconds * random.uniform(0.5, 1)):  # noqa: S311 - no secret
                await self._stop.wait()
        except TimeoutError:
            return
        raise _Stopping

    def _mark_down(self, server: str, down: set[str], error: Exception) -> None:
        """Add a server to those that a task, with its set `down`, waits for."""
        if server not in down:
            down.add(server)
            self._down[server] += 1
            if self._down[server] == 1:
                if server == _COUNTING:
                    log.error("nothing is counted: %s", error)
                elif is_refusal(error) or isinstance(error, ResponseError):
                    log.error("%s refuses to work, retrying", server, reason=repr(error))
                else:
                    log.warning("%s is down, retrying", server, reason=repr(error))

    def _mark_up(self, down: set[str]) -> None:
        for server in down:
            self._down[server] -= 1
            if self._down[server] == 0:
                log.warning("%s works again", server)


def _traceparents(batch: _Batch) -> dict[Hashable, str]:
    """Return the traceparents of entries that have one, by version."""
    found: dict[Hashable, str] = {each.version: each.trace for each in batch.ballots if each.trace}
    for entry, _ in batch.undecodable:
        if trace := entry.fields.get(b"trace"):
            found[entry.version] = trace.decode("ascii", "replace")
    return found


def _raise_if_cancelled() -> None:
    """Raise a cancellation that redis-py has swallowed while it wrote.

    It uses asyncio.wait_for of Python 3.11: https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Stopping(Exception):
    """`stop` was called during a retry or a pause: uncounted entries stay pending."""


class _BadData(Exception):
    """Postgres refuses the values themselves."""


class _Locked(Exception):
    """Other transactions have locked the votes of these `voters`."""

    def __init__(self, voters: set[str]) -> None:
        super().__init__()
        self.voters = voters


async def run(settings: WorkerSettings) -> None:
    """Run the role until a signal stops it."""
    queue = Queue.of(settings)
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, name="voting-worker", pool_size=CONCURRENT_BATCHES + 2)
    flush_traces = tracing.start("worker", settings)
    worker = Worker(
        queue,
        engine,
        consumer=f"{socket.gethostname()}-{os.getpid()}",
        question=settings.question,
        timing=Timing(settings.claim_min_idle, settings.maintenance_interval),
    )
    monitor = QueueMonitor(queue)
    monitoring = asyncio.create_task(monitor.run())
    try:
        await serve("worker", settings, worker, worker.ready)
    finally:
        monitor.stop()
        await asyncio.wait({monitoring}, timeout=1)  # Redis may be down
        await queue.close()
        await engine.dispose()
        flush_traces()
