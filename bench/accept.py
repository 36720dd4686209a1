"""How many votes the vote role accepts, each on disk before the response."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
from uvloop import run

from bench import load, queue
from bench.results import Results
from bench.stack import Processes, Stack
from bench.votes import HTMX, counted_voter, page_requests, vote_requests
from voting.settings import Role

SECONDS = 1.2
WAYS = ((1, 64), (1, 512), (2, 64), (2, 512))  # processes, connections
MILLION = 1_000_000


def accept(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure without a worker, beside a handler that queues nothing."""
    plain, least = vote_requests(), vote_requests(path="/least")
    with ExitStack() as exits:
        apps = {each: exits.enter_context(stack.role(Role.VOTE, each)) for each in (1, 2)}
        bare = {each: exits.enter_context(stack.bare(Path(__file__), each)) for each in (1, 2)}
        results.add("vote, idle", apps[1].resident(), "MB")
        for _ in range(options.repeats):
            for number, connections in WAYS:
                way = f"{number} process{'es'[: 2 * number - 2]}, {connections} connections"
                measure(results, f"uvicorn alone, {way}", bare[number], least, connections)
                limit = f"bare handler, {way}"
                measure(results, limit, bare[number], plain, connections)
                measure(results, f"accept, {way}", apps[number], plain, connections, limit)
            measure(results, "GET /, 1 process", apps[1], page_requests("/"), 64, status=200)
            cookies = {"Cookie": counted_voter()}
            part = httpx.get(apps[1].url, headers={"HX-Request": "true"} | cookies)
            polls = page_requests("/", *HTMX, f"If-None-Match: {part.headers['etag']}")
            measure(results, "GET / by an open page, 1 process", apps[1], polls, 64, status=304)
            for depth in (1, 100):
                rate = run(queue.append(stack.redis_socket, 50_000, connections=50, depth=depth))
                results.add(f"bare append, 50 connections, {depth} at once", rate, "votes/s")
            results.add("vote, under load", apps[2].resident(), "MB", "vote, idle")
        while apps[2].counter("voting_ballots_accepted_total") < MILLION:
            run(load.closed(apps[2].url, plain, 64, SECONDS * 2))
        results.add("vote, after a million votes", apps[2].resident(), "MB", "vote, idle")
    stack.reset()


def measure(
    results: Results,
    name: str,
    app: Processes,
    requests: Iterator[bytes],
    connections: int,
    limit: str | None = None,
    status: int = 303,
    seconds: float = SECONDS,
) -> load.Outcome:
    """Add the rate of a closed loop and the processor that a response takes."""
    before = app.processor_seconds()
    outcome = run(load.closed(app.url, requests, connections, seconds))
    used = app.processor_seconds() - before
    results.add(name, outcome.rate(status), "a second", limit)
    results.add(f"{name}: processor", 1e6 * used / outcome.responses, "µs")
    return outcome
