"""Log lines: JSON for machines, plain for people. They never hold a voter beside a choice."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from voting.settings import Settings


def configure(settings: Settings, name: str) -> None:
    """Send every logger of this process to standard error, each line with `name`."""
    formatter: logging.Formatter
    if settings.log_format == "json":
        formatter = JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            datefmt="%Y-%m-%dT%H:%M:%S%z",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"role": name},
        )
    else:
        formatter = logging.Formatter(f"%(asctime)s {name}: %(message)s", datefmt="%H:%M:%S")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
