"""Reading the stream as one consumer of the group, and removing what is counted."""

from collections.abc import Sequence
from typing import Any

import structlog

from voting.poll.ballot import Version
from voting.queue.client import GROUP, Queue, detect_missing_stream, load_script
from voting.queue.entry import Entry, parse_entries
from voting.queue.state import QueueState

DEAD_LETTER = load_script("dead_letter")
DELETE_IDLE_CONSUMERS = load_script("delete_idle_consumers")

log = structlog.get_logger(__name__)


class Consumer:
    """One consumer of the group. Each process needs a `name` of its own.

    Entries that it reads or claims stay pending until `acknowledge` or `dead_letter`. They outlive
    the loss of the primary: else another ballot could get the id of one that is counted, or a later
    vote a lower one. Methods raise redis' own errors if Redis fails.
    """

    def __init__(self, queue: Queue, name: str) -> None:
        self._queue = queue
        self._name = name

    async def read(
        self, *, count: int, block: float, acknowledge: Sequence[bytes] = ()
    ) -> list[Entry]:
        """Read up to `count` entries that no consumer has read, waiting up to `block` seconds.

        Acknowledges earlier entries first, by their ids: together that is one round trip and one
        fsync less. Raises StreamMissing.
        """
        milliseconds = max(1, int(block * 1000))  # 0 would block without limit
        limits = ("COUNT", count, "BLOCK", milliseconds)
        streams = ("STREAMS", self._queue.stream_key, ">")
        read = ("XREADGROUP", "GROUP", GROUP, self._name, *limits, *streams)
        commands = [self._xack(acknowledge), read] if acknowledge else [read]
        with detect_missing_stream():
            *_, reply = await self._queue.execute(
                *commands, replicated=True, write_after=self._claim_first
            )
        return parse_entries(reply[0][1]) if reply else []

    async def claim_idle(self, *, min_idle: float, count: int) -> list[Entry]:
        """Claim up to `count` entries that have been pending for `min_idle` seconds.

        Raises StreamMissing.
        """
        arguments = (self._queue.stream_key, GROUP, self._name, int(min_idle * 1000), "0-0")
        with detect_missing_stream():
            [[_, claimed, deleted]] = await self._queue.execute(
                ("XAUTOCLAIM", *arguments, "COUNT", count), replicated=True
            )
        if deleted:
            log.error("pending entries were deleted before they were counted", entries=len(deleted))
        return parse_entries(claimed)

    async def acknowledge(self, ids: Sequence[bytes]) -> None:
        """Acknowledge entries whose ballots are committed."""
        if ids:
            await self._queue.execute(self._xack(ids))

    async def dead_letter(self, entry: Entry, reason: str) -> None:
        """Move an entry that can never be counted to the dead letters, atomically.

        That outlives the loss of the primary: its batch is acknowledged next, maybe at another.
        """
        keys = (self._queue.stream_key, self._queue.dead_letters_key)
        arguments = (GROUP, entry.id, reason, *entry.fields_flat)
        await self._queue.execute(("EVAL", DEAD_LETTER, 2, *keys, *arguments), replicated=True)

    async def delete_idle_consumers(self, min_idle: float) -> int:
        """Delete consumers without pending entries that have not read for `min_idle` seconds.

        Returns their number. Raises StreamMissing.
        """
        arguments = (self._queue.stream_key, GROUP, int(min_idle * 1000))
        with detect_missing_stream():
            return int(await self._queue.redis.eval(DELETE_IDLE_CONSUMERS, 1, *arguments))

    async def trim(self, before: Version | None = None) -> None:
        """Delete counted entries, or only those older than `before`. Raises StreamMissing."""
        progress = await QueueState(self._queue).progress()
        uncounted = progress.oldest_pending or progress.last_delivered
        first = uncounted if before is None else min(before, uncounted)
        await self._queue.redis.xtrim(self._queue.stream_key, minid=str(first), approximate=False)

    def _claim_first(self, reply: Any) -> tuple[Any, ...]:
        """Return a command that claims the first entry just read: a write after that of the read.

        WAITAOF waits for the writes of its own connection, and Redis attributes that of a read
        which was blocked to the client that has appended the entry.
        """
        first = reply[0][1][0][0]
        group = (self._queue.stream_key, GROUP, self._name)
        return ("XAUTOCLAIM", *group, 0, first, "COUNT", 1, "JUSTID")

    def _xack(self, ids: Sequence[bytes]) -> tuple[Any, ...]:
        return ("XACK", self._queue.stream_key, GROUP, *ids)
