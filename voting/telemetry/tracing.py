"""Whether spans are made, and by whom. Without a collector nothing of OpenTelemetry is loaded."""

from typing import TYPE_CHECKING

from voting.settings import RoleSettings
from voting.telemetry import logging as logs

if TYPE_CHECKING:
    from voting.telemetry.spans import Spans

log = logs.get(__name__)


def start(role: str, settings: RoleSettings) -> "Spans | None":
    """Start to send spans; None where no collector is named, or nothing is installed to do it.

    Whoever starts it calls `close` at the end.
    """
    if not settings.tracing:
        return None
    try:
        from voting.telemetry.spans import Spans  # noqa: PLC0415 - takes memory and time at the start
    except ModuleNotFoundError as error:
        log.warning("no traces: pip install 'voting[tracing]'", missing=error.name)
        return None
    return Spans(role)
