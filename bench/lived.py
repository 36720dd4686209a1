"""How many votes are accepted as the app is lived: while a worker counts them."""

from argparse import Namespace
from itertools import product
from time import process_time

from uvloop import run

from bench import load
from bench.accept import measure
from bench.results import Results
from bench.stack import Stack
from bench.votes import HTMX, VOTERS, vote_requests
from voting.settings import Role

SECONDS = 2.0
CONNECTIONS = (64, 512)
FEW = 2_000  # voters, who vote again and again: their rows are updated
PROCESSES = 2

# As many votes of a voter as there are, by the same code.
_NO_LIMIT = {"VOTES_PER_MINUTE": "1000000"}


def lived(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure each way to vote without a worker and with one, by turns.

    `options.beside`: the URL of another app's vote page, which is measured in the same run.
    """
    forms = {"form": (), "htmx": HTMX}
    ways = {
        (name, number): vote_requests(*headers, number=number)
        for (name, headers), number in product(forms.items(), (FEW, VOTERS))
    }
    with stack.role(Role.VOTE, PROCESSES, settings=_NO_LIMIT) as votes:
        for _ in range(options.repeats):
            for ((name, number), requests), connections in product(ways.items(), CONNECTIONS):
                way = f"{name}, {number:,} voters, {connections} connections"
                status = 200 if name == "htmx" else 303
                alone = f"accept alone, {way}"
                stack.reset()
                measure(results, alone, votes, requests, connections, None, status, SECONDS)
                stack.reset()
                row = f"accept, {way}"
                with stack.role(Role.WORKER):
                    outcome = measure(
                        results, row, votes, requests, connections, alone, status, SECONDS
                    )
                for percent in (50, 99):
                    results.add(f"{row}: p{percent}", 1e3 * outcome.percentile(percent), "ms")
            if options.beside:
                _measure_other(results, options.beside)
    stack.reset()


def scale(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure several vote processes and workers, and what the load takes of their cores."""
    requests = vote_requests()
    for _ in range(options.repeats):
        for processes, workers in product((1, 2, 4), (1, 2, 4)):
            stack.reset()
            with (
                stack.role(Role.VOTE, processes, settings=_NO_LIMIT) as votes,
                stack.role(Role.WORKER, workers),
            ):
                row = f"accept, {processes} vote, {workers} worker"
                before = process_time()
                outcome = measure(results, row, votes, requests, 512, seconds=SECONDS)
                used = process_time() - before
                results.add(f"{row}: load", 1e6 * used / outcome.responses, "µs")
    stack.reset()


def _measure_other(results: Results, url: str) -> None:
    """Measure the other app, which closes each connection after a response."""
    requests = vote_requests(path="/", form="vote=")
    for connections in CONNECTIONS:
        outcome = run(load.closed_and_reconnecting(url, requests, connections, SECONDS))
        results.add(f"the other app, {connections} connections", outcome.rate(200), "a second")
