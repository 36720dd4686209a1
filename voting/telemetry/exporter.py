"""Sends spans to a collector, with OpenTelemetry's SDK, which the extra `tracing` installs.

A collector that is down or slow costs spans, and nothing else.
"""

import logging
from collections.abc import Callable, Sequence
from threading import Thread

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from voting import __version__

# Seconds that a stop waits for the last spans to be sent: a role has ten in all.
FLUSH_TIMEOUT = 1.0

log = structlog.get_logger(__name__)


class _Exporter(OTLPSpanExporter):
    """Logs once that the collector is down, and once that it is back."""

    _down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = super().export(spans)
        except Exception:  # noqa: BLE001 - the SDK would log it for each batch
            result = SpanExportResult.FAILURE
        if self._down != (result is not SpanExportResult.SUCCESS):
            self._down = not self._down
            state = "down, spans are lost" if self._down else "back"
            log.warning("trace collector is %s", state)
        return result


def start_exporter(role: str) -> Callable[[], None]:
    """Send the spans of a role. Returns a function that sends the last ones."""
    own = Resource.create({"service.name": f"voting-{role}", "service.version": __version__})
    # What the environment sets takes precedence. The SDK's own exit handler may wait for 30 s.
    resource = own.merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Exporter()))
    trace.set_tracer_provider(provider)
    # These have logged invalid variables by now. From here on they log each failed request, which
    # `_Exporter` logs once.
    for library in ("opentelemetry", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)

    def flush() -> None:
        # In a thread, as the SDK has no limit for a request that is being sent.
        flushing = Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_TIMEOUT)

    return flush
