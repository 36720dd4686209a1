"""ROLE=vote: the page with the options, and the one request that casts a ballot."""

from collections.abc import Hashable
from dataclasses import replace
from http import HTTPStatus
from math import ceil
from time import perf_counter, time
from typing import Any

import structlog
from litestar import Litestar, Request, asgi, get
from litestar.datastructures import Headers
from litestar.exceptions import MethodNotAllowedException
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from opentelemetry.trace import Span

from voting.poll.ballot import Ballot, Version
from voting.poll.lifecycle import CastRules
from voting.queue.client import Queue, connect
from voting.queue.producer import Caster, CastError, MaybeRecorded, NotRecorded, PollClosed
from voting.queue.state import GroupProgress, QueueState
from voting.settings import VoteSettings
from voting.telemetry import metrics, tracing
from voting.web.body import ClientDisconnected, PayloadTooLarge, read_body
from voting.web.cache import SingleFlight
from voting.web.cookies import Cookies, Receipt
from voting.web.errors import (
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
    ProblemError,
    bad_request,
)
from voting.web.forms import FormError, read_choice
from voting.web.headers import (
    PARTIAL_HEADER,
    conditional_response,
    html_response,
    is_htmx,
    is_same_origin,
    make_etag,
)
from voting.web.pages import Pages
from voting.web.rate_limit import RateLimit
from voting.web.server import HTTPServer, serve

log = structlog.get_logger(__name__)

# Seconds after which the page says that counting a ballot takes longer than usual.
LATE_AFTER = 15.0

# Seconds for which the state of the queue is cached.
QUEUE_STATE_TTL = 1.0

_NO_STORE = {"Cache-Control": "no-store"}
_ACCEPTED = _NO_STORE | {"Voting-Recorded": "yes"}

# The client has left: the response reaches nobody, the metric has the reason.
INCOMPLETE_BODY = bad_request(HTTPStatus.BAD_REQUEST)

