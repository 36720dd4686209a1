"""The Redis client, the keys of a queue, and the errors that Redis reports for a missing one."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, Self

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.utils import str_if_bytes

from voting.queue.sentinel import NotReplicated, PrimaryPool, connect_to_primary
from voting.settings import RedisSettings, SettingsError

LEAST_VERSION = (7, 2)

OBSOLETE = (ReadOnlyError, MasterDownError)
"""Errors that are about the connection, not the command: it leads to a replica."""


def leads_elsewhere(error: Exception) -> bool:
    """Whether a refusal is about the connection: another server may be the primary by now."""
    return isinstance(error, OBSOLETE) or str(error).startswith("NOREPLICAS")


# Seconds in which replicas have to confirm a write.
REPLICAS_TIMEOUT = 2.0

# Milliseconds for which Redis waits for replicas before it is asked again. A replica acknowledges
# first, and fsyncs then: its next acknowledgement comes when it is asked, or after a second. The
# server rounds 5 ms and more up to about 100.
_WAIT_MS = 2

GROUP = "workers"
"""The stream's one consumer group: each worker is a consumer in it."""


class StreamMissing(Exception):
    """The stream or its consumer group does not exist. A worker's `sync_poll` creates both."""


class UnsuitableRedis(SettingsError, RedisError):
    """The server of REDIS_URL can't be used, and no waiting will mend that."""

    def __init__(self, problem: str) -> None:
        super().__init__([f"REDIS_URL: {problem}"])


class Queue:
    """A Redis client and the keys of one queue.

    `name` separates queues on one server. The braces keep all keys of a queue on one node of a
    Redis cluster. `replicas` must have a write on disk before anything is promised by it.
    """

    def __init__(self, redis: Redis, *, name: str = "voting", replicas: int = 0) -> None:
        self.redis = redis
        self.replicas = replicas
        self.name = name
        self.stream_key = f"{{{name}}}:ballots"
        self.poll_key = f"{{{name}}}:poll"
        self.dead_letters_key = f"{{{name}}}:dead"
        self.probe_key = f"{{{name}}}:probe"
        self.raw_redis = Redis(connection_pool=redis.connection_pool)
        """Shares the connections of `redis`; returns entries as lists, not as dicts."""
        for command in ("XRANGE", "XREVRANGE"):
            self.raw_redis.set_response_callback(command, _raw_reply)

    @classmethod
    def of(cls, settings: RedisSettings) -> Self:
        redis = connect(settings.redis_url.get_secret_value())
        return cls(redis, replicas=settings.redis_replicas)

    async def close(self) -> None:
        await self.redis.aclose()

    async def execute(
        self,
        *commands: tuple[Any, ...],
        replicated: bool = False,
        write_after: Callable[[Any], tuple[Any, ...]] | None = None,
    ) -> list[Any]:
        """Send commands at once and return their replies, without redis-py's callbacks.

        If `replicated`, they outlive the loss of this primary then: raises NotReplicated. If the
        last of them may block, `write_after` makes of its reply, if any, a command that writes.
        """
        pool: Any = self.redis.connection_pool  # its methods have no types
        connection = await pool.get_connection()
        try:
            # hiredis packs in C, redis-py does not: a worker's Python takes 4.3 µs for a vote
            # instead of 5.0.
            await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
            replies = [await connection.read_response() for _ in commands]
            if replicated:
                async with asyncio.timeout(REPLICAS_TIMEOUT):
                    if self.replicas and write_after and replies[-1]:
                        await connection.send_command(*write_after(replies[-1]))
                        await connection.read_response()
                    await self.wait_for_replicas(connection)
        except ResponseError:
            await connection.disconnect()  # the replies to the other commands are still to come
            raise
        except TimeoutError as error:
            raise NotReplicated("no replica has the write on disk") from error
        finally:
            await pool.release(connection)
        return replies

    async def wait_for_replicas(self, connection: Any) -> None:
        """Wait until enough replicas have all writes of `connection` on disk.

        Once this has returned, they outlive the loss of this primary. Raises NotReplicated if it
        may not be the primary any more. The caller limits the time.
        """
        if not self.replicas:
            return
        replicas = -1
        try:
            while replicas < self.replicas:
                await connection.send_command("WAITAOF", 1, self.replicas, _WAIT_MS)
                _, replicas = await connection.read_response()
        except ResponseError as error:  # not a refusal: what was written before is there
            raise NotReplicated(f"Redis can't wait for its replicas: {error}") from error
        if isinstance(self.redis.connection_pool, PrimaryPool):
            await self.redis.connection_pool.confirm(connection)


def connect(url: str) -> Redis:
    """Create a client that never retries: a second try could append a ballot twice.

    It connects to a primary only. A server that no waiting makes suitable is an UnsuitableRedis.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": list(OBSOLETE),  # without a retry, it closes the connection
        "socket_connect_timeout": 2,
        "socket_timeout": 5,  # longer than a read blocks
        "protocol": 2,
    }
    create = connect_to_primary if "+sentinel://" in url else Redis.from_url
    return create(url, redis_connect_func=_shake_hands, **options)


async def _shake_hands(connection: Any) -> None:
    """Authenticate as redis-py does, and ask what the server is: every user may."""
    await connection.on_connect()
    await connection.send_command("HELLO")
    try:
        reply = await connection.read_response()
    except ResponseError as error:
        raise UnsuitableRedis(f"the server is no Redis: {error}") from error
    server = {key: str_if_bytes(value) for key, value in zip(reply[::2], reply[1::2], strict=True)}
    # Sentinel tells no role.
    found, mode, role = (server.get(key, "") for key in (b"version", b"mode", b"role"))
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < LEAST_VERSION:
        raise UnsuitableRedis(f"the server is Redis {found}, 7.2 or newer is needed")
    if mode != "standalone":
        raise UnsuitableRedis(f"the server runs as {mode}, a single primary is needed")
    if role != "master":
        raise RedisConnectionError("the server is a replica: nothing can be written")


def load_script(name: str) -> str:
    """Read a Lua script of this package.

    Scripts are sent with EVAL. EVALSHA needs two more rights, which users of earlier deployments
    lack, and fails after a failover.
    """
    return resources.files("voting.queue").joinpath(f"scripts/{name}.lua").read_text()


@contextmanager
def detect_missing_stream() -> Iterator[None]:
    """Raise StreamMissing in place of redis' errors for a missing stream or group."""
    try:
        yield
    except ResponseError as error:
        if "NOGROUP" in str(error) or "no such key" in str(error):
            raise StreamMissing from error
        raise


def _raw_reply(response: Any, **_: Any) -> Any:
    return response
