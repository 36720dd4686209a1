"""Load that costs little itself: requests that are made beforehand, over connections that stay."""

import asyncio
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter
from urllib.parse import urlsplit

SETTLE = 0.5  # seconds at the start that are not measured
PATIENCE = 10.0  # seconds until what is not answered counts as broken


@dataclass
class Outcome:
    """What came back while it was measured: how often each status, and each one's seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    all: int = 0
    """Answers in all, those included that came while it was not measured."""

    def expect(self, status: int) -> None:
        """Raise AssertionError where other answers came: it was no such load."""
        assert self.statuses.keys() == {status}, self.statuses

    def rate(self, status: int) -> float:
        """Answers a second. Raises AssertionError as `expect` does."""
        self.expect(status)
        return self.statuses[status] / self.seconds

    def percentile(self, percent: int) -> float:
        """Seconds within which so many of a hundred were answered."""
        return quantiles(self.latencies, n=100)[percent - 1]


class Connection(asyncio.Protocol):
    """One HTTP connection with a request at a time."""

    def __init__(self, answered: Callable[["Connection", int], None]) -> None:
        self._answered = answered
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        status = int(data[9:12])
        start = data.lower().find(b"content-length:", 0, end)
        if start >= 0:
            length = int(data[start + 15 : data.find(b"\r", start)])
            if len(data) < end + 4 + length:
                return
        self._data = b""
        self._answered(self, status)

    def close(self) -> None:
        self._transport.close()


class OneRequest(Connection):
    """Where the server ends the connection with each answer, as some do."""

    def __init__(
        self, answered: Callable[["Connection", int], None], where: str, port: int
    ) -> None:
        super().__init__(answered)
        self._where = where, port
        self._connecting: asyncio.Task[object] | None = None

    def send(self, request: bytes) -> None:
        async def connect() -> None:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, *self._where)
            self._transport.write(request)

        self._connecting = asyncio.create_task(connect())


async def closed(
    url: str,
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float,
    keep: bool = True,
) -> Outcome:
    """Send on each connection the next request as soon as the one before is answered."""
    outcome = Outcome()
    start = perf_counter() + SETTLE
    end = start + seconds
    done = asyncio.Event()
    idle = 0
    sent: dict[Connection, float] = {}

    def answered(connection: Connection, status: int) -> None:
        nonlocal idle
        now = perf_counter()
        outcome.all += 1
        if start <= now < end:
            outcome.statuses[status] += 1
            outcome.latencies.append(now - sent[connection])
        if now >= end:
            idle += 1
            if idle == connections:
                done.set()
            return
        sent[connection] = now
        connection.send(next(requests))

    opened = await _connect(url, connections, answered, keep=keep)
    for each in opened:
        sent[each] = perf_counter()
        each.send(next(requests))
    async with asyncio.timeout(SETTLE + seconds + PATIENCE):
        await done.wait()
    for each in opened:
        each.close()
    outcome.seconds = seconds
    return outcome


async def paced(
    url: str,
    requests: Iterator[bytes],
    *,
    connections: int,
    rate: float,
    seconds: float,
    told: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Send `rate` requests a second, whatever becomes of them.

    A latency starts when the request was due: where all connections wait, that is part of it.
    `told` hears of each that is answered when it was due, by perf_counter.
    """
    outcome = Outcome()
    idle: deque[Connection] = deque()
    due: dict[Connection, float] = {}
    start = perf_counter() + 0.1
    measured = start + SETTLE
    number, total = 0, int(rate * (SETTLE + seconds))

    def answered(connection: Connection, status: int) -> None:
        now, since = perf_counter(), due.pop(connection)
        outcome.all += 1
        if since >= measured:
            outcome.statuses[status] += 1
            outcome.latencies.append(now - since)
        told(since)
        idle.append(connection)
        send()

    def send() -> None:
        nonlocal number
        now = perf_counter()
        while idle and number < total and (moment := start + number / rate) <= now:
            connection = idle.popleft()
            due[connection] = moment
            connection.send(next(requests))
            number += 1

    opened = await _connect(url, connections, answered)
    idle.extend(opened)
    async with asyncio.timeout(SETTLE + seconds + PATIENCE):
        while number < total or due:
            send()
            await asyncio.sleep(0.001)
    for each in opened:
        each.close()
    outcome.seconds = seconds
    return outcome


async def _connect(
    url: str,
    connections: int,
    answered: Callable[[Connection, int], None],
    *,
    keep: bool = True,
) -> list[Connection]:
    address = urlsplit(url)
    where, port = address.hostname or "", address.port or 80
    if not keep:
        return [OneRequest(answered, where, port) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(answered), where, port)
        made.append(connection)
    return made
