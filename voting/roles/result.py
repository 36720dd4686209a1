"""ROLE=result: the page where everybody watches the totals."""

import functools
import hashlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get
from litestar.types import ASGIApp
from sqlalchemy.ext.asyncio import AsyncEngine

from voting import tally, tracing
from voting.database import create_engine
from voting.latest import Latest
from voting.server import Site, serve
from voting.settings import ResultSettings
from voting.tally import Standing
from voting.web import FRAGMENT, Pages

if TYPE_CHECKING:
    from voting.spans import Spans

# Together with the page's poll each second, a vote is seen within two seconds of its commit.
INTERVAL = 0.5

# Proxies may keep the totals for a second; browsers ask each time and mostly get a 304.
_CACHE = "public, max-age=0, s-maxage=1, must-revalidate"


class ResultRole:
    """The handlers' work, with all that they need."""

    def __init__(
        self, engine: AsyncEngine, settings: ResultSettings, spans: "Spans | None" = None
    ) -> None:
        self._settings = settings
        self._pages = Pages(settings)
        ask = functools.partial(tally.standing, engine)
        if spans is not None:
            ask = functools.partial(spans.query, "totals", ask)
        self._standing: Latest[Standing] = Latest(ask, interval=INTERVAL)

    def create_app(self) -> ASGIApp:
        @get("/")
        async def page(request: Request[Any, Any, Any]) -> Response[str]:
            return self._answer(request, self._render("result.html", await self._standing.get()))

        @get("/tally")
        async def fragment(request: Request[Any, Any, Any]) -> Response[str]:
            return self._answer(request, self._render("_tally.html", await self._standing.get()))

        @get("/api/tally")
        async def api() -> Response[dict[str, Any]]:
            return await self.api()

        return self._pages.create_app([page, fragment, api])

    async def ready(self) -> bool:
        return await self._standing.get() is not None and not self._standing.failing

    async def api(self) -> Response[dict[str, Any]]:
        """Totals as JSON: null and 503 where they were never read, stale while they can't be."""
        standing = await self._standing.get()
        totals = standing.totals if standing else None
        names = {"a": self._settings.option_a, "b": self._settings.option_b}
        votes = {"a": totals.a, "b": totals.b} if totals else {"a": None, "b": None}
        body = {
            "title": self._settings.poll_title,
            "options": {key: {"name": names[key], "votes": votes[key]} for key in names},
            "votes": totals.votes if totals else None,
            "at": totals.at.isoformat() if totals else None,
            "stale": self._standing.failing,
        }
        status = HTTPStatus.OK if totals else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(body, status_code=status, headers={"Cache-Control": _CACHE})

    def _render(self, template: str, standing: Standing | None) -> str:
        totals = standing.totals if standing else None
        return self._pages.render(template, totals=totals, stale=self._standing.failing)

    def _answer(self, request: Request[Any, Any, Any], body: str) -> Response[str]:
        # Votes may be what they were and the answer still be another: names, staleness, layout.
        etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:20]}"'
        headers = FRAGMENT | {"Cache-Control": _CACHE, "ETag": etag}
        if etag in request.headers.get("if-none-match", ""):
            return Response("", status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, media_type=MediaType.HTML, headers=headers)


async def run(settings: ResultSettings) -> None:
    """Run the role until a signal stops it."""
    engine = create_engine(settings.database_url.get_secret_value(), name="voting-result")
    spans = tracing.start("result", settings)
    role = ResultRole(engine, settings, spans)
    site = Site(role.create_app(), settings.host, settings.port)
    try:
        await serve("result", settings, site, role.ready)
    finally:
        await engine.dispose()
        if spans is not None:
            spans.close()
