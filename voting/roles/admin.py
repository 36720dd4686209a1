"""ROLE=admin: the page that leads a vote. It listens on loopback only."""

import asyncio
import re
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import structlog
from litestar import Litestar, Request, get, post
from litestar.config.csrf import CSRFConfig
from litestar.enums import RequestEncodingType
from litestar.params import Body
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line, is_uncertain
from voting.database.poll import (
    PollChanged,
    close_poll,
    reopen_poll,
    reveal_results,
    start_round,
)
from voting.database.questions import (
    PreparedQuestion,
    QuestionChanged,
    add_questions,
    change_question,
    fetch_questions,
    move_question,
    remove_question,
)
from voting.database.totals import fetch_result
from voting.poll.lifecycle import Phase, Poll
from voting.poll.message import Message
from voting.poll.message import gettext as _
from voting.poll.question import Question
from voting.poll.results import PublicFinal, publish, publish_final
from voting.queue.client import Queue, StreamMissing
from voting.queue.state import QueueState
from voting.reconcile.audit import Audit, audit
from voting.reconcile.changes import (
    Change,
    ChangeError,
    NotInRedis,
    Status,
    change_poll,
    fetch_settled_status,
    wait_until_final,
)
from voting.roles import admin_forms as forms
from voting.roles.admin_forms import Action, Confirmation, PollForm, QuestionForm
from voting.roles.overview import Overview
from voting.settings import AdminSettings
from voting.telemetry import metrics, tracing
from voting.web import errors
from voting.web.access_control import LOOPBACK, AccessControl
from voting.web.cookies import cookie_name, read_cookies
from voting.web.errors import Problem, ProblemError
from voting.web.headers import (
    NO_STORE,
    PARTIAL,
    Header,
    PageResponse,
    html_response,
    request_headers,
    see_other,
)
from voting.web.languages import Language
from voting.web.pages import Pages
from voting.web.server import HTTPServer, serve
from voting.web.svg import address_and_code

# Bytes. The longest question has 920 characters, of twelve bytes each in percent-encoding.
MAX_BODY = 16_384

EARLIER_ROUNDS = 3  # that the page shows

OLD_COOKIES = 8  # so many at most; a hundred would be more than a server reads

REMEMBERED = 100  # forms for a question

CANCEL_INTERVAL = 0.1  # seconds between two tries to cancel a task

_Request = Request[Any, Any, Any]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Asking:
    """The next question, which is asked once the round that is being closed is final."""

    question: Question
    said: Message | None = None
    """What is still missing."""


