"""How many votes are accepted, each on disk before its voter is told."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import load, queue
from bench.results import Results
from bench.stack import Processes, Stack, run
from bench.votes import HTMX, looks, votes
from voting.settings import Role

SECONDS = 1.2
WAYS = ((1, 64), (1, 512), (2, 64), (2, 512))  # processes, connections
HALF = "accept, 2 processes, 64 connections"  # at half its rate, latencies are measured
MILLION = 1_000_000


def accept(stack: Stack, results: Results, repeats: int, beside: str | None) -> None:
    """Measure while nobody counts: the load, Redis and vote have the machine.

    `beside`: where the vote page of another app is, which is measured too.
    """
    plain, fragment = votes(), votes(*HTMX)
    others = votes(path="/", field="vote") if beside else plain
    with ExitStack() as exits:
        apps = {each: exits.enter_context(stack.role(Role.VOTE, each)) for each in (1, 2)}
        bare = {each: exits.enter_context(stack.bare(Path(__file__), each)) for each in (1, 2)}
        results.add("vote, idle", apps[1].resident(), "MB")
        for _ in range(repeats):
            for number, connections in WAYS:
                way = f"{number} process{'es'[: 2 * number - 2]}, {connections} connections"
                limit = f"bare handler, {way}"
                _measure(results, limit, bare[number], plain, connections)
                _measure(results, f"accept, {way}", apps[number], plain, connections, limit)
            if beside:
                _measure_other(results, beside, others)
            _measure(results, f"{HALF}, htmx", apps[2], fragment, 64, status=200)
            for path in ("/", "/receipt"):
                _measure(results, f"GET {path}, 1 process", apps[1], looks(path), 64, status=200)
            for depth in (1, 100):
                rate = run(queue.append(stack.redis_socket, 50_000, connections=50, depth=depth))
                results.add(f"bare append, 50 connections, {depth} at once", rate, "votes/s")
            _measure_half(results, apps[2], plain)
            results.add("vote, under load", apps[2].resident(), "MB", "vote, idle")
        _accept_a_million(apps[2], plain)
        results.add("vote, after a million votes", apps[2].resident(), "MB", "vote, idle")
    stack.delete_idle_consumers()


def _measure(
    results: Results,
    name: str,
    app: Processes,
    requests: Iterator[bytes],
    connections: int,
    limit: str | None = None,
    status: int = 303,
) -> None:
    took = app.processor()
    outcome = run(load.closed(app.url, requests, connections=connections, seconds=SECONDS))
    took = app.processor() - took
    results.add(name, outcome.rate(status), "a second", limit)
    results.add(f"{name}: processor", 1e6 * took / outcome.all, "µs")


def _measure_half(results: Results, app: Processes, requests: Iterator[bytes]) -> None:
    rate = results.median(HALF) / 2
    outcome = run(load.paced(app.url, requests, connections=512, rate=rate, seconds=SECONDS * 3))
    outcome.expect(303)
    for percent in (50, 99):
        name = f"accept at half that rate, p{percent}"
        results.add(name, 1e3 * outcome.percentile(percent), "ms")


def _measure_other(results: Results, url: str, requests: Iterator[bytes]) -> None:
    """Measure what the other app accepts, which closes each connection after an answer."""
    for connections in (8, 64):
        outcome = run(
            load.closed(url, requests, connections=connections, seconds=SECONDS, keep=False)
        )
        results.add(f"the other app, {connections} connections", outcome.rate(200), "a second")


def _accept_a_million(app: Processes, requests: Iterator[bytes]) -> None:
    """Vote until the processes together have accepted a million."""
    while app.counter("voting_ballots_accepted_total") < MILLION:
        run(load.closed(app.url, requests, connections=64, seconds=SECONDS * 2))
