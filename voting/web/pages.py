"""The Jinja templates of the pages, and the Litestar application that serves them."""

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar, Request
from litestar.exceptions import MethodNotAllowedException
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.template import TemplateConfig
from litestar.types import ControllerRouterHandler, Message, Scope

from voting.settings import PageSettings
from voting.web.errors import problem_of
from voting.web.forms import MAX_BODY
from voting.web.headers import RequestHeaders, request_headers, security_headers
from voting.web.languages import Language, get_language, negotiate
from voting.web.static_files import static_file, static_url

# Stands in a rendered page for the time in milliseconds since 1970, from which clock.js corrects
# the clock of the client. NUL: no title or option that an operator sets can contain it.
_CLOCK = "\0clock\0"


class Pages:
    """The templates, with what every page shows, and `context`.

    `clock` returns the time that clients take for the server's, in seconds since 1970. Pages of the
    origins `embed_in` may frame these.

    Pages that many clients load are rendered here, as `litestar.response.Template` renders again
    for each response: 284 µs a page instead of 79.
    """

    def __init__(
        self,
        settings: PageSettings,
        clock: Callable[[], float] = time.time,
        *,
        embed_in: Sequence[str] = (),
        **context: object,
    ) -> None:
        self._clock = clock
        self._language = get_language(settings.page_language) if settings.page_language else None
        self.security_headers = security_headers(secure=settings.secure, embed_in=embed_in)
        self._environment = Environment(
            loader=PackageLoader("voting.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # checking the files for changes took a quarter of a page's time
        )
        self._environment.globals.update(
            vote_url=settings.vote_url,
            result_url=settings.result_url,
            static=static_url,
            clock=_CLOCK,
            **context,
        )
        self._render_cached = functools.lru_cache(maxsize=256)(self._render)

    def language(self, headers: RequestHeaders) -> Language:
        """Return the language of the response: that of the setting, or the client's."""
        return self._language or negotiate(headers)

    def language_of(self, request: Request[Any, Any, Any]) -> Language:
        return self.language(request_headers(request.scope))

    def render(self, language: Language, template: str, **context: object) -> str:
        return self._set_clock(self._render(language, template, **context))

    def render_cached(self, language: Language, template: str, **context: Hashable) -> str:
        """Render a page that is the same for many clients once for all of them."""
        return self._set_clock(self._render_cached(language, template, **context))

    def _render(self, language: Language, template: str, **context: object) -> str:
        return self._environment.get_template(template).render(language.context, **context)

    def _set_clock(self, page: str) -> str:
        return page.replace(_CLOCK, str(int(self._clock() * 1000)))

    def _error_page(self, request: Request[Any, Any, Any], error: Exception) -> Template:
        """Render an exception as a page, as Litestar's exception handler for all of them."""
        problem, language = problem_of(error), self.language_of(request)
        headers = problem.headers | {
            name.decode(): value.decode() for name, value in language.headers
        }
        if isinstance(error, MethodNotAllowedException) and error.headers:
            headers["Allow"] = error.headers["allow"].replace("GET", "GET, HEAD")
        return Template(
            "problem.html",
            context={**language.context, "problem": problem},
            status_code=problem.status,
            headers=headers,
        )

    async def _add_security_headers(self, message: Message, _: Scope) -> None:
        # As a hook: a middleware would miss 404 and 405, which Litestar's router answers.
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *self.security_headers]

    def create_app(
        self,
        handlers: Sequence[ControllerRouterHandler],
        *,
        max_body: int = MAX_BODY,
        **options: Any,
    ) -> Litestar:
        """Return an application of `handlers` and the static files; `options` are Litestar's."""
        return Litestar(
            [*handlers, static_file],
            template_config=TemplateConfig(instance=JinjaTemplateEngine(None, self._environment)),
            exception_handlers={Exception: self._error_page},
            before_send=[self._add_security_headers],
            request_max_body_size=max_body,
            openapi_config=None,  # on the public port; OPS_PORT serves the description
            logging_config=None,
            **options,
        )
