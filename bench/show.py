"""How many viewers the result role serves, and how soon they see a vote."""

import asyncio
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import httpx
from uvloop import run

from bench import load
from bench.results import Results
from bench.stack import Processes, Stack
from bench.votes import vote_requests
from voting.settings import Role

SECONDS = 2.0
LONG = 10.0
SEE_SECONDS = 12.0
CONNECTIONS = 64
RATE = 5_000  # votes a second
PAGES = 20
POLL = 1.0  # seconds between two polls of a page
PROBE = 0.02  # seconds between two polls that measure exactly
QUERIES = "voting_totals_queries_total"


def show(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure the fragment that pages poll, and a bare handler that returns the same bytes."""
    with stack.role(Role.RESULT) as result, tempfile.NamedTemporaryFile() as file:
        results.add("result, idle", result.resident(), "MB")
        response = httpx.get(f"{result.url}/tally")
        Path(file.name).write_bytes(response.content)
        whole, unchanged = _poll(), _poll(f"If-None-Match: {response.headers['etag']}")
        with stack.bare(Path(file.name)) as bare:
            for _ in range(options.repeats):
                limit = "bare handler, same bytes"
                _measure(results, limit, bare, whole, 200)
                _measure(results, "poll, 200", result, whole, 200, limit)
                _measure(results, "poll, 304", result, unchanged, 304)
        # Once more, for longer: right after a load the first query is not due yet.
        before, started = result.counter(QUERIES), perf_counter()
        run(load.closed(result.url, whole, CONNECTIONS, LONG))
        queries = (result.counter(QUERIES) - before) / (perf_counter() - started)
        results.add("totals queries, under that load", queries, "a second")
        results.add("result, under load", result.resident(), "MB")


def _poll(*headers: str) -> Iterator[bytes]:
    lines = ("GET /tally HTTP/1.1", "Host: localhost", "HX-Request: true", *headers, "", "")
    return repeat("\r\n".join(lines).encode())


def _measure(
    results: Results,
    name: str,
    app: Processes,
    requests: Iterator[bytes],
    status: int,
    limit: str | None = None,
) -> None:
    outcome = run(load.closed(app.url, requests, CONNECTIONS, SECONDS))
    results.add(name, outcome.rate(status), "responses/s", limit)


def see(stack: Stack, results: Results, _: Namespace) -> None:
    """Measure from the time a vote is due to be sent until it is part of the totals.

    First for a client that polls the result role all the time, then for pages, which poll each
    second.
    """
    with ExitStack() as exits:
        vote = exits.enter_context(stack.role(Role.VOTE, 2))
        exits.enter_context(stack.role(Role.WORKER))
        result = exits.enter_context(stack.role(Role.RESULT))
        # Each vote is another voter's, so the n-th is visible once the totals are n more.
        requests = vote_requests(number=int(RATE * (SEE_SECONDS + 1)))
        before = result.counter(QUERIES)
        started = perf_counter()
        role, pages = run(_watch(vote.url, result.url, requests))
        queries = (result.counter(QUERIES) - before) / (perf_counter() - started)
    for name, seen in (("visible", role), ("visible on a page", pages)):
        parts = quantiles(seen, n=100)
        for percent in (50, 99):
            row = f"vote to {name}, {RATE:,} votes/s, p{percent}"
            results.add(row, parts[percent - 1], "s")
    results.add("totals queries, with 21 viewers", queries, "a second")


async def _watch(
    vote: str, result: str, requests: Iterator[bytes]
) -> tuple[list[float], list[float]]:
    """Return the delay of each vote for the client that polls all the time, and for pages."""
    viewers = [_Viewer(PROBE), *(_Viewer(POLL, POLL * number / PAGES) for number in range(PAGES))]
    async with httpx.AsyncClient(base_url=result) as client:
        before = await _votes(client)
        async with asyncio.TaskGroup() as tasks:
            polling = [tasks.create_task(each.poll(client)) for each in viewers]
            outcome = await load.paced(vote, requests, 256, SEE_SECONDS, RATE)
            outcome.expect(303)
            async with asyncio.timeout(load.TIMEOUT):
                while min(each.votes for each in viewers) < before + len(outcome.due):
                    await asyncio.sleep(PROBE)
            for each in polling:
                each.cancel()
    due = sorted(outcome.due)
    first, *pages = (list(each.delays(due, before)) for each in viewers)
    return first, list(chain.from_iterable(pages))


class _Viewer:
    """Polls the totals, and keeps when it saw which."""

    def __init__(self, pause: float, delay: float = 0.0) -> None:
        self.votes = 0
        self._pause = pause
        self._delay = delay
        self._seen: list[tuple[float, int]] = []

    async def poll(self, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(self._delay)
        while True:
            self.votes = await _votes(client)
            self._seen.append((perf_counter(), self.votes))
            await asyncio.sleep(self._pause)

    def delays(self, due: list[float], before: int) -> Iterator[float]:
        """Yield for each vote the seconds from its due time until the totals included it."""
        number = 0
        for at, shown in self._seen:
            for moment in due[number : shown - before]:
                yield at - moment
            number = max(number, shown - before)


async def _votes(client: httpx.AsyncClient) -> int:
    return int((await client.get("/api/tally")).json()["votes"])
