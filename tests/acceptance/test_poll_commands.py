"""The commands that open, close and reset a poll, run as an operator runs them."""

import json
import os
import pty
import re
import subprocess
import sys

import httpx
import pytest
from support.app import GUARDIAN, VotingUp, post_vote
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

from .test_commands import AWAY, voted, voting

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


def lines(up: VotingUp, *command: str) -> list[str]:
    done = voting(*command, "--data", str(up.data))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def votes(up: VotingUp, choice: str) -> httpx.Response:
    with httpx.Client(base_url=up.address("vote")) as voter:
        return post_vote(voter, choice)


def page(up: VotingUp, voter: httpx.Cookies) -> str:
    return httpx.get(up.address("vote"), cookies=voter).text


def prompted(up: VotingUp, reply: str, *command: str) -> tuple[int, str]:
    """Run a command at a terminal, reply to its prompt; return its exit code and output."""
    terminal, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "voting", *command, "--data", str(up.data)],
            env=ENVIRON,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=GUARDIAN.group,
        ) as process:
            os.write(terminal, f"{reply}\n".encode())
            output, _ = process.communicate(timeout=DEADLINE)
    finally:
        os.close(terminal)
        os.close(theirs)
    return process.returncode, output


# A dozen commands and two starts, each a process: on a busy machine they take their time.
@pytest.mark.timeout(300)
def test_a_poll_is_closed_final_opened_again_and_reset(start, data):
    up = voted(start(data).ready())
    assert lines(up, "status") == [
        "round         1, open",
        "question      Cats or Dogs?",
        "votes         Cats 2, Dogs 1",
        "not counted   0",
        "dead letters  0",
    ]

    closed = lines(up, "close", "--yes", "--wait", "30")
    assert re.fullmatch(f"round         1, final since {TIME}, closed at {TIME}", closed[0])
    assert re.fullmatch(f"final         {TIME}, round 1: Cats 2, Dogs 1", closed[-1])
    refused = votes(up, "a")
    assert refused.status_code == 409
    assert "Voting is closed" in refused.text
    assert "was not recorded" in refused.text

    opened = lines(up, "open", "--yes")
    assert opened[0] == "round         1, open"
    assert opened[-1].endswith("round 1: Cats 2, Dogs 1, revoked")
    voter = httpx.Cookies()
    assert up.vote("b", voter)
    wait_for("the vote", lambda: up.tally() == {"a": 2, "b": 2})

    lines(up, "close", "--yes", "--wait", "30")
    wait_for("the page to be closed", lambda: "Voting is closed" in page(up, voter))
    assert "✓ Your choice" in page(up, voter)
    started = lines(up, "reset", "--yes")
    assert started[0] == "round         2, open"
    assert started[2] == "votes         Cats 0, Dogs 0"
    assert [line.partition(", ")[2] for line in started[-2:]] == [
        "round 1: Cats 2, Dogs 1, revoked",
        "round 1: Cats 2, Dogs 2",
    ]
    wait_for("the page to be empty", lambda: up.tally() == {"a": 0, "b": 0})
    # A voter of the round before has not voted in the next.
    wait_for("the page to be open", lambda: "Pick one. You can" in page(up, voter))
    assert "✓" not in page(up, voter)
    assert up.vote("b", voter)
    wait_for("the vote of round 2", lambda: up.tally() == {"a": 0, "b": 1})
    assert lines(up, "audit")[-1] == "no problems"
    assert lines(up, "replay")[1] == "recounted     0"

    found = json.loads("\n".join(lines(up, "status", "--json")))
    assert (found["phase"], found["poll"]["round"], found["backlog"]) == ("open", 2, 0)
    assert [each["counts"] for each in found["finals"]] == [[2, 1], [2, 2]]

    assert up.interrupt() == 0
    again = start(data).ready()
    assert lines(again, "status")[0] == "round         2, open"
    assert again.tally() == {"a": 0, "b": 1}


def test_commands_hide_the_totals_that_the_pages_hide(start, data):
    up = start(data, SHOW_RESULTS="after_close").ready()
    assert lines(up, "status")[2] == "votes         0 in total"
    as_json = json.loads("\n".join(lines(up, "status", "--json")))
    assert as_json["counts"]["by_option"] is None
    assert lines(up, "close", "--at", "+1h", "--yes")[2] == "votes         0 in total"
    assert lines(up, "export")[0] == "time,votes"
    assert voting("export", "--votes", "--data", str(data)).returncode == 1


