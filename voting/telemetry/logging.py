"""Log lines: JSON for machines, readable for people.

They never hold a voter beside a choice, a cookie or an address of a voter, whatever the level.
"""

import logging
import platform
import re
import sys
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from pydantic import SecretStr

from voting import __version__
from voting.settings import RoleSettings, Settings
from voting.web.absent import absent

# For tracebacks in colours, which nobody here asks for: 6 MB of each role.
with absent("rich"):
    import structlog
    from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
    from structlog.stdlib import BoundLogger, ProcessorFormatter
    from structlog.types import EventDict, Processor

# Whose lines follow LOG_LEVEL. Of other libraries only what is wrong is told: below that, some tell
# what a request or a statement holds.
_OURS = ("voting", "alembic")

# What may be shown of a URL's query.
_PLAIN = {"host", "hostaddr", "port", "dbname", "db", "sslmode", "ssl_cert_reqs"}

_DIM, _BOLD, _RESET = "\033[2m", "\033[1m", "\033[0m"


def get(name: str) -> BoundLogger:
    """Make the logger of a module: `log.warning("took over entries", entries=5)`.

    Its lines go through the standard library's logger of that name, which has the level and the
    place; a field must not be called as an attribute of `logging.LogRecord` is.
    """
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=_Logger,
    ).bind()
    return logger


class _Logger(BoundLogger):
    LEVELS: Final = {
        name.lower(): number for name, number in logging.getLevelNamesMapping().items()
    }

    def _proxy_to_logger(
        self, method_name: str, event: str | None = None, *event_args: Any, **event_kw: Any
    ) -> Any:
        # First of all, so that a line that nobody wants costs next to nothing.
        if self._logger.isEnabledFor(self.LEVELS.get(method_name, logging.ERROR)):
            super()._proxy_to_logger(method_name, event, *event_args, **event_kw)


class Changes:
    """Tells a state where it is not what it was, at info: for what is looked at again and again."""

    def __init__(self, log: BoundLogger, state: str | None = None) -> None:
        self._log = log
        self._state = state

    def tell(self, state: str, **fields: object) -> None:
        if state != self._state:
            self._state = state
            self._log.info(state, **fields)


def configure(settings: Settings, name: str) -> None:
    """Send every logger of this process to standard error, each line with `name` as its role."""
    first: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.ExtraAdder(),
        _Role(name),
    ]
    last = _json() if settings.log_format == "json" else [_console(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=first,
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for ours in _OURS:
        logging.getLogger(ours).setLevel(level)


def tell_start(log: BoundLogger, settings: RoleSettings) -> None:
    """Say which version starts, and with which settings: none that is secret is shown."""
    log.info(
        "starting",
        version=__version__,
        commit=settings.commit,
        python=platform.python_version(),
        settings=_shown(settings),
    )


class _Role:
    """Puts the role into each line, and its keys into the order in which people read them."""

    ORDER: Final = ("time", "level", "event", "logger", "role")

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        event["role"] = self._name
        return {**{key: event.pop(key) for key in self.ORDER}, **event}


def _json() -> list[Processor]:
    # A traceback with values could hold a ballot: this one has lines of code only.
    return [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]


def _console(*, colors: bool) -> ConsoleRenderer:
    """Time, level and role, then what happened, then its fields: `12:34:56 info worker: ...`."""
    dim, bold, reset = (_DIM, _BOLD, _RESET) if colors else ("", "", "")
    levels = ConsoleRenderer.get_default_level_styles(colors=colors)

    def column(key: str, style: str = "", end: str = "") -> Column:
        return Column(key, KeyValueColumnFormatter(None, style, reset, str, postfix=end))

    def level(key: str, value: object) -> str:  # noqa: ARG001 - a column's formatter
        return f"{levels.get(str(value), '')}{value}{reset}"

    def clock(key: str, value: object) -> str:  # noqa: ARG001 - likewise
        return f"{dim}{str(value)[11:19]}{reset}"

    return ConsoleRenderer(
        columns=[
            Column("", KeyValueColumnFormatter(dim, "", reset, repr)),
            Column("time", clock),
            Column("level", level),
            column("role", end=":"),
            column("event", bold),
            Column("logger", KeyValueColumnFormatter(None, "", "", lambda _: "")),
        ],
        exception_formatter=plain_traceback,
    )


def _shown(settings: RoleSettings) -> dict[str, object]:
    return {name: _mask(name, value) for name, value in settings if value is not None}


def _mask(name: str, value: object) -> object:
    if isinstance(value, tuple):
        return len(value)
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    # Where a collector is may be written with a password too.
    return _mask_url(str(text)) if text is not value or name.startswith("otel_") else value


def _mask_url(url: str) -> str:
    """Hide who asks and with which password; the host stays. In doubt nothing is shown."""
    match = re.fullmatch(r"(\w+://)(?:[^?]*@)?([^?@]*)(?:\?([^@]*))?", url)
    if match is None:
        return "***"
    scheme, where, query = match.groups()
    user = "***@" if "@" in url else ""
    shown = [(key, text if key in _PLAIN else "***") for key, text in parse_qsl(query or "")]
    return f"{scheme}{user}{where}" + (f"?{urlencode(shown, safe='/*,:')}" if shown else "")
