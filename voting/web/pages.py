"""What both pages share: templates, static files, headers, the origin check, error pages."""

import functools
import gzip
import hashlib
import mimetypes
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import Any, cast

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar, MediaType, Request, Response, get
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.params import FromPath
from litestar.types import ASGIApp, ControllerRouterHandler, Message, Receive, Scope, Send
from markupsafe import Markup

from voting.settings import PageSettings
from voting.web.absent import absent
from voting.web.exchange import Answer, Asked
from voting.web.texts import (
    INTERNAL_ERROR,
    NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    Problem,
    bad_request,
    say,
)

log = structlog.get_logger(__name__)

# On every part of a page: the script swaps in nothing else.
FRAGMENT = {"Voting-Fragment": "1"}

_UNUSED = (
    *("accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen"),
    *("geolocation", "gyroscope", "hid", "magnetometer", "microphone", "midi", "payment"),
    *("picture-in-picture", "publickey-credentials-get", "screen-wake-lock", "serial", "usb"),
    "xr-spatial-tracking",
)

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send `Origin: null` with the form, as if it came from
    # elsewhere. Other sites still learn nothing.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # All that a page could use and none of these does.
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED),
}

# For a year. Not for names below this one, which may be somebody else's.
_HSTS = {"Strict-Transport-Security": "max-age=31536000"}


