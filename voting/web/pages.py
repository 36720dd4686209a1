"""The Jinja templates of the pages, and the Litestar application that serves them."""

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.template import TemplateConfig
from litestar.types import ControllerRouterHandler, Message, Scope

from voting.settings import PageSettings
from voting.web.errors import error_page
from voting.web.forms import MAX_BODY
from voting.web.headers import security_headers
from voting.web.static_files import static_file, static_url
from voting.web.texts import text

# Stands in a rendered page for the time in milliseconds since 1970, from which clock.js corrects
# the clock of the client. NUL: no title or option that an operator sets can contain it.
_CLOCK = "\0clock\0"


class Pages:
    """The templates, with what every page shows, and `context`.

    `clock` returns the time that clients take for the server's, in seconds since 1970.

    Pages that many clients load are rendered here, as `litestar.response.Template` renders again
    for each response: 284 µs a page instead of 79.
    """

    def __init__(
        self, settings: PageSettings, clock: Callable[[], float] = time.time, **context: object
    ) -> None:
        self._clock = clock
        self.security_headers = security_headers(secure=settings.secure)
        self._environment = Environment(
            loader=PackageLoader("voting.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # checking the files for changes took a quarter of a page's time
        )
        self._environment.globals.update(
            text=functools.lru_cache(maxsize=256)(text),
            vote_url=settings.vote_url,
            result_url=settings.result_url,
            static=static_url,
            clock=_CLOCK,
            **context,
        )
        self._render_cached = functools.lru_cache(maxsize=256)(self._render)

    def render(self, template: str, **context: object) -> str:
        return self._set_clock(self._render(template, **context))

    def render_cached(self, template: str, **context: Hashable) -> str:
        """Render a page that is the same for many clients once for all of them."""
        return self._set_clock(self._render_cached(template, **context))

    def _render(self, template: str, **context: object) -> str:
        return self._environment.get_template(template).render(context)

    def _set_clock(self, page: str) -> str:
        return page.replace(_CLOCK, str(int(self._clock() * 1000)))

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
            exception_handlers={Exception: error_page},
            before_send=[self._add_security_headers],
            request_max_body_size=max_body,
            openapi_config=None,  # on the public port; OPS_PORT serves the description
            logging_config=None,
            **options,
        )
