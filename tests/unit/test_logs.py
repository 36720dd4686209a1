import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from voting import __version__
from voting.settings import ResultSettings, Settings, VoteSettings, WorkerSettings, load_settings
from voting.telemetry.logging import configure, log_startup

KEY = "a-key-nobody-may-read"
log = structlog.get_logger("voting.x")


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    loggers = [logging.getLogger(name) for name in (None, "voting", "alembic")]
    before = [(each, each.handlers[:], each.level) for each in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def lines(capsys):
    """Return the JSON lines written since the last call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def started_with(lines, model, **environ):
    settings = load_settings(model, environ)
    configure(settings, "role")
    log_startup(log, settings)
    [line] = lines()
    return line


def test_a_json_line_has_time_level_event_logger_role_and_fields(lines):
    configure(Settings(), "worker")
    log.warning("took over entries", entries=5)
    [line] = lines()
    assert list(line) == ["time", "level", "event", "logger", "role", "entries"]
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert line == {
        "level": "warning",
        "event": "took over entries",
        "logger": "voting.x",
        "role": "worker",
        "entries": 5,
    }


def test_a_console_line_has_colours_on_a_terminal_only(capsys, monkeypatch):
    configure(Settings(log_format="console"), "worker")
    log.warning("%s is away", "Redis", reason="no route")
    assert capsys.readouterr().err[8:] == " warning worker: Redis is away reason='no route'\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    configure(Settings(log_format="console"), "worker")
    log.warning("Redis is away")
    assert "\033[" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["uvicorn.error", "sqlalchemy.pool", "asyncio", "redis", "litestar"]
)
def test_lines_of_libraries_have_the_same_format(lines, name):
    configure(Settings(), "vote")
    logging.getLogger(name).warning("%d connections", 3, extra={"more": "words"})
    [line] = lines()
    del line["time"]
    assert line == {
        "level": "warning",
        "event": "3 connections",
        "logger": name,
        "role": "vote",
        "more": "words",
    }


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_logged(lines, level, logged):
    configure(Settings(log_level=level), "worker")
    for each in ("debug", "info", "warning", "error"):
        getattr(log, each)("a line")
    assert [line["level"] for line in lines()] == logged


def test_libraries_log_nothing_below_a_warning(lines):
    configure(Settings(log_level="debug"), "worker")
    for name in ("sqlalchemy.engine.Engine", "uvicorn.error", "redis", "asyncio"):
        logging.getLogger(name).info("a statement, a request")
    assert lines() == []


def test_a_line_below_the_level_is_not_formatted():
    class Untouchable:
        def __str__(self):
            raise AssertionError

    configure(Settings(log_level="info"), "worker")
    log.debug("%s", Untouchable())
    with pytest.raises(AssertionError):
        log.info("%s", Untouchable())


def fail_with_a_secret():
    choice = "a secret choice"
    raise ValueError(len(choice))


def log_a_failure():
    try:
        fail_with_a_secret()
    except ValueError:
        log.exception("it failed", attempt=1)


def test_an_exception_is_one_field_without_the_values_of_variables(lines):
    configure(Settings(), "vote")
    log_a_failure()
    [line] = lines()
    assert (line["level"], line["event"], line["attempt"]) == ("error", "it failed", 1)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: 15")
    assert "a secret choice" not in line["exception"]


def test_an_exception_is_readable_on_a_console(capsys):
    configure(Settings(log_format="console"), "vote")
    log_a_failure()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(" error vote: it failed attempt=1")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ValueError: 15"
    assert not any("a secret choice" in each for each in rest)


def test_a_start_logs_the_version_and_the_settings(lines):
    line = started_with(lines, ResultSettings, DATABASE_URL="postgresql://db/x", COMMIT="c0ffee")
    assert (line["version"], line["commit"]) == (__version__, "c0ffee")
    assert line["python"].startswith("3.")
    assert line["settings"] == {
        "log_level": "info",
        "log_format": "json",
        "commit": "c0ffee",
        "host": "::",
        "port": 8080,
        "ops_port": 9090,
        "show_results": "always",
        "embed_in": [],
        "database_url": "postgresql://db/x",
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://:hidden@redis:6379/0", "redis://***@redis:6379/0"),
        ("rediss://me:hid%2Fden@redis/0", "rediss://***@redis/0"),
        ("redis://redis?db=2&password=hidden", "redis://redis?db=2&password=***"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_url_is_shown_with_its_host_and_without_its_password(lines, url, shown):
    line = started_with(
        lines, WorkerSettings, REDIS_URL=url, DATABASE_URL="postgresql://me:hidden@db/x"
    )
    assert line["settings"]["redis_url"] == shown
    assert line["settings"]["database_url"] == "postgresql://***@db/x"
    assert "hid" not in json.dumps(line)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hid@den@collector:4318", "http://***@collector:4318"),
        ("http://me:hid?den@collector", "***"),
    ],
)
def test_the_address_of_a_collector_is_shown_without_its_password(lines, url, shown):
    servers = {"REDIS_URL": "redis://redis", "DATABASE_URL": "postgresql://db/x"}
    line = started_with(lines, WorkerSettings, **servers, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert line["settings"]["otel_exporter_otlp_endpoint"] == shown


def test_keys_are_counted_and_never_shown(lines):
    line = started_with(lines, VoteSettings, REDIS_URL="redis://redis", SECRET_KEYS=f"{KEY},{KEY}2")
    assert line["settings"]["secret_keys"] == 2
    assert KEY not in json.dumps(line)
