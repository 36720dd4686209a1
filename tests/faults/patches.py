"""Changes to a role's code, made in its memory before it starts.

First the moments at which a worker is killed or suspended; then the mistakes that this suite has to
find.
"""

import os
import signal
from collections.abc import Callable

from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text

from voting.database import counting
from voting.queue import producer, state
from voting.queue.client import GROUP
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.roles.worker import Worker

PATCHES: dict[str, Callable[[], None]] = {}


def patch(function: Callable[[], None]) -> Callable[[], None]:
    PATCHES[function.__name__] = function
    return function


def after(owner: object, name: str, number: signal.Signals) -> None:
    """Make `owner.name` send this process a signal once it has done something, once."""
    original = getattr(owner, name)

    async def then_signal(*args: object, **kwargs: object) -> object:
        result = await original(*args, **kwargs)
        if result or name != "read":  # a read that found nothing is no read
            setattr(owner, name, original)
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
def acknowledge_before_the_commit() -> None:
    count = Worker._count

    async def acknowledge_first(self, ballots):
        await self._consumer.acknowledge([Entry.of(each).id for each in ballots])
        await count(self, ballots)

    Worker._count = acknowledge_first


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


@patch
def group_created_at_the_end() -> None:
    state.SYNC_POLL = replace_once(state.SYNC_POLL, "or '0'", "or '$'")


@patch
def dead_letters_by_delivery_count() -> None:
    claim_idle = Consumer.claim_idle

    async def dead_letter_if_delivered_again(self, *, min_idle, count):
        claimed = await claim_idle(self, min_idle=min_idle, count=count)
        ids = {str(each.version).encode(): each for each in claimed}
        pending = await self._queue.redis.xpending_range(
            self._queue.stream_key, GROUP, min="-", max="+", count=count, consumername=self._name
        )
        for each in pending:
            if each["times_delivered"] > 1 and (entry := ids.pop(each["message_id"], None)):
                await self.dead_letter(entry, "delivered too often")
        return list(ids.values())

    Consumer.claim_idle = dead_letter_if_delivered_again
