"""The times that `voting close --at` accepts."""

import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from voting.commands import when

NOW = datetime(2026, 11, 24, 20, 0, 30, tzinfo=UTC)


def moment(text, now=NOW):
    return when.resolve(when.moment(text), now)


@pytest.fixture(autouse=True)
def an_hour_ahead(monkeypatch):
    """Make this machine's local time UTC+1."""
    monkeypatch.setenv("TZ", "Somewhere-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "later"),
    [
        ("+90s", timedelta(seconds=90)),
        ("+10m", timedelta(minutes=10)),
        ("+1h30m", timedelta(minutes=90)),
        ("+1h0m1s", timedelta(seconds=3601)),
    ],
)
def test_a_duration_starts_now(text, later):
    assert moment(text) == NOW + later


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("21:01", datetime(2026, 11, 24, 20, 1, tzinfo=UTC)),
        ("21:00:31", datetime(2026, 11, 24, 20, 0, 31, tzinfo=UTC)),
        ("21:00", datetime(2026, 11, 25, 20, 0, tzinfo=UTC)),
        ("20:15", datetime(2026, 11, 25, 19, 15, tzinfo=UTC)),
        ("2026-11-25T09:00", datetime(2026, 11, 25, 8, 0, tzinfo=UTC)),
        ("2026-11-25 09:00", datetime(2026, 11, 25, 8, 0, tzinfo=UTC)),
        ("2026-11-25T09:00+05:00", datetime(2026, 11, 25, 4, 0, tzinfo=UTC)),
        ("2026-11-25T09:00Z", datetime(2026, 11, 25, 9, 0, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_local(text, at):
    assert moment(text) == at


def test_a_time_of_day_is_local_time_on_its_own_day_when_clocks_change(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    before = datetime(2026, 10, 24, 19, 0, tzinfo=UTC)  # 21:00 local, summer time for some hours
    assert moment("20:15", before) == datetime(2026, 10, 25, 19, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ("has passed", ["2026-11-24T21:00:30", "2026-11-24T20:00Z", "2000-01-01T00:00", "+0s"]),
        (
            "must be like",
            [
                *("", "soon", "+", "+m", "10m", "25:00", "-5m", "+5", "2030", "20", "T20:15"),
                *("20:1", "20261124", "20261124T2015", "2026-W48-2", "2026-11-25", "2026-11-25T9"),
            ],
        ),
        ("too far away", ["+9999999999h", "+99999999h"]),
    ],
)
def test_a_time_that_has_passed_or_is_none_is_refused(message, texts):
    for text in texts:
        with pytest.raises(click.BadParameter, match=message):
            moment(text)