def test_hidden_totals_are_revealed_for_good_and_after_a_yes_only(running):
    running.reset()
    voted(running)
    number = json.loads("\n".join(lines(running, "status", "--json")))["poll"]["round"]
    code, output = prompted(running, "no", "reveal")
    assert code == 1
    assert output.startswith(f"Show the totals of round {number} to everybody?")
    missing = voting("reveal", "--round", str(number + 1), "--data", str(running.data))
    assert missing.returncode == 2
    assert f"there is no round {number + 1}" in missing.stderr
    for revealed in (False, True):
        said = "Cats 2, Dogs 1" if revealed else "3 in total"
        if revealed:
            lines(running, "reveal", "--yes")
        hidden = voting("status", "--data", str(running.data), SHOW_RESULTS="when_revealed")
        assert hidden.stdout.splitlines()[2] == f"votes         {said}"
    running.sql("UPDATE rounds SET revealed = false")


def test_a_poll_closes_at_its_time_which_the_page_shows(start, data):
    up = start(data, "--scale", "vote=2").ready()
    planned = lines(up, "close", "--at", "+4s", "--yes")
    assert re.fullmatch(f"round         1, open, closes at {TIME}", planned[0])
    with httpx.Client(base_url=up.address("vote")) as voter:
        wait_for("the page to say when", lambda: "Voting closes" in voter.get("/").text)
    assert up.vote("a")
    wait_for("the close", lambda: votes(up, "b").status_code == 409)
    wait_for("the final totals", lambda: "final since" in lines(up, "status")[0])
    counted = up.tally()
    assert counted["a"] == 1
    assert lines(up, "status")[-1].endswith(f"round 1: Cats 1, Dogs {counted['b']}")
    assert lines(up, "audit")[-1] == "no problems"


def test_consequences_are_printed_first_and_nothing_changes_without_a_yes(running):
    running.reset()
    voted(running)
    closing = r"Close round 1 now\?\n  Votes are refused from then on\."
    code, output = prompted(running, "no", "close")
    assert code == 1
    assert re.match(closing, output)
    assert "nothing was changed" in output
    assert lines(running, "status")[0] == "round         1, open"

    code, output = prompted(running, "yes", "close", "--wait", "30")
    assert code == 0
    assert "final since" in output

    for command, words in (
        ("open", ["This revokes its final result", "Cats 2, Dogs 1, final since"]),
        ("reset", ["This deletes the 3 votes of round 1", "timeline are kept"]),
    ):
        code, output = prompted(running, "", command)
        assert code == 1
        assert all(each in output for each in words), output
        assert "final since" in lines(running, "status")[0]

        unasked = voting(command, "--data", str(running.data))
        assert (unasked.returncode, unasked.stdout) == (2, "")
        assert "confirm with --yes" in unasked.stderr

    code, output = prompted(running, "yes", "open")
    assert code == 0
    lines(running, "close", "--at", "+1h", "--yes")
    code, output = prompted(running, "no", "open")
    assert "This cancels its close at" in output
    assert lines(running, "open", "--yes")[0] == "round         1, open"
    assert lines(running, "open")[0] == "round         1, open"  # nothing to confirm


def test_a_close_while_redis_is_unreachable_is_completed_by_a_worker(running):
    url = running.servers.database_url()
    closed = voting("close", "--yes", DATABASE_URL=url, REDIS_URL=AWAY["REDIS_URL"])
    assert (closed.returncode, closed.stdout) == (1, "")
    [line] = closed.stderr.splitlines()
    assert line.startswith("Error: the change is stored in Postgres, but not in Redis yet")
    wait_for("a worker to tell it", lambda: votes(running, "a").status_code == 409)
    lines(running, "open", "--yes")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["reset", "--yes"], 1, "round 1 is open: close it and wait until it is final"),
        (["close", "--yes", "--at", "2020-01-01T00:00"], 2, "has passed"),
        (["close", "--yes", "--at", "soon"], 2, "must be like"),
    ],
)
def test_an_impossible_change_is_refused_with_its_reason(running, command, code, words):
    refused = voting(*command, "--data", str(running.data))
    assert (refused.returncode, refused.stdout) == (code, "")
    *usage, line = refused.stderr.splitlines()
    assert bool(usage) == (code == 2)
    assert words in line


@pytest.mark.parametrize("command", [["status"], ["close", "--yes"], ["open"], ["reset", "--yes"]])
def test_unreachable_servers_are_reported_in_one_line(command):
    failed = voting(*command, **AWAY)
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("Error: the ")
