"""TLS in front of a server that was built without: its certificate, on a port of its own."""

import asyncio
import ssl
from pathlib import Path
from typing import Self

# What a client of Postgres asks first: whether to go on in TLS.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Front:
    """Passes on to the socket `server` what comes in TLS; without `context`, what comes in plain.

    `postgres`: a client asks for TLS in the protocol of Postgres, and is told whether it is there.
    """

    def __init__(
        self, server: Path, context: ssl.SSLContext | None, *, postgres: bool = False
    ) -> None:
        self._server = server
        self._context = context
        self._postgres = postgres
        self.plain = b""
        """What was heard outside of TLS, but for the question of Postgres."""

    async def __aenter__(self) -> Self:
        # In the protocol of Postgres, TLS begins later.
        context = None if self._postgres else self._context
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        ask = None
        try:
            if self._postgres and not await self._agree(client, answer):
                return
            server, ask = await asyncio.open_unix_connection(str(self._server))
            forth = self._carry(client, ask, plain=self._context is None)
            await asyncio.gather(forth, self._carry(server, answer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side has left
        finally:
            for writer in (answer, ask):
                if writer is not None:
                    writer.close()

    async def _agree(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> bool:
        """Tell whether what follows can go on to the server."""
        first = await client.readexactly(len(SSL_REQUEST))
        if first != SSL_REQUEST:
            self.plain += first
            return False
        answer.write(b"N" if self._context is None else b"S")
        if self._context is not None:
            await answer.start_tls(self._context)
        return True

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, plain: bool = False
    ) -> None:
        while data := await reader.read(65_536):
            self.plain += data if plain else b""
            writer.write(data)
        writer.close()
