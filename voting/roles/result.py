"""ROLE=result: the pages that show the totals, the same as JSON, and exports."""

from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, nan
from time import monotonic
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database import totals
from voting.database.engine import create_engine
from voting.poll.lifecycle import Phase
from voting.poll.results import (
    PollResult,
    PublicFinal,
    PublicResult,
    as_dict,
    publish,
    publish_final,
)
from voting.roles.exports import MAX_CONCURRENT_EXPORTS, Exporter
from voting.settings import ResultSettings, SettingsError
from voting.telemetry import metrics, tracing
from voting.web import errors
from voting.web.cache import SingleFlight
from voting.web.errors import ProblemError
from voting.web.headers import (
    PARTIAL,
    PageResponse,
    conditional_response,
    make_etag,
    request_headers,
    see_other,
)
from voting.web.languages import Language
from voting.web.pages import Pages
from voting.web.server import HTTPServer, serve
from voting.web.svg import address_and_code, draw

# Seconds between two queries for the totals, of 0.3 ms each. As pages poll every second, a vote is
# shown 1.1 seconds after its commit, and a second later if a proxy caches the response for as long
# as it may.
RESULT_TTL = 0.1

# Seconds between two queries for the list of earlier rounds.
FINALS_TTL = 1.0

# Seconds between two queries for the timeline, whose buckets are ten seconds long.
TIMELINE_TTL = 5.0

# Earlier rounds whose results are kept, each with a page of 15 kB in each language.
MAX_ROUNDS = 100

# Proxies may cache the totals for a second; browsers revalidate and mostly get a 304.
_CACHE = "public, max-age=0, s-maxage=1, must-revalidate"
_PAGE_HEADERS = (PARTIAL, (b"cache-control", _CACHE.encode()))

