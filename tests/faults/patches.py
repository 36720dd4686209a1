"""Changes to a role's code, made in its memory before it starts.

First the moments at which a worker is killed or suspended; then the mistakes that this suite has to
find. Mistakes that show without real servers are in simulation/controls.py.
"""

import os
import signal
from functools import partial

from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text

from voting.database import counting
from voting.queue import producer
from voting.queue.client import Queue
from voting.queue.consumer import Consumer
from voting.queue.sentinel import PrimaryPool
from voting.queue.state import QueueState
from voting.web.cookies import Cookies


def after(owner: object, name: str, number: signal.Signals) -> None:
    """Have `owner.name`, once it has done something, send this process a signal, once."""
    original = getattr(owner, name)
    sent = False

    async def then_signal(*args: object, **kwargs: object) -> object:
        nonlocal sent
        result = await original(*args, **kwargs)
        # Of several calls that wait at the same time, only the first sends it.
        if not sent and (result or name != "read"):  # a read may return nothing
            sent = True
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, then_signal)


die_after_the_read = partial(after, Consumer, "read", signal.SIGKILL)
die_after_the_commit = partial(after, counting, "count", signal.SIGKILL)
die_after_the_queue_is_recreated = partial(after, QueueState, "sync_poll", signal.SIGKILL)
suspend_after_the_read = partial(after, Consumer, "read", signal.SIGSTOP)


def die_after_the_acknowledge() -> None:
    read = Consumer.read

    async def acknowledge_before(self, *, acknowledge=(), **limits):
        if acknowledge:
            await self.acknowledge(acknowledge)
        return await read(self, **limits)

    Consumer.read = acknowledge_before
    after(Consumer, "acknowledge", signal.SIGKILL)


# --- mistakes


def change_count(old: str, new: str) -> None:
    source = counting.COUNT.text
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in\n{source}"
    counting.COUNT = text(source.replace(old, new))


no_version_guard = partial(
    change_count, "WHERE (excluded.ms, excluded.seq) > (stored.ms, stored.seq)", ""
)
unsorted_voters = partial(
    change_count, "FROM newest ORDER BY voter", "FROM newest ORDER BY ms, seq"
)


def no_round_comparison() -> None:
    old = "if ARGV[2] ~= '' and ARGV[2] ~= round then"
    assert producer.CAST.count(old) == 1, producer.CAST
    producer.CAST = producer.CAST.replace(old, "if false then")


def forget_votes_without_an_answer() -> None:
    Cookies.unanswered = lambda *_: None


def client_retries() -> None:
    """Do what redis-py does by default: reconnect and send again."""
    execute = producer._execute

    async def execute_twice(connection, deadline, *command):
        try:
            return await execute(connection, deadline, *command)
        except (RedisConnectionError, OSError):
            await connection.disconnect()
            await connection.connect()
            return await execute(connection, deadline, *command)

    producer._execute = execute_twice


def no_wait_for_replicas() -> None:
    async def wait(*_: object) -> None:
        pass

    Queue.wait_for_replicas = wait


def no_lease() -> None:
    """Trust the server that a connection leads to, whatever Sentinels say of it."""

    async def confirm(*_: object) -> None:
        pass

    PrimaryPool.confirm = confirm
