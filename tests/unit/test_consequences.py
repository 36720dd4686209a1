from dataclasses import replace
from datetime import UTC, datetime

import pytest

from voting.poll.ballot import Version
from voting.poll.consequences import consequences
from voting.poll.lifecycle import Event, Poll
from voting.poll.question import Question
from voting.poll.results import VoteCounts

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
COUNTS, HIDDEN = VoteCounts(1_234, (1_000, 234)), VoteCounts(1_234, None)

OPEN = Poll(round=3)
PLANNED = replace(OPEN, closes_at=AT)
COUNTING = replace(OPEN, state="closed", closed_at=AT, last_version=Version(1, 0))
FINAL = replace(COUNTING, final_at=AT)

ASK = "Ask “What now?” in the next round now?"
HAS = "Round 3, “Cats or Dogs?”, has 1,234 votes."
KEPT = "Its totals and timeline are kept, its votes are deleted."


@pytest.mark.parametrize(
    ("event", "poll", "lines"),
    [
        (Event.CLOSE, OPEN, ["Close round 3 now?", "Votes are refused from then on. "]),
        (
            Event.CLOSE,
            PLANNED,
            ["Close round 3 now?", "Votes", "This replaces the close planned for 2030-01-02 03:04"],
        ),
        (Event.REOPEN, OPEN, []),
        (Event.REOPEN, PLANNED, ["Keep round 3 open? This cancels its close at 2030-01-02 03:04"]),
        (Event.REOPEN, COUNTING, ["Reopen round 3? Its last ballots are being counted."]),
        (
            Event.REOPEN,
            FINAL,
            [
                "Reopen round 3? This revokes its final result:",
                "Cats 1,000, Dogs 234, final since 2030-01-02 03:04:05 UTC.",
                "It stays listed as revoked.",
            ],
        ),
        (
            Event.START_ROUND,
            FINAL,
            ["Ask the same in the next", "This deletes the 1,234 votes of round 3.", "Its totals"],
        ),
        (Event.ALL_COUNTED, COUNTING, []),
    ],
)
def test_an_operator_reads_what_a_change_takes_back(event, poll, lines):
    found = consequences(event, poll, COUNTS)
    assert all(line.startswith(each) for line, each in zip(found, lines, strict=True)), found


def test_a_planned_close_is_told_with_its_time():
    question, *_ = consequences(Event.SCHEDULE, OPEN, COUNTS, closes_at=AT)
    assert question == "Close round 3 at 2030-01-02 03:04:05 UTC?"


def test_another_question_closes_an_open_round_first():
    now = Question("What now?", ("Tea", "Coffee"))
    closes = "It is open: it is closed now, and final before the next begins."
    for poll, lines in ((OPEN, [ASK, HAS, closes, KEPT]), (FINAL, [ASK, HAS, KEPT])):
        assert consequences(Event.START_ROUND, poll, COUNTS, question=now) == lines


def test_hidden_totals_stay_hidden():
    assert "1,234 in total, final since" in consequences(Event.REOPEN, FINAL, HIDDEN)[1]
