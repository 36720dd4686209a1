"""A network that misbehaves on request: a proxy between clients and one server."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class Way:
    """One direction through the proxy."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._dropping = False
        self._delay = 0.0
        self.change: Callable[[bytes], bytes] = bytes
        """What is carried in place of what came."""
        self.keeps_open = False
        """Tell the receiver nothing of the end of a connection, as a proxy that reuses its own."""
        self.caught = asyncio.Event()
        """Something came while it was held, or was dropped."""
        self.passed = asyncio.Event()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._delay:
                await asyncio.sleep(self._delay)
            if not self._open.is_set():
                self.caught.set()
                await self._open.wait()
            if self._dropping:
                self.caught.set()
                continue
            self.passed.set()
            writer.write(self.change(data))
        if not self.keeps_open:
            writer.write_eof()

    def hold(self) -> None:
        """Keep what comes from now on, as TCP does while the network is away."""
        self.caught.clear()
        self._open.clear()

    def release(self) -> None:
        """Deliver what was held, also to a server whose client has gone."""
        self.passed.clear()
        self._open.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        self.hold()
        try:
            yield
        finally:
            self.release()

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Throw away what comes. Only good for connections that are hung up before the end."""
        self.caught.clear()
        self._dropping = True
        try:
            yield
        finally:
            self._dropping = False

    @contextmanager
    def late(self, seconds: float) -> Iterator[None]:
        """Let everything come later, by up to twice that."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0


class Proxy:
    """Listens on `address`, a socket's path or a free port of this machine, for `server`.

    `server`: a socket's path, or a port; new connections may get another. `forth` leads to the
    server, `back` to the clients.
    """

    def __init__(self, server: Path | int, address: Path | None = None) -> None:
        self.server, self._address = server, address
        self._connections: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut = False
        self.forth, self.back = Way(), Way()

    async def __aenter__(self) -> Self:
        if self._address:
            self._listener = await asyncio.start_unix_server(self._serve, self._address)
        else:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        return self._listener.sockets[0].getsockname()[1]

    def hang_up(self) -> None:
        """Break the connections of all clients; the server notices later, or never."""
        for client, _ in self._connections:
            client.transport.abort()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Carry nothing on the present connections, also no end. New connections work."""
        writers = [writer for connection in self._connections for writer in connection]
        for writer in writers:
            writer.transport.pause_reading()  # of the same socket
        try:
            yield
        finally:
            for writer in writers:
                writer.transport.abort()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Break all connections and let nobody connect."""
        self._cut = True
        for writers in self._connections:
            for writer in writers:
                writer.transport.abort()
        try:
            yield
        finally:
            self._cut = False

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self._cut:
                raise ConnectionRefusedError
            if isinstance(self.server, int):
                back, server = await asyncio.open_connection("127.0.0.1", self.server)
            else:
                back, server = await asyncio.open_unix_connection(self.server)
        except OSError:
            client.transport.abort()
            return
        connection = (client, server)
        self._connections.add(connection)
        pumps = {
            asyncio.create_task(self._pump(self.forth, reader, server)),
            asyncio.create_task(self._pump(self.back, back, client)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps)
        self._tasks -= pumps
        self._connections.discard(connection)
        for writer in connection:
            writer.transport.abort()

    async def _pump(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await way.carry(reader, writer)
        except OSError:
            writer.transport.abort()
