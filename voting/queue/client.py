"""The Redis client, the keys of a queue, and the errors that Redis reports for a missing one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.utils import str_if_bytes

from voting.settings import SettingsError

LEAST_VERSION = (7, 2)

OBSOLETE = (ReadOnlyError, MasterDownError)
"""Errors that are about the connection, not the command: it leads to a replica."""

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
    Redis cluster.
    """

    def __init__(self, redis: Redis, *, name: str = "voting") -> None:
        self.redis = redis
        self.name = name
        self.stream_key = f"{{{name}}}:ballots"
        self.poll_key = f"{{{name}}}:poll"
        self.dead_letters_key = f"{{{name}}}:dead"
        self.probe_key = f"{{{name}}}:probe"
        self.raw_redis = Redis(connection_pool=redis.connection_pool)
        """Shares the connections of `redis`; returns entries as lists, not as dicts."""
        for command in ("XAUTOCLAIM", "XRANGE", "XREVRANGE"):
            self.raw_redis.set_response_callback(command, _raw_reply)

    async def close(self) -> None:
        await self.redis.aclose()


def connect(url: str) -> Redis:
    """Create a client that never retries: a second try could append a ballot twice.

    It connects to a primary only. A server that no waiting makes suitable is an UnsuitableRedis.
    """
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=list(OBSOLETE),  # without a retry, it closes the connection
        redis_connect_func=_shake_hands,
        socket_connect_timeout=2,
        socket_timeout=5,  # longer than a read blocks
        protocol=2,
    )


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
