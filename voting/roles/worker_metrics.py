"""Gauges of the whole queue and of Redis: collected every few seconds for /metrics.

Separate from the counting, so that they stay current while Postgres is down, and never delay it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from math import nan

import structlog
from prometheus_client import Gauge
from redis.exceptions import RedisError

from voting.queue.client import Queue, StreamMissing
from voting.queue.fsync_probe import FsyncProbe
from voting.queue.state import QueueState
from voting.telemetry import metrics

_QUEUE_GAUGES = (metrics.BACKLOG, metrics.BACKLOG_AGE, metrics.PENDING)
_SERVER_GAUGES = (
    metrics.STREAM_ENTRIES,
    metrics.DEAD_LETTER_ENTRIES,
    metrics.MEMORY_USED,
    metrics.FSYNC_ALWAYS,
    metrics.QUEUE_REPLICAS,
    metrics.QUEUE_REPLICAS_REQUIRED,
)

# The worker itself logs these.
_EXPECTED_ERRORS = (RedisError, OSError, TimeoutError, StreamMissing)

log = structlog.get_logger(__name__)

_Values = Mapping[Gauge, float | None]


class QueueMonitor:
    """Sets the worker's gauges that are about all workers and Redis.

    By default there are three collections between two scrapes. Values that take longer than
    `timeout` are unknown. Times are in seconds.
    """

    def __init__(self, queue: Queue, *, interval: float = 5.0, timeout: float = 2.0) -> None:
        self._state = QueueState(queue)
        self._fsync_probe = FsyncProbe(queue)
        self._interval = interval
        self._timeout = timeout
        self._failed = False
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Make `run` return after the current collection."""
        self._stop.set()

    async def run(self) -> None:
        """Collect until `stop`."""
        # Not by cancellation: redis-py can lose one while it writes.
        while not self._stop.is_set():
            await self.collect()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stop.wait()

    async def collect(self) -> None:
        """Set all gauges, NaN if a value is unknown. Raises no error."""
        # One after the other: the server's gauges do not need the stream.
        for gauges, fetch in (
            (_QUEUE_GAUGES, self._fetch_queue),
            (_SERVER_GAUGES, self._fetch_server),
        ):
            values: _Values = {}
            try:
                async with asyncio.timeout(self._timeout):
                    values = await fetch()
            except _EXPECTED_ERRORS as error:
                log.debug("metrics of the queue are unknown", reason=repr(error))
            except Exception:
                if not self._failed:
                    log.exception("unexpected error while collecting metrics of the queue")
                self._failed = True
            for gauge in gauges:
                value = values.get(gauge)
                gauge.set(nan if value is None else value)

    async def _fetch_queue(self) -> _Values:
        progress = await self._state.progress()
        return {
            metrics.BACKLOG: progress.backlog,
            metrics.PENDING: progress.pending,
            metrics.BACKLOG_AGE: await self._state.backlog_age(progress),
        }

    async def _fetch_server(self) -> _Values:
        fsynced = await self._fsync_probe.check()
        return {
            metrics.STREAM_ENTRIES: await self._state.length(),
            metrics.DEAD_LETTER_ENTRIES: await self._state.dead_letter_count(),
            metrics.MEMORY_USED: await self._state.memory_used_ratio(),
            metrics.FSYNC_ALWAYS: self._fsync_probe.observe(fsynced=fsynced),
            metrics.QUEUE_REPLICAS: await self._state.replicas(),
            metrics.QUEUE_REPLICAS_REQUIRED: self._state.queue.replicas,
        }
