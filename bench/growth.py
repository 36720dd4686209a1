"""What the number of stored votes changes: no operation should become slower with it."""

from argparse import Namespace
from statistics import median
from time import perf_counter

from sqlalchemy.ext.asyncio import AsyncEngine
from support.servers import TEMPLATE
from uvloop import run

from bench import queue
from bench.count import drained
from bench.results import Results
from bench.stack import Stack
from voting.database.engine import create_engine
from voting.database.totals import fetch_result
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState
from voting.reconcile.audit import audit
from voting.settings import Role

SIZES = {"10 k": 10_000, "1 M": 1_000_000, "10 M": 10_000_000}
QUERIES = 10_001  # some seconds of them, as a virtual machine has slow moments
MORE = 300_000  # votes that are counted on top

# Spread as evenly as random voters are, but in the order of the index, which is quicker to make.
_VOTES = """
INSERT INTO votes (voter, choice, ms, seq)
SELECT
  (lpad(to_hex(n * (4294967296 / {size})), 8, '0') || repeat('0', 24))::uuid,
  CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, 1, n
FROM generate_series(0, {size} - 1) AS n
"""

# A tally of an hour, whatever the number of votes.
_TALLY = """
INSERT INTO tally (round, bucket, choice, votes, ms)
SELECT 1, now() - n * interval '10 seconds', key, {size} / 720, 1
FROM generate_series(1, 360) AS n, options
"""


def growth(stack: Stack, results: Results, _: Namespace) -> None:
    """Measure totals, counting and an audit with three numbers of stored votes."""
    for name, size in SIZES.items():
        stack.reset()
        fill = (each.format(size=size) for each in (_VOTES, _TALLY))
        stack.sql(*fill, "VACUUM ANALYZE votes, tally", "CHECKPOINT")
        totals = run(_totals(stack))
        results.add(f"totals, {name} votes", 1e3 * totals, "ms", "totals, 10 k votes")
        run(queue.fill(stack.redis_socket, MORE))
        with stack.role(Role.WORKER):
            rate = run(drained(stack))
        results.add(f"count, {name} votes stored", rate, "votes/s", "count, 10 k votes stored")
        audited = run(_audit(stack))
        results.add(f"audit, {name} votes stored", audited, "s")


async def _totals(stack: Stack) -> float:
    """Return the seconds that a query of the totals takes."""
    engine = _engine(stack)
    took = []
    for _ in range(QUERIES):
        start = perf_counter()
        await fetch_result(engine)
        took.append(perf_counter() - start)
    await engine.dispose()
    return median(took)


async def _audit(stack: Stack) -> float:
    """Return the seconds that an audit takes."""
    engine, queue = _engine(stack), Queue(connect(stack.servers.redis_url("worker")))
    start = perf_counter()
    await audit(QueueState(queue), engine)
    took = perf_counter() - start
    await queue.close()
    await engine.dispose()
    return took


def _engine(stack: Stack) -> AsyncEngine:
    url = stack.servers.database_url(TEMPLATE, "voting_worker")
    return create_engine(url, name="bench", patience=None)
