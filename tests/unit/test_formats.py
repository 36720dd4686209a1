import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from voting.database.tally import PollResult, Totals
from voting.poll.formats import TIMELINE, VOTES, TimelinePoint
from voting.poll.lifecycle import Poll
from voting.poll.results import VoteCounts, publish
from voting.settings import PollSettings

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
STANDING = PollResult(Totals(7, 2, AT), Poll())
ODD = PollSettings(poll_title='"Pets"', option_a='a,"b"\nc\rd', option_b="=قطط 🐶")


def points(*, hidden=False):
    return [
        TimelinePoint(AT + timedelta(seconds=10 * number), VoteCounts.of(7, number, hidden=hidden))
        for number in range(3)
    ]


def written(form, *batches):
    return form.head() + "".join(map(form.body, batches)) + form.tail()


def rows(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_a_row_has_the_time_the_sum_and_each_option():
    text = written(TIMELINE["csv"](publish(STANDING, "always"), PollSettings()), points())
    assert text.splitlines() == [
        "time,votes,a: Cats,b: Dogs",
        "2030-01-02T03:04:05+00:00,7,7,0",
        "2030-01-02T03:04:15+00:00,8,7,1",
        "2030-01-02T03:04:25+00:00,9,7,2",
    ]


def test_no_name_breaks_a_table():
    text = written(TIMELINE["csv"](publish(STANDING, "always"), ODD), points())
    head, *rest = rows(text)
    assert head == ["time", "votes", 'a: a,"b"\nc\rd', "b: =قطط 🐶"]
    assert [len(row) for row in rest] == [4] * 3
    _, *votes = rows(written(VOTES["csv"](publish(STANDING, "always"), ODD), ["a", "b"]))
    assert votes == [["a", ODD.option_a], ["b", ODD.option_b]]


def test_what_is_hidden_has_no_column():
    shown = publish(STANDING, "after_close")
    head, *rest = rows(written(TIMELINE["csv"](shown, PollSettings()), points(hidden=True)))
    assert head == ["time", "votes"]
    assert [row[1:] for row in rest] == [["7"], ["8"], ["9"]]


def test_what_is_hidden_is_null_for_programs():
    shown = publish(STANDING, "after_close")
    form = TIMELINE["json"](shown, PollSettings())
    found = json.loads(written(form, points(hidden=True)))
    assert (found["hidden"], found["votes"]) == (True, 9)
    assert [each["votes"] for each in found["options"].values()] == [None, None]
    assert {(each["a"], each["b"]) for each in found["timeline"]} == {(None, None)}
    assert [each["votes"] for each in found["timeline"]] == [7, 8, 9]


@pytest.mark.parametrize("sizes", [[], [3], [1, 2], [2, 1], [1, 1, 1]])
def test_batches_of_any_size_make_one_document(sizes):
    waiting = points()
    batches = [[waiting.pop(0) for _ in range(size)] for size in sizes]
    found = json.loads(written(TIMELINE["json"](publish(STANDING, "always"), ODD), *batches))
    assert found["title"] == '"Pets"'
    assert found["options"]["b"] == {"name": "=قطط 🐶", "votes": 2}
    assert [each["b"] for each in found["timeline"]] == list(range(sum(sizes)))


def test_half_a_document_is_none():
    form = TIMELINE["json"](publish(STANDING, "always"), PollSettings())
    half = form.head() + form.body(points())
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)


def test_votes_are_one_a_line():
    shown = publish(STANDING, "always")
    text = written(VOTES["csv"](shown, PollSettings()), ["a", "b"], ["a"])
    assert text.splitlines() == ["vote,option", "a,Cats", "b,Dogs", "a,Cats"]
    lines = written(VOTES["json"](shown, PollSettings()), ["a", "b"], ["a"])
    assert json.loads(lines)["choices"] == ["a", "b", "a"]
    assert lines.splitlines()[1:] == ['"a",', '"b",', '"a"', "]}"]
