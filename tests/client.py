"""Voters in numbers: a small HTTP client that is fast enough to be the load of a test."""

import asyncio
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

PATIENCE = 60.0  # seconds until a connection that says nothing counts as broken


@dataclass
class Answer:
    """What came back.

    Status 0: the connection broke, so nobody knows what became of it. -1: nobody listens, so
    nothing was sent.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


class Connection:
    """One connection to a web role that is made again when it breaks.

    Names that end in `localhost` are this machine, whatever its resolver knows.
    """

    def __init__(self, address: str, patience: float = PATIENCE) -> None:
        self._patience = patience
        url = urlsplit(address)
        here = (url.hostname or "").endswith("localhost")
        self._where = ("127.0.0.1" if here else url.hostname, url.port)
        self._host = url.netloc
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._streams:
            self._streams[1].close()

    async def ask(self, method: str, path: str, body: str = "", cookie: str = "") -> Answer:
        head = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        if body:
            head.append("Content-Type: application/x-www-form-urlencoded")
        if cookie:
            head.append(f"Cookie: {cookie}")
        request = "\r\n".join([*head, "", body])
        try:
            async with asyncio.timeout(self._patience):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._where)
                return await self._exchange(request.encode(), *self._streams)
        except ConnectionRefusedError:
            return Answer(-1)
        except (OSError, asyncio.IncompleteReadError):  # a TimeoutError is an OSError
            if self._streams:
                self._streams[1].close()
            self._streams = None
            return Answer(0)

    async def _exchange(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Answer:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status.split()[1]), headers, body.decode())

    async def new_voter(self) -> str:
        """Open the page as a new browser does, and return its cookie."""
        while (answer := await self.ask("GET", "/")).status != 200:
            await asyncio.sleep(0.05)
        return answer.headers["set-cookie"].partition(";")[0]

    async def vote(self, cookie: str, choice: str) -> Answer:
        return await self.ask("POST", "/vote", f"choice={choice}", cookie)
