"""ROLE=result: the page where everybody watches the totals."""

import functools
import re
from dataclasses import replace
from http import HTTPStatus
from math import inf, nan
from time import monotonic
from typing import Any

from litestar import Request, Response, get
from litestar.types import ASGIApp
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database import totals
from voting.database.engine import create_engine
from voting.poll.lifecycle import Phase
from voting.poll.results import PollResult, PublicResult, as_dict, publish
from voting.roles.downloads import DOWNLOADS, Downloads
from voting.settings import ResultSettings
from voting.telemetry import metrics, tracing
from voting.web.cache import Latest
from voting.web.exchange import Answer, Asked
from voting.web.pages import FRAGMENT, Pages, etag_of
from voting.web.qr import code
from voting.web.server import Site, serve
from voting.web.timeline import draw

# Seconds. Together with the page's poll each second, a vote is seen within two of its commit, and
# within three where a proxy keeps an answer for as long as it may.
INTERVAL = 1.0

# Seconds for which the timeline is not read again: it has a step for every ten.
STEPS_SECONDS = 5.0

# Proxies may keep the totals for a second; browsers ask each time and mostly get a 304.
_CACHE = "public, max-age=0, s-maxage=1, must-revalidate"


class ResultRole:
    """The handlers' work, with all that they need."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: ResultSettings,
        *,
        exports: AsyncEngine,
    ) -> None:
        self._settings = settings
        self._pages = Pages(settings)
        self._downloads = Downloads(exports, settings)
        ask = functools.partial(self._ask, engine)
        self._result: Latest[PublicResult] = Latest(ask, interval=INTERVAL)
        self._asked = nan  # when the latest answer came
        # Where people vote, as they type it and as a phone reads it.
        self._address = re.sub(r"^https?://", "", settings.vote_url or "")
        self._code = code(settings.vote_url) if settings.vote_url else None
        self._steps: PollResult
        self._steps_until = -inf
        # What is made of the latest totals: each body with its tag, by template.
        self._made_of: tuple[PublicResult | None, bool] | None = None
        self._made: dict[str, tuple[str, str]] = {}
        for phase in Phase:
            metrics.PHASE.labels(phase).set(nan)
        metrics.TOTALS_AGE.set_function(lambda: monotonic() - self._asked)

    def create_app(self) -> ASGIApp:
        @get("/")
        async def page(request: Request[Any, Any, Any]) -> Answer:
            return await self._page(Asked(request.scope, request.receive), "result.html")

        @get("/tally")
        async def fragment(request: Request[Any, Any, Any]) -> Answer:
            return await self._page(Asked(request.scope, request.receive), "_tally.html")

        @get("/screen")
        async def screen(request: Request[Any, Any, Any]) -> Answer:
            return await self._page(Asked(request.scope, request.receive), "screen.html")

        @get("/timeline")
        async def timeline(request: Request[Any, Any, Any]) -> Answer:
            return await self._page(Asked(request.scope, request.receive), "_timeline.html")

        @get("/api/tally")
        async def api() -> Response[dict[str, Any]]:
            return await self.api()

        return self._pages.create_app(
            [page, fragment, screen, timeline, api, *self._downloads.handlers()]
        )

    async def ready(self) -> bool:
        return await self._result.get() is not None and not self._result.failing

    async def api(self) -> Response[dict[str, Any]]:
        """What is result as JSON: 503 where it was never read, stale while it can't be."""
        result = await self._result.get()
        body = {**as_dict(result, self._settings.question), "stale": self._result.failing}
        status = HTTPStatus.OK if result else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(body, status_code=status, headers={"Cache-Control": _CACHE})

    async def _ask(self, engine: AsyncEngine) -> PublicResult:
        started = monotonic()
        try:
            with tracing.query_span("totals"):
                standing = await self._standing(engine)
        except BaseException:
            metrics.TOTALS_QUERIES.labels("failed").inc()
            raise
        self._asked = monotonic()
        metrics.TOTALS_QUERIES.labels("success").inc()
        metrics.TOTALS_SECONDS.observe(self._asked - started)
        metrics.VOTES_COUNTED.set(standing.totals.votes)
        for phase in Phase:
            metrics.PHASE.labels(phase).set(phase is standing.poll.phase)
        return publish(standing, self._settings.show_results)

    async def _standing(self, engine: AsyncEngine) -> PollResult:
        """Read the totals and, now and then, in the same question, how it came to them."""
        if monotonic() >= self._steps_until:
            found = await totals.fetch_result(engine, timeline=True)
            self._steps, self._steps_until = found, monotonic() + STEPS_SECONDS
            return found
        found = await totals.fetch_result(engine)
        known = self._steps.timeline if found.poll.round == self._steps.poll.round else ()
        if found.poll != self._steps.poll or (found.totals.votes and not known):
            self._steps_until = -inf  # something happened: worth another look
        return replace(found, timeline=known)

    def _render(self, template: str, result: PublicResult | None) -> str:
        phase = result.poll.phase if result else None
        return self._pages.render(
            template,
            result=result,
            phase=phase,
            closed=phase is not Phase.OPEN,
            closes_at=result.poll.closes_at if result else None,
            stale=self._result.failing,
            code=self._code,
            address=self._address,
            drawing=draw(result) if template != "_tally.html" else None,
        )

    async def _page(self, request: Asked, template: str) -> Answer:
        """Answer with a page, made once for all who look at the same totals."""
        result = await self._result.get()
        state = (result, self._result.failing)
        if self._made_of != state:
            self._made_of, self._made = state, {}
        if template not in self._made:
            body = self._render(template, result)
            self._made[template] = body, etag_of(body)
        # Votes may be what they were and the answer still be another: names, staleness, layout.
        body, etag = self._made[template]
        headers = FRAGMENT | {"Cache-Control": _CACHE, "ETag": etag}
        if etag in request.headers.get("if-none-match", ""):
            metrics.RESULT_RESPONSES.labels("304").inc()
            return Answer(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        metrics.RESULT_RESPONSES.labels("200").inc()
        return Answer(body, headers=headers)


async def run(settings: ResultSettings) -> None:
    """Run the role until a signal stops it."""
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, name="voting-result")
    exports = create_engine(url, name="voting-export", pool_size=DOWNLOADS)
    flush_traces = tracing.start("result", settings)
    role = ResultRole(engine, settings, exports=exports)
    site = Site(role.create_app(), settings.host, settings.port)
    try:
        await serve("result", settings, site, role.ready)
    finally:
        await engine.dispose()
        await exports.dispose()
        flush_traces()
