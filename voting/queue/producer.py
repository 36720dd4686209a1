"""Appends ballots to the stream: in batches, never twice, never after an error was returned."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import structlog
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from voting.poll.ballot import Ballot, Version
from voting.queue.client import Queue, UnsuitableRedis, leads_elsewhere, load_script
from voting.queue.sentinel import NotReplicated

log = structlog.get_logger(__name__)

CAST = load_script("cast")

CAST_TIMEOUT = 2.0  # seconds

# Usually one call is in flight while the ballots of the next gather. A few more let Redis fsync
# while this process works, and a call that hangs does not hold up the others.
MAX_CONCURRENT_CALLS = 4

# Redis runs nothing else during a call, so a large backlog of ballots is split.
MAX_BATCH = 2_000

# Seconds after the deadline in which a reply is still awaited. After them the deadline has passed
# by Redis' clock too, so a call that is still in flight can no longer be applied.
REPLY_GRACE = 0.1

# Seconds for which a reading of Redis' clock is used. Two clocks drift apart by much less than
# REPLY_GRACE in this time. A connection that was not used for so long reads it again: if it was
# closed meanwhile, no ballot is sent on it.
CLOCK_MAX_AGE = 10.0


class CastError(Exception):
    """A ballot was not acknowledged."""


class PollClosed(CastError):
    """The ballot was refused: the poll is closed."""


class RoundOver(CastError):
    """The ballot was refused: the poll is in another round than the one that its voter saw."""


class NotRecorded(CastError):
    """The ballot was refused, or never sent: it certainly does not count."""


class MaybeRecorded(CastError):
    """The ballot was sent and no reply came: it may count or not."""


# An error that Redis returns proves that nothing was written: it refuses the script before it runs
# any of it (OOM, NOPERM, READONLY, MISCONF, NOREPLICAS, BUSY, ...), or the first of its commands
# that write (WRONGTYPE). If that one succeeds, so do those after it. LOADING and NOAUTH are no
# ResponseError in redis-py.
_REFUSALS = (ResponseError, BusyLoadingError, AuthenticationError)


def _always(_: float) -> bool:
    return True


@dataclass(slots=True, eq=False)
class _PendingCast:
    ballot: Ballot
    round: int
    wanted: Callable[[float], bool]
    future: "asyncio.Future[Version]"


class _Clock(NamedTuple):
    read_at: float
    """By this process' event loop, in seconds."""
    ahead: float
    """How many seconds the server's clock is ahead of the event loop's, at least."""


