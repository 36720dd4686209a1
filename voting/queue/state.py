"""The state of the queue, and the rules of the poll that casts obey."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from voting.poll.ballot import MIN_VERSION, Version
from voting.poll.lifecycle import CastRules
from voting.queue.client import GROUP, Queue, detect_missing_stream, load_script
from voting.queue.entry import Entry, parse_entries

SYNC_POLL = load_script("sync_poll")

SYNC_TIMEOUT = 2.0  # seconds

# The share of Redis' memory above which the vote role refuses ballots. The rest is for counting
# those that are already in the queue.
MEMORY_LIMIT_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """How far the consumer group has come."""

    last_delivered: Version
    oldest_pending: Version | None
    backlog: int | None
    """Entries that are not counted yet; None if Redis does not know."""
    pending: int
    """Those of them that a consumer has read and not acknowledged."""

    def counted(self, version: Version) -> bool:
        """Whether that ballot is counted, or replaced by a newer one of its voter."""
        if self.oldest_pending is not None and version >= self.oldest_pending:
            return False
        return version <= self.last_delivered

    def all_counted(self, last: Version) -> bool:
        """Whether all ballots up to `last` are counted. The stream may end below `last`."""
        return self.pending == 0 and (self.backlog == 0 or self.last_delivered >= last)


class SyncedPoll(NamedTuple):
    """The poll as `QueueState.sync_poll` left it in Redis."""

    created: bool
    """Whether the stream was missing."""
    last_version: Version | None
    """If the poll is closed: no ballot has, or will get, a higher version."""
    closed_at: datetime | None
    """If the poll is closed: since when Redis has accepted no ballot."""


class QueueState:
    """Reads the state of the queue, and writes the poll's rules into it.

    Methods raise redis' own errors if Redis fails.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._redis = queue.redis
        self._keys = (queue.stream_key, queue.poll_key)
        self._clock_ahead: float | None = None

    # The poll

    async def sync_poll(
        self,
        newest: Version,
        state: str,
        *,
        closes_at: datetime | None = None,
        after_version: Version = MIN_VERSION,
        revision: int = 0,
    ) -> SyncedPoll:
        """Create the stream and its group if missing, and set the rules that casts obey.

        New ids will be above `newest`. `state` is "open" or "closed"; an open poll closes by itself
        at `closes_at`. Ballots up to `after_version` belong to an earlier round. After this returns
        or raises, the call can no longer take effect. Redis also refuses it if it has a later
        `revision`.
        """
        loop = asyncio.get_running_loop()
        deadline = await self.clock() + SYNC_TIMEOUT
        local_deadline = loop.time() + SYNC_TIMEOUT
        closing = "" if closes_at is None else int(closes_at.timestamp() * 1000)
        rules = (*newest, state, int(deadline * 1000), closing, str(after_version), revision)
        try:
            reply = await self._redis.eval(SYNC_POLL, 2, *self._keys, GROUP, *rules)
        except RedisError:
            await asyncio.sleep(local_deadline - loop.time())
            raise
        created, state_now, last, since = reply
        if state_now != b"closed":
            return SyncedPoll(bool(created), None, None)
        return SyncedPoll(bool(created), Version.parse(last), _datetime(since))

    async def cast_rules(self) -> CastRules | None:
        """Return the rules that casts obey; None until a worker has set them."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in ("state", "closes_at", "after"):
                pipe.hget(self.queue.poll_key, name)
            state, closes_at, after = await pipe.execute()
        if state is None:
            return None
        closing = _datetime(int(closes_at)) if closes_at else None
        return CastRules(state == b"open", closing, Version.parse(after or b"0-0"))

    async def ready(self) -> bool:
        """Whether ballots can be cast: Redis replies, and a worker has synced the poll."""
        try:
            return bool(await self._redis.exists(*self._keys) == len(self._keys))
        except RedisError:
            return False

    # The stream

    async def progress(self) -> GroupProgress:
        """Return how far the consumer group has come. Raises StreamMissing."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_groups(self.queue.stream_key)
            pipe.xpending(self.queue.stream_key, GROUP)
            with detect_missing_stream():
                groups, pending = await pipe.execute()
        group = next(each for each in groups if each["name"] == GROUP.encode())
        lag = group["lag"]
        return GroupProgress(
            last_delivered=Version.parse(group["last-delivered-id"]),
            oldest_pending=Version.parse(pending["min"]) if pending["pending"] else None,
            backlog=None if lag is None else lag + pending["pending"],
            pending=pending["pending"],
        )

    async def length(self) -> int:
        return int(await self._redis.xlen(self.queue.stream_key))

    async def midpoint(self) -> Version:
        """Return the version half-way, in time, between the first entry and the last."""
        info: Any = await self._redis.xinfo_stream(self.queue.stream_key)
        first = Version.parse(info["first-entry"][0]) if info["first-entry"] else MIN_VERSION
        last = Version.parse(info["last-generated-id"])
        if first.ms == last.ms:  # Redis' clock has stepped back, so its ids stay in one millisecond
            return Version(first.ms, (first.seq + last.seq) // 2)
        return Version((first.ms + last.ms + 1) // 2, 0)

    async def entries_before(self, before: Version | None, count: int) -> list[Entry]:
        """Return up to `count` entries below `before`, or of all, the newest first.

        Includes counted entries; empty if the stream is missing. Workers may trim meanwhile, which
        deletes the oldest entries only: paging skips none down to the last entry returned.
        """
        newest = "+" if before is None else f"({before}"
        key = self.queue.stream_key
        return parse_entries(await self.queue.raw_redis.xrevrange(key, max=newest, count=count))

    async def next_entry_after(self, version: Version) -> Version | None:
        """Return the version of the oldest entry above `version`; None if there is none."""
        key = self.queue.stream_key
        reply: Any = await self.queue.raw_redis.xrange(key, min=f"({version}", count=1)
        return Version.parse(reply[0][0]) if reply else None

    async def dead_letter_count(self) -> int:
        return int(await self._redis.xlen(self.queue.dead_letters_key))

    async def dead_letters(self) -> list[Entry]:
        """Return the entries that can never be counted, with fields `id` and `reason` added."""
        return parse_entries(await self.queue.raw_redis.xrange(self.queue.dead_letters_key))

    # The server

    async def memory_is_low(self) -> bool:
        """Whether Redis has too little memory left to accept ballots."""
        return (await self.memory_used_ratio() or 0.0) > MEMORY_LIMIT_RATIO

    async def memory_used_ratio(self) -> float | None:
        """Return the share of its memory that Redis uses; None if it has no limit."""
        memory: Any = await self._redis.info("memory")
        return memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else None

    async def clock(self) -> float:
        """Return the time of Redis' clock, which ids are made from: seconds since 1970."""
        seconds, micros = await self._redis.time()
        now = float(seconds + micros / 1e6)
        self._clock_ahead = now - asyncio.get_running_loop().time()
        return now

    def age(self, version: Version) -> float | None:
        """Return the seconds since that ballot was cast, without a request to Redis.

        Uses the clock as `clock` last read it; None if it never did.
        """
        if self._clock_ahead is None:
            return None
        now = self._clock_ahead + asyncio.get_running_loop().time()
        return max(0.0, now - version.ms / 1000)


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
