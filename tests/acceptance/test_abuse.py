"""Voters beside thousands of malicious clients."""

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.app import VotingUp

from voting.load.client import Connection
from voting.load.pages import new_voter, vote
from voting.load.record import Acknowledgement
from voting.web import protocol

POD = Path(__file__).parent.parent.parent / "deploy/base/vote.yaml"

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on uvloop, which is fast enough for so many connections."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


def memory(up: VotingUp) -> int:
    [vote] = up.children("vote")
    return int(vote.memory_info().rss)


def port_of(up: VotingUp) -> int:
    return int(up.address("vote").rpartition(":")[2])


async def vote_beside(up: VotingUp) -> list[float]:
    """Have 200 new voters vote twice, 20 at a time; return the seconds of each vote, sorted."""
    latencies = []
    loop = asyncio.get_running_loop()

    async def vote_in_turn() -> None:
        for _ in range(10):
            async with Connection(up.address("vote")) as page:
                voter = await new_voter(page)
                for choice in voter.form.choices:
                    start = loop.time()
                    result = await vote(page, voter, choice)
                    latencies.append(loop.time() - start)
                    assert result.acknowledgement is Acknowledgement.ACKNOWLEDGED

    await asyncio.gather(*(vote_in_turn() for _ in range(20)))
    return sorted(latencies)


@asynccontextmanager
async def held(
    port: int, number: int, client: Callable[[int, Callable[[], None]], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Connect so many clients for the block; each reports when it is connected."""
    ready = asyncio.Semaphore(0)
    tasks = []
    for index in range(number):
        tasks.append(asyncio.create_task(client(port, ready.release)))
        if index % 100 == 0:  # the backlog of a listening socket has a limit
            await asyncio.sleep(0)
    try:
        for _ in range(number):
            await ready.acquire()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def slow(port: int, ready: Callable[[], None]) -> None:
    """Send a request byte by byte, and connect again when disconnected."""
    head = f"POST /vote HTTP/1.1\r\nHost: localhost\r\n{FORM}Content-Length: 4000\r\n\r\n"
    first = random.choice([head.encode(), PAGE[:-2] + b"X-Slow: "])
    while True:
        with suppress(OSError):
            async with connected(port) as (reader, writer):
                writer.write(first)
                ready()
                while not reader.at_eof():
                    writer.write(b"a")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(random.uniform(1, 3)):
                            await reader.read(1000)


async def idle(port: int, ready: Callable[[], None]) -> None:
    """Load the page and keep the connection, and connect again when disconnected."""
    while True:
        with suppress(OSError):
            async with connected(port) as (reader, writer):
                writer.write(PAGE)
                await reader.readuntil(b"</html>")
                ready()
                await reader.read()


@pytest.fixture(scope="module", autouse=True)
def many_files() -> None:
    protocol.raise_file_limit()


def test_voters_vote_beside_5000_slow_clients(running, record_testsuite_property):
    async def check() -> None:
        async with held(port_of(running), 5_000, slow):
            latencies = await vote_beside(running)
        p99 = latencies[len(latencies) * 99 // 100]
        record_testsuite_property("seconds of a vote beside 5,000 slow clients, p99", p99)
        print(f"beside 5,000 slow clients: p99 {p99 * 1000:.0f} ms")  # noqa: T201 - with `-s`

    run(check())
    assert "Traceback" not in running.output


def test_voters_vote_beside_10000_idle_clients_in_the_memory_of_a_pod(running):
    [megabytes] = re.findall(r"limits: .*memory: (\d+)Mi", POD.read_text())

    async def check() -> None:
        async with held(port_of(running), 10_000, idle):
            await vote_beside(running)
            assert memory(running) < int(megabytes) * 2**20

    run(check())


def test_loading_the_page_stores_nothing_on_the_server(start, data):
    up = start(data).ready()

    async def load_page(number: int) -> None:
        async with Connection(up.address("vote")) as client:
            cookies = {(await new_voter(client)).cookie for _ in range(number)}
        assert len(cookies) == number

    async def check() -> None:
        await asyncio.gather(*(load_page(200) for _ in range(10)))
        before = memory(up)
        await asyncio.gather(*(load_page(1000) for _ in range(10)))
        assert memory(up) - before < 5_000_000
        assert len(await vote_beside(up)) == 400

    run(check())


def mutations(seed: str, number: int) -> list[bytes]:
    """Mutate a vote: replace, delete, insert and repeat bytes."""
    rng = random.Random(seed)
    cookie = "voter=" + "0" * 32 + ".signature"
    vote = (
        "POST /vote HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
        f"Sec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n{FORM}"
        "Transfer-Encoding: chunked\r\n\r\n10\r\nround=1&choice=a\r\n0\r\n\r\n"
    ).encode()
    words = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"\xff", b"=", b"/"]
    words += [
        b"Content-Length: 5\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"HX-Request: true\r\n",
    ]
    words += [b"Expect: 100-continue\r\n", b"voter=", b"GET / HTTP/1.1\r\n", bytes(range(256))]
    changed = []
    for _ in range(number):
        sent = bytearray(vote)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(len(sent))
            end = start + rng.choice([0, 0, 1, 4, 40])
            sent[start:end] = rng.choice(
                [b"", rng.choice(words), rng.randbytes(3), sent[start:end] * 2]
            )
        changed.append(bytes(sent))
    return changed


def test_malformed_requests_cause_no_server_error(running):
    statuses: Counter[int] = Counter()

    def exchange(sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port_of(running)), timeout=30) as client:
            with suppress(OSError):
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
            received = b""
            with suppress(OSError):
                while piece := client.recv(65_536):
                    received += piece
            return received

    for sent in mutations("a vote", 2_000):
        received = exchange(sent)
        assert b"Traceback" not in received
        for status in re.findall(rb"^HTTP/1\.1 (\d+) ", received, re.MULTILINE):
            statuses[int(status)] += 1
            assert int(status) < 500, (sent, received)
    assert len(statuses) >= 5
    assert "Traceback" not in running.output
    assert running.vote("a")