_CAST_PROBLEMS: dict[type[CastError], Problem] = {
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

_Request = Request[Any, Any, Any]


class VoteRole:
    """What the handlers share: the queue, the cookies, the templates, the rate limit."""

    def __init__(self, caster: Caster, state: QueueState, settings: VoteSettings) -> None:
        self._caster = caster
        self._tracing = tracing.CastTracing(settings)
        self._pages = Pages(settings)
        keys = [key.get_secret_value() for key in settings.secret_keys]
        self.cookies = Cookies(keys, secure=settings.secure)
        self._rate_limit = RateLimit(settings.votes_per_minute)
        self._progress = SingleFlight[GroupProgress](state.progress, ttl=QUEUE_STATE_TTL)
        self._rules = SingleFlight[CastRules | None](state.cast_rules, ttl=QUEUE_STATE_TTL)
        self._memory_is_low = SingleFlight[bool](state.memory_is_low, ttl=QUEUE_STATE_TTL)

    def create_app(self) -> Litestar:
        return self._pages.create_app([get_page, get_receipt, post_vote], role=self)

    async def respond(self, request: _Request) -> ASGIResponse:
        """Cast the ballot of a request, and return the response with its outcome."""
        scope, headers = request.scope, request.headers
        scheme = scope.get("scheme", "http")
        with (
            metrics.IN_FLIGHT.track_inprogress(),
            self._tracing.request("POST", scope["path"], scheme, headers) as span,
        ):
            response = await self._respond(headers, request.receive, span)
            if span.is_recording():
                recorded = response.headers["Voting-Recorded"]
                self._tracing.respond(span, response.status_code, recorded)
            return response

    async def _respond(self, headers: Headers, receive: Receive, span: Span) -> ASGIResponse:
        started = perf_counter()
        try:
            ballot = await self._read_ballot(headers, receive)
            receipt = Receipt(ballot.choice, await self._cast(ballot, span))
        except ProblemError as error:
            metrics.REFUSED.labels(_REASONS.get(error.problem, "other")).inc()
            return self._refuse(headers, error.problem)
        metrics.ACCEPTED.inc()
        metrics.ACCEPT_SECONDS.observe(perf_counter() - started)
        cookies = [self.cookies.set_receipt(receipt)]
        if is_htmx(headers):
            part = self._render_outcome("_ballot.html", receipt)
            return html_response(part, headers=_ACCEPTED | PARTIAL_HEADER, set_cookies=cookies)
        return html_response(
            "",
            status=HTTPStatus.SEE_OTHER,
            headers=_ACCEPTED | {"Location": "/"},
            set_cookies=cookies,
        )

    def _refuse(self, headers: Headers, problem: Problem) -> ASGIResponse:
        template = "_ballot.html" if is_htmx(headers) else "vote.html"
        page = self._render_outcome(template, self.receipt(headers), problem)
        recorded = {"Voting-Recorded": "unknown" if problem is UNKNOWN else "no"}
        return html_response(
            page, status=problem.status, headers=PARTIAL_HEADER | problem.headers | recorded
        )

    async def _read_ballot(self, headers: Headers, receive: Receive) -> Ballot:
        if not is_same_origin(headers):
            raise ProblemError(CROSS_ORIGIN)
        try:
            body = await read_body(headers, receive)
            choice = read_choice(headers.get("content-type", ""), body)
        except PayloadTooLarge as error:
            raise ProblemError(TOO_LARGE) from error
        except ClientDisconnected as error:
            raise ProblemError(INCOMPLETE_BODY) from error
        except FormError as error:
            raise ProblemError(INVALID_FORM[error.status]) from error
        voter = self.cookies.voter(headers)
        if voter is None:
            raise ProblemError(NO_COOKIE)
        return Ballot(voter, choice)

    async def _cast(self, ballot: Ballot, span: Span) -> Version:
        if self._memory_is_low.value and await self._memory_is_low.get():
            raise ProblemError(FULL)
        if wait := self._rate_limit.acquire(ballot.voter.int):
            raise ProblemError(replace(RATE_LIMITED, retry_after=ceil(wait)))
        try:
            version = await self._send(ballot, span)
        except CastError as error:
            if not isinstance(error, MaybeRecorded):
                self._rate_limit.refund(ballot.voter.int)
            raise ProblemError(_CAST_PROBLEMS[type(error)]) from error
        except Exception as error:
            log.exception("unexpected error during cast")
            raise ProblemError(UNKNOWN) from error
        # For the next ballot. Before the cast, it would delay this one if Redis hangs.
        await self._memory_is_low.get()
        return version

    async def _send(self, ballot: Ballot, span: Span) -> Version:
        async def cast(trace: str | None) -> Version:
            return await self._caster.cast(
                ballot if trace is None else replace(ballot, trace=trace)
            )

        return await self._tracing.cast(cast, span)

    def receipt(self, headers: Headers) -> Receipt | None:
        """Return the receipt of a voter; a new voter has none, whatever the cookie holds."""
        return self.cookies.receipt(headers) if self.cookies.voter(headers) else None

    async def render_status(self, template: str, receipt: Receipt | None) -> str:
        """Render the status of the latest vote, by the current state of the queue."""
        rules = await self._rules.get()
        receipt = _of_this_round(receipt, rules)
        counted = late = False
        if receipt is not None:
            progress = await self._progress.get()
            counted = progress is not None and progress.counted(receipt.version)
            # Approximate: compares the clocks of two machines.
            late = not counted and time() - receipt.version.ms / 1000 > LATE_AFTER
        closed = rules is not None and not rules.open
        text = "is_late" if late else "will_count"
        return self._render(
            template, receipt, rules, problem=None, counted=counted, late=text, closed=closed
        )

    def _render_outcome(
        self, template: str, receipt: Receipt | None, problem: Problem | None = None
    ) -> str:
        """Render the outcome of a cast, without a query: its ballot cannot be counted yet."""
        rules = self._rules.value
        receipt = _of_this_round(receipt, rules)
        # An accepted ballot proves that the poll is open, whatever the cached rules.
        closed = problem is CLOSED or (problem is not None and rules is not None and not rules.open)
        return self._render(
            template,
            receipt,
            rules,
            problem=problem,
            counted=False,
            late="will_count",
            closed=closed,
        )

    def _render(
        self,
        template: str,
        receipt: Receipt | None,
        rules: CastRules | None,
        **status: Hashable,
    ) -> str:
        return self._pages.render_cached(
            template,
            choice=receipt and receipt.choice,
            closes_at=rules and rules.closes_at,
            lost=UNKNOWN,
            **status,
        )


@get("/")
async def get_page(request: _Request) -> ASGIResponse:
    role, headers = _role(request), request.headers
    if role.cookies.voter(headers) is None:
        receipt, cookies = None, [role.cookies.set_new_voter()]
    else:
        receipt, cookies = role.cookies.receipt(headers), []
    page = await role.render_status("vote.html", receipt)
    return html_response(page, headers=_NO_STORE | PARTIAL_HEADER, set_cookies=cookies)


@get("/receipt")
async def get_receipt(request: _Request) -> ASGIResponse:
    role = _role(request)
    part = await role.render_status("_receipt.html", role.receipt(request.headers))
    headers = PARTIAL_HEADER | {"Cache-Control": "private, no-cache", "Vary": "Cookie"}
    return conditional_response(request.headers, part, etag=make_etag(part), headers=headers)


# `@asgi`, not `@post`, in which Litestar takes 11 µs more of the 90 of a vote. It has every method.
@asgi("/vote", copy_scope=False)
async def post_vote(scope: Scope, receive: Receive, send: Send) -> None:
    request: _Request = Request(scope, receive, send)
    if request.method != "POST":
        raise MethodNotAllowedException(headers={"allow": "POST"})
    response = await _role(request).respond(request)
    await response(scope, receive, send)


def _role(request: _Request) -> VoteRole:
    role: VoteRole = request.app.state.role
    return role


def _of_this_round(receipt: Receipt | None, rules: CastRules | None) -> Receipt | None:
    """Return the receipt, or None if the vote was cast in an earlier round."""
    is_earlier = receipt and rules and receipt.version <= rules.after_version
    return None if is_earlier else receipt


async def run(settings: VoteSettings) -> None:
    """Run the role until a signal stops it."""
    queue = Queue(connect(settings.redis_url.get_secret_value()))
    state = QueueState(queue)
    flush_traces = tracing.start("vote", settings)
    app = VoteRole(Caster(queue), state, settings).create_app()
    server = HTTPServer(app, settings.host, settings.port)
    try:
        await serve("vote", settings, server, state.ready)
    finally:
        await queue.close()
        flush_traces()
