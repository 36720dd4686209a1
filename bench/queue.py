"""Appends to the stream without a role: as a limit to compare with, and for a backlog."""

import asyncio
import os
from collections.abc import Iterator
from itertools import cycle, islice
from time import perf_counter

from hiredis import pack_command

from voting.poll.question import CHOICES, MIN_OPTIONS

KEY = b"{voting}:ballots"


def commands(number: int, options: int) -> Iterator[bytes]:
    """Yield commands that append a ballot, each of another voter, for each option in turn."""
    for choice in islice(cycle(CHOICES[:options]), number):
        fields = (b"voter", os.urandom(16), b"choice", b"1" + choice.encode())
        yield pack_command((b"XADD", KEY, b"*", *fields))


class _Appender(asyncio.Protocol):
    """Sends `depth` commands at once, and the next ones after all their replies."""

    def __init__(self, commands: Iterator[bytes], depth: int) -> None:
        self._commands = commands
        self._depth = depth
        self._waiting = 0
        self.done = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send()

    def _send(self) -> None:
        block = list(islice(self._commands, self._depth))
        if not block:
            self._transport.close()
            self.done.set_result(None)
            return
        self._waiting = 2 * len(block)  # a reply has two lines: its length, and the id
        self._transport.write(b"".join(block))

    def data_received(self, data: bytes) -> None:
        assert data[:1] != b"-", data
        self._waiting -= data.count(b"\n")
        if self._waiting == 0:
            self._send()


async def append(
    socket: str, number: int, *, connections: int, depth: int, options: int = MIN_OPTIONS
) -> float:
    """Append `number` ballots, `depth` at once on each connection; return the rate."""
    loop = asyncio.get_running_loop()
    prepared = iter(list(commands(number, options)))
    start = perf_counter()
    appenders = []
    for _ in range(connections):
        _, appender = await loop.create_unix_connection(lambda: _Appender(prepared, depth), socket)
        appenders.append(appender.done)
    await asyncio.gather(*appenders)
    return number / (perf_counter() - start)


async def fill(socket: str, number: int, options: int = MIN_OPTIONS) -> None:
    """Append `number` ballots, in hundred thousands."""
    for _ in range(number // 100_000):
        await append(socket, 100_000, connections=8, depth=200, options=options)
