"""Exports over HTTP: few at a time, and no request waits for another."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.database.export import NoSuchRound, open_snapshot
from voting.poll import formats
from voting.settings import ExportSettings
from voting.web import errors
from voting.web.errors import ProblemError

log = structlog.get_logger(__name__)

# In a process: each holds a database connection.
MAX_CONCURRENT_EXPORTS = 2

# Seconds for which a client may read nothing, and for a whole export. Postgres ends an idle
# transaction as well, but a response that waits for its client would not notice.
SEND_TIMEOUT = 10.0
EXPORT_TIMEOUT = 300.0


class Exporter:
    """Streams exports. `engine` is for exports only: a connection for each concurrent one."""

    def __init__(self, engine: AsyncEngine, settings: ExportSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_EXPORTS)

    async def get(self, request: Request[Any, Any, Any]) -> ASGIApp:
        """Return a response with the requested round, in the format of the route's `suffix`.

        `litestar.response.Stream` has no timeout for a client that does not read.
        """
        suffix, number = request.route_handler.opt["suffix"], _round_number(request)
        show_results = self._settings.show_results

        async def respond(_: Scope, receive: Receive, send: Send) -> None:
            if self._slots.locked():
                raise ProblemError(errors.EXPORT_BUSY)
            started = False
            try:
                async with (
                    self._slots,
                    asyncio.timeout(EXPORT_TIMEOUT),
                    open_snapshot(self._engine, show_results, number) as snapshot,
                ):
                    timeline = formats.TIMELINE[suffix](snapshot.result)
                    name = f"votes-round-{snapshot.result.poll.round}.{suffix}"
                    headers = [
                        (b"content-type", timeline.media_type.encode()),
                        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
                        (b"cache-control", b"no-store"),
                    ]
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await _send_all(snapshot.timeline(timeline), receive, send)
                # Only now: a client that has all of it holds no slot, and may ask for the next.
                async with asyncio.timeout(SEND_TIMEOUT):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except NoSuchRound as error:
                raise ProblemError(errors.NO_ROUND) from error
            except DATABASE_ERRORS as error:
                log.warning("export failed", reason=in_one_line(error))
                if not started:
                    raise ProblemError(errors.DATABASE_UNAVAILABLE) from error
                # Without the final chunk, the client reports an incomplete response.

        return respond


async def _send_all(pieces: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    """Send a body except its end. Raises TimeoutError if the client does not read."""
    # uvicorn raises nothing from `send` after the client has disconnected.
    disconnected = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if disconnected.done():
                    return
                async with asyncio.timeout(SEND_TIMEOUT):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        disconnected.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _round_number(request: Request[Any, Any, Any]) -> int | None:
    """Parse `?round=N`; a number too large for the column becomes 0, which no round has."""
    match request.query_params.getall("round", []):
        case []:
            return None
        case [text] if text.isascii() and text.isdigit():
            return int(text) if len(text) <= 9 else 0  # noqa: PLR2004 - digits that fit
    raise ProblemError(errors.INVALID_ROUND)
