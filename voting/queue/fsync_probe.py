"""Checks by experiment whether Redis fsyncs writes before it replies: users may not read CONFIG."""

from collections import deque
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, ResponseError

from voting.queue.client import Queue

# A server that fsyncs after its reply may pass a probe: the fsync has finished by then, or the
# server only reports so (all of Valkey 8 and 9: https://github.com/redis/redis/pull/13793). Under
# load it passed one probe in five, so PROBES_PER_CHECK * CHECKS probes in a row have to succeed.
PROBES_PER_CHECK = 5
CHECKS = 3

_WAITAOF = (("MULTI",), ("WAITAOF", 1, 0, 1), ("EXEC",))

log = structlog.get_logger(__name__)


class FsyncProbe:
    """Combines the last few checks. Logs a warning whenever the result changes."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._checks: deque[bool] = deque(maxlen=CHECKS)
        self._denied = False

    async def check(self) -> bool | None:
        """Write a few times, and return whether each write was on disk before its reply.

        False is certain, True is likely. None if inconclusive: Redis is older than 7.2, its memory
        is full, or the user lacks the right to WAITAOF. Raises redis' own errors if Redis fails.
        """
        for _ in range(PROBES_PER_CHECK):
            if (on_disk := await self._probe()) is not True:
                return on_disk
        return True

    def observe(self, *, fsynced: bool | None) -> bool | None:
        """Add the result of a check, and return what the last CHECKS checks together say.

        None if this check was inconclusive.
        """
        if fsynced is None:
            return None
        before = all(self._checks)
        self._checks.append(fsynced)
        after = all(self._checks)
        if after and not before:
            log.warning("Redis again fsyncs votes before it replies")
        if before and not after:
            log.warning(
                "Redis replies before votes are on disk, and may lose them:"
                " it needs `appendonly yes` and `appendfsync always`"
            )
        return after

    async def _probe(self) -> bool | None:
        pool: Any = self._queue.redis.connection_pool  # its methods have no types
        # WAITAOF covers the writes of its own connection only.
        connection = await pool.get_connection()
        try:
            await connection.send_command("HSET", self._queue.probe_key, "probed", 1)
            written = await _read_reply(connection)
            # Sent only after the reply: sent with the write, it would run before the fsync. In a
            # transaction it does not wait, but returns the present state.
            await connection.send_packed_command(connection.pack_commands(_WAITAOF))
            _, queued, executed = [await _read_reply(connection) for _ in _WAITAOF]
        finally:
            await pool.release(connection)
        for reply in (written, queued):
            if isinstance(reply, NoPermissionError):
                self._deny(reply)
        if isinstance(written, ResponseError):
            return None
        match executed:
            case [[on_disk, _]]:
                return bool(on_disk)
            case [ResponseError() as error] if "appendonly is disabled" in str(error):
                return False
        return None

    def _deny(self, error: NoPermissionError) -> None:
        if not self._denied:
            log.error("whether votes are on disk before the reply is not known: %s", error)
        self._denied = True


async def _read_reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