_Request = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A result, and the pages rendered from it with their ETags, by template and language."""

    result: PublicResult | None
    stale: bool = False
    pages: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)


class ResultRole:
    """What the handlers share: the latest result, and the pages that were rendered from it."""

    def __init__(
        self, engine: AsyncEngine, settings: ResultSettings, *, exports: AsyncEngine
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._pages = Pages(settings, embed_in=settings.embed_in)
        self._exporter = Exporter(exports, settings)
        self._result = SingleFlight[PublicResult](self._fetch, ttl=RESULT_TTL)
        self._finals = SingleFlight[list[PublicFinal]](self._fetch_finals, ttl=FINALS_TTL)
        self._fetched_at = nan
        self._address, self._code = address_and_code(settings.vote_url)
        self._timeline: PollResult
        self._timeline_expires = -inf
        self._rendered = _Rendered(None)
        # Of rounds that are over, by number: None if there is no final result.
        self._rounds: dict[int, SingleFlight[_Rendered | None]] = {}
        for phase in Phase:
            metrics.PHASE.labels(phase).set(nan)
        metrics.TOTALS_AGE.set_function(lambda: monotonic() - self._fetched_at)

    def create_app(self) -> Litestar:
        return self._pages.create_app(
            [
                get("/", template="result.html")(self._get_page),
                get("/tally", template="_tally.html")(self._get_page),
                get("/screen", template="screen.html")(self._get_page),
                get("/timeline", template="_timeline.html")(self._get_page),
                get("/rounds")(self._get_rounds),
                get("/rounds/{number:int}")(self._get_round),
                get("/api/tally")(self._get_api_tally),
                get("/export.csv", suffix="csv")(self._exporter.get),
                get("/export.json", suffix="json")(self._exporter.get),
            ]
        )

    async def ready(self) -> bool:
        """Raises SettingsError if Postgres can't be used."""
        await self._result.get()
        if isinstance(self._result.error, SettingsError):
            raise self._result.error
        return self._result.value is not None and not self._result.stale

    async def _get_api_tally(self, request: _Request) -> Response[dict[str, Any]]:
        """Return the result: 503 before the first query succeeded, `stale` while they fail.

        Scripts of the pages that may embed the result can read it too.
        """
        result = await self._result.get()
        body = {**as_dict(result), "stale": self._result.stale}
        status = 200 if result else 503
        headers = {"Cache-Control": _CACHE}
        if self._settings.embed_in:
            headers["Vary"] = "Origin"
        if (origin := request.headers.get("origin")) in self._settings.embed_in:
            headers["Access-Control-Allow-Origin"] = origin
        return Response(body, status_code=status, headers=headers)

    async def _get_rounds(self, request: _Request) -> PageResponse:
        """List the rounds that are over, the newest first."""
        finals = await self._finals.get()
        if finals is None:
            raise ProblemError(errors.DATABASE_UNAVAILABLE)
        language = self._pages.language_of(request)
        page = self._pages.render(language, "rounds.html", rounds=finals)
        return _respond(request, language, page, make_etag(page))

    async def _get_round(self, request: _Request, number: FromPath[int]) -> PageResponse:
        """Show a round that is over; the one that runs has a page of its own."""
        result = await self._result.get()
        if result is None:
            raise ProblemError(errors.DATABASE_UNAVAILABLE)
        if number == result.poll.round:
            return see_other("/")
        if not 0 < number < result.poll.round:
            raise ProblemError(errors.NO_ROUND)
        if number not in self._rounds:
            if len(self._rounds) >= MAX_ROUNDS:
                self._rounds.clear()
            # It changes only if it is revealed, or the database is restored.
            fetch = partial(self._fetch_round, number)
            self._rounds[number] = SingleFlight(fetch, ttl=TIMELINE_TTL)
        kept = self._rounds[number]
        found = await kept.get()
        if found is None:
            raise ProblemError(errors.DATABASE_UNAVAILABLE if kept.stale else errors.NO_ROUND)
        return self._respond_once(request, "round.html", found)

    async def _fetch_round(self, number: int) -> _Rendered | None:
        async with self._engine.connect() as connection:
            found = await totals.fetch_past_result(connection, number, timeline=True)
        return _Rendered(publish(found, self._settings.show_results)) if found else None

    async def _get_page(self, request: _Request) -> PageResponse:
        """Return a page, rendered once for all clients while the result is the same."""
        latest = await self._result.get(), self._result.stale
        if (self._rendered.result, self._rendered.stale) != latest:
            self._rendered = _Rendered(*latest)
        template = request.route_handler.opt["template"]
        response = self._respond_once(request, template, self._rendered)
        metrics.RESULT_RESPONSES.labels(str(response.status)).inc()
        return response

    def _respond_once(self, request: _Request, template: str, rendered: _Rendered) -> PageResponse:
        """Respond with a page of a result, which is rendered once for each language."""
        language = self._pages.language_of(request)
        key = template, language.code
        if key not in rendered.pages:
            page = self._render(language, template, rendered.result, stale=rendered.stale)
            rendered.pages[key] = page, make_etag(page)
        return _respond(request, language, *rendered.pages[key])

    def _render(
        self, language: Language, template: str, result: PublicResult | None, *, stale: bool
    ) -> str:
        phase = result.poll.phase if result else None
        return self._pages.render(
            language,
            template,
            result=result,
            phase=phase,
            closed=phase is not Phase.OPEN,
            closes_at=result.poll.closes_at if result else None,
            stale=stale,
            until_revealed=self._settings.show_results == "when_revealed",
            code=self._code,
            address=self._address,
            drawing=draw(result) if template != "_tally.html" else None,
        )

    async def _fetch_finals(self) -> list[PublicFinal]:
        finals = await totals.fetch_last_results(self._engine)
        return [publish_final(each, self._settings.show_results) for each in finals]

    async def _fetch(self) -> PublicResult:
        started = monotonic()
        try:
            with tracing.query_span("totals"):
                result = await self._fetch_result()
        except BaseException:
            metrics.TOTALS_QUERIES.labels("failed").inc()
            raise
        self._fetched_at = monotonic()
        metrics.TOTALS_QUERIES.labels("success").inc()
        metrics.TOTALS_SECONDS.observe(self._fetched_at - started)
        metrics.VOTES_COUNTED.set(result.totals.votes)
        for phase in Phase:
            metrics.PHASE.labels(phase).set(phase is result.poll.phase)
        return publish(result, self._settings.show_results)

    async def _fetch_result(self) -> PollResult:
        """Query the totals and, if the last timeline has expired, with them the timeline."""
        if monotonic() >= self._timeline_expires:
            result = await totals.fetch_result(self._engine, timeline=True)
            self._timeline, self._timeline_expires = result, monotonic() + TIMELINE_TTL
            return result
        result = await totals.fetch_result(self._engine)
        is_same_round = result.poll.round == self._timeline.poll.round
        timeline = self._timeline.timeline if is_same_round else ()
        if result.poll != self._timeline.poll or (result.totals.votes and not timeline):
            self._timeline_expires = -inf
        return replace(result, timeline=timeline)


def _respond(request: _Request, language: Language, page: str, etag: bytes) -> PageResponse:
    headers = (*_PAGE_HEADERS, *language.headers)
    return conditional_response(request_headers(request.scope), page, headers, etag=etag)


async def run(settings: ResultSettings) -> None:
    """Run the role until a signal stops it."""
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, name="voting-result", writes=False)
    exports = create_engine(
        url, name="voting-export", pool_size=MAX_CONCURRENT_EXPORTS, writes=False
    )
    flush_traces = tracing.start("result", settings)
    role = ResultRole(engine, settings, exports=exports)
    server = HTTPServer(role.create_app(), settings.host, settings.port)
    try:
        await serve("result", settings, server, role.ready)
    finally:
        await engine.dispose()
        await exports.dispose()
        flush_traces()
