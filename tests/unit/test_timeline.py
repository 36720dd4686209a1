from datetime import UTC, datetime, timedelta

from voting.poll.lifecycle import Poll
from voting.poll.question import Question
from voting.poll.results import PollResult, TimelineBucket, Totals, publish
from voting.web.svg import draw

START = datetime(2030, 1, 2, 3, 4, 50, tzinfo=UTC)


def drawing(*steps, results="always", names=("Cats", "Dogs")):
    """Draw steps: after how many seconds each starts, and what it adds to each option."""
    made = [
        TimelineBucket(START + timedelta(seconds=at), START + timedelta(seconds=at + 10), counts)
        for at, *counts in steps
    ]
    totals = Totals(tuple(map(sum, zip(*(each.counts for each in made), strict=True))), START)
    poll = Poll(question=Question("Which?", names))
    return draw(publish(PollResult(totals, poll, tuple(made)), results))


def test_there_is_no_drawing_before_the_first_vote():
    assert draw(None) is None
    assert drawing() is None
    assert drawing((0, 1, 0), (10, -1, 0)) is None


def test_the_first_bucket_is_a_horizontal_line():
    found = drawing((0, 3, 1))
    assert found.paths == ("M-9 209V50h9h1000h9V209z",)
    assert (found.start, found.end) == (START, START + timedelta(seconds=10))
    assert found.shares == ((75.0,), (25.0,))
    assert found.middles == (62.5, 12.5)


def test_the_line_moves_only_in_buckets_with_votes():
    found = drawing((0, 1, 0), (10, 0, 1), (90, 0, 2))
    # All, then half until the last ten seconds, then a quarter.
    assert found.paths == ("M-9 209V0h9h100l100 100h700l100 50h9V209z",)
    assert found.shares[0] == (100.0, 50.0, 50.0, 25.0)


def test_the_areas_of_several_options_are_stacked():
    found = drawing((0, 2, 1, 1), (10, 0, 4, 0), names=("A", "B", "C"))
    assert found.paths == (
        "M-9 209V100h9h500l500 50h9V209z",
        "M-9 209V50h9h500l500 -25h9V209z",
    )
    assert found.shares == ((50.0, 25.0), (25.0, 62.5), (25.0, 12.5))
    assert found.middles == (87.5, 43.75, 6.25)


def test_a_hidden_result_is_drawn_as_turnout():
    one = drawing((0, 1, 0), (10, 0, 1), (90, 0, 2), results="after_close")
    other = drawing((0, 0, 1), (10, 1, 0), (90, 2, 0), results="after_close")
    assert one == other
    assert one.paths == ("M-9 209V200h9l100 -50l100 -50h700l100 -100h9V209z",)
    assert one.shares == ()
