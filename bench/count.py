"""How fast workers count a backlog, compared with an upsert of the same rows."""

import asyncio
from argparse import Namespace
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
from redis.asyncio import Redis
from support.servers import TEMPLATE
from uvloop import run

from bench import queue
from bench.results import Results
from bench.stack import Processes, Stack
from voting.poll.question import MAX_OPTIONS
from voting.roles.worker import BATCH_SIZE
from voting.settings import Role

BACKLOG = 1_000_000
LIMIT = "bare upsert, 1 connection"

# What a worker's statement does to `votes`, without the rest of it.
_UPSERT = """
INSERT INTO votes AS stored (voter, choice, ms, seq)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
ON CONFLICT (voter) DO UPDATE
  SET choice = excluded.choice, ms = excluded.ms, seq = excluded.seq
  WHERE (excluded.ms, excluded.seq) > (stored.ms, stored.seq)
"""


def count(stack: Stack, results: Results, options: Namespace) -> None:
    """Count a backlog of a million votes, each of another voter, into an empty table."""
    with stack.role(Role.WORKER) as worker:
        results.add("worker, idle", worker.resident(), "MB")
    for repeat in range(options.repeats):
        _measure_upsert(stack, results, LIMIT, 1)
        for number, name in ((1, "1 worker"), (2, "2 workers")):
            stack.reset()
            run(queue.fill(stack.redis_socket, BACKLOG))
            with stack.role(Role.WORKER, number) as workers:
                before = workers.processor_seconds()
                results.add(f"count, {name}", run(drained(stack)), "votes/s", LIMIT)
                used = workers.processor_seconds() - before
                results.add(f"count, {name}: processor", 1e6 * used / BACKLOG, "µs/vote")
                if number > 1:
                    continue
                _note_memory(results, workers, "a million")
                if repeat == 0:
                    run(queue.fill(stack.redis_socket, BACKLOG))
                    run(drained(stack))
                    _note_memory(results, workers, "two million")
        for more in (3, MAX_OPTIONS):
            _measure_options(stack, results, more)
        _measure_upsert(stack, results, "bare upsert, 2 connections", 2)
    stack.reset()


def _measure_options(stack: Stack, results: Results, options: int) -> None:
    stack.reset(options)
    run(queue.fill(stack.redis_socket, BACKLOG, options))
    with stack.role(Role.WORKER):
        name = f"count, 1 worker, {options} options"
        results.add(name, run(drained(stack)), "votes/s", "count, 1 worker")


def _measure_upsert(stack: Stack, results: Results, name: str, connections: int) -> None:
    stack.reset()
    results.add(name, run(_upsert(stack, connections)), "votes/s")


def _note_memory(results: Results, worker: Processes, votes: str) -> None:
    results.add(f"worker, after {votes} votes", worker.resident(), "MB", "worker, idle")


async def _upsert(stack: Stack, connections: int) -> float:
    """Write the rows of BACKLOG votes and return the rate."""
    url = stack.servers.database_url(TEMPLATE, "voting_worker")
    opened = [await asyncpg.connect(url) for _ in range(connections)]
    batches = [_rows(index) for index in range(BACKLOG // BATCH_SIZE)]
    rows = BATCH_SIZE * len(batches)

    async def write(connection: Any) -> None:
        statement = await connection.prepare(_UPSERT)
        while batches:
            await statement.fetch(*batches.pop())

    start = perf_counter()
    await asyncio.gather(*map(write, opened))
    took = perf_counter() - start
    for each in opened:
        await each.close()
    return rows / took


def _rows(index: int) -> tuple[list[Any], ...]:
    numbers = list(range(BATCH_SIZE))
    voters, choices = [uuid4() for _ in numbers], ["ab"[each % 2] for each in numbers]
    return voters, choices, [index] * BATCH_SIZE, numbers


async def drained(stack: Stack) -> float:
    """Wait until the queue is empty, and return the votes counted a second."""
    redis = Redis.from_url(stack.servers.redis_url())

    async def left() -> int:
        [group] = await redis.xinfo_groups(queue.KEY)
        return int(group["lag"] + group["pending"])

    start, first = perf_counter(), await left()
    while await left():
        await asyncio.sleep(0.05)
    took = perf_counter() - start
    await redis.aclose()
    return first / took
