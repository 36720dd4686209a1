from datetime import UTC, datetime, timedelta

import pytest

from voting.poll.lifecycle import Poll
from voting.poll.results import PollResult, TimelineBucket, Totals, publish
from voting.web.svg import draw

START = datetime(2030, 1, 2, 3, 4, 50, tzinfo=UTC)


def drawing(*steps, results="always"):
    """Draw steps: after how many seconds each starts, and what it adds."""
    made = [
        TimelineBucket(START + timedelta(seconds=at), START + timedelta(seconds=at + 10), a, b)
        for at, a, b in steps
    ]
    totals = Totals(sum(each.a for each in made), sum(each.b for each in made), START)
    return draw(publish(PollResult(totals, Poll(), tuple(made)), results))


def test_there_is_no_drawing_before_the_first_vote():
    assert draw(None) is None
    assert drawing() is None
    assert drawing((0, 1, 0), (10, -1, 0)) is None


def test_the_first_bucket_is_a_horizontal_line():
    found = drawing((0, 3, 1))
    assert found.path == "M-9 209V50h9h1000h9V209z"
    assert (found.start, found.end) == ("03:04:50", "03:05:00")
    assert found.shares == (75.0,)


def test_the_line_moves_only_in_buckets_with_votes():
    found = drawing((0, 1, 0), (10, 0, 1), (90, 0, 2))
    # All, then half until the last ten seconds, then a quarter.
    assert found.path == "M-9 209V0h9h100l100 100h700l100 50h9V209z"
    assert (min(found.shares), max(found.shares)) == (25.0, 100.0)


def test_a_hidden_result_is_drawn_as_turnout():
    one = drawing((0, 1, 0), (10, 0, 1), (90, 0, 2), results="after_close")
    other = drawing((0, 0, 1), (10, 1, 0), (90, 2, 0), results="after_close")
    assert one == other
    assert one.path == "M-9 209V200h9l100 -50l100 -50h700l100 -100h9V209z"
    assert one.shares == ()


@pytest.mark.parametrize(
    ("seconds", "start", "end"),
    [(50, "03:04:50", "03:05:50"), (7200, "03:04", "05:05"), (90_000, "02 Jan, 03:04", "03 Jan")],
)
def test_times_are_shown_by_the_length_of_the_timeline(seconds, start, end):
    found = drawing((0, 1, 0), (seconds, 1, 0))
    assert found.start == start
    assert found.end.startswith(end)
