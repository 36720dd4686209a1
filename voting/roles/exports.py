"""Exports over HTTP: few at a time, and no request waits for another."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, get
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.database.export import NoSuchRound, open_snapshot
from voting.poll import formats
from voting.settings import ExportSettings
from voting.web.errors import (
    DATABASE_UNAVAILABLE,
    EXPORT_BUSY,
    INVALID_ROUND,
    NO_ROUND,
    ProblemError,
)

log = structlog.get_logger(__name__)

# In a process: each holds a database connection.
MAX_CONCURRENT_EXPORTS = 2

# Seconds for which a client may read nothing, and for a whole export. Postgres ends an idle
# transaction as well, but a response that waits for its client would not notice.
SEND_TIMEOUT = 10.0
EXPORT_TIMEOUT = 300.0

_Request = Request[Any, Any, Any]


class Exporter:
    """Streams exports. `engine` is for exports only: a connection for each concurrent one."""

    def __init__(self, engine: AsyncEngine, settings: ExportSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_EXPORTS)

    def response(self, suffix: str, number: int | None) -> ASGIApp:
        """Return a response with the round `number`, or with the current one."""

        async def respond(_: Scope, receive: Receive, send: Send) -> None:
            if self._slots.locked():
                raise ProblemError(EXPORT_BUSY)
            async with self._slots:
                stream = _Stream(receive, send)
                try:
                    async with asyncio.timeout(EXPORT_TIMEOUT):
                        await self._export(stream, suffix, number)
                except NoSuchRound as error:
                    raise ProblemError(NO_ROUND) from error
                except DATABASE_ERRORS as error:
                    log.warning("export failed", reason=in_one_line(error))
                    if not stream.started:
                        raise ProblemError(DATABASE_UNAVAILABLE) from error
                    # Without the final chunk, the client reports an incomplete response.

        return respond

    async def _export(self, stream: "_Stream", suffix: str, number: int | None) -> None:
        results = self._settings.show_results
        async with open_snapshot(self._engine, results, number) as snapshot:
            timeline = formats.TIMELINE[suffix](snapshot.result, self._settings.question)
            name = f"votes-round-{snapshot.result.poll.round}.{suffix}"
            await stream.start(timeline.media_type, name)
            await stream.send_all(snapshot.timeline(timeline))


class _Stream:
    """A response of unknown length; incomplete unless `send_all` returns.

    `litestar.response.Stream` has no timeout for a client that does not read.
    """

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
        """Send all pieces and the end. Raises TimeoutError if the client does not read."""
        # uvicorn raises nothing from `send` after the client has disconnected.
        disconnected = asyncio.create_task(self._wait_for_disconnect())
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if disconnected.done():
                        return
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._send_body(piece, more=True)
            await self._send_body(b"", more=False)
        finally:
            disconnected.cancel()

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


@get("/export.csv")
async def get_csv(request: _Request) -> ASGIApp:
    return _exporter(request).response("csv", _round_number(request))


@get("/export.json")
async def get_json(request: _Request) -> ASGIApp:
    return _exporter(request).response("json", _round_number(request))


def _exporter(request: _Request) -> Exporter:
    exporter: Exporter = request.app.state.exporter
    return exporter


def _round_number(request: _Request) -> int | None:
    """Parse `?round=N`; a number too large for the column becomes 0, which no round has."""
    values = request.query_params.getall("round", [])
    if not values:
        return None
    [text] = values if len(values) == 1 else [""]
    if not (text.isascii() and text.isdigit()):
        raise ProblemError(INVALID_ROUND)
    return int(text) if len(text) <= 9 else 0  # noqa: PLR2004 - digits that fit into the column
