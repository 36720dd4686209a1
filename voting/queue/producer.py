"""Accepting ballots: many at once, never twice, never after their voters heard that it failed."""

import asyncio
from collections.abc import Sequence
from functools import partial
from importlib import resources
from math import inf
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from voting.poll.ballot import Ballot, Version

CAST = resources.files("voting.queue").joinpath("scripts/cast.lua").read_text()

# One call is usually on its way while the ballots of the next gather; a few overlap Redis' fsync
# with the work on this side, and one that is stuck does not hold up the others.
CALLS_AT_ONCE = 4

# How long after the deadline a reply is still waited for. Once it is over, the deadline has passed
# by Redis' clock too, so nothing on its way can be applied any more.
GRACE = 0.1

# Two clocks drift apart by much less than the grace in this time.
CLOCK_SECONDS = 10.0

# Redis does nothing else during a call: what gathered while it was away comes in several.
BALLOTS_AT_ONCE = 2_000


class CastError(Exception):
    """A ballot was not acknowledged."""


class PollClosed(CastError):
    """The ballot was refused: the poll is closed."""


class NotRecorded(CastError):
    """The ballot was refused, or never sent: it is certain that it does not count."""


class MaybeRecorded(CastError):
    """The ballot was sent and no answer came: it may count or not."""


# Redis says these before it runs the script at all.
_REFUSALS = (OutOfMemoryError, BusyLoadingError, ReadOnlyError, NoPermissionError)

_Waiting = tuple[Ballot, "asyncio.Future[Version]"]


class Caster:
    """Sends the ballots that gather in a turn of the event loop with one call of `cast.lua`.

    Belongs to one event loop. `timeout` is in seconds, for a call from its start to its deadline.
    """

    def __init__(self, redis: Redis, stream: str, poll: str, *, timeout: float) -> None:
        self._pool: Any = redis.connection_pool  # its methods have no types
        self._keys = (stream, poll)
        self._timeout = timeout
        self._waiting: list[_Waiting] = []
        self._calls: set[asyncio.Task[list[Version]]] = set()
        # Redis' clock less this loop's, in seconds: a lower bound, from the latest reply.
        self._clock_ahead = 0.0
        self._clock_read = -inf

    async def cast(self, ballot: Ballot) -> Version:
        """Append `ballot` and return its version once Redis says that it is on disk.

        Raises a CastError.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Version] = loop.create_future()
        self._waiting.append((ballot, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        while self._waiting and len(self._calls) < CALLS_AT_ONCE:
            batch = self._waiting[:BALLOTS_AT_ONCE]
            del self._waiting[:BALLOTS_AT_ONCE]
            call = asyncio.create_task(  # noqa: RUF006 - kept in the next line
                self._cast([ballot for ballot, _ in batch])
            )
            self._calls.add(call)
            call.add_done_callback(partial(self._answer, batch))

    def _answer(self, batch: Sequence[_Waiting], call: asyncio.Task[list[Version]]) -> None:
        self._calls.discard(call)
        error = MaybeRecorded("the call was cancelled") if call.cancelled() else call.exception()
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue  # its request was cancelled
            if error is None:
                future.set_result(call.result()[index])
            else:
                future.set_exception(error)
        self._send()

    async def _cast(self, ballots: Sequence[Ballot]) -> list[Version]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(until):
                connection = await self._pool.get_connection()
        except (RedisError, OSError, TimeoutError) as error:
            self._clock_read = -inf
            raise NotRecorded("Redis can't be reached") from error
        try:
            deadline = await self._deadline(connection, until)
            command = ("EVAL", CAST, 2, *self._keys, deadline, *_encode(ballots))
            reply = await _ask(connection, until + GRACE, *command)
        except _REFUSALS as error:
            raise NotRecorded("Redis refuses to write") from error
        except (RedisError, OSError, TimeoutError) as error:
            self._clock_read = -inf
            # A connection that broke early may still deliver. Who votes again before that is over
            # could have the older vote applied after the newer one.
            await asyncio.sleep(until + GRACE - loop.time())
            raise MaybeRecorded("Redis did not answer") from error
        finally:
            await self._pool.release(connection)
        return self._read(reply)

    async def _deadline(self, connection: Any, until: float) -> int:
        """Translate `until` to Redis' clock (ms), never too late.

        Redis read its clock before this side got the reply, so at any later moment here, its clock
        shows at least what the reply said and the time since.
        """
        if asyncio.get_running_loop().time() - self._clock_read > CLOCK_SECONDS:
            try:
                seconds, micros = await _ask(connection, until, "TIME")
            except (RedisError, OSError, TimeoutError) as error:
                raise NotRecorded("Redis did not answer") from error
            self._set_clock(int(seconds) * 1000 + int(micros) // 1000)
        return int((self._clock_ahead + until) * 1000)

    def _set_clock(self, now: int) -> None:
        self._clock_read = asyncio.get_running_loop().time()
        self._clock_ahead = now / 1000 - self._clock_read

    def _read(self, reply: list[Any]) -> list[Version]:
        status, now, *ids = reply
        self._set_clock(int(now))
        match status:
            case b"ok":
                return [Version.parse(each) for each in ids]
            case b"closed":
                raise PollClosed
            case b"missing":
                raise NotRecorded("the stream is not there: no worker has prepared it yet")
            case _:
                raise NotRecorded("it reached Redis after its deadline")


def _encode(ballots: Sequence[Ballot]) -> list[bytes]:
    """Write the width of a ballot, then the ballots. A third value is there if one has it."""
    fields = [field for ballot in ballots for field in ballot.encode()]
    if len(fields) == 2 * len(ballots):
        return [b"2", *fields]
    return [b"3", *(field for ballot in ballots for field in (*ballot.encode(), b"")[:3])]


async def _ask(connection: Any, until: float, *command: Any) -> Any:
    """Send one command on one connection, once. redis-py closes one that did not answer."""
    async with asyncio.timeout_at(until):
        await connection.send_command(*command)
        return await connection.read_response()
