"""`deploy/compose/forward.py`, which leads a published port to the admin page."""

import asyncio
import importlib.util
import socket
from contextlib import closing
from pathlib import Path

import pytest
from support.wait import until

PATH = Path(__file__).parent.parent.parent / "deploy/compose/forward.py"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
async def ports():
    """Forward one port to another, on which a test may listen."""
    spec = importlib.util.spec_from_file_location("forward", PATH)
    forward = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(forward)
    port, target = free_port(), free_port()
    task = asyncio.create_task(forward.main(port, target))
    yield port, target
    task.cancel()
    await asyncio.wait([task])


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connections = []

    async def try_once() -> bool:
        connections.append(await asyncio.open_connection("127.0.0.1", port))
        return True

    await until(try_once)
    return connections[0]


async def test_a_connection_is_forwarded_until_the_client_closes_it(ports):
    port, target = ports
    closed = asyncio.Event()

    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        closed.set()

    async with await asyncio.start_server(echo, "127.0.0.1", target):
        reader, writer = await connect(port)
        for line in (b"first\n", b"x" * 30_000 + b"\n"):
            writer.write(line)
            assert await reader.readline() == line
        writer.close()
        await closed.wait()


async def test_a_connection_is_closed_while_nothing_listens(ports):
    reader, writer = await connect(ports[0])
    with closing(writer):
        assert await reader.read() == b""