class AdminRole:
    """What the handlers share. `audits`: an engine without limits of time."""

    def __init__(
        self,
        state: QueueState,
        engine: AsyncEngine,
        settings: AdminSettings,
        *,
        audits: AsyncEngine,
    ) -> None:
        self._state = state
        self._engine = engine
        self._audits = audits
        self._settings = settings
        self._form_cookie = _form_cookie(secrets.token_hex(4), settings.port)
        self._overview = Overview(state, engine)
        self._asking: Asking | None = None
        self._ordering = asyncio.Lock()
        """Held while prepared questions are changed: all pages are of this process."""
        self._added: deque[tuple[str, Question]] = deque(maxlen=REMEMBERED)
        """What was added, and by which form."""
        self._failed: Problem | None = None
        """Why the next question was not asked, until the next form."""
        self._task: asyncio.Task[None] | None = None
        self._auditing: asyncio.Task[Audit] | None = None
        address, code = address_and_code(settings.vote_url)
        self._pages = Pages(
            settings,
            address=address,
            code=code,
            has_token=settings.token is not None,
            labels=forms.LABELS,
        )

    def create_app(self) -> Litestar:
        # The secret is new at each start, and so is the name: Litestar would keep an old cookie.
        csrf = CSRFConfig(
            secret=secrets.token_hex(),
            cookie_name=self._form_cookie,
            cookie_httponly=True,
        )
        return self._pages.create_app(
            [
                get("/")(self._get_page),
                get("/live")(self._get_live),
                get("/questions")(self._get_questions),
                get("/rounds")(self._get_rounds),
                post("/")(self._post_poll),
                post("/questions")(self._post_question),
                post("/audit")(self._post_audit),
            ],
            max_body=MAX_BODY,
            csrf_config=csrf,
            middleware=[AccessControl(self._settings.token, self._settings.port)],
        )

    async def ready(self) -> bool:
        """Raises SettingsError if a server can't be used."""
        return await self._overview.ready()

    async def close(self) -> None:
        """Give up what is under way: a round that is closed stays closed."""
        for task in (self._task, self._auditing):
            while task is not None and not task.done():
                task.cancel()  # again: redis-py can lose a cancellation while it writes
                await asyncio.wait({task}, timeout=CANCEL_INTERVAL)

    # Pages

    async def _get_page(self, request: _Request) -> PageResponse:
        return await self._page(request)

    async def _get_live(self, request: _Request) -> PageResponse:
        return await self._part(request, "_live.html")

    async def _get_questions(self, request: _Request) -> PageResponse:
        return await self._part(request, "_questions.html")

    async def _get_rounds(self, request: _Request) -> PageResponse:
        return await self._part(request, "_rounds.html")

    async def _part(self, request: _Request, template: str) -> PageResponse:
        language = self._pages.language_of(request)
        page = self._pages.render(language, template, **await self._context(request))
        return _respond(language, page, PARTIAL)

    async def _page(
        self,
        request: _Request,
        *,
        problem: Problem | None = None,
        **shown: object,
    ) -> PageResponse:
        context = await self._context(request, fresh=True)
        edited = request.query_params.get("edit")
        drafts = [each for each in context["questions"] or () if str(each.id) == edited]
        draft = forms.draft_of(drafts[0]) if drafts else None
        writes = "write" in request.query_params
        more = {"draft": draft, "writes": writes, "confirmation": None, "audit": None, **shown}
        more["once"] = secrets.token_hex(8)
        language = self._pages.language_of(request)
        page = self._pages.render(language, "admin.html", problem=problem, **context, **more)
        cookies = self._delete_old_cookies(request)
        return _respond(language, page, *cookies, status=problem.status if problem else 200)

    def _delete_old_cookies(self, request: _Request) -> list[Header]:
        """Return headers that delete the cookies of earlier starts, once they are many.

        A few may be of another admin page, whose port is forwarded to this machine too.
        """
        pattern = _form_cookie("[0-9a-f]{8}", self._settings.port)
        names = read_cookies(request_headers(request.scope)).keys() - {self._form_cookie}
        old = [each for each in names if re.fullmatch(pattern, each)]
        if len(old) < OLD_COOKIES:
            return []
        return [(b"set-cookie", f"{each}=; Path=/; Max-Age=0".encode()) for each in old]

    async def _context(self, request: _Request, *, fresh: bool = False) -> dict[str, Any]:
        """Return what templates show: `fresh`, or shared by all polls of a second."""
        overview = self._overview
        await overview.update(fresh=fresh)
        result, questions = overview.result.value, overview.questions.value
        wanted = _wants_totals(request)
        context: dict[str, Any] = {
            "request": request,
            "query": "?totals=1" if wanted else "",
            "result": None,
            "poll": None,
            "phase": None,
            "closed": False,
            "closes_at": None,
            "seen": "",
            "questions": questions,
            "seen_questions": forms.seen_questions(questions),
            "next": questions[0] if questions else None,
            "rounds": [],
            "queue": None if overview.queue_away else overview.queue.value,
            "queue_away": overview.queue_away,
            "database_away": overview.database_away,
            "conflict": overview.conflict,
            "asking": self._asking,
            "failed": self._failed,
        }
        if result is None:
            return context
        poll = result.poll
        hidden = publish(result, self._settings.show_results).hidden
        asking = self._asking is not None
        return context | {
            "result": publish(result, "always"),
            "hidden": hidden,
            "show_totals": wanted or not hidden,
            "poll": poll,
            "phase": poll.phase,
            "closed": poll.phase is not Phase.OPEN,
            "closes_at": poll.closes_at,
            "seen": forms.seen(poll),
            "actions": forms.allowed_actions(
                poll, hidden=hidden, asking=asking, conflict=overview.conflict is not None
            ),
            "rounds": self._earlier_rounds(poll.round, wanted=wanted),
        }

    def _earlier_rounds(self, number: int, *, wanted: bool) -> list[tuple[PublicFinal, bool]]:
        """Return the last rounds before that, and whether their totals are hidden.

        `wanted`: with their totals nevertheless.
        """
        finals = [each for each in self._overview.finals.value or () if each.round < number]
        rounds = []
        for each in finals[:EARLIER_ROUNDS]:
            public = publish_final(each, self._settings.show_results)
            shown = publish_final(each, "always") if wanted else public
            rounds.append((shown, public.counts is None))
        return rounds

    # Changes of the poll

    async def _post_poll(
        self,
        request: _Request,
        data: Annotated[PollForm, Body(media_type=RequestEncodingType.URL_ENCODED)],
    ) -> PageResponse:
        self._failed = None
        try:
            confirmation = await self._change(data)
        except ProblemError as refused:
            metrics.ADMIN_CHANGES.labels(data.do.kind, "refused").inc()
            return await self._page(request, problem=refused.problem)
        if confirmation is not None:
            return await self._page(request, confirmation=confirmation)
        metrics.ADMIN_CHANGES.labels(data.do.kind, "done").inc()
        return see_other("/?totals=1" if _wants_totals(request) else "/")

    async def _change(self, form: PollForm) -> Confirmation | None:
        """Do what the form asks, unless it is to be confirmed first. Raises ProblemError."""
        try:
            found = await fetch_settled_status(
                self._state, self._engine, self._settings.show_results
            )
            poll = found.poll
            self._check(form, found)
            prepared = await self._next(form) if form.do is Action.NEXT else None
            lines = forms.losses(form, found, prepared)
            if lines and not form.confirm:
                return Confirmation(lines, "/", forms.LABELS[form.do], form.confirmed())
            if prepared is not None and poll.phase is not Phase.FINAL:
                await self._ask_later(poll, prepared)
            elif form.do is Action.REVEAL:  # of which Redis knows nothing
                await reveal_results(self._engine, poll, number=form.round)
            else:
                await change_poll(self._state, self._engine, await self._plan(form, poll, prepared))
        except PollChanged:
            raise ProblemError(errors.CHANGED_MEANWHILE) from None
        except ChangeError as error:
            raise ProblemError(_away(errors.NOT_SURE, error)) from None
        except RedisError as error:
            raise ProblemError(_away(errors.QUEUE_AWAY, error)) from None
        except DATABASE_ERRORS as error:
            raise ProblemError(_database_away(error)) from None
        return None

    def _check(self, form: PollForm, found: Status) -> None:
        """Refuse what the page would not offer now, or what it offered for another state."""
        if form.seen != forms.seen(found.poll):
            raise ProblemError(forms.changed(form.seen, found.poll))
        if form.round is not None:
            earlier = {each.round for each in found.finals if each.counts is None}
            if form.do is not Action.REVEAL or form.round not in earlier - {found.poll.round}:
                raise ProblemError(errors.CHANGED_MEANWHILE)
            return
        hidden = found.counts.by_option is None
        allowed = forms.allowed_actions(
            found.poll,
            hidden=hidden,
            asking=self._asking is not None,
            conflict=found.conflict is not None,
        )
        if form.do not in allowed:
            raise ProblemError(errors.CHANGED_MEANWHILE)

    async def _next(self, form: PollForm) -> PreparedQuestion:
        questions = await fetch_questions(self._engine)
        if not questions or form.next != forms.seen_question(questions[0]):
            raise ProblemError(errors.OTHER_QUESTION)
        return questions[0]

    async def _plan(self, form: PollForm, poll: Poll, prepared: PreparedQuestion | None) -> Change:
        match form.do:
            case Action.CLOSE:
                return partial(close_poll, seen=poll)
            case Action.KEEP | Action.REOPEN:
                return partial(reopen_poll, seen=poll)
            case Action.AGAIN:
                return partial(start_round, ended=poll.round, question=poll.question)
            case Action.NEXT if prepared is not None:
                return _ask(poll, prepared)
        now = datetime.fromtimestamp(await self._state.clock(), UTC)
        return partial(close_poll, at=forms.closes_at(form, now), seen=poll)

    async def _ask_later(self, poll: Poll, prepared: PreparedQuestion) -> None:
        """Close the round, and ask once it is final: in a task, while the page shows how it goes.

        Should this process end meanwhile, the round is closed, and the question still prepared.
        """
        if self._asking is not None:
            raise PollChanged
        self._asking = Asking(prepared.question)
        try:
            if poll.phase is Phase.OPEN:
                with suppress(NotInRedis):  # the task waits for it too
                    await change_poll(self._state, self._engine, partial(close_poll, seen=poll))
        except BaseException:
            self._asking = None
            raise
        self._task = asyncio.create_task(self._ask_once_final(poll, prepared, self._asking))

    async def _ask_once_final(self, poll: Poll, prepared: PreparedQuestion, asking: Asking) -> None:
        def show(said: Message) -> None:
            asking.said = said

        try:
            # If it was closed to ask, to be opened and closed again is a change too.
            is_open = poll.phase is Phase.OPEN
            closed = (await fetch_result(self._engine)).poll if is_open else poll
            await wait_until_final(self._state, self._engine, closed, show=show)
            await change_poll(self._state, self._engine, _ask(poll, prepared))
        except PollChanged:
            self._failed = errors.NOT_ASKED
        except ChangeError as error:
            self._failed = _away(errors.NOT_SURE, error)
        except DATABASE_ERRORS as error:
            self._failed = _away(errors.NOT_ASKED, error)
        finally:
            self._asking = None

    # Prepared questions

    async def _post_question(
        self,
        request: _Request,
        data: Annotated[QuestionForm, Body(media_type=RequestEncodingType.URL_ENCODED)],
    ) -> PageResponse:
        try:
            confirmation = await self._change_questions(data)
        except ProblemError as refused:
            draft = data if data.do in {"add", "change"} else None
            return await self._page(request, problem=refused.problem, draft=draft)
        if confirmation is not None:
            return await self._page(request, confirmation=confirmation)
        return see_other("/?write#write" if data.do == "add" else "/#questions")

    async def _change_questions(self, form: QuestionForm) -> Confirmation | None:
        """Do what the form asks, unless it is to be confirmed first. Raises ProblemError."""
        if form.do in {"add", "change"} and (problems := form.question.find_problems()):
            raise ProblemError(replace(errors.INVALID_QUESTION, reasons=tuple(problems)))
        try:
            async with self._ordering:
                match form.do:
                    case "add":
                        await self._add(form)
                    case "change":
                        await change_question(self._engine, form.prepared, form.question)
                    case _:
                        return await self._order(form)
        except QuestionChanged:
            raise ProblemError(errors.OTHER_QUESTION) from None
        except DATABASE_ERRORS as error:
            raise ProblemError(_database_away(error)) from None
        return None

    async def _add(self, form: QuestionForm) -> None:
        if (form.once, form.question) not in self._added:  # pressed twice
            await add_questions(self._engine, [form.question])
            self._added.append((form.once, form.question))

    async def _order(self, form: QuestionForm) -> Confirmation | None:
        """Move or remove a question, if all are in the order that the page showed."""
        questions = await fetch_questions(self._engine)
        found = [each for each in questions if each.id == form.id]
        if not found or form.seen != forms.seen_questions(questions):
            raise QuestionChanged
        if form.do != "remove":
            await move_question(self._engine, form.id, -1 if form.do == "up" else 1)
        elif form.confirm:
            await remove_question(self._engine, form.id)
        else:
            fields = {"do": "remove", "id": form.id, "seen": form.seen, "confirm": "true"}
            title = found[0].question.title
            lines = [_("Delete the prepared question “%(title)s”?", title=title)]
            return Confirmation(lines, "/questions", _("Delete"), fields)
        return None

    # Audit

    async def _post_audit(self, request: _Request) -> PageResponse:
        """Run an audit, or wait for the one that runs."""
        if self._auditing is None or self._auditing.done():
            self._auditing = asyncio.create_task(audit(self._state, self._audits))
        try:
            found = await asyncio.shield(self._auditing)
        except (StreamMissing, RedisError) as error:
            return await self._page(request, problem=_away(errors.QUEUE_AWAY, error))
        except DATABASE_ERRORS as error:
            return await self._page(request, problem=_away(errors.DATABASE_AWAY, error))
        return await self._page(request, audit=found)


