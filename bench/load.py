"""Load that costs little itself: prebuilt requests over connections that stay open."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from voting.load.client import Address, Connection, Sender
from voting.load.latency import Latencies

SETTLE = 0.5  # seconds at the start that are not measured
TIMEOUT = 10.0  # seconds for the responses that are missing at the end


@dataclass
class Outcome:
    """The responses of the `seconds` that were measured: how many of each status, and how late."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    due: list[float] = field(default_factory=list)
    """Of a paced load: when each request was due that has its response, by perf_counter."""
    responses: int = 0  # all, with those outside of that time
    used: float = 0.0
    """Of a polled load: how far its meter went in that time."""

    def expect(self, status: int) -> None:
        """Raise AssertionError if there are responses of another status."""
        assert self.statuses.keys() == {status}, self.statuses

    def rate(self, status: int) -> float:
        """Return responses a second. Raises AssertionError as `expect` does."""
        self.expect(status)
        return self.statuses[status] / self.seconds

    def percentile(self, percent: int) -> float:
        """Return the seconds within which `percent` of a hundred responses came."""
        seconds = self.latencies.quantile(percent / 100)
        assert seconds is not None
        return seconds


async def closed(url: str, requests: Iterator[bytes], connections: int, seconds: float) -> Outcome:
    """Send the next request on each connection as soon as the response to the last has come."""
    outcome = Outcome(seconds)
    start = perf_counter() + SETTLE
    end = start + seconds
    in_flight, done = connections, asyncio.Event()
    sent: dict[Sender, float] = {}

    def on_response(sender: Sender, status: int) -> None:
        nonlocal in_flight
        now = perf_counter()
        outcome.responses += 1
        if now < end:
            if now >= start:
                outcome.statuses[status] += 1
                outcome.latencies.add(now - sent[sender])
            sent[sender] = now
            sender.send(next(requests))
            return
        in_flight -= 1
        if not in_flight:
            done.set()

    async with _connected(url, connections, on_response) as senders:
        for each in senders:
            sent[each] = perf_counter()
            each.send(next(requests))
        async with asyncio.timeout(SETTLE + seconds + TIMEOUT):
            await done.wait()
    return outcome


async def closed_and_reconnecting(
    url: str, requests: Iterator[bytes], connections: int, seconds: float
) -> Outcome:
    """Do the same at a server that closes the connection after each response."""
    outcome = Outcome(seconds)
    start = perf_counter() + SETTLE

    async def send() -> None:
        async with Connection(url, TIMEOUT) as connection:
            while perf_counter() < start + seconds:
                response = await connection.request(next(requests))
                outcome.responses += 1
                if start <= perf_counter() < start + seconds:
                    outcome.statuses[response.status] += 1

    await asyncio.gather(*(send() for _ in range(connections)))
    return outcome


async def paced(
    url: str, requests: Iterator[bytes], connections: int, seconds: float, rate: float
) -> Outcome:
    """Send `rate` requests a second, however long responses take.

    A latency starts when the request was due, so it includes a wait for a free connection.
    """
    outcome = Outcome(seconds)
    due: dict[Sender, float] = {}
    idle: deque[Sender] = deque()
    start = perf_counter() + 0.1
    number, total = 0, int(rate * (SETTLE + seconds))

    def on_response(sender: Sender, status: int) -> None:
        now, since = perf_counter(), due.pop(sender)
        outcome.responses += 1
        if since >= start + SETTLE:
            outcome.statuses[status] += 1
            outcome.latencies.add(now - since)
        outcome.due.append(since)
        idle.append(sender)
        send_due()

    def send_due() -> None:
        nonlocal number
        now = perf_counter()
        while idle and number < total and (moment := start + number / rate) <= now:
            sender = idle.popleft()
            due[sender] = moment
            sender.send(next(requests))
            number += 1

    async with _connected(url, connections, on_response) as senders:
        idle.extend(senders)
        async with asyncio.timeout(SETTLE + seconds + TIMEOUT):
            while number < total or due:
                send_due()
                await asyncio.sleep(0.001)
    return outcome


async def polled(
    url: str,
    requests: Sequence[bytes],
    seconds: float,
    period: float,
    meter: Callable[[], float],
) -> Outcome:
    """Send each request every `period` seconds on a connection of its own, evenly spread.

    A latency starts when the request was due. While the last response is missing, the connection
    does not send. `meter` is read once all are connected and have settled, and at the end; the
    outcome's seconds are those between, longer than `seconds` if responses came late. Raises
    TimeoutError if responses are missing, as when the server closes a connection.
    """
    outcome = Outcome(seconds)
    due: dict[Sender, deque[float]] = {}
    request: dict[Sender, bytes] = {}
    number, missing = 0, 0
    pause = period / len(requests)
    total = round((SETTLE + seconds) / pause)
    before: float | None = None

    def on_response(sender: Sender, status: int) -> None:
        nonlocal missing
        now, waiting = perf_counter(), due[sender]
        since = waiting.popleft()
        missing -= 1
        outcome.responses += 1
        if since >= start + SETTLE:
            outcome.statuses[status] += 1
            outcome.latencies.add(now - since)
        if waiting:
            sender.send(request[sender])

    async with _connected(url, len(requests), on_response) as senders:
        request.update(zip(senders, requests, strict=True))
        due.update((each, deque()) for each in senders)
        start = perf_counter()
        async with asyncio.timeout(SETTLE + seconds + TIMEOUT):
            while number < total or missing:
                now = perf_counter()
                if before is None and now >= start + SETTLE:
                    before = meter()
                while number < total and (moment := start + number * pause) <= now:
                    sender = senders[number % len(senders)]
                    due[sender].append(moment)
                    missing += 1
                    if len(due[sender]) == 1:
                        sender.send(request[sender])
                    number += 1
                await asyncio.sleep(0.001)
        outcome.used = meter() - (before or 0.0)
        outcome.seconds = perf_counter() - start - SETTLE
    return outcome


@asynccontextmanager
async def _connected(
    url: str, connections: int, on_response: Callable[[Sender, int], None]
) -> AsyncIterator[list[Sender]]:
    senders = [Sender(on_response) for _ in range(connections)]
    for each in senders:
        await each.connect(Address(url))
    yield senders
    for each in senders:
        each.close()
