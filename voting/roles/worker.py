"""ROLE=worker: moves ballots from Redis into Postgres, each counted exactly once."""

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from time import perf_counter
from typing import NamedTuple, TypeVar

import structlog
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database import counting
from voting.database.engine import (
    DATABASE_ERRORS,
    STATEMENT_TIMEOUT,
    create_engine,
    is_bad_data,
    is_conflict,
)
from voting.poll.ballot import QueuedBallot, Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.stream import BallotStream, Entry, StreamMissing
from voting.reconcile.poll import finalize, reconcile
from voting.roles.worker_metrics import Watch
from voting.settings import WorkerSettings
from voting.telemetry import metrics, tracing
from voting.telemetry.logging import ChangeLogger
from voting.web.server import serve

BATCH = 2_000  # entries: larger ones are hardly faster, and take more memory
IN_HAND = 2  # batches: while one waits for a server, the other goes on, 1.4 times as fast
BLOCK = 1.0  # seconds a read waits for the first entry
HOUSEKEEPING = 5.0  # seconds between two rounds, at most
COUNTING = 0.5  # likewise, where people wait for the final totals
IDLE = STATEMENT_TIMEOUT * 3  # seconds after which a worker's entries are taken over
# Counted entries stay for a while, to be counted again should the database be restored. The older
# half goes when they are many, all of them when memory is short.
KEEP_SECONDS = 3600
KEEP_ENTRIES = 1_000_000
CONSUMER_EXPIRY = 3600  # after which a silent consumer is gone: pods have new names each time
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0)  # seconds before the next try; the last repeats

log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


class _Stopping(Exception):
    """A server is away and the worker is asked to stop: what is in hand stays pending."""


class _Batch(NamedTuple):
    """What entries hold that were read together: nothing else of them is kept, they are large."""

    ids: list[bytes]
    ballots: list[QueuedBallot]
    undecodable: list[tuple[Entry, str]]
    """With the reason."""


_NOTHING = _Batch([], [], [])


