"""The state of the queue, and the rules of the poll that casts obey."""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from voting.poll.ballot import MIN_VERSION, Version
from voting.poll.lifecycle import CastRules, Poll
from voting.poll.question import Question
from voting.queue.client import GROUP, Queue, detect_missing_stream, load_script
from voting.queue.entry import Entry, parse_entries

SYNC_POLL = load_script("sync_poll")

SYNC_TIMEOUT = 2.0  # seconds

# Seconds after which a replica that was not heard of does not count, as in the servers' setting
# min-replicas-max-lag.
MAX_LAG = 3

# One entry that stays pending must not make all newer ballots look uncounted. More than these only
# are pending while workers are at work.
KNOWN_PENDING = 1_000

_RULES = ("state", "closes_at", "after", "lost", "database", "round", "question")

_EPOCH = datetime.fromtimestamp(0, UTC)

# The share of Redis' memory above which the vote role refuses ballots. The rest is for counting
# those that are already in the queue.
MEMORY_LIMIT_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """How far the consumer group has come."""

    last_delivered: Version
    backlog: int | None
    """Entries that are not counted yet; None if Redis does not know."""
    pending: int
    """Those of them that a consumer has read and not acknowledged."""
    known_pending: Sequence[Version] = ()
    """The oldest of those, KNOWN_PENDING at most."""

    @property
    def oldest_pending(self) -> Version | None:
        return self.known_pending[0] if self.known_pending else None

    def counted(self, version: Version) -> bool:
        """Whether that ballot is counted, or replaced by a newer one of its voter.

        False if that is not known: there are older ballots than it which are pending, and so many
        of them that it may be one of those that are not known.
        """
        if version > self.last_delivered:
            return False
        if len(self.known_pending) < self.pending and version > self.known_pending[-1]:
            return False
        place = bisect_left(self.known_pending, version)
        return self.known_pending[place : place + 1] != (version,)

    def all_counted(self, last: Version) -> bool:
        """Whether all ballots up to `last` are counted. The stream may end below `last`."""
        return self.pending == 0 and (self.backlog == 0 or self.last_delivered >= last)


class PollIdentity(NamedTuple):
    """The poll that Redis knows, which a database that was restored may be behind."""

    database_id: str = ""
    revision: int = 0
    rounds: int = 0
    """The highest round so far."""


class PollConflict(Exception):
    """Redis refuses the poll of this database. Until an operator has decided, nothing is counted.

    Either the queue belongs to another database, or Redis knows a later state of the poll, so that
    this database was restored from an older backup.
    """


