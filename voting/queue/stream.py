"""The queue of ballots: a Redis stream that one group of workers reads."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from itertools import chain
from typing import Any, NamedTuple, Self
from uuid import UUID

import hiredis
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from voting.poll.ballot import CHOICES, MIN_VERSION, VOTER_BYTES, Ballot, QueuedBallot, Version
from voting.poll.lifecycle import CastRules
from voting.queue.fsync_probe import is_durable
from voting.queue.producer import Caster

SYNC_POLL, DEAD_LETTER, DELETE_IDLE_CONSUMERS = (
    resources.files("voting.queue").joinpath(f"scripts/{name}.lua").read_text()
    for name in ("sync_poll", "dead_letter", "delete_idle_consumers")
)

GROUP = "workers"

SYNC_TIMEOUT = 2.0

# Of Redis' memory: beyond it, new ballots are refused while there is still room for the work on
# those that are in.
MEMORY_LIMIT_RATIO = 0.9

log = structlog.get_logger(__name__)

_Command = tuple[Any, ...]


class StreamMissing(Exception):
    """The stream or its group is not there: it has to be prepared."""


class Entry(NamedTuple):
    """An entry of the stream as it was read; `ballot` may find that it is none.

    `raw`: the names of its fields and their values, in turn.
    """

    id: bytes
    raw: Sequence[bytes]

    @classmethod
    def of(cls, ballot: QueuedBallot) -> Self:
        """Make the entry that `ballot` was decoded from, but for a trace that made no sense."""
        values = Ballot(UUID(ballot.voter), ballot.choice, ballot.trace).encode()
        fields = zip((b"voter", b"choice", b"trace"), values, strict=False)
        return cls(str(ballot.version).encode(), [*chain.from_iterable(fields)])

    @property
    def version(self) -> Version:
        return Version.parse(self.id)

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        return dict(zip(self.raw[::2], self.raw[1::2], strict=True))

    def ballot(self) -> QueuedBallot:
        """Decode it. Raises ValueError where it holds no ballot."""
        match self.raw:
            # As nearly all are.
            case [b"voter", voter, b"choice", choice] if (
                choice in CHOICES and len(voter) == VOTER_BYTES
            ):
                ms, seq = self.id.split(b"-")
                return QueuedBallot(int(ms), int(seq), voter.hex(), CHOICES[choice])
            case _:
                return QueuedBallot.of(self.version, Ballot.decode(self.fields))


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """How far the workers are, all together."""

    delivered: Version
    oldest_pending: Version | None
    backlog: int | None
    """Entries that are not counted yet; None where Redis can't tell."""
    pending: int
    """Those of them that a worker has in hand, or had when it died."""

    def counted(self, version: Version) -> bool:
        """Whether the ballot of that version is counted, or replaced by a newer one."""
        if self.oldest_pending is not None and version >= self.oldest_pending:
            return False
        return version <= self.delivered

    def all_counted(self, until: Version) -> bool:
        """Whether all ballots up to that version are, which may be higher than the last one's."""
        return self.pending == 0 and (self.backlog == 0 or self.delivered >= until)


class SyncedPoll(NamedTuple):
    """What `BallotStream.sync_poll` found."""

    created: bool
    """Whether the stream was missing."""
    last_version: Version | None
    """Where the poll is closed: no ballot is newer than this, nor will be."""
    closed_at: datetime | None
    """Since when no ballot was taken, as far as Redis knows."""


