"""Spans of OpenTelemetry, whose SDK reads OTEL_* variables by itself. None holds a vote.

Names of attributes: https://opentelemetry.io/docs/specs/semconv/
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import Any, TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from voting import __version__
from voting.telemetry import logging as logs
from voting.telemetry import traceparent

# What is left at the end may take so long, in seconds: a role has ten to stop.
FLUSH = 1.0

_QUEUE = {"messaging.system": "redis", "messaging.destination.name": "ballots"}
_SEND = _QUEUE | {"messaging.operation.type": "send", "messaging.operation.name": "cast"}
_PROCESS = _QUEUE | {"messaging.operation.type": "process", "messaging.operation.name": "count"}
_DATABASE = {"db.system.name": "postgresql"}

log = logs.get(__name__)

_Result = TypeVar("_Result")


class Spans:
    """Makes the spans of a role; a thread sends them to the collector.

    A collector that is away or slow costs spans, and nothing else.
    """

    def __init__(self, role: str) -> None:
        own = Resource.create({"service.name": f"voting-{role}", "service.version": __version__})
        self._provider = TracerProvider(
            resource=own.merge(OTELResourceDetector().detect()),  # what is set goes first
            shutdown_on_exit=False,  # it may wait for half a minute
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("voting", __version__)
        # By now they have said what is wrong with a variable. From here on they say for each batch,
        # or for each request, what `_Exporter` says once.
        for chatty in ("opentelemetry", "urllib3"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)

    def request(
        self, method: str, route: str, scheme: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[Span]:
        """Answer a request; continues the trace of its `traceparent`."""
        attributes = {
            "http.request.method": method,
            "http.route": route,
            "url.path": route,
            "url.scheme": scheme,
        }
        parent = _extract(traceparent.parse(headers.get("traceparent")), headers.get("tracestate"))
        return self._current(f"{method} {route}", SpanKind.SERVER, attributes, context=parent)

    def cast(self) -> AbstractContextManager[Span]:
        """Send a ballot, as part of the request that is being answered."""
        return self._current("cast ballot", SpanKind.PRODUCER, _SEND)

    def received(self, trace: str, ballot: str) -> Span:
        """Begin to count the ballot that was cast in `trace`; whoever calls this ends it."""
        attributes = _PROCESS | {"messaging.message.id": ballot}
        return self._tracer.start_span(
            "count ballot", _extract(trace), SpanKind.CONSUMER, attributes
        )

    def batch(self, size: int, ballots: Sequence[Span]) -> AbstractContextManager[Span]:
        """Count `size` ballots with one statement, of which these are followed."""
        attributes = _DATABASE | {"messaging.batch.message_count": size}
        links = [Link(each.get_span_context()) for each in ballots]
        return self._current(
            "count batch", SpanKind.CLIENT, attributes, context=Context(), links=links
        )

    async def query(self, name: str, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        """Ask the database, in a trace of its own."""
        with self._current(name, SpanKind.CLIENT, _DATABASE, context=Context()):
            return await ask()

    @contextmanager
    def _current(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Any], **more: Any
    ) -> Iterator[Span]:
        # An error's text and traceback stay here: the name of its class is all that is told.
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
            **more,
        ) as span:
            try:
                yield span
            except Exception as error:
                self.fail(span, type(error).__name__)
                raise

    @staticmethod
    def fail(span: Span, error: str) -> None:
        """Mark a span as failed with the name of an error's class, or an HTTP status."""
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)

    @staticmethod
    def trace(span: Span) -> str | None:
        """Tell the traceparent by which others continue from `span`; None where it has none."""
        context = span.get_span_context()
        if not context.is_valid:  # OTEL_SDK_DISABLED
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def close(self) -> None:
        """Send what is left, where that takes no longer than FLUSH."""
        # The SDK's own limit is none while a request is on its way.
        flushing = Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH)


class _Exporter(SpanExporter):
    """Says once that the collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - whatever it is, the SDK would say it for each batch
            result = SpanExportResult.FAILURE
        away = result is not SpanExportResult.SUCCESS
        if away != self._away:
            self._away = away
            log.warning("the collector of traces is %s", "away: spans are lost" if away else "back")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _extract(trace: str | None, state: str | None = None) -> Context:
    """Make the context that continues a trace, or one that begins a new one."""
    given = {"traceparent": trace, "tracestate": state}
    carrier = {name: value for name, value in given.items() if value}
    return TraceContextTextMapPropagator().extract(carrier, Context())