def _form_cookie(start: str, port: int) -> str:
    """Return the name of the cookie that belongs to the forms of a start."""
    return cookie_name(f"form-{start}", secure=False, port=port)


def _ask(poll: Poll, prepared: PreparedQuestion) -> Change:
    question = prepared.question
    return partial(start_round, ended=poll.round, question=question, prepared=prepared.id)


def _database_away(error: Exception) -> Problem:
    return _away(errors.NOT_SURE if is_uncertain(error) else errors.DATABASE_AWAY, error)


def _away(problem: Problem, error: Exception) -> Problem:
    log.warning(
        "the admin page answers with a problem",
        problem=problem.headline,
        reason=in_one_line(error),
    )
    return problem


def _wants_totals(request: _Request) -> bool:
    """Whether the page shows the totals even while they are hidden from the public."""
    return request.query_params.get("totals") == "1"


def _respond(language: Language, page: str, *headers: Header, status: int = 200) -> PageResponse:
    return html_response(page, [NO_STORE, *language.headers, *headers], status=status)


async def run(settings: AdminSettings) -> None:
    """Run the role until a signal stops it."""
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, name="voting-admin")
    audits = create_engine(url, name="voting-audit", pool_size=1, patience=None)
    queue = Queue.of(settings)
    flush_traces = tracing.start("admin", settings)
    role = AdminRole(QueueState(queue), engine, settings, audits=audits)
    server = HTTPServer(role.create_app(), LOOPBACK, settings.port)
    try:
        await serve("admin", settings, server, role.ready)
    finally:
        await role.close()
        await queue.close()
        await engine.dispose()
        await audits.dispose()
        flush_traces()
