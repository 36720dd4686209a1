"""Spans of requests, ballots, batches and queries. No span has a voter or a choice.

Without its SDK, OpenTelemetry makes spans that record nothing, for 0.6 µs each. Spans are passed
explicitly: making one the current span takes ten times as long, and a task that casts a batch would
inherit the context of one of its requests.

Names of attributes: https://opentelemetry.io/docs/specs/semconv/
"""

import secrets
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    format_trace_id,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from voting import __version__
from voting.settings import RoleSettings

_QUEUE = {"messaging.system": "redis", "messaging.destination.name": "ballots"}
_SEND = _QUEUE | {"messaging.operation.type": "send", "messaging.operation.name": "cast"}
_PROCESS = _QUEUE | {"messaging.operation.type": "process", "messaging.operation.name": "count"}
_DATABASE = {"db.system.name": "postgresql"}

_tracer = trace.get_tracer("voting", __version__)
_propagator = TraceContextTextMapPropagator()

log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


_NOT_RECORDING = nullcontext(INVALID_SPAN)


@contextmanager
def _recording(span: Span) -> Iterator[Span]:
    """End `span` with the block, as failed if an exception leaves the block.

    The span gets the name of the exception's class only: its text may hold a vote.
    """
    try:
        yield span
    except Exception as error:
        fail(span, type(error).__name__)
        raise
    finally:
        span.end()


def fail(span: Span, error: str) -> None:
    """Mark a span as failed with the name of an exception's class or an HTTP status."""
    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)


def query_span(name: str) -> AbstractContextManager[Span]:
    """Start the span of a database query, in a trace of its own."""
    return _recording(_tracer.start_span(name, Context(), SpanKind.CLIENT, _DATABASE))


class CastTracing:
    """Follows ballots from the request to the stream, in spans and in log lines at debug."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    @classmethod
    def of(cls, settings: RoleSettings) -> "CastTracing | None":
        """Return None if nothing is followed: spans that record nothing take 5 µs a vote."""
        debug = settings.log_level == "debug"
        return cls(debug=debug) if debug or settings.tracing else None

    def request(
        self, path: str, scheme: str, headers: Mapping[bytes, bytes]
    ) -> AbstractContextManager[Span]:
        """Start the span of a POST; it continues the trace of the header `traceparent`."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()
        }
        attributes = {
            "http.request.method": "POST",
            "http.route": path,
            "url.path": path,
            "url.scheme": scheme,
        }
        parent = _propagator.extract(carrier, Context())
        span = _tracer.start_span(f"POST {path}", parent, SpanKind.SERVER, attributes)
        return _recording(span)

    @staticmethod
    def respond(span: Span, status: int, recorded: str) -> None:
        """Add a response to the span of its request; `recorded` is yes, no or unknown."""
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("voting.recorded", recorded)
        if status >= 500:  # noqa: PLR2004 - by convention a 4xx is no failure of the server
            fail(span, str(status))

    async def cast(
        self, cast: Callable[[str | None], Awaitable[_Result]], request: Span
    ) -> _Result:
        """Call `cast` with the traceparent for the ballot's stream entry, None if not followed.

        `cast` returns the ballot's version. Raises what `cast` raises.
        """
        span = _tracer.start_span(
            "cast ballot", trace.set_span_in_context(request, Context()), SpanKind.PRODUCER, _SEND
        )
        with _recording(span):
            if not (span.is_recording() or self._debug):
                return await cast(None)
            context = span.get_span_context()
            if not context.is_valid:
                context = SpanContext(secrets.randbits(128), secrets.randbits(64), is_remote=False)
            request_id = format_trace_id(context.trace_id)
            try:
                version = await cast(_traceparent(context))
            except Exception as error:
                reason = type(error).__name__
                log.debug("ballot not acknowledged", request=request_id, reason=reason)
                raise
            log.debug("ballot accepted", request=request_id, ballot=str(version))
            span.set_attribute("messaging.message.id", str(version))
            return version


class CountTracing:
    """Follows ballots that carry a traceparent from the stream to the commit."""

    def __init__(self) -> None:
        self._spans: dict[Hashable, Span] = {}

    def received(self, traceparents: Mapping[Hashable, str]) -> None:
        """Start a span for each entry: `traceparents` by version."""
        for version, text in traceparents.items():
            parent = _propagator.extract({"traceparent": text}, Context())
            if not trace.get_current_span(parent).get_span_context().is_valid:
                continue
            attributes = _PROCESS | {"messaging.message.id": str(version)}
            self._spans[version] = _tracer.start_span(
                "count ballot", parent, SpanKind.CONSUMER, attributes
            )

    def batch(self, size: int, versions: Iterable[Hashable]) -> AbstractContextManager[Span]:
        """Start the span of a statement that counts `size` ballots; it links to their spans."""
        spans = [self._spans.get(each) for each in versions] if self._spans else []
        links = [Link(each.get_span_context()) for each in spans if each and each.is_recording()]
        if not links:
            return _NOT_RECORDING
        attributes = _DATABASE | {"messaging.batch.message_count": size}
        return _recording(
            _tracer.start_span("count batch", Context(), SpanKind.CLIENT, attributes, links)
        )

    def counted(self, versions: Iterable[Hashable]) -> None:
        """End the spans of committed ballots."""
        for version, span in self._pop(versions):
            request_id = format_trace_id(span.get_span_context().trace_id)
            log.debug("ballot counted", request=request_id, ballot=str(version))
            span.end()

    def failed(self, versions: Iterable[Hashable], error: str) -> None:
        """End the spans of entries that are not counted: dead letters, or left at a stop."""
        for _, span in self._pop(versions):
            fail(span, error)
            span.end()

    def _pop(self, versions: Iterable[Hashable]) -> Iterator[tuple[Hashable, Span]]:
        for version in versions if self._spans else ():
            if span := self._spans.pop(version, None):
                yield version, span


def _traceparent(context: SpanContext) -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(NonRecordingSpan(context), Context()))
    return carrier["traceparent"]


def start(role: str, settings: RoleSettings) -> Callable[[], None]:
    """Send spans if a collector is named. Returns a function that sends the last ones."""
    if not settings.tracing:
        return lambda: None
    try:
        from voting.telemetry.exporter import start_exporter  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        log.warning("no traces: the extra `tracing` is not installed", missing=error.name)
        return lambda: None
    return start_exporter(role)
