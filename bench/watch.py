"""What open pages cost: each polls once a second, on a connection that stays open."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter, time

import httpx
from uvloop import run

from bench import load
from bench.bare import POLL
from bench.results import Results
from bench.stack import KEY, Processes, Stack
from bench.votes import HTMX, page_requests, vote_requests
from voting.settings import Role
from voting.web.cookies import VoterCookies

PAGES = (1_000, 5_000, 10_000, 15_000)
PERIOD = 1.0  # seconds between two polls of a page
SECONDS = 4.0
PROCESSES = 2  # each keeps 10,000 idle connections, and the kernel spreads them not quite evenly
RATE = 100  # votes a second
CONNECTING = 4.0  # seconds, more than it takes to connect the pages
QUERIES = "voting_totals_queries_total"


def watch(stack: Stack, results: Results, options: Namespace) -> None:
    """Measure pages of result, then of voters whose votes wait, then of result while votes come.

    Each with more and more pages until the two cores, which the load shares, serve them late.
    """
    with ExitStack() as exits:
        result = exits.enter_context(stack.role(Role.RESULT, PROCESSES))
        vote = exits.enter_context(stack.role(Role.VOTE, PROCESSES))
        etag = httpx.get(f"{result.url}/tally").headers["etag"]
        viewers = [next(page_requests("/tally", *HTMX, f"If-None-Match: {etag}"))] * max(PAGES)
        voters = _waiting_voters(vote.url, max(PAGES))
        for _ in range(options.repeats):
            _measure(results, "pages of result", result, viewers)
            _measure(results, "pages of vote", vote, voters)
        exits.enter_context(stack.role(Role.WORKER))
        for _ in range(options.repeats):
            _measure(results, f"pages of result, {RATE} votes/s", result, viewers, vote.url)
    stack.reset()


def _waiting_voters(url: str, number: int) -> list[bytes]:
    """Return a poll of each of so many voters whose votes are not counted: no worker runs."""
    path = "/?round=1"
    receipt = f"a.{int(time() + 3600) * 1000}-0"  # as of a vote that was cast this moment
    cookies = [f"voter={VoterCookies([KEY]).mint(POLL)}; ballot={receipt}" for _ in range(number)]
    headers = {"HX-Request": "true", "Cookie": cookies[0]}
    etag = httpx.get(f"{url}{path}", headers=headers).headers["etag"]
    request = next(page_requests(path, *HTMX, f"If-None-Match: {etag}"))
    head = request.partition(b"Cookie: ")[0]
    return [head + f"Cookie: {each}\r\n\r\n".encode() for each in cookies]


def _measure(
    results: Results,
    name: str,
    app: Processes,
    requests: Sequence[bytes],
    votes_to: str | None = None,
) -> None:
    for number in PAGES:
        row = f"{number:,} {name}"
        queries, started = app.counter(QUERIES), perf_counter()
        outcome = run(_poll(app, requests[:number], votes_to))
        queries = (app.counter(QUERIES) - queries) / (perf_counter() - started)
        for status, responses in sorted(outcome.statuses.items()):
            results.add(f"{row}: {status}", responses / outcome.seconds, "a second")
        for percent in (50, 99):
            results.add(f"{row}: p{percent}", 1e3 * outcome.percentile(percent), "ms")
        used = outcome.used / outcome.statuses.total()
        results.add(f"{row}: processor", 1e6 * used, "µs a response")
        results.add(f"{row}: processor of a thousand", 1e5 * used / PERIOD, "% of a core")
        results.add(f"{row}: the larger process", app.resident(), "MB")
        if queries:
            results.add(f"{row}: totals queries", queries, "a second")
        if outcome.percentile(99) > PERIOD:
            break


async def _poll(app: Processes, requests: Sequence[bytes], votes_to: str | None) -> load.Outcome:
    """Poll, and have votes arrive meanwhile, so that each query finds another total."""
    polls = load.polled(app.url, requests, SECONDS, PERIOD, app.processor_seconds)
    if votes_to is None:
        return await polls
    votes = vote_requests(number=int(RATE * (SECONDS + CONNECTING + 1)))
    voting = load.paced(votes_to, votes, 16, SECONDS + CONNECTING, RATE)
    outcome, voted = await asyncio.gather(polls, voting)
    voted.expect(303)
    return outcome
