"""What a replica costs: the same votes with one server, and with three of which two have each."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from uvloop import run

from bench import load
from bench.accept import SECONDS
from bench.results import Results
from bench.stack import Stack
from bench.votes import vote_requests
from voting.local.replication import Machines
from voting.settings import Role

CONNECTIONS = (64, 512)
LONE_RATE, LONE_SECONDS = 4, 5  # votes a second, and for how long


def replicas(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure two vote processes and a worker, as people vote."""
    for _ in range(options.repeats):
        for number in (0, 1):
            stack.sql("UPDATE poll SET has_queue = false")  # or a new queue would be a loss
            with _queue(stack, number) as settings:
                _measure(stack, results, number, settings)
    stack.reset()


@contextmanager
def _queue(stack: Stack, number: int) -> Iterator[Mapping[str, str]]:
    """Run the servers of a queue, and yield the settings of the roles that use it."""
    if number == 0:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="voting-bench-") as folder:
        machines = Machines.of(Path(folder))
        with stack.servers.running_together(machines.programs()):
            yield {"REDIS_URL": machines.url, "REDIS_REPLICAS": str(number)}


def _measure(stack: Stack, results: Results, number: int, settings: Mapping[str, str]) -> None:
    requests, of = vote_requests(), "1 replica" if number else "no replica"
    with ExitStack() as exits:
        exits.enter_context(stack.role(Role.WORKER, settings=settings))
        votes = exits.enter_context(stack.role(Role.VOTE, 2, settings=settings))
        for connections in CONNECTIONS:
            outcome = run(load.closed(votes.url, requests, connections, 2 * SECONDS))
            name = "accept, {}, " + f"{connections} connections"
            limit = name.format("no replica") if number else None
            results.add(name.format(of), outcome.rate(303), "a second", limit)
        half = results.median(f"accept, {of}, {CONNECTIONS[0]} connections") / 2
        for who, rate, seconds, percents in (
            ("half that rate", half, 3 * SECONDS, (50, 99)),
            ("one vote at a time", LONE_RATE, LONE_SECONDS, (50, 100)),
        ):
            outcome = run(load.paced(votes.url, requests, 512, seconds, rate))
            outcome.expect(303)
            for percent in percents:
                value = 1e3 * outcome.percentile(percent)
                results.add(f"{of}, {who}, p{percent}", value, "ms")
