"""ROLE=vote: the page where people pick, and the one request that casts their ballot."""

from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from math import ceil
from time import perf_counter, time
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from litestar import Request, get, post
from litestar.types import ASGIApp
from opentelemetry.trace import Span

from voting.poll.ballot import Ballot, Choice, Version
from voting.poll.lifecycle import CastRules
from voting.queue.client import Queue, connect
from voting.queue.producer import Caster, CastError, MaybeRecorded, NotRecorded, PollClosed
from voting.queue.state import GroupProgress, QueueState
from voting.settings import VoteSettings
from voting.telemetry import metrics, tracing
from voting.web.cache import Latest
from voting.web.cookies import VoterCookies
from voting.web.exchange import Answer, Asked, BrokenOff, TooLarge
from voting.web.forms import MAX_BODY, FormError, read_choice
from voting.web.pages import (
    FRAGMENT,
    Pages,
    ProblemError,
    is_same_origin,
    or_unchanged,
    wants_fragment,
)
from voting.web.rate_limit import RateLimit
from voting.web.server import Site, serve
from voting.web.texts import (
    CLOSED,
    CROSS_ORIGIN,
    FULL,
    INVALID_FORM,
    NO_COOKIE,
    QUEUE_UNAVAILABLE,
    RATE_LIMITED,
    TOO_LARGE,
    UNKNOWN,
    Problem,
    bad_request,
)

log = structlog.get_logger(__name__)

YEAR = 365 * 24 * 3600

# Seconds after which a ballot that is not counted yet is said to take long.
LONG = 15.0

# Nobody reads it.
INCOMPLETE_BODY = bad_request(HTTPStatus.BAD_REQUEST)

_CAST: dict[type[CastError], Problem] = {
    PollClosed: CLOSED,
    NotRecorded: QUEUE_UNAVAILABLE,
    MaybeRecorded: UNKNOWN,
}
_REASONS = {
    CROSS_ORIGIN: "cross_origin",
    NO_COOKIE: "no_cookie",
    TOO_LARGE: "too_large",
    RATE_LIMITED: "rate_limited",
    CLOSED: "closed",
    QUEUE_UNAVAILABLE: "unavailable",
    FULL: "full",
    UNKNOWN: "unknown",
    INCOMPLETE_BODY: "invalid_form",
    **dict.fromkeys(INVALID_FORM.values(), "invalid_form"),
}


class Mine(NamedTuple):
    """What this browser voted last, as its cookie says.

    The cookie is not signed: it is shown to the one who holds it and decides nothing.
    """

    choice: Choice
    version: Version

    @classmethod
    def read(cls, cookie: str | None) -> "Mine | None":
        choice, _, version = (cookie or "").partition(".")
        try:
            return cls(Choice(choice), Version.parse(version))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.choice}.{self.version}"

    @property
    def late(self) -> bool:
        """Whether it should be counted by now. Clocks of two machines are compared: roughly."""
        return time() - self.version.ms / 1000 > LONG


