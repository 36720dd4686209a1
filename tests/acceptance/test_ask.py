"""`voting ask`: the next question, run as a person who leads a vote runs it."""

import json
import re

import httpx
import pytest
from support.app import VotingUp
from support.wait import wait_for

from .test_commands import AWAY, voting
from .test_poll_commands import TIME, lines, prompted


def status(up: VotingUp) -> dict:
    return json.loads("\n".join(lines(up, "status", "--json")))


def cast(up: VotingUp, number: int, choice: str) -> httpx.Response:
    with httpx.Client(base_url=up.address("vote")) as voter:
        voter.get("/")
        return voter.post("/vote", data={"round": str(number), "choice": choice})


# Several commands and a start, each a process: on a busy machine they take their time.
@pytest.mark.timeout(300)
def test_a_question_is_asked_in_the_next_round_and_the_rounds_before_are_kept(start, data):
    up = start(data).ready()
    assert cast(up, 1, "b").status_code == 303
    asked = voting(
        *("ask", "  What now? ", "Tea", "Coffee", "قهوة ☕", "--yes", "--data", str(up.data))
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[:3] == [
        "round         2, open",
        "question      What now?",
        "votes         Tea 0, Coffee 0, قهوة ☕ 0",
    ]
    assert re.fullmatch(
        f"final         {TIME}, round 1: Cats 0, Dogs 1", asked.stdout.splitlines()[-1]
    )

    # Each vote is for the question that its voter has seen.
    wait_for("the new question", lambda: cast(up, 2, "c").status_code == 303)
    assert cast(up, 1, "b").status_code == 409
    assert cast(up, 3, "b").status_code == 409
    assert cast(up, 2, "d").status_code == 422
    wait_for("the vote", lambda: status(up)["counts"]["votes"] == 1)
    assert status(up)["counts"]["by_option"] == [0, 0, 1]

    # It may be scheduled to close, and a poll that is final is not closed again.
    lines(up, "close", "--yes", "--wait", "30")
    many = [f"Option {number}" for number in range(1, 13)]
    scheduled = lines(up, "ask", "Which?", *many, "--yes", "--close-at", "+1h")
    assert re.fullmatch(f"round         3, open, closes at {TIME}", scheduled[0])
    wait_for("the next question", lambda: cast(up, 3, "l").status_code == 303)
    wait_for("the vote", lambda: status(up)["counts"]["votes"] == 1)
    assert lines(up, "audit")[-1] == "no problems"

    result = up.address("result")
    rounds = httpx.get(f"{result}/rounds").text
    assert all(each in rounds for each in ("Cats or Dogs?", "What now?", "قهوة ☕"))
    assert "Which?" in httpx.get(f"{result}/rounds/3", follow_redirects=True).text
    assert httpx.get(f"{result}/rounds/4").status_code == 404
    first = httpx.get(f"{result}/export.json?round=1").json()
    assert first["title"] == "Cats or Dogs?"
    assert first["options"] == [
        {"key": "a", "name": "Cats", "votes": 0},
        {"key": "b", "name": "Dogs", "votes": 1},
    ]


def test_what_will_happen_is_said_with_the_votes_and_nothing_changes_without_a_yes(running):
    running.reset()
    code, output = prompted(running, "no", "ask", "What now?", "Tea", "Coffee")
    assert code == 1
    assert re.match(
        r"Ask “What now\?” in the next round now\?\n"
        r"  Round 1, “Cats or Dogs\?”, has 0 votes\.\n"
        r"  It is open: it is closed now, and final before the next begins\.\n",
        output,
    )
    assert "nothing was changed" in output
    assert lines(running, "status")[0] == "round         1, open"
    unasked = voting("ask", "What now?", "Tea", "Coffee", "--data", str(running.data))
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "confirm with --yes" in unasked.stderr


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["Which?", "Tea"], ["2 to 12 options are needed, not 1"]),
        (["Which?", *map(str, range(13))], ["2 to 12 options are needed, not 13"]),
        (
            ["", "Tea", " Tea ", "", "x" * 61, "a\tb"],
            [
                "the title is empty",
                "option 2 is the same as option 1",
                "option 3 is empty",
                "option 4 has 61 characters, 60 at most are possible",
                "option 5 has a control character",
            ],
        ),
        (["x" * 201, "a", "b"], ["the title has 201 characters, 200 at most are possible"]),
        (["Which?", "a", "b", "--close-at", "2020-01-01T00:00"], ["has passed"]),
        (["Which?", "a", "b", "--close-at", "soon"], ["must be like"]),
    ],
)
def test_a_question_that_is_not_one_is_refused_before_anything_is_changed(
    running, arguments, problems
):
    before = lines(running, "status")
    refused = voting("ask", *arguments, "--yes", "--data", str(running.data))
    assert (refused.returncode, refused.stdout) == (2, "")
    said = refused.stderr.splitlines()[-len(problems) :]
    assert all(problem in line for problem, line in zip(problems, said, strict=True))
    assert lines(running, "status") == before


def test_unreachable_servers_are_reported_in_one_line():
    failed = voting("ask", "Which?", "Tea", "Coffee", "--yes", **AWAY)
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("Error: the question can't be asked")
