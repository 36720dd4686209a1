import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from voting.poll.formats import TIMELINE, VOTES, TimelinePoint
from voting.poll.lifecycle import Poll
from voting.poll.question import Question
from voting.poll.results import PollResult, Totals, VoteCounts, publish

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = ('a,"b"\nc\rd', "=قطط 🐶", "Dogs")


def result(show_results="always", question=None):
    poll = Poll() if question is None else Poll(question=question)
    counts = (7, 2, 0)[: len(poll.question.names)]
    return publish(PollResult(Totals(counts, AT), poll), show_results)


PLAIN, HIDDEN = result(), result("after_close")
SPECIAL = result(question=Question('"Pets"', NAMES))


def points(options=2, *, hidden=False):
    counts = [(7, number, 2 * number)[:options] for number in range(3)]
    return [
        TimelinePoint(AT + timedelta(seconds=10 * number), VoteCounts.of(each, hidden=hidden))
        for number, each in enumerate(counts)
    ]


def written(form, *batches):
    return form.head + "".join(map(form.body, batches)) + form.tail


def rows(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_csv_row_has_the_time_the_sum_and_each_option():
    text = written(TIMELINE["csv"](PLAIN), points())
    assert text.splitlines() == [
        "time,votes,a: Cats,b: Dogs",
        "2030-01-02T03:04:05+00:00,7,7,0",
        "2030-01-02T03:04:15+00:00,8,7,1",
        "2030-01-02T03:04:25+00:00,9,7,2",
    ]


def test_each_of_twelve_options_has_a_column():
    names = tuple(f"Option {n}" for n in range(1, 13))
    poll = Poll(question=Question("Which?", names))
    counts = tuple(range(12))
    found = publish(PollResult(Totals(counts, AT), poll), "always")
    point = TimelinePoint(AT, found.counts)
    head, row = rows(written(TIMELINE["csv"](found), [point]))
    assert head == ["time", "votes", *(f"{key}: {name}" for key, name in poll.question.options)]
    assert (head[-1], row[1:]) == ("l: Option 12", ["66", *map(str, counts)])
    [shown] = json.loads(written(TIMELINE["json"](found), [point]))["timeline"]
    assert shown == {"time": AT.isoformat(), "votes": 66, "options": list(counts)}


def test_option_names_are_escaped_in_csv():
    text = written(TIMELINE["csv"](SPECIAL), points(3))
    head, *rest = rows(text)
    assert head == ["time", "votes", 'a: a,"b"\nc\rd', "b: =قطط 🐶", "c: Dogs"]
    assert [len(row) for row in rest] == [5] * 3
    _, *votes = rows(written(VOTES["csv"](SPECIAL), ["a", "b", "c"]))
    assert votes == [["a", NAMES[0]], ["b", NAMES[1]], ["c", "Dogs"]]


def test_hidden_counts_have_no_csv_column():
    head, *rest = rows(written(TIMELINE["csv"](HIDDEN), points(hidden=True)))
    assert head == ["time", "votes"]
    assert [row[1:] for row in rest] == [["7"], ["8"], ["9"]]


def test_hidden_counts_are_null_in_json():
    found = json.loads(written(TIMELINE["json"](HIDDEN), points(hidden=True)))
    assert (found["hidden"], found["votes"]) == (True, 9)
    assert [each["votes"] for each in found["options"]] == [None, None]
    assert [each["options"] for each in found["timeline"]] == [None] * 3
    assert [each["votes"] for each in found["timeline"]] == [7, 8, 9]


@pytest.mark.parametrize("sizes", [[], [3], [1, 2], [2, 1], [1, 1, 1]])
def test_batches_of_any_size_make_one_document(sizes):
    waiting = points(3)
    batches = [[waiting.pop(0) for _ in range(size)] for size in sizes]
    found = json.loads(written(TIMELINE["json"](SPECIAL), *batches))
    assert found["title"] == '"Pets"'
    assert found["options"][1] == {"key": "b", "name": "=قطط 🐶", "votes": 2}
    assert [each["options"][1] for each in found["timeline"]] == list(range(sum(sizes)))


def test_unfinished_document_is_not_valid_json():
    form = TIMELINE["json"](PLAIN)
    half = form.head + form.body(points())
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)


def test_each_vote_is_a_line():
    text = written(VOTES["csv"](PLAIN), ["a", "b"], ["a"])
    assert text.splitlines() == ["vote,option", "a,Cats", "b,Dogs", "a,Cats"]
    lines = written(VOTES["json"](PLAIN), ["a", "b"], ["a"])
    assert json.loads(lines)["choices"] == ["a", "b", "a"]
    assert lines.splitlines()[1:] == ['"a",', '"b",', '"a"', "]}"]
