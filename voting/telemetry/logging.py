"""Log lines: JSON for machines, readable for people.

No line has a voter beside a choice, a cookie or the address of a voter, at any level.
"""

import logging
import platform
import re
import sys
from urllib.parse import parse_qsl, urlencode

import structlog
from pydantic import SecretStr
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.types import EventDict, Processor

from voting import __version__
from voting.settings import RoleSettings, Settings

# Loggers that follow LOG_LEVEL. Other libraries log from warning on: below that, some log the
# content of requests and statements.
_OURS = ("voting", "alembic")

# Parameters of a URL's query that may be logged.
_PUBLIC_PARAMETERS = {"host", "hostaddr", "port", "dbname", "db", "sslmode", "ssl_cert_reqs"}

_DIM, _BOLD, _RESET = "\033[2m", "\033[1m", "\033[0m"


class ChangeLogger:
    """Logs a state at info when it changes, for states that are checked again and again."""

    def __init__(self, log: BoundLogger, state: str | None = None) -> None:
        self._log = log
        self._state = state

    def log(self, state: str, **fields: object) -> None:
        if state != self._state:
            self._state = state
            self._log.info(state, **fields)


def use_standard_library() -> None:
    """Send lines of structlog to the standard library's logger of the same name.

    Fields become attributes of the record, so a field must not have the name of one that
    `logging.LogRecord` has. Source: https://www.structlog.org/en/stable/standard-library.html
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def configure(settings: Settings, role: str) -> None:
    """Send every logger of this process to standard error, each line with its role."""
    use_standard_library()

    def add_role(_: object, __: str, event: EventDict) -> EventDict:
        first = ("time", "level", "event", "logger")  # in the order in which people read them
        return {**{key: event.pop(key) for key in first}, "role": role, **event}

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.stdlib.ExtraAdder(),
                add_role,
            ],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(_json() if settings.log_format == "json" else [_console()]),
            ],
        )
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for ours in _OURS:
        logging.getLogger(ours).setLevel(level)


def log_startup(log: BoundLogger, settings: RoleSettings) -> None:
    """Log the version that starts and its settings, with secrets masked."""
    log.info(
        "starting",
        version=__version__,
        commit=settings.commit,
        python=platform.python_version(),
        settings={name: _mask(name, value) for name, value in settings if value is not None},
    )


def _json() -> list[Processor]:
    # This traceback has lines of code only: one with values of variables could show a ballot.
    return [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]


def _console() -> ConsoleRenderer:
    """Render `12:34:56 info worker: event field='value'`, in colours on a terminal."""
    colors = sys.stderr.isatty()
    dim, bold, reset = (_DIM, _BOLD, _RESET) if colors else ("", "", "")
    levels = ConsoleRenderer.get_default_level_styles(colors=colors)

    def column(key: str, style: str = "", end: str = "") -> Column:
        return Column(key, KeyValueColumnFormatter(None, style, reset, str, postfix=end))

    return ConsoleRenderer(
        columns=[
            Column("", KeyValueColumnFormatter(dim, "", reset, repr)),
            Column("time", lambda _, value: f"{dim}{str(value)[11:19]}{reset}"),
            Column("level", lambda _, value: f"{levels.get(str(value), '')}{value}{reset}"),
            column("role", end=":"),
            column("event", bold),
            Column("logger", lambda *_: ""),
        ],
        exception_formatter=plain_traceback,
    )


def _mask(name: str, value: object) -> object:
    """Return the number of keys; of a URL its host, or nothing if it can't be parsed."""
    if name == "secret_keys" and isinstance(value, tuple):
        return len(value)
    # A collector's URL may have a password too.
    if not (isinstance(value, SecretStr) or name.startswith("otel_")):
        return value
    url = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    match = re.fullmatch(r"(\w+://)(?:[^?]*@)?([^?@]*)(?:\?([^@]*))?", url)
    if match is None:
        return "***"
    scheme, host, query = match.groups()
    user = "***@" if "@" in url else ""
    shown = [
        (key, text if key in _PUBLIC_PARAMETERS else "***") for key, text in parse_qsl(query or "")
    ]
    return f"{scheme}{user}{host}" + (f"?{urlencode(shown, safe='/*,:')}" if shown else "")
