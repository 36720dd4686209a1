"""ROLE=vote: the page with the options, and the one request that casts a ballot."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import ceil
from time import perf_counter, time
from typing import Any, cast
from uuid import UUID

import structlog
from litestar import Litestar, Request, asgi, get
from litestar.exceptions import MethodNotAllowedException
from litestar.types import ASGIApp, Receive, Scope, Send
from opentelemetry.trace import Span

from voting.poll.ballot import Ballot, Version
from voting.poll.lifecycle import CastRules
from voting.queue.client import Queue
from voting.queue.producer import (
    Caster,
    CastError,
    MaybeRecorded,
    NotRecorded,
    PollClosed,
    RoundOver,
)
from voting.queue.state import GroupProgress, QueueState
from voting.settings import VoteSettings
from voting.telemetry import metrics, tracing
from voting.web import errors
from voting.web.arrival import ARRIVAL, Arrival
from voting.web.cache import SingleFlight
from voting.web.cookies import Cookies, Jar, Receipt, Unanswered, read_cookies
from voting.web.errors import Problem, ProblemError
from voting.web.forms import VoteForm, read_body, read_form
from voting.web.headers import (
    NO_STORE,
    PARTIAL,
    Header,
    PageResponse,
    RequestHeaders,
    conditional_response,
    encode_headers,
    html_response,
    is_htmx,
    is_same_origin,
    make_etag,
    request_headers,
    see_other,
)
from voting.web.languages import Language
from voting.web.pages import Pages
from voting.web.rate_limit import RateLimit
from voting.web.server import HTTPServer, serve

log = structlog.get_logger(__name__)

# Seconds after which the page says that counting a ballot takes longer than usual.
LATE_AFTER = 15.0

# Seconds after a page has sent a vote in which it is cast. The page gives up after eight, and a
# cast takes two at most: whatever held up the request, it is never applied after a vote that was
# sent when the page had given up.
MAX_AGE = 5.0

# Seconds by which the time that a page knows may be ahead. It never is, unless the clock of its
# device has jumped: then this vote is refused, and the page learns the time with the response.
MAX_AHEAD = 2.0

# Seconds for which the state of the queue is cached.
QUEUE_STATE_TTL = 1.0

# Seconds for which the rules of the poll are. An open page polls each second, so that it shows a
# change two seconds after Redis has it, at most.
RULES_TTL = 0.5

_ACCEPTED = (b"voting-recorded", b"yes")
_TO_NOTES = ((b"hx-retarget", b"#notes"), (b"hx-reswap", b"innerHTML"))
_REVALIDATE = ((b"cache-control", b"private, no-cache"), (b"vary", b"cookie, hx-request"))

_CAST_PROBLEMS: dict[type[CastError], Problem] = {
    PollClosed: errors.CLOSED,
    RoundOver: errors.ROUND_OVER,
    NotRecorded: errors.QUEUE_UNAVAILABLE,
    MaybeRecorded: errors.UNKNOWN,
}

_Request = Request[Any, Any, Any]

# Most clients have one of a few pages.
_cached_etag = lru_cache(maxsize=256)(make_etag)


class VoteRole:
    """The handlers, and what they share: the queue, the cookies, the templates, the rate limit."""

    def __init__(self, caster: Caster, state: QueueState, settings: VoteSettings) -> None:
        self._caster = caster
        self._state = state
        self._tracing = tracing.CastTracing.of(settings)
        keys = [key.get_secret_value() for key in settings.secret_keys]
        self._vote_url, self._secure = settings.vote_url, settings.secure
        self._origin = settings.vote_url.encode() if settings.vote_url else None
        self._warned = False
        self._cookies = Cookies(keys, secure=settings.secure, port=settings.public_port)
        # Redis' clock, by which polls close and votes are too old.
        self._now = state.now
        unanswered = self._cookies.unanswered_name
        self._pages = Pages(settings, self._now, unanswered=unanswered, unknown=errors.UNKNOWN)
        self._rate_limit = RateLimit(settings.votes_per_minute)
        self._progress = SingleFlight[GroupProgress](state.progress, ttl=QUEUE_STATE_TTL)
        self._rules = SingleFlight[CastRules | None](state.cast_rules, ttl=RULES_TTL)
        self._memory_is_low = SingleFlight[bool](state.memory_is_low, ttl=QUEUE_STATE_TTL)
        self._in_flight = 0
        metrics.IN_FLIGHT.set_function(lambda: self._in_flight)

    def create_pages(self) -> Litestar:
        return self._pages.create_app([get("/")(self._get_page), _other_methods])

    def create_app(self) -> ASGIApp:
        pages = self.create_pages()

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            # In front of Litestar's router, in which a vote takes a quarter longer.
            if scope["path"] == "/vote" and scope.get("method") == "POST":
                await self._post_vote(scope, receive, send)
            else:
                await pages(scope, receive, send)

        return handle

    async def ready(self) -> bool:
        """Whether ballots can be cast: not without the guard that keeps memory free.

        Raises SettingsError if Redis can't be used.
        """
        await self._memory_is_low.get()
        if not await self._caster.ready() or self._memory_is_low.stale:
            return False
        # Not before, when they are not there yet. They are read here too, as a process that serves
        # nothing but votes would not notice another poll.
        return await self._rules.get() is not None

    async def _post_vote(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = request_headers(scope)
        self._in_flight += 1
        try:
            if self._tracing is None:
                response = await self._vote(scope, headers, receive)
            else:
                with self._tracing.request(scope["path"], scope["scheme"], headers) as span:
                    response = await self._vote(scope, headers, receive, span)
                    recorded = dict(response.headers)[b"voting-recorded"].decode()
                    self._tracing.respond(span, response.status, recorded)
        finally:
            self._in_flight -= 1
        response.headers += self._pages.security_headers
        await response(scope, receive, send)

    async def _vote(
        self, scope: Scope, headers: RequestHeaders, receive: Receive, span: Span | None = None
    ) -> PageResponse:
        """Cast the ballot of a request, and return the response with its outcome."""
        started = perf_counter()
        arrival = cast("Arrival | None", (scope.get("extensions") or {}).get(ARRIVAL))
        jar = read_cookies(headers)
        unanswered = self._cookies.unanswered(jar)
        sent = unanswered and unanswered.sent

        def wanted(now: float) -> bool:
            age = 0.0 if sent is None else now - sent / 1000
            return (arrival is None or arrival.is_current()) and -MAX_AHEAD <= age <= MAX_AGE

        try:
            form = await self._read_form(headers, receive)
            ballot = await self._read_ballot(headers, jar, form)
            version = await self._cast(ballot, form.round, wanted, span)
            metrics.ACCEPTED.inc()
            metrics.ACCEPT_SECONDS.observe(perf_counter() - started)
            return self._acknowledge(headers, Receipt(ballot.choice, version), unanswered)
        except ProblemError as error:
            problem = error.problem
        except Exception:
            log.exception("unexpected error during a vote")
            problem = errors.UNKNOWN
        return self._refuse(headers, jar, problem, unanswered)

    def _acknowledge(
        self, headers: RequestHeaders, receipt: Receipt, unanswered: Unanswered | None
    ) -> PageResponse:
        answer = [_ACCEPTED, self._clock(), self._cookies.set_receipt(receipt)]
        if unanswered is not None:
            answer.append(self._cookies.delete_unanswered())
        if is_htmx(headers):
            language = self._pages.language(headers)
            part = self._render_outcome(language, "_ballot.html", receipt)
            return html_response(part, [NO_STORE, PARTIAL, *language.headers, *answer])
        return see_other("/", *answer)

    def _clock(self) -> Header:
        """Return the header from which pages know when they send a vote."""
        return b"voting-clock", b"%d" % (self._now() * 1000)

    async def _read_form(self, headers: RequestHeaders, receive: Receive) -> VoteForm:
        if not is_same_origin(headers, self._origin):
            self._warn_of_proxy(headers)
            raise ProblemError(errors.CROSS_ORIGIN.naming(self._vote_url))
        return read_form(headers, await read_body(headers, receive))

    async def _read_ballot(self, headers: RequestHeaders, jar: Jar, form: VoteForm) -> Ballot:
        rules = self._rules.value
        if rules is None or rules.round != form.round:
            # The page may be of another process, which knows of the next round already.
            rules = await self._rules.refresh()
        voter = self._voter(jar, rules)
        if voter is None:
            rules = await self._rules.get()
            voter = self._voter(jar, rules)
        if rules is None or voter is None:
            raise ProblemError(self._why_unknown(headers, jar))
        if rules.round != form.round:
            raise ProblemError(self._why_not_in_round(form.round))
        if form.choice not in rules.question.choices:
            raise ProblemError(errors.NOT_A_CHOICE)
        return Ballot(voter, form.choice)

    def _why_not_in_round(self, number: int) -> Problem:
        """Return why there is no ballot for a round, once the rules were read again."""
        rules = self._rules.value
        known = rules is not None and rules.round != number and not self._rules.stale
        return errors.ROUND_OVER if known else errors.QUEUE_UNAVAILABLE

    def _voter(self, jar: Jar, rules: CastRules | None) -> UUID | None:
        """Return the voter; None as long as it is not known which poll this is."""
        return self._cookies.voter(jar, rules.database_id) if rules else None

    def _why_unknown(self, headers: RequestHeaders, jar: Jar) -> Problem:
        if self._rules.value is None:
            return errors.QUEUE_UNAVAILABLE
        if self._cookies.has_voter(jar):
            return errors.STRANGE_COOKIE
        if self._secure and headers.get(b"origin", b"").startswith(b"http:"):
            return errors.NOT_ENCRYPTED.naming(self._vote_url)
        return errors.NO_COOKIE

    def _warn_of_proxy(self, headers: RequestHeaders) -> None:
        """Tell the operator, once, what may be the reason for a vote from another site."""
        if not self._warned:
            self._warned = True
            origin, host = (
                headers.get(each, b"").decode("latin-1") for each in (b"origin", b"host")
            )
            log.warning(
                "a vote from another site was refused. If its origin is the address of this page, a"
                " proxy changes the Host header: set VOTE_URL to that address",
                origin=origin,
                host=host,
                vote_url=self._vote_url,
            )

    async def _cast(
        self, ballot: Ballot, number: int, wanted: Callable[[float], bool], span: Span | None
    ) -> Version:
        if self._memory_is_low.value and await self._memory_is_low.get():
            raise ProblemError(errors.FULL)
        if wait := self._rate_limit.acquire(ballot.voter.int):
            raise ProblemError(replace(errors.RATE_LIMITED, retry_after=ceil(wait)))
        try:
            if self._tracing is None or span is None:
                version = await self._caster.cast(ballot, number, wanted)
            else:
                version = await self._tracing.cast(
                    lambda trace: self._caster.cast(replace(ballot, trace=trace), number, wanted),
                    span,
                )
        except CastError as error:
            if not isinstance(error, MaybeRecorded):
                self._rate_limit.refund(ballot.voter.int)
            if isinstance(error, RoundOver):
                await self._rules.refresh()  # the response has the next question
                raise ProblemError(self._why_not_in_round(number)) from error
            raise ProblemError(_CAST_PROBLEMS[type(error)]) from error
        # For the next ballot. Before the cast, it would delay this one if Redis hangs.
        await self._memory_is_low.get()
        return version

    def _refuse(
        self, headers: RequestHeaders, jar: Jar, problem: Problem, unanswered: Unanswered | None
    ) -> PageResponse:
        metrics.REFUSED.labels(problem.reason).inc()
        unknown = problem is errors.UNKNOWN
        cookies: list[Header] = []
        if unknown:
            first = int(self._now() * 1000) if unanswered is None else unanswered.first
            cookies = [self._cookies.set_unanswered(first)]
        elif unanswered is not None and unanswered.sent is not None:  # this vote has an answer
            cookies = [
                self._cookies.set_unanswered(unanswered.first)
                if unanswered.earlier
                else self._cookies.delete_unanswered()
            ]
        if problem in {errors.STRANGE_COOKIE, errors.NO_COOKIE} and self._rules.value:
            cookies = self._cookies.set_new_voter(jar, self._rules.value.database_id)
        language = self._pages.language(headers)
        template, answer = "vote.html", [PARTIAL, self._clock(), *language.headers, *cookies]
        if is_htmx(headers):
            template = "_ballot.html"
            if self._rules.value is None:  # an open page keeps its question
                template, answer = "_refusal.html", [*answer, *_TO_NOTES]
        unclear = unknown or (unanswered is not None and unanswered.earlier)
        receipt = None if unclear else self._receipt(jar, self._rules.value)
        page = self._render_outcome(language, template, receipt, problem)
        answer.append((b"voting-recorded", b"unknown" if unknown else b"no"))
        return _respond_with(problem, page, answer)

    async def _get_page(self, request: _Request) -> PageResponse:
        """Return the page, or for htmx the part of it that an open page polls."""
        headers = request_headers(request.scope)
        jar, part = read_cookies(headers), is_htmx(headers)
        shown = _shown_round(request.scope["query_string"]) if part else 0
        rules = await self._rules.get()
        if rules is not None and rules.round < shown:  # of another process
            rules = await self._rules.refresh()
        language = self._pages.language(headers)
        answer = [PARTIAL, self._clock(), *language.headers]
        behind = rules is not None and rules.round < shown and self._rules.stale
        if part and (rules is None or behind):  # an open page stays as it is
            return PageResponse(204, [NO_STORE, *answer])
        if rules is None:
            page = self._render_outcome(language, "vote.html", None, errors.NO_QUESTION)
            return _respond_with(errors.NO_QUESTION, page, answer)
        voter = self._voter(jar, rules)
        # A page with a question has its cookie: if not, the answer to its vote says so.
        if voter is None and not shown:
            answer += self._cookies.set_new_voter(jar, rules.database_id)
        template = "_ballot.html" if part else "vote.html"
        page = await self._render_status(language, template, jar if voter else {}, rules)
        if part:
            answer += _REVALIDATE
            return conditional_response(headers, page, answer, etag=_cached_etag(page))
        return html_response(page, [NO_STORE, *answer])

    def _receipt(self, jar: Jar, rules: CastRules | None) -> Receipt | None:
        """Return the receipt of a voter; a new voter has none, whatever the cookie holds."""
        return self._cookies.receipt(jar) if self._voter(jar, rules) else None

    async def _render_status(
        self, language: Language, template: str, jar: Jar, rules: CastRules
    ) -> str:
        """Render the status of the latest vote of a voter, by the current state of the queue."""
        receipt = _of_this_round(self._cookies.receipt(jar), rules)
        problem = self._find_doubt(jar, receipt, rules)
        if problem is not None:
            receipt = None
        counted = late = False
        if receipt is not None:
            progress = await self._progress.get()
            counted = progress is not None and progress.counted(receipt.version)
            # Approximate: compares the clocks of two machines.
            late = not counted and time() - receipt.version.ms / 1000 > LATE_AFTER
        status = {"counted": counted, "late": late, "closed": not rules.open}
        return self._render(language, template, receipt, rules, problem, answers=False, **status)

    def _find_doubt(self, jar: Jar, receipt: Receipt | None, rules: CastRules) -> Problem | None:
        """Return why a receipt may be wrong: a vote without an answer, or the queue was lost."""
        unanswered, began = self._cookies.unanswered(jar), rules.after_version.ms
        # Where Redis' clock has stepped back, ids are ahead of it: the vote may be of this round.
        if unanswered is not None and (unanswered.first > began or began > self._now() * 1000):
            return errors.UNKNOWN
        if receipt is not None and receipt.version <= rules.lost_version:
            return errors.LOST
        return None

    def _render_outcome(
        self,
        language: Language,
        template: str,
        receipt: Receipt | None,
        problem: Problem | None = None,
    ) -> str:
        """Render the outcome of a cast, without a query: its ballot cannot be counted yet."""
        rules = self._rules.value
        # An accepted ballot proves that the poll is open, whatever the cached rules.
        closed = problem is errors.CLOSED or bool(problem and rules and not rules.open)
        receipt = _of_this_round(receipt, rules)
        return self._render(
            language,
            template,
            receipt,
            rules,
            problem,
            answers=True,
            closed=closed,
            counted=False,
            late=False,
        )

    def _render(
        self,
        language: Language,
        template: str,
        receipt: Receipt | None,
        rules: CastRules | None,
        problem: Problem | None = None,
        **status: bool,
    ) -> str:
        if status["closed"] and problem:
            problem = problem.once_closed()
        return self._pages.render_cached(
            language,
            template,
            choice=receipt and receipt.choice,
            round=rules and rules.round,
            question=rules and rules.question,
            closes_at=rules and rules.closes_at,
            problem=problem,
            **status,
        )


def _of_this_round(receipt: Receipt | None, rules: CastRules | None) -> Receipt | None:
    """Return the receipt, or None if it is of an earlier round or not of this question."""
    if receipt is None or rules is None or receipt.version <= rules.after_version:
        return None
    return receipt if receipt.choice in rules.question.choices else None


def _respond_with(problem: Problem, page: str, headers: list[Header]) -> PageResponse:
    encoded = encode_headers(problem.headers)
    return html_response(page, [*encoded, *headers], status=problem.status)


@asgi("/vote", copy_scope=False)
async def _other_methods(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Refuse a request for /vote that is no POST: those do not reach the router."""
    raise MethodNotAllowedException(headers={"allow": "POST"})


def _shown_round(query: bytes) -> int:
    """Return the round that an open page shows, by the query of its poll; 0 if it shows none."""
    name, _, number = query.partition(b"=")
    return int(number) if name == b"round" and number.isdigit() and len(number) <= 10 else 0  # noqa: PLR2004


async def run(settings: VoteSettings) -> None:
    """Run the role until a signal stops it."""
    queue = Queue.of(settings)
    state = QueueState(queue)
    flush_traces = tracing.start("vote", settings)
    role = VoteRole(Caster(queue), state, settings)
    server = HTTPServer(role.create_app(), settings.host, settings.port)
    try:
        await serve("vote", settings, server, role.ready)
    finally:
        await queue.close()
        flush_traces()
