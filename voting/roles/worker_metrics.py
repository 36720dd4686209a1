"""What the workers have left to do, and how Redis is: looked at every few seconds, for /metrics.

Apart from the counting, so that it goes on while Postgres is away, and can't hold anything up.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from math import nan

import structlog
from prometheus_client import Gauge
from redis.exceptions import RedisError

from voting.queue.fsync_probe import Durability
from voting.queue.stream import BallotStream, GroupProgress, StreamMissing
from voting.telemetry import metrics

INTERVAL = 5.0  # seconds between two looks: three in the time between two scrapes
PATIENCE = 2.0  # seconds after which numbers are not known

_QUEUE = (metrics.BACKLOG, metrics.BACKLOG_AGE, metrics.PENDING)
_SERVER = (
    metrics.STREAM_ENTRIES,
    metrics.DEAD_LETTER_ENTRIES,
    metrics.MEMORY_USED,
    metrics.FSYNC_ALWAYS,
)

# Of these the worker itself tells.
_USUAL = (RedisError, OSError, TimeoutError, StreamMissing)

log = structlog.get_logger(__name__)

_Numbers = Mapping[Gauge, float | None]


class Watch:
    """Sets the gauges of the worker that are about all workers and Redis."""

    def __init__(self, stream: BallotStream) -> None:
        self._stream = stream
        self._durability = Durability()
        self._failed = False
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to return after the look in hand."""
        self._stop.set()

    async def run(self) -> None:
        """Look until `stop`."""
        # An event, as redis-py loses a cancellation that comes while it writes.
        while not self._stop.is_set():
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._stop.wait()

    async def look(self) -> None:
        """Look once. What can't be known becomes NaN; nothing is raised."""
        # Apart: where the stream is gone, the server is still there.
        for gauges, ask in ((_QUEUE, self._ask_queue), (_SERVER, self._ask_server)):
            numbers: _Numbers = {}
            try:
                async with asyncio.timeout(PATIENCE):
                    numbers = await ask()
            except _USUAL as error:
                log.debug("not known", reason=repr(error))
            except Exception:
                if not self._failed:
                    log.exception("looking failed in a way that nobody expected")
                self._failed = True
            for gauge in gauges:
                number = numbers.get(gauge)
                gauge.set(nan if number is None else number)

    async def _ask_queue(self) -> _Numbers:
        progress = await self._stream.progress()
        return {
            metrics.BACKLOG: progress.backlog,
            metrics.PENDING: progress.pending,
            metrics.BACKLOG_AGE: await self._age(progress),
        }

    async def _age(self, progress: GroupProgress) -> float | None:
        oldest = progress.oldest_pending or await self._stream.next_entry_after(progress.delivered)
        if oldest is None:
            return 0.0
        await self._stream.clock()
        return self._stream.age(oldest)

    async def _ask_server(self) -> _Numbers:
        return {
            metrics.STREAM_ENTRIES: await self._stream.length(),
            metrics.DEAD_LETTER_ENTRIES: await self._stream.dead_letter_count(),
            metrics.MEMORY_USED: await self._stream.memory_used(),
            metrics.FSYNC_ALWAYS: self._durability.judge(found=await self._stream.is_durable()),
        }
