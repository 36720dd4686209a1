"""Exports over HTTP: few at a time, and nobody waits for one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, get
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.database.export import NoSuchRound, open_snapshot
from voting.poll import formats
from voting.settings import ExportSettings
from voting.web.pages import ProblemError
from voting.web.texts import DATABASE_UNAVAILABLE, EXPORT_BUSY, INVALID_ROUND, NO_ROUND

log = structlog.get_logger(__name__)

# At a time, in a process: each holds a connection.
DOWNLOADS = 2

# How long a client may read nothing, and how long it may take at all, in seconds. Postgres would
# end a transaction that rests as well, but nothing here would hear of it while it waits to send.
STALLED = 10.0
LONGEST = 300.0


class Downloads:
    """The handlers' work. `engine` is for them alone, with a connection for each of DOWNLOADS."""

    def __init__(self, engine: AsyncEngine, settings: ExportSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._free = asyncio.Semaphore(DOWNLOADS)

    def handlers(self) -> list[ControllerRouterHandler]:
        @get("/export.csv")
        async def export_csv(request: Request[Any, Any, Any]) -> ASGIApp:
            return self._download("csv", _round(request))

        @get("/export.json")
        async def export_json(request: Request[Any, Any, Any]) -> ASGIApp:
            return self._download("json", _round(request))

        return [export_csv, export_json]

    def _download(self, suffix: str, number: int | None) -> ASGIApp:
        async def respond(_: Scope, receive: Receive, send: Send) -> None:
            if self._free.locked():
                raise ProblemError(EXPORT_BUSY)
            async with self._free:
                answer = _Answer(receive, send)
                try:
                    async with asyncio.timeout(LONGEST):
                        await self._answer(answer, suffix, number)
                except NoSuchRound as error:
                    raise ProblemError(NO_ROUND) from error
                except DATABASE_ERRORS as error:
                    log.warning("an export failed", reason=in_one_line(error))
                    if not answer.started:
                        raise ProblemError(DATABASE_UNAVAILABLE) from error
                    # Returned from with no end, so that the client sees that something is missing.

        return respond

    async def _answer(self, answer: "_Answer", suffix: str, number: int | None) -> None:
        results = self._settings.show_results
        async with open_snapshot(self._engine, results, number) as snapshot:
            form = formats.TIMELINE[suffix](snapshot.result, self._settings.question)
            name = f"votes-round-{snapshot.result.poll.round}.{suffix}"
            await answer.start(form.media_type, name)
            await answer.send_all(snapshot.timeline(form))


class _Answer:
    """An answer whose length nobody knows; incomplete unless `send_all` returns."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.started = False

    async def start(self, media_type: str, name: str) -> None:
        headers = {
            "content-type": media_type,
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
        }
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": HTTPStatus.OK,
                "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
            }
        )

    async def send_all(self, pieces: AsyncGenerator[bytes, None]) -> None:
        """Send what there is and end. Raises TimeoutError where the client does not read."""
        # A server says nothing when it sends to who has left.
        leaving = asyncio.create_task(self._left())
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if leaving.done():
                        return
                    async with asyncio.timeout(STALLED):
                        await self._send_body(piece, more=True)
            await self._send_body(b"", more=False)
        finally:
            leaving.cancel()

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _round(request: Request[Any, Any, Any]) -> int | None:
    """Read `?round=N`; 0, which no round is, for a number that none can have."""
    given = request.query_params.getall("round", [])
    if not given:
        return None
    [text] = given if len(given) == 1 else [""]
    if not (text.isascii() and text.isdigit()):
        raise ProblemError(INVALID_ROUND)
    return int(text) if len(text) <= 9 else 0  # noqa: PLR2004 - more do not fit into the column
