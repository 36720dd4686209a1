"""What each role costs at rest: nothing to do, no page open, no probes."""

from argparse import Namespace
from time import perf_counter, sleep

import asyncpg
from redis import Redis
from support.servers import TEMPLATE
from uvloop import run

from bench.results import Results
from bench.stack import Processes, Stack
from voting.settings import Role

SETTLE = 11.0  # seconds: a session of Postgres reports its transactions ten later at most
SECONDS = 20.0
HOUR = 3600.0


def rest(stack: Stack, results: Results, _: Namespace) -> None:
    """Measure a process of each role, by itself: processor, wake-ups, and requests to servers."""
    with Redis.from_url(stack.servers.redis_url()) as redis:
        for role in (Role.VOTE, Role.RESULT, Role.WORKER):
            with stack.role(role) as app:
                sleep(SETTLE)
                before, started = _counters(stack, redis, app), perf_counter()
                sleep(SECONDS)
                after, seconds = _counters(stack, redis, app), perf_counter() - started
            processor, wake_ups, commands, transactions = (
                (end - start) / seconds for start, end in zip(before, after, strict=True)
            )
            results.add(f"{role} at rest: processor", 1e3 * processor, "ms a second")
            results.add(f"{role} at rest: wake-ups", wake_ups, "a second")
            commands -= 1 / seconds  # ours
            results.add(f"{role} at rest: commands to Redis", HOUR * commands, "an hour")
            name = f"{role} at rest: transactions in Postgres"
            results.add(name, HOUR * transactions, "an hour")


def _counters(stack: Stack, redis: Redis, app: Processes) -> tuple[float, ...]:
    """Return the processor seconds, wake-ups, commands to Redis and transactions so far."""
    commands = redis.info("stats")["total_commands_processed"]
    return app.processor_seconds(), app.wake_ups(), commands, run(_transactions(stack))


async def _transactions(stack: Stack) -> int:
    # From another database, so that these are not among them. A session may report its own a
    # second late, or when the next begins.
    connection = await asyncpg.connect(stack.servers.database_url("postgres"))
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
    number = await connection.fetchval(query, TEMPLATE)
    await connection.close()
    return int(number)
