"""Whether Redis syncs writes to disk before it answers: tried, as CONFIG is not for its users."""

from collections import deque
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

# A server that answers first and syncs later may seem to be durable: it has synced in between, or
# only says so (all of Valkey 8 and 9: https://github.com/redis/redis/pull/13793). Measured under
# load that is one try in five, so of so many at once, in so many looks, one tells.
TRIES = 5
LOOKS = 3

_WAITAOF = (("MULTI",), ("WAITAOF", 1, 0, 1), ("EXEC",))

log = structlog.get_logger(__name__)


async def is_durable(redis: Redis, key: str) -> bool | None:
    """Write to the hash `key` a few times, and tell whether each was on disk before its reply.

    None where that can't be told: Redis is older than 7.2, memory is full, the user has no right.
    A no is certain, a yes is not. Raises redis' own errors where Redis does not answer.
    """
    for _ in range(TRIES):
        if (on_disk := await _try(redis, key)) is not True:
            return on_disk
    return True


async def _try(redis: Redis, key: str) -> bool | None:
    pool: Any = redis.connection_pool  # its methods have no types
    # WAITAOF is about the writes of its own connection.
    connection = await pool.get_connection()
    try:
        await connection.send_command("HSET", key, "tried", 1)
        await connection.read_response()
        # Only now, or it would be asked before Redis comes to syncing. In a transaction it does not
        # wait, but tells what is.
        await connection.send_packed_command(connection.pack_commands(_WAITAOF))
        *_, told = [await _reply(connection) for _ in _WAITAOF]
    except ResponseError:
        return None
    finally:
        await pool.release(connection)
    match told:
        case [[on_disk, _]]:
            return bool(on_disk)
        case [ResponseError() as error] if "appendonly is disabled" in str(error):
            return False
    return None


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class Durability:
    """What the last few looks say together. A line in the log says when that changes."""

    def __init__(self) -> None:
        self._looks: deque[bool] = deque(maxlen=LOOKS)
        self._durable = True

    def judge(self, *, found: bool | None) -> bool | None:
        """Add a look and tell whether Redis is durable; None where this one could not tell."""
        if found is None:
            return None
        self._looks.append(found)
        durable = all(self._looks)
        if durable != self._durable:
            self._durable = durable
            if durable:
                log.warning("Redis syncs votes to disk before it answers, again")
            else:
                log.warning(
                    "Redis answers before votes are on disk, and may lose them:"
                    " it needs `appendonly yes` and `appendfsync always`"
                )
        return durable
