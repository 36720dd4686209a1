import pytest

from voting.roles import result


@pytest.fixture
def uncached_totals(monkeypatch):
    """Have the result role query Postgres for each request."""
    monkeypatch.setattr(result, "RESULT_TTL", 0)
