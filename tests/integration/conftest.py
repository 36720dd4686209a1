import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voting.poll.ballot import MIN_VERSION
from voting.poll.lifecycle import Poll
from voting.roles import result
from voting.telemetry import tracing


@pytest.fixture
async def prepared(stream):
    """A stream that a worker has created, with an open poll."""
    assert (await stream.sync_poll(MIN_VERSION, Poll())).created
    return stream


@pytest.fixture
def uncached_totals(monkeypatch):
    """Have the result role query Postgres for each request."""
    monkeypatch.setattr(result, "RESULT_TTL", 0)
    monkeypatch.setattr(result, "FINALS_TTL", 0)


@pytest.fixture
def spans(monkeypatch):
    """Record every span that this process ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    return exporter