class SyncedPoll(NamedTuple):
    """The poll as `QueueState.sync_poll` left it in Redis."""

    created: bool
    """Whether the stream was missing."""
    last_version: Version | None
    """If the poll is closed: no ballot has, or will get, a higher version."""
    closed_at: datetime | None
    """If the poll is closed: since when Redis has accepted no ballot."""
    lost_at: datetime | None
    """When the queue was lost, if Postgres has not stored that yet."""


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

    async def sync_poll(self, newest: Version, poll: Poll) -> SyncedPoll:
        """Create the stream and its group if missing, and set the rules that casts obey.

        New ids will be above `newest`. After this returns or raises, the call can no longer take
        effect. What it returns outlives the loss of the primary. Raises PollConflict.
        """
        loop = asyncio.get_running_loop()
        deadline = await self.clock() + SYNC_TIMEOUT
        local_deadline = loop.time() + SYNC_TIMEOUT
        rules = (
            *(*newest, poll.state, int(deadline * 1000), _milliseconds(poll.closes_at)),
            *(str(poll.after_version), poll.revision, poll.database_id),
            *(int(poll.has_queue), _milliseconds(poll.queue_lost_at)),
            *(poll.round, json.dumps([poll.question.title, *poll.question.names])),
        )
        try:
            [reply] = await self.queue.execute(
                ("EVAL", SYNC_POLL, 2, *self._keys, GROUP, *rules), replicated=True
            )
        except RedisError as error:
            if conflict := _conflict(str(error)):
                raise PollConflict(conflict) from error
            await asyncio.sleep(local_deadline - loop.time())
            raise
        created, state_now, last, since, loss = reply
        lost = _datetime(loss) if loss else None
        if state_now != b"closed":
            return SyncedPoll(bool(created), None, None, lost)
        return SyncedPoll(bool(created), Version.parse(last), _datetime(since), lost)

    async def poll_identity(self) -> PollIdentity:
        """Return what Redis knows of the poll: nothing before a worker has synced it."""
        names = ("database", "revision", "rounds", "round")
        known: list[Any] = await self._redis.hmget(self.queue.poll_key, *names)
        database, revision, rounds, number = known
        highest = max(int(rounds or 0), int(number or 0))  # earlier versions stored no `rounds`
        return PollIdentity((database or b"").decode(), int(revision or 0), highest)

    async def cast_rules(self) -> CastRules | None:
        """Return the rules that casts obey; None until a worker has set them."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.time()
            for name in _RULES:
                pipe.hget(self.queue.poll_key, name)
            clock, *rules = await pipe.execute()
        self._read_clock(*clock)
        state, closes_at, after, lost, database, number, question = rules
        if number is None:
            return None
        closing = _datetime(int(closes_at)) if closes_at else None
        title, *names = json.loads(question)
        return CastRules(
            round=int(number),
            question=Question(title, tuple(names)),
            open=state == b"open",
            closes_at=closing,
            after_version=Version.parse(after or b"0-0"),
            lost_version=Version(int(lost or 0), 0),
            database_id=(database or b"").decode(),
        )

    # The stream

    async def progress(self) -> GroupProgress:
        """Return how far the consumer group has come. Raises StreamMissing."""
        async with self._redis.pipeline(transaction=True) as pipe:
            progress, _ = await self._execute_progress(pipe)
            return progress

    async def _execute_progress(self, pipe: Any) -> tuple[GroupProgress, list[Any]]:
        """Execute the transaction of `pipe`; return also the replies of what it began with."""
        pipe.xinfo_groups(self.queue.stream_key)
        pipe.xpending(self.queue.stream_key, GROUP)
        pipe.xpending_range(self.queue.stream_key, GROUP, "-", "+", KNOWN_PENDING)
        with detect_missing_stream():
            *first, groups, pending, oldest = await pipe.execute()
        group = next(each for each in groups if each["name"] == GROUP.encode())
        lag = group["lag"]
        progress = GroupProgress(
            last_delivered=Version.parse(group["last-delivered-id"]),
            backlog=None if lag is None else lag + pending["pending"],
            pending=pending["pending"],
            known_pending=tuple(Version.parse(each["message_id"]) for each in oldest),
        )
        return progress, first

    async def length(self) -> int:
        return int(await self._redis.xlen(self.queue.stream_key))

    async def entries_added(self) -> int:
        """Return how many entries the stream has got since it was created."""
        info: Any = await self._redis.xinfo_stream(self.queue.stream_key)
        return int(info["entries-added"])

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

    async def backlog_age(self, progress: GroupProgress) -> float:
        """Return the seconds since the oldest uncounted ballot was cast, by Redis' clock.

        0 if `progress` knows of none: a ballot that was cast since then is not of that backlog.
        """
        if progress.backlog == 0:
            return 0.0
        oldest = progress.oldest_pending or await self.next_entry_after(progress.last_delivered)
        now = await self.clock()
        return 0.0 if oldest is None else max(0.0, now - oldest.ms / 1000)

    async def vanished_entries(self) -> int:
        """Return how many entries were deleted before they were counted. Raises StreamMissing.

        Nothing of the app deletes them, but the vote user may: XADD takes MAXLEN. The oldest go
        first, so that the stream is shorter than its backlog.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xlen(self.queue.stream_key)
            progress, [length] = await self._execute_progress(pipe)
        return max(0, (progress.backlog or progress.pending) - int(length))

    async def was_trimmed(self) -> bool:
        """Whether entries were deleted from the stream."""
        info: Any = await self._redis.xinfo_stream(self.queue.stream_key)
        return bool(info["entries-added"] > info["length"])

    async def replicas(self) -> int:
        """Return how many replicas follow the primary closely enough to acknowledge votes."""
        info: Any = await self._redis.info("replication")
        found = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
        return sum(each["state"] == "online" and each["lag"] <= MAX_LAG for each in found)

    async def dead_letter_count(self) -> int:
        return int(await self._redis.xlen(self.queue.dead_letters_key))

    async def dead_letters(self) -> list[Entry]:
        """Return the entries that can never be counted, with fields `id` and `reason` added."""
        return parse_entries(await self.queue.raw_redis.xrange(self.queue.dead_letters_key))

    # The server

    async def memory_is_low(self) -> bool:
        """Whether Redis has too little memory left to accept ballots."""
        return await self.memory_used_ratio() > MEMORY_LIMIT_RATIO

    async def memory_used_ratio(self) -> float:
        """Return the share of its memory that Redis uses: of the machine's if it has no limit."""
        memory: Any = await self._redis.info("memory")
        limit = memory["maxmemory"] or memory["total_system_memory"]
        return float(memory["used_memory"] / limit)

    async def find_unsafe_settings(self) -> list[str]:
        """Return each setting that may lose ballots, as "Redis: appendonly is no".

        `FsyncProbe` finds out about `appendfsync`, which no command shows without CONFIG.
        """
        info: Any = await self._redis.info("memory", "persistence")
        found = [] if info["aof_enabled"] else ["Redis: appendonly is no"]
        policy = info["maxmemory_policy"]
        if info["maxmemory"] and policy != "noeviction":
            found.append(f"Redis: maxmemory-policy is {policy}")
        return found

    async def clock(self) -> float:
        """Return the time of Redis' clock, which ids are made from: seconds since 1970."""
        return self._read_clock(*await self._redis.time())

    def _read_clock(self, seconds: int, micros: int) -> float:
        now = float(seconds + micros / 1e6)
        self._clock_ahead = now - asyncio.get_running_loop().time()
        return now

    def now(self) -> float:
        """Return the time of Redis' clock, or a moment before, without a request to Redis.

        Until `clock` or `cast_rules` have read it, that of this machine.
        """
        if self._clock_ahead is None:
            return time.time()
        return self._clock_ahead + asyncio.get_running_loop().time()

    def age(self, version: Version) -> float | None:
        """Return the seconds since that ballot was cast, without a request to Redis.

        Uses the clock as `clock` last read it; None if it never did.
        """
        if self._clock_ahead is None:
            return None
        now = self._clock_ahead + asyncio.get_running_loop().time()
        return max(0.0, now - version.ms / 1000)


def find_conflict(known: PollIdentity, poll: Poll) -> str | None:
    """Return why Redis, which knows that poll, refuses the poll of this database."""
    if known.database_id not in {"", poll.database_id}:
        return _conflict(f"FOREIGN {known.database_id}")
    return _conflict(f"BEHIND {known.revision}") if known.revision > poll.revision else None


def _conflict(error: str) -> str | None:
    """Return what an operator has to know, if `error` is one of the script's own."""
    match error.split():
        case ["FOREIGN", database_id]:
            return (
                f"the queue belongs to another database, {database_id}: give the workers the"
                " DATABASE_URL of that one, or an empty Redis"
            )
        case ["BEHIND", revision]:
            return (
                f"Redis knows a later state of the poll, revision {revision}: the database was"
                " restored from an older backup. Voting is closed until an operator decides:"
                " voting status, then voting open, close, reset or ask"
            )
    return None


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _milliseconds(at: datetime | None) -> int | str:
    """Return the milliseconds since 1970, or "" for None."""
    # Not `timestamp() * 1000`, which may be a millisecond less.
    return "" if at is None else (at - _EPOCH) // timedelta(milliseconds=1)