class Worker:
    """Reads batches while others commit; acknowledges after the commit only.

    `idle` is in seconds. Any number of workers may run, as long as their `consumer` differ.
    """

    def __init__(
        self,
        stream: BallotStream,
        engine: AsyncEngine,
        *,
        consumer: str,
        idle: float = IDLE,
    ) -> None:
        self._stream = stream
        self._engine = engine
        self._consumer = consumer
        self._idle = idle
        self._tracing = tracing.CountTracing()
        self._stop = asyncio.Event()
        # For each server, how many of the tasks wait for it.
        self._away: Counter[str] = Counter()
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._changes = ChangeLogger(log, f"the poll is {Phase.OPEN}")

    async def ready(self) -> bool:
        return self._prepared and not self._away.total()

    def stop(self) -> None:
        """Ask `run` to finish the batches in hand and return."""
        self._stop.set()

    async def run(self) -> None:
        """Count ballots until `stop`."""
        with suppress(_Stopping):
            await self._persist(self._prepare)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_house())
            for _ in range(IN_HAND):
                tasks.create_task(self._move_batches())

    async def _move_batches(self) -> None:
        batch = _NOTHING
        try:
            while not self._stop.is_set():
                batch = await self._persist(partial(self._read_after, batch))
                await self._count_batch(batch)
            await self._persist(partial(self._stream.done, batch.ids))
        except _Stopping:
            self._leave(batch)

    async def _read_after(self, counted: _Batch) -> _Batch:
        """Acknowledge a batch and read the next."""
        try:
            entries = await self._stream.read(
                self._consumer, count=BATCH, block=BLOCK, done=counted.ids
            )
        except StreamMissing:
            await self._prepare()
            return _NOTHING
        return self._decode(entries)

    def _decode(self, entries: list[Entry]) -> _Batch:
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
            await self._count(batch.ballots)
            batch.ballots.clear()  # or twice as many would be in memory once the next are read

    def _leave(self, batch: _Batch) -> None:
        if batch.ids:
            log.warning("stopped with a batch in hand: it stays pending for the next worker")
        self._tracing.failed(map(Version.parse, batch.ids), "stopped")

    async def _keep_house(self) -> None:
        taken = _NOTHING
        try:
            while not self._stop.is_set():
                taken, pause = await self._persist(self._tidy)
                await self._count_batch(taken)
                await self._persist(partial(self._stream.done, taken.ids))
                taken = _NOTHING
                await self._pause(pause)
        except _Stopping:
            self._leave(taken)

    async def _tidy(self) -> tuple[_Batch, float]:
        """Do what is to be done now and then.

        Returns entries that nobody has finished, to be counted, and how many seconds the next time
        may wait.
        """
        poll = await self._prepare()
        with suppress(StreamMissing):  # it is made anew by who reads
            if taken := await self._stream.claim_idle(self._consumer, idle=self._idle, count=BATCH):
                metrics.REDELIVERED.inc(len(taken))
                log.warning("took over entries that nobody has finished", entries=len(taken))
                return self._decode(taken), 0.0  # and look for more at once
            await self._trim()
            await self._stream.delete_idle_consumers(CONSUMER_EXPIRY)
            if await finalize(self._engine, self._stream, poll):
                log.info("the totals are declared final", round=poll.round)
        return _NOTHING, await self._pause_after(poll)

    async def _prepare(self) -> Poll:
        """Bring Redis in line with Postgres, which is the truth."""
        async with self._preparing:
            poll, lost = await reconcile(self._engine, self._stream, known=self._prepared)
        if lost:
            log.error("the stream was gone and is made anew: ballots not yet counted are lost")
        self._prepared = True
        self._changes.log(f"the poll is {poll.phase}", round=poll.round)
        return poll

    async def _pause_after(self, poll: Poll) -> float:
        """Tell how many seconds the housekeeping may wait."""
        if poll.phase is Phase.COUNTING:
            return COUNTING
        if poll.phase is Phase.OPEN and poll.closes_at is not None:
            left = poll.closes_at.timestamp() - await self._stream.clock()
            return min(HOUSEKEEPING, max(left, COUNTING))
        return HOUSEKEEPING

    async def _trim(self) -> None:
        if await self._stream.memory_is_low():
            await self._stream.trim()
            return
        seconds = await self._stream.clock() - KEEP_SECONDS
        before = Version(int(seconds * 1000), 0)
        if await self._stream.length() > KEEP_ENTRIES:
            before = max(before, await self._stream.midpoint())
        await self._stream.trim(before)

    async def _count(self, ballots: list[QueuedBallot]) -> None:
        """Count what Postgres takes; halve what it refuses until the culprit is found."""
        try:
            with self._tracing.batch(len(ballots), (each.version for each in ballots)):
                await self._persist(lambda: self._commit(ballots), may_refuse=True)
        except _BadData as error:
            if len(ballots) == 1:
                await self._dead_letter(Entry.of(ballots[0]), f"refused by Postgres: {error}")
                return
            middle = len(ballots) // 2
            await self._count(ballots[:middle])
            await self._count(ballots[middle:])
        else:
            self._tracing.counted(each.version for each in ballots)

    async def _commit(self, ballots: list[QueuedBallot]) -> None:
        started = perf_counter()
        await counting.count(self._engine, ballots)
        metrics.COUNT_SECONDS.observe(perf_counter() - started)
        metrics.BATCH_BALLOTS.observe(len(ballots))
        metrics.COUNTED.inc(len(ballots))
        if (age := self._stream.age(ballots[0].version)) is not None:
            metrics.ACCEPT_TO_COUNT_SECONDS.observe(age)

    async def _dead_letter(self, entry: Entry, reason: str) -> None:
        log.error("an entry goes to the dead letters", ballot=str(entry.version), reason=reason)
        await self._persist(lambda: self._stream.dead_letter(entry, reason))
        self._tracing.failed([entry.version], "dead letter")
        metrics.DEAD.inc()

    async def _persist(
        self, attempt: Callable[[], Awaitable[_Result]], *, may_refuse: bool = False
    ) -> _Result:
        """Try until it works, saying once that a server is away and once that it is back.

        Raises _BadData where Postgres refuses the values and may, and _Stopping when asked to stop.
        """
        missed: set[str] = set()
        pauses = chain(PAUSES, repeat(PAUSES[-1]))
        while True:
            try:
                result = await attempt()
            except RedisError as error:
                self._miss("Redis", missed, error)
            except DATABASE_ERRORS as error:
                if may_refuse and is_bad_data(error):
                    raise _BadData(type(error).__name__) from error
                if not is_conflict(error):
                    self._miss("Postgres", missed, error)
            else:
                self._found(missed)
                _raise_if_cancelled()
                return result
            await self._pause(next(pauses))

    async def _pause(self, seconds: float) -> None:
        # Jitter keeps many workers from coming back at the same moment.
        try:
            async with asyncio.timeout(seconds * random.uniform(0.5, 1)):  # noqa: S311 - no secret
                await self._stop.wait()
        except TimeoutError:
            return
        raise _Stopping

    def _miss(self, server: str, missed: set[str], error: Exception) -> None:
        if server not in missed:
            missed.add(server)
            self._away[server] += 1
            if self._away[server] == 1:
                log.warning("%s is away, waiting for it", server, reason=repr(error))

    def _found(self, missed: set[str]) -> None:
        for server in missed:
            self._away[server] -= 1
            if self._away[server] == 0:
                log.warning("%s is back", server)


def _traceparents(batch: _Batch) -> dict[Hashable, str]:
    """Return the traceparents of entries that have one, by version."""
    found: dict[Hashable, str] = {
        each.version: each.trace for each in batch.ballots if each.trace is not None
    }
    for entry, _ in batch.undecodable:
        if trace := entry.fields.get(b"trace"):
            found[entry.version] = trace.decode("ascii", "replace")
    return found


def _raise_if_cancelled() -> None:
    """Make up for redis-py, which loses a cancellation that comes while it writes.

    Source: asyncio.wait_for of Python 3.11, https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _BadData(Exception):
    """Postgres refuses the values themselves."""


async def run(settings: WorkerSettings) -> None:
    """Run the role until a signal stops it."""
    stream = BallotStream.at(settings.redis_url.get_secret_value())
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, name="voting-worker", pool_size=IN_HAND + 1)
    flush_traces = tracing.start("worker", settings)
    worker = Worker(
        stream,
        engine,
        consumer=f"{socket.gethostname()}-{os.getpid()}",
    )
    watch = Watch(stream)
    watching = asyncio.create_task(watch.run())
    try:
        await serve("worker", settings, worker, worker.ready)
    finally:
        watch.stop()
        await asyncio.wait({watching}, timeout=1)  # Redis may be away
        await stream.close()
        await engine.dispose()
        flush_traces()
