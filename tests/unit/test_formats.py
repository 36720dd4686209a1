import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from voting.poll.formats import TIMELINE, VOTES, TimelinePoint
from voting.poll.lifecycle import Poll
from voting.poll.results import PollResult, Question, Totals, VoteCounts, publish

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
RESULT = PollResult(Totals(7, 2, AT), Poll())
QUESTION = Question("Cats or Dogs?", "Cats", "Dogs")
SPECIAL = Question('"Pets"', 'a,"b"\nc\rd', "=قطط 🐶")


def points(*, hidden=False):
    return [
        TimelinePoint(AT + timedelta(seconds=10 * number), VoteCounts.of(7, number, hidden=hidden))
        for number in range(3)
    ]


def written(form, *batches):
    return form.head + "".join(map(form.body, batches)) + form.tail


def rows(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_csv_row_has_the_time_the_sum_and_each_option():
    text = written(TIMELINE["csv"](publish(RESULT, "always"), QUESTION), points())
    assert text.splitlines() == [
        "time,votes,a: Cats,b: Dogs",
        "2030-01-02T03:04:05+00:00,7,7,0",
        "2030-01-02T03:04:15+00:00,8,7,1",
        "2030-01-02T03:04:25+00:00,9,7,2",
    ]


def test_option_names_are_escaped_in_csv():
    text = written(TIMELINE["csv"](publish(RESULT, "always"), SPECIAL), points())
    head, *rest = rows(text)
    assert head == ["time", "votes", 'a: a,"b"\nc\rd', "b: =قطط 🐶"]
    assert [len(row) for row in rest] == [4] * 3
    _, *votes = rows(written(VOTES["csv"](publish(RESULT, "always"), SPECIAL), ["a", "b"]))
    assert votes == [["a", SPECIAL.option_a], ["b", SPECIAL.option_b]]


def test_hidden_counts_have_no_csv_column():
    result = publish(RESULT, "after_close")
    head, *rest = rows(written(TIMELINE["csv"](result, QUESTION), points(hidden=True)))
    assert head == ["time", "votes"]
    assert [row[1:] for row in rest] == [["7"], ["8"], ["9"]]


def test_hidden_counts_are_null_in_json():
    result = publish(RESULT, "after_close")
    form = TIMELINE["json"](result, QUESTION)
    found = json.loads(written(form, points(hidden=True)))
    assert (found["hidden"], found["votes"]) == (True, 9)
    assert [each["votes"] for each in found["options"].values()] == [None, None]
    assert {(each["a"], each["b"]) for each in found["timeline"]} == {(None, None)}
    assert [each["votes"] for each in found["timeline"]] == [7, 8, 9]


@pytest.mark.parametrize("sizes", [[], [3], [1, 2], [2, 1], [1, 1, 1]])
def test_batches_of_any_size_make_one_document(sizes):
    waiting = points()
    batches = [[waiting.pop(0) for _ in range(size)] for size in sizes]
    found = json.loads(written(TIMELINE["json"](publish(RESULT, "always"), SPECIAL), *batches))
    assert found["title"] == '"Pets"'
    assert found["options"]["b"] == {"name": "=قطط 🐶", "votes": 2}
    assert [each["b"] for each in found["timeline"]] == list(range(sum(sizes)))


def test_unfinished_document_is_not_valid_json():
    form = TIMELINE["json"](publish(RESULT, "always"), QUESTION)
    half = form.head + form.body(points())
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)


def test_each_vote_is_a_line():
    result = publish(RESULT, "always")
    text = written(VOTES["csv"](result, QUESTION), ["a", "b"], ["a"])
    assert text.splitlines() == ["vote,option", "a,Cats", "b,Dogs", "a,Cats"]
    lines = written(VOTES["json"](result, QUESTION), ["a", "b"], ["a"])
    assert json.loads(lines)["choices"] == ["a", "b", "a"]
    assert lines.splitlines()[1:] == ['"a",', '"b",', '"a"', "]}"]
