"""Changes to a role's code, made in its memory before it starts.

First the moments at which a worker is killed or suspended; then the mistakes that this suite has to
find. Mistakes that show without real servers are in simulation/controls.py.
"""

import os
import signal
from collections.abc import Callable

from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text

from voting.database import counting
from voting.queue import producer
from voting.queue.consumer import Consumer

PATCHES: dict[str, Callable[[], None]] = {}


def patch(function: Callable[[], None]) -> Callable[[], None]:
    PATCHES[function.__name__] = function
    return function


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


@patch
def die_after_the_read() -> None:
    after(Consumer, "read", signal.SIGKILL)


@patch
def die_after_the_commit() -> None:
    after(counting, "count", signal.SIGKILL)


@patch
def die_after_the_acknowledge() -> None:
    read = Consumer.read

    async def acknowledge_before(self, *, acknowledge=(), **limits):
        if acknowledge:
            await self.acknowledge(acknowledge)
        return await read(self, **limits)

    Consumer.read = acknowledge_before
    after(Consumer, "acknowledge", signal.SIGKILL)


@patch
def suspend_after_the_read() -> None:
    after(Consumer, "read", signal.SIGSTOP)


# --- mistakes


def replace_once(source: str, old: str, new: str) -> str:
    """Replace what has to be there: a mistake that was not made proves nothing."""
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in\n{source}"
    return source.replace(old, new)


def change_count(old: str, new: str) -> None:
    counting.COUNT = text(replace_once(counting.COUNT.text, old, new))


@patch
def no_version_guard() -> None:
    change_count("WHERE (excluded.ms, excluded.seq) > (stored.ms, stored.seq)", "")


@patch
def unsorted_voters() -> None:
    change_count("FROM newest ORDER BY voter", "FROM newest ORDER BY ms, seq")


@patch
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