class VoteRole:
    """The handlers' work, with all that they need."""

    def __init__(self, caster: Caster, state: QueueState, settings: VoteSettings) -> None:
        self._caster = caster
        self._tracing = tracing.CastTracing(settings)
        self._pages = Pages(settings)
        self._voters = VoterCookies([key.get_secret_value() for key in settings.secret_keys])
        self._limit = RateLimit(settings.votes_per_minute)
        prefix = "__Host-" if settings.secure else ""
        self._voter_cookie, self._ballot_cookie = f"{prefix}voter", f"{prefix}ballot"
        self._cookie_ends = f"; HttpOnly; Max-Age={YEAR}; Path=/; SameSite=lax"
        if settings.secure:
            self._cookie_ends += "; Secure"
        self._progress: Latest[GroupProgress] = Latest(state.progress, interval=1.0)
        self._rules: Latest[CastRules | None] = Latest(state.cast_rules, interval=1.0)
        self._full: Latest[bool] = Latest(state.memory_is_low, interval=1.0)

    def create_app(self) -> ASGIApp:
        @get("/")
        async def page(request: Request[Any, Any, Any]) -> Answer:
            return await self.page(Asked(request.scope, request.receive))

        @post("/vote")
        async def vote(request: Request[Any, Any, Any]) -> Answer:
            return await self.vote(Asked(request.scope, request.receive))

        @get("/receipt")
        async def receipt(request: Request[Any, Any, Any]) -> Answer:
            return await self.receipt(Asked(request.scope, request.receive))

        # Litestar's way to a handler takes a fifth of the time that a vote takes in all.
        return self._pages.create_app([page, vote, receipt], straight={"/vote": self.vote})

    async def page(self, request: Asked) -> Answer:
        if self._voter(request) is not None:
            return await self._ballot(request, "vote.html", self._last(request))
        cookies = [self._cookie(self._voter_cookie, self._voters.mint())]
        return await self._ballot(request, "vote.html", None, cookies=cookies)

    async def vote(self, request: Asked) -> Answer:
        scope = request.scope
        with (
            metrics.IN_FLIGHT.track_inprogress(),
            self._tracing.request(
                "POST", scope["path"], scope.get("scheme", "http"), request.headers
            ) as span,
        ):
            answer = await self._vote(request, span)
            self._tracing.respond(span, answer.status, answer.headers["Voting-Recorded"])
            return answer

    async def _vote(self, request: Asked, span: Span) -> Answer:
        started = perf_counter()
        try:
            mine = await self._cast(request, span)
        except ProblemError as error:
            metrics.REFUSED.labels(_reason(error.problem)).inc()
            template = "_ballot.html" if wants_fragment(request) else "vote.html"
            return await self._ballot(request, template, self._mine(request), error.problem)
        metrics.ACCEPTED.inc()
        metrics.ACCEPT_SECONDS.observe(perf_counter() - started)
        cookies = [self._cookie(self._ballot_cookie, str(mine))]
        if wants_fragment(request):
            return await self._ballot(request, "_ballot.html", mine, cookies=cookies)
        headers = {"Location": "/", "Cache-Control": "no-store"} | _recorded(None)
        return Answer(status=HTTPStatus.SEE_OTHER, headers=headers, cookies=cookies)

    async def receipt(self, request: Asked) -> Answer:
        return or_unchanged(
            request, await self._ballot(request, "_receipt.html", self._mine(request))
        )

    async def _cast(self, request: Asked, span: Span) -> Mine:
        ballot = await self._read(request)
        if self._full.last and await self._full.get():
            raise ProblemError(FULL)
        if wait := self._limit.take(ballot.voter.int):
            raise ProblemError(replace(RATE_LIMITED, retry_after=ceil(wait)))
        try:
            version = await self._send(ballot, span)
        except CastError as error:
            if not isinstance(error, MaybeRecorded):
                self._limit.give_back(ballot.voter.int)
            raise ProblemError(_CAST[type(error)]) from error
        except Exception as error:
            log.exception("a cast failed in a way that nobody expected")
            raise ProblemError(UNKNOWN) from error
        # For the next ballot. Asked before the cast, it would hold it up where Redis hangs.
        await self._full.get()
        return Mine(ballot.choice, version)

    async def _read(self, request: Asked) -> Ballot:
        """Read who votes for what. Raises ProblemError."""
        if not is_same_origin(request.headers):
            raise ProblemError(CROSS_ORIGIN)
        try:
            choice = read_choice(
                request.headers.get("content-type", ""), await request.body(MAX_BODY)
            )
        except FormError as error:
            raise ProblemError(INVALID_FORM[error.status]) from error
        except TooLarge as error:
            raise ProblemError(TOO_LARGE) from error
        except BrokenOff as error:
            raise ProblemError(INCOMPLETE_BODY) from error
        voter = self._voter(request)
        if voter is None:
            raise ProblemError(NO_COOKIE)
        return Ballot(voter, choice)

    async def _send(self, ballot: Ballot, span: Span) -> Version:
        async def cast(trace: str | None) -> Version:
            followed = ballot if trace is None else replace(ballot, trace=trace)
            return await self._caster.cast(followed)

        return await self._tracing.cast(cast, span)

    async def _ballot(
        self,
        request: Asked,
        template: str,
        mine: Mine | None,
        problem: Problem | None = None,
        *,
        cookies: Sequence[str] = (),
    ) -> Answer:
        counted = late = False
        rules = self._rules.last
        # Right after the cast it can't be counted yet: no need to ask.
        if request.method == "GET":
            rules = await self._rules.get()
            mine = _of_this_round(mine, rules)
            if mine is not None and (progress := await self._progress.get()) is not None:
                counted = progress.counted(mine.version)
            late = mine is not None and not counted and mine.late
        closed = rules is not None and not rules.open
        if request.method == "POST":  # Redis has just told
            closed = problem is CLOSED or (closed and problem is not None)
        headers = FRAGMENT | (problem.headers if problem else {"Cache-Control": "no-store"})
        if request.method == "POST":
            headers |= _recorded(problem)
        return Answer(
            self._pages.render_same(
                template,
                choice=mine and mine.choice,
                counted=counted,
                late="is_late" if late else "will_count",
                problem=problem,
                lost=UNKNOWN,
                closed=closed,
                closes_at=rules and rules.closes_at,
            ),
            status=problem.status if problem else HTTPStatus.OK,
            headers=headers,
            cookies=cookies,
        )

    def _voter(self, request: Asked) -> UUID | None:
        return self._voters.read(request.cookie(self._voter_cookie))

    def _mine(self, request: Asked) -> Mine | None:
        # A new voter has not voted, whatever a cookie has kept of the voter before.
        return None if self._voter(request) is None else self._last(request)

    def _last(self, request: Asked) -> Mine | None:
        mine = Mine.read(request.cookie(self._ballot_cookie))
        return _of_this_round(mine, self._rules.last)

    def _cookie(self, name: str, value: str) -> str:
        return f"{name}={value}{self._cookie_ends}"


def _of_this_round(mine: Mine | None, rules: CastRules | None) -> Mine | None:
    """What somebody voted in an earlier round is no vote in this one."""
    earlier = mine is not None and rules is not None and mine.version <= rules.after_version
    return None if earlier else mine


def _recorded(problem: Problem | None) -> dict[str, str]:
    """Say for programs what the page says for people: whether the vote is recorded."""
    word = "yes" if problem is None else "unknown" if problem is UNKNOWN else "no"
    return {"Voting-Recorded": word}


def _reason(problem: Problem) -> str:
    return _REASONS.get(problem, "other")


async def run(settings: VoteSettings) -> None:
    """Run the role until a signal stops it."""
    queue = Queue(connect(settings.redis_url.get_secret_value()))
    state = QueueState(queue)
    flush_traces = tracing.start("vote", settings)
    app = VoteRole(Caster(queue), state, settings).create_app()
    try:
        await serve("vote", settings, Site(app, settings.host, settings.port), state.ready)
    finally:
        await queue.close()
        flush_traces()