class Caster:
    """Sends the ballots of one turn of the event loop with a single call of `cast.lua`.

    Belongs to one event loop. `timeout` is in seconds, from the start of a call to its deadline.
    """

    def __init__(self, queue: Queue, *, timeout: float = CAST_TIMEOUT) -> None:
        self._queue = queue
        self._pool: Any = queue.redis.connection_pool  # its methods have no types
        self._keys = (queue.stream_key, queue.poll_key)
        self._timeout = timeout
        self._waiting: list[_PendingCast] = []
        self._calls: set[asyncio.Task[list[Version]]] = set()
        self._clocks: WeakKeyDictionary[Any, _Clock] = WeakKeyDictionary()
        """The clock of the server that each connection leads to, from its latest reply."""
        self._refusal = ""

    async def cast(
        self, ballot: Ballot, number: int, wanted: Callable[[float], bool] = _always
    ) -> Version:
        """Append `ballot` and return its version once Redis has it on disk. Raises a CastError.

        `number` is the round whose question the voter saw.

        `wanted` is called before the ballot is sent, with the time of Redis' clock in seconds (at
        least). If it returns False, the ballot is not sent: its client has given it up.
        """
        loop = asyncio.get_running_loop()
        pending = _PendingCast(ballot, number, wanted, loop.create_future())
        self._waiting.append(pending)
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await pending.future

    async def ready(self) -> bool:
        """Whether Redis accepts ballots, or the poll is closed: a cast of none, for a trial.

        Raises UnsuitableRedis.
        """
        try:
            await self._cast([])
        except PollClosed:
            return True
        except CastError as error:
            if isinstance(error.__cause__, UnsuitableRedis):
                raise error.__cause__ from None
            return False
        return True

    def _send(self) -> None:
        while self._waiting and len(self._calls) < MAX_CONCURRENT_CALLS:
            # A call is for one round: ballots of another, if any, follow in the next.
            batch = list(next(groupby(self._waiting[:MAX_BATCH], attrgetter("round")))[1])
            del self._waiting[: len(batch)]
            call = asyncio.create_task(self._cast(batch))
            self._calls.add(call)
            call.add_done_callback(partial(self._resolve, batch))

    def _resolve(self, batch: Sequence[_PendingCast], call: asyncio.Task[list[Version]]) -> None:
        self._calls.discard(call)
        error = MaybeRecorded("the call was cancelled") if call.cancelled() else call.exception()
        # `_cast` has removed unwanted ballots from the batch.
        for index, pending in enumerate(batch):
            if pending.future.done():
                continue  # the request was cancelled
            if error is None:
                pending.future.set_result(call.result()[index])
            else:
                pending.future.set_exception(error)
        self._send()

    async def _cast(self, batch: list[_PendingCast]) -> list[Version]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        connection = await self._connect(deadline)
        try:
            ahead = self._clocks[connection].ahead
            if _remove_unwanted(batch, ahead + loop.time()) and not batch:
                return []
            # Redis read its clock before this process got the reply. So at any later moment its
            # clock shows at least the time in the reply plus the time since.
            redis_deadline = int((ahead + deadline) * 1000)
            number = batch[0].round if batch else ""
            ballots = _encode([each.ballot for each in batch])
            command = ("EVAL", CAST, 2, *self._keys, redis_deadline, number, *ballots)
            status, now, *ids = await _execute(connection, deadline + REPLY_GRACE, *command)
            self._set_clock(connection, int(now))
            if ids:
                async with asyncio.timeout_at(deadline + REPLY_GRACE):
                    await self._queue.wait_for_replicas(connection)
        except _REFUSALS as error:
            self._log_refusal(str(error))
            if leads_elsewhere(error):
                await connection.disconnect(nowait=True)
            raise NotRecorded(f"Redis refuses to write: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, NotReplicated):
                self._log_refusal(str(error))
            # The call may still arrive, even if the connection broke early. If the voter could vote
            # again before the deadline, the older ballot might be appended after the newer one.
            await asyncio.sleep(deadline + REPLY_GRACE - loop.time())
            raise MaybeRecorded("Redis did not answer") from error
        finally:
            await self._pool.release(connection)
        return self._parse(status, ids)

    def _log_refusal(self, reason: str) -> None:
        """Log an error of Redis once, not for each vote."""
        if reason != self._refusal:
            log.error("Redis refuses votes: %s", reason)
        self._refusal = reason

    async def _connect(self, deadline: float) -> Any:
        """Return a connection that works. Raises NotRecorded: nothing was sent yet."""
        try:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout / 2):
                    return await self._get_connection()
            async with asyncio.timeout_at(deadline):  # another
                return await self._get_connection()
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, (*_REFUSALS, UnsuitableRedis)):
                self._log_refusal(str(error))
            raise NotRecorded("Redis can't be reached") from error

    async def _get_connection(self) -> Any:
        loop = asyncio.get_running_loop()
        connection = await self._pool.get_connection()
        connection.register_connect_callback(self._forget)
        clock = self._clocks.get(connection)
        if clock is None or loop.time() - clock.read_at > CLOCK_MAX_AGE:
            try:
                await connection.send_command("TIME")
                seconds, micros = await connection.read_response()
            except BaseException:
                await self._pool.release(connection)
                raise
            self._set_clock(connection, int(seconds) * 1000 + int(micros) // 1000)
        return connection

    def _forget(self, connection: Any) -> None:
        """Read the clock again, after the connection was made again: maybe to another server."""
        self._clocks.pop(connection, None)

    def _set_clock(self, connection: Any, now: int) -> None:
        read_at = asyncio.get_running_loop().time()
        self._clocks[connection] = _Clock(read_at, now / 1000 - read_at)

    def _parse(self, status: bytes, ids: list[bytes]) -> list[Version]:
        match status:
            case b"ok":
                self._refusal = ""
                return [Version.parse(each) for each in ids]
            case b"closed":
                raise PollClosed
            case b"another":
                raise RoundOver
            case b"full":
                raise NotRecorded("an entry has so high an id that no ballot can follow it")
            case b"missing":
                raise NotRecorded("the stream is missing: no worker has created it yet")
            case _:
                raise NotRecorded("the call reached Redis after its deadline")


def _remove_unwanted(batch: list[_PendingCast], now: float) -> bool:
    """Refuse and remove the ballots that are not wanted any more. Returns whether any were."""
    unwanted = [each for each in batch if not each.wanted(now)]
    if not unwanted:
        return False
    batch[:] = [each for each in batch if each not in unwanted]
    for each in unwanted:
        if not each.future.done():
            each.future.set_exception(NotRecorded("its client has given it up"))
    return True


def _encode(ballots: Sequence[Ballot]) -> list[bytes]:
    """Encode the number of values per ballot, then the ballots: 3 if any of them has a trace."""
    fields = [field for ballot in ballots for field in ballot.encode()]
    if len(fields) == 2 * len(ballots):
        return [b"2", *fields]
    return [b"3", *(field for ballot in ballots for field in (*ballot.encode(), b"")[:3])]


async def _execute(connection: Any, deadline: float, *command: Any) -> Any:
    """Send one command once. On a timeout redis-py closes the connection."""
    async with asyncio.timeout_at(deadline):
        await connection.send_command(*command)
        return await connection.read_response()