def connect(url: str) -> Redis:
    """Make a client that tries once, so that its callers know what was tried."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=2,
        socket_timeout=5,  # longer than a read blocks
        protocol=2,
    )


class BallotStream:
    """Casts ballots, hands them to workers, and knows how far they are.

    `name` keeps streams on one server apart; the braces keep its keys on one node of a cluster.
    Every method but `cast` raises redis' own errors where the server can't be asked.
    """

    def __init__(self, redis: Redis, *, name: str = "voting", cast_timeout: float = 2.0) -> None:
        self._redis = redis
        self.name = name
        self._stream = f"{{{name}}}:ballots"
        self._poll = f"{{{name}}}:poll"
        self._dead = f"{{{name}}}:dead"
        self._tries = f"{{{name}}}:tries"
        self._clock_ahead: float | None = None
        self._reader = Redis(connection_pool=redis.connection_pool)
        for command in ("XAUTOCLAIM", "XRANGE", "XREVRANGE"):
            self._reader.set_response_callback(command, _raw_reply)
        self._caster = Caster(redis, self._stream, self._poll, timeout=cast_timeout)

    @classmethod
    def at(cls, url: str) -> Self:
        return cls(connect(url))

    async def close(self) -> None:
        await self._redis.aclose()

    async def cast(self, ballot: Ballot) -> Version:
        """Append `ballot` and return its version once it is on disk. Raises a CastError."""
        return await self._caster.cast(ballot)

    async def sync_poll(
        self,
        newest: Version,
        state: str,
        *,
        closes_at: datetime | None = None,
        after_version: Version = MIN_VERSION,
        revision: int = 0,
    ) -> SyncedPoll:
        """Make the stream and its group where missing, and tell `cast` what it has to obey.

        No id will be at or below `newest`. `state` is "open" or "closed"; an open poll closes by
        itself at `closes_at`. Ballots up to `after_version` were cast in an earlier round. Once this has
        returned or raised, Redis does not apply it any more, nor where it knows a later `revision`.
        """
        loop = asyncio.get_running_loop()
        deadline = await self.clock() + SYNC_TIMEOUT
        until = loop.time() + SYNC_TIMEOUT
        keys = (self._stream, self._poll)
        closing = "" if closes_at is None else int(closes_at.timestamp() * 1000)
        rules = (state, int(deadline * 1000), closing, str(after_version), revision)
        try:
            reply = await self._redis.eval(
                SYNC_POLL, 2, *keys, GROUP, newest.ms, newest.seq, *rules
            )
        except RedisError:
            await asyncio.sleep(until - loop.time())
            raise
        created, state_now, last, since = reply
        if state_now != b"closed":
            return SyncedPoll(created=bool(created), last_version=None, closed_at=None)
        closed_at = datetime.fromtimestamp(since / 1000, UTC)
        return SyncedPoll(
            created=bool(created), last_version=Version.parse(last), closed_at=closed_at
        )

    async def cast_rules(self) -> CastRules | None:
        """Tell what a cast obeys; None where no worker has said so yet."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in ("state", "closes_at", "after"):
                pipe.hget(self._poll, name)
            state, closes_at, after = await pipe.execute()
        if state is None:
            return None
        closing = datetime.fromtimestamp(int(closes_at) / 1000, UTC) if closes_at else None
        return CastRules(state == b"open", closing, Version.parse(after or b"0-0"))

    async def ready(self) -> bool:
        """Whether ballots can be cast; not where Redis can't be asked."""
        try:
            return await self._redis.exists(self._stream, self._poll) == 2  # noqa: PLR2004 - both
        except RedisError:
            return False

    async def read(
        self, consumer: str, *, count: int, block: float, done: Sequence[bytes] = ()
    ) -> list[Entry]:
        """Take up to `count` entries that nobody took yet, waiting up to `block` seconds.

        They stay pending until `done` or `dead_letter`. What was read before may be `done` on the way:
        that is one round trip and one sync to disk less. Raises StreamMissing.
        """
        milliseconds = max(1, int(block * 1000))  # 0 would wait for ever
        limits = ("COUNT", count, "BLOCK", milliseconds)
        read = ("XREADGROUP", "GROUP", GROUP, consumer, *limits, "STREAMS", self._stream, ">")
        commands = [self._acknowledge(done), read] if done else [read]
        try:
            *_, reply = await self._ask(*commands)
        except ResponseError as error:
            raise _missing(error) from error
        return _entries(reply[0][1]) if reply else []

    async def claim_idle(self, consumer: str, *, idle: float, count: int) -> list[Entry]:
        """Take over up to `count` entries that a consumer has held for `idle` seconds.

        Raises StreamMissing.
        """
        try:
            reply = await self._reader.xautoclaim(
                self._stream, GROUP, consumer, min_idle_time=int(idle * 1000), count=count
            )
        except ResponseError as error:
            raise _missing(error) from error
        if gone := reply[2]:
            log.error(
                "entries are gone from the stream before they were counted", entries=len(gone)
            )
        return _entries(reply[1])

    async def done(self, ids: Sequence[bytes]) -> None:
        """Acknowledge entries whose ballots are counted."""
        if ids:
            await self._ask(self._acknowledge(ids))

    def _acknowledge(self, ids: Sequence[bytes]) -> _Command:
        return ("XACK", self._stream, GROUP, *ids)

    async def _ask(self, *commands: _Command) -> list[Any]:
        """Send commands together, and wait for their replies, which are left as they come."""
        pool: Any = self._redis.connection_pool  # its methods have no types
        connection = await pool.get_connection()
        try:
            # Packed in C, which redis-py does not do: a worker's Python takes 4.3 µs for a vote
            # instead of 5.0.
            await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
            return [await connection.read_response() for _ in commands]
        except ResponseError:
            await connection.disconnect()  # the other replies are on their way
            raise
        finally:
            await pool.release(connection)

    async def dead_letter(self, entry: Entry, reason: str) -> None:
        """Move an entry that can never be counted to the dead letters, in one step."""
        keys = (self._stream, self._dead)
        await self._redis.eval(DEAD_LETTER, 2, *keys, GROUP, entry.id, reason, *entry.raw)

    async def delete_idle_consumers(self, silent: float) -> int:
        """Forget consumers with no entries that were silent for so many seconds.

        Returns how many. Raises StreamMissing.
        """
        try:
            milliseconds = int(silent * 1000)
            return int(
                await self._redis.eval(DELETE_IDLE_CONSUMERS, 1, self._stream, GROUP, milliseconds)
            )
        except ResponseError as error:
            raise _missing(error) from error

    async def progress(self) -> GroupProgress:
        """Tell how far the workers are. Raises StreamMissing."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_groups(self._stream)
            pipe.xpending(self._stream, GROUP)
            try:
                groups, pending = await pipe.execute()
            except ResponseError as error:
                raise _missing(error) from error
        group = next(each for each in groups if each["name"] == GROUP.encode())
        lag = group["lag"]
        return GroupProgress(
            delivered=Version.parse(group["last-delivered-id"]),
            oldest_pending=Version.parse(pending["min"]) if pending["pending"] else None,
            backlog=None if lag is None else lag + pending["pending"],
            pending=pending["pending"],
        )

    async def trim(self, before: Version | None = None) -> None:
        """Drop the counted entries, those below `before` only; what is not counted stays."""
        progress = await self.progress()
        kept = progress.oldest_pending or progress.delivered
        first = kept if before is None else min(before, kept)
        await self._redis.xtrim(self._stream, minid=str(first), approximate=False)

    async def midpoint(self) -> Version:
        """Tell the version half-way, in time, between the first entry and the last."""
        info: Any = await self._redis.xinfo_stream(self._stream)
        first = Version.parse(info["first-entry"][0]) if info["first-entry"] else MIN_VERSION
        last = Version.parse(info["last-generated-id"])
        if first.ms == last.ms:  # the clock has stepped back: it stands still
            return Version(first.ms, (first.seq + last.seq) // 2)
        return Version((first.ms + last.ms + 1) // 2, 0)

    async def memory_is_low(self) -> bool:
        """Whether Redis' memory has little room left for new ballots."""
        return (await self.memory_used() or 0.0) > MEMORY_LIMIT_RATIO

    async def memory_used(self) -> float | None:
        """Tell which share of its memory Redis uses; None where it has no limit."""
        memory: Any = await self._redis.info("memory")
        return memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else None

    async def is_durable(self) -> bool | None:
        """Whether Redis syncs before it answers, found out by trying; None where it can't tell."""
        return await is_durable(self._redis, self._tries)

    async def clock(self) -> float:
        """Redis' clock, from which ids are made: seconds since 1970."""
        seconds, micros = await self._redis.time()
        now = float(seconds + micros / 1e6)
        self._clock_ahead = now - asyncio.get_running_loop().time()
        return now

    def age(self, version: Version) -> float | None:
        """Seconds since that ballot was cast, by Redis' clock as `clock` has last read it.

        Asks nobody; None where `clock` never did.
        """
        if self._clock_ahead is None:
            return None
        now = self._clock_ahead + asyncio.get_running_loop().time()
        return max(0.0, now - version.ms / 1000)

    async def length(self) -> int:
        return int(await self._redis.xlen(self._stream))

    async def entries_before(self, before: Version | None, count: int) -> list[Entry]:
        """Look at up to `count` entries, the newest first, those below `before` only.

        Counted or not; none where there is no stream. Workers may trim meanwhile: that takes from
        the other end, so whoever pages through has seen all down to the last that was there.
        """
        newest = "+" if before is None else f"({before}"
        reply: Any = await self._reader.xrevrange(self._stream, max=newest, count=count)
        return _entries(reply)

    async def next_entry_after(self, version: Version) -> Version | None:
        """Tell the oldest entry that is newer than `version`; None where there is none."""
        reply: Any = await self._reader.xrange(self._stream, min=f"({version}", count=1)
        return Version.parse(reply[0][0]) if reply else None

    async def dead_letter_count(self) -> int:
        return int(await self._redis.xlen(self._dead))

    async def dead_letters(self) -> list[Entry]:
        """Look at what can never be counted: as it was, with `id` and `reason` of its burial."""
        reply: Any = await self._reader.xrange(self._dead)
        return _entries(reply)


def _missing(error: ResponseError) -> Exception:
    text = str(error)
    return StreamMissing() if "NOGROUP" in text or "no such key" in text else error


def _raw_reply(response: Any, **_: Any) -> Any:
    """Keep redis-py from making a dict of each entry: `Entry` does, where somebody wants one."""
    return response


def _entries(raw: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
    return [Entry(*each) for each in raw]