def with_security_headers(app: ASGIApp, *, secure: bool) -> ASGIApp:
    """Wrap `app` so that every answer, errors too, carries the headers; `secure`: over TLS."""
    given = {**_SECURITY_HEADERS, **(_HSTS if secure else {})}
    headers = [(k.lower().encode(), v.encode()) for k, v in given.items()]

    async def secured(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if scope.get("method") == "HEAD":
            scope = cast("Scope", {**scope, "method": "GET"})  # the server leaves out the body
        await app(scope, receive, send_secured)

    return secured


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something comes from this site's own page.

    Browsers tell; a client that says nothing is not one, so no voter's cookie is being abused.
    Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
    """
    if site := headers.get("sec-fetch-site"):
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    return scheme in {"http", "https"} and host == headers.get("host")


def wants_fragment(request: Asked) -> bool:
    """Whether htmx asks, which swaps a part of the page."""
    return request.headers.get("hx-request") == "true"


def etag_of(body: str) -> str:
    """Make the tag by which a client asks whether this is still the answer."""
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:20]}"'


def or_unchanged(request: Asked, answer: Answer) -> Answer:
    """Answer with a status alone where the client, and nobody else, has the body already."""
    headers = {**answer.headers, "Cache-Control": "private, no-cache", "Vary": "Cookie"}
    headers["ETag"] = etag_of(answer.content)
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Answer(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    answer.headers = headers
    return answer


# Where in a page its time goes, milliseconds since 1970: for a countdown where a clock is wrong.
# Nothing that an operator can write.
_CLOCK = "\0clock\0"


def _with_clock(page: str) -> str:
    return page.replace(_CLOCK, str(int(time.time() * 1000)))


Handle = Callable[[Asked], Awaitable[Answer]]
_NONE: Mapping[str, Handle] = {}


class ProblemError(Exception):
    """Ends a request with what `problem` says."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.headline)
        self.problem = problem


class Pages:
    """The templates, with what every page shows."""

    def __init__(self, settings: PageSettings) -> None:
        self._secure = settings.secure
        self._environment = Environment(
            loader=PackageLoader("voting.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # looking whether files are new took a quarter of a page's time
        )
        self._environment.globals.update(
            title=settings.poll_title,
            options={"a": settings.option_a, "b": settings.option_b},
            say=functools.lru_cache(maxsize=256)(say),  # most texts are the same each time
            receipt=_receipts(settings),
            vote_url=settings.vote_url,
            result_url=settings.result_url,
            static=static_url,
            clock=_CLOCK,
        )
        self._same = functools.lru_cache(maxsize=256)(self._render)

    def render(self, template: str, **context: object) -> str:
        return _with_clock(self._render(template, **context))

    def render_same(self, template: str, **context: Hashable) -> str:
        """Render what is the same for many, once for all of them."""
        return _with_clock(self._same(template, **context))

    def _render(self, template: str, **context: object) -> str:
        return self._environment.get_template(template).render(context)

    def problem(self, problem: Problem) -> Response[str]:
        """Answer with a whole page that says what went wrong."""
        page = self.render("problem.html", problem=problem)
        return Response(
            page, media_type=MediaType.HTML, status_code=problem.status, headers=problem.headers
        )

    def _not_allowed(self, error: MethodNotAllowedException) -> Response[str]:
        answer = self.problem(NOT_ALLOWED)
        allowed = (error.headers or {})["allow"]
        answer.headers["Allow"] = allowed.replace("GET", "GET, HEAD")
        return answer

    def create_app(
        self, handlers: Sequence[ControllerRouterHandler], straight: Mapping[str, Handle] = _NONE
    ) -> ASGIApp:
        """Make an application of `handlers` and the static files, with pages for its errors.

        `straight`: what answers a POST to that very path, though `handlers` have it too.
        """
        with absent("pydantic"):  # or it would be made ready for models in handlers: 3 MB
            app = Litestar(
                [*handlers, static_file],
                exception_handlers={
                    MethodNotAllowedException: lambda _, error: self._not_allowed(error),
                    Exception: lambda _, error: self.problem(_problem_of(error)),
                },
                openapi_config=None,
                logging_config=None,
            )

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            handle = straight.get(scope["path"])
            if handle is None or scope.get("method") != "POST":
                await app(scope, receive, send)
                return
            try:
                answer = await handle(Asked(scope, receive))
            except Exception as error:  # noqa: BLE001 - as from any handler
                problem = _problem_of(error)
                page = self.render("problem.html", problem=problem)
                answer = Answer(page, status=problem.status, headers=problem.headers)
            await answer(scope, receive, send)

        return with_security_headers(dispatch if straight else app, secure=self._secure)


def _receipts(settings: PageSettings) -> dict[str, dict[str, Markup]]:
    """Fill in once, for each option, what is said of every vote."""
    names = {"a": settings.option_a, "b": settings.option_b}
    options = {key: Markup("<bdi>{}</bdi>").format(name) for key, name in names.items()}
    return {
        text: {key: say(text, option=option) for key, option in options.items()}
        for text in ("will_count", "is_late", "is_counted")
    }


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, ProblemError):
        return error.problem
    status = error.status_code if isinstance(error, HTTPException) else None
    known = {each.status: each for each in (NOT_FOUND, TOO_LARGE)}
    if status in known:
        return known[HTTPStatus(status)]
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return bad_request(HTTPStatus(status))
    log.error("a request failed", exc_info=error)
    return INTERNAL_ERROR


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    zipped: bytes
    media_type: str


def _load_static() -> Mapping[str, _File]:
    folder = resources.files("voting.web").joinpath("static")
    return {
        each.name: _File(
            content := each.read_bytes(),
            gzip.compress(content, mtime=0),
            mimetypes.guess_type(each.name)[0] or "text/plain",
        )
        for each in sorted(folder.iterdir(), key=lambda each: each.name)
        if each.is_file()
    }


# A handful of small files, read once.
_STATIC = _load_static()
_DIGEST = hashlib.sha256(b"".join(each.content for each in _STATIC.values())).hexdigest()[:12]


def static_url(name: str) -> str:
    """The address of a static file, which changes with its content. Raises KeyError."""
    _STATIC[name]
    return f"/static/{_DIGEST}/{name}"


@get("/static/{digest:str}/{name:str}", sync_to_thread=False)
def static_file(
    digest: FromPath[str], name: FromPath[str], request: Request[Any, Any, Any]
) -> Response[bytes]:
    """Serve a file for ever to who asks by its digest.

    In the middle of a rollout a page of another version may ask here: it gets what there is, and
    must not keep it.
    """
    if name not in _STATIC:
        raise ProblemError(NOT_FOUND)
    file = _STATIC[name]
    fresh = digest == _DIGEST
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if fresh else "no-store",
        "Vary": "Accept-Encoding",
    }
    body = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = file.zipped
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=file.media_type, headers=headers)
