import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voting.roles import result
from voting.telemetry import tracing


@pytest.fixture
def uncached_totals(monkeypatch):
    """Have the result role query Postgres for each request."""
    monkeypatch.setattr(result, "RESULT_TTL", 0)


@pytest.fixture
def spans(monkeypatch):
    """Record every span that this process ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter
