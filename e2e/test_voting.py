"""Each voter's last vote is recorded, counted and shown."""

import re
import subprocess
import sys
from collections import Counter
from typing import get_args

import httpx
import pytest
from support.environ import ENVIRON
from support.wait import wait_for

from e2e.target import Role
from voting.poll.ballot import Choice
from voting.poll.question import Question

pytestmark = pytest.mark.usefixtures("question")  # of three options


@pytest.fixture
def voter(target):
    """A client without cookies."""
    with target.visitor("vote") as voter:
        yield voter


def open_page(voter: httpx.Client) -> str:
    """Open the page, and return the round that its form sends."""
    page = voter.get("/")
    assert page.status_code == httpx.codes.OK
    assert re.search(r'<form [^>]*method="post" action="/vote"', page.text)
    [number] = re.findall(r'<input [^>]*name="round" value="(\d+)"', page.text)
    return number


def send(voter: httpx.Client, number: str, choice: str) -> httpx.Response:
    return voter.post("/vote", data={"round": number, "choice": choice})


def vote(voter: httpx.Client, choice: str) -> httpx.Response:
    """Open the page, and send its form."""
    return send(voter, open_page(voter), choice)


def tally(viewer: httpx.Client) -> tuple[str, list[tuple[str, int]]]:
    """Return the title, and the name and votes of each option."""
    found = viewer.get("/api/tally").json()
    return found["title"], [(each["name"], each["votes"]) for each in found["options"]]


def page_of(viewer: httpx.Client, path: str) -> str:
    """Return a page; an empty one if the client is sent to another."""
    page = viewer.get(path)
    return "" if page.history else page.raise_for_status().text


def test_a_vote_is_recorded_and_counted(target, voter):
    before = target.counted()
    response = vote(voter, "c")
    assert [each.status_code for each in response.history] == [303]
    assert response.history[0].headers["Voting-Recorded"] == "yes"
    [pressed] = re.findall(r'<button[^>]*aria-pressed="true"[^>]*>', response.text)
    assert 'value="c"' in pressed
    wait_for("the vote to be counted", lambda: target.tally() == before + Counter([Choice.C]))
    wait_for("the receipt on the page", lambda: "is counted" in voter.get("/").text)


def test_a_closed_poll_takes_no_vote_and_its_result_is_final(target, voter):
    number = open_page(voter)
    send(voter, number, "a")
    target.command("close", "--yes", "--wait", "60")
    try:
        response = send(voter, number, "b")
        assert response.status_code == httpx.codes.CONFLICT
        assert response.headers["Voting-Recorded"] == "no"
        assert "was not recorded" in response.text
        with target.visitor("result") as viewer:
            wait_for("a final result", lambda: '"final"' in viewer.get("/api/tally").text)
            wait_for("the page to show it", lambda: "Final" in viewer.get("/").text)
    finally:
        target.command("open", "--yes")
    wait_for("the poll to be open", lambda: vote(voter, "b").status_code == httpx.codes.OK)


def test_a_vote_for_a_question_that_is_over_is_refused(target, voter, question):
    with target.visitor("result") as viewer:
        number = open_page(voter)
        vote(voter, "b")
        following = Question("Bread, rice or pasta?", ("Bread", "Rice", "Pasta"))
        try:
            # Nothing waits for the pages: whatever a process knows, Redis refuses.
            target.command("ask", following.title, *following.names, "--yes")
            late = send(voter, number, "a")
            assert late.status_code == httpx.codes.CONFLICT
            assert late.headers["Voting-Recorded"] == "no"
            assert "That question is over." in late.text
            assert following.title in late.text

            wait_for("the question on the page", lambda: target.shows("vote", following))
            assert vote(voter, "c").status_code == httpx.codes.OK
            options = [("Bread", 0), ("Rice", 0), ("Pasta", 1)]
            wait_for("the vote in the JSON", lambda: tally(viewer) == (following.title, options))

            past = f"/rounds/{number}"
            wait_for("the round in the list", lambda: f'"{past}"' in viewer.get("/rounds").text)
            wait_for("the page of the round", lambda: question.title in page_of(viewer, past))
        finally:
            target.ask(question)


def test_two_thousand_votes_match_their_responses(target):
    pages = (f"--{page}-url={target.address(page)}" for page in ("vote", "result"))
    load = subprocess.run(
        [sys.executable, "-P", "-m", "voting", "load", "--votes=2000", "--check", *pages],
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=False,
        timeout=target.patience,
    )
    assert load.returncode == 0, load.stdout + load.stderr
    assert load.stdout.splitlines()[-1].startswith("exact: ")
    assert "2,000 acknowledged, 0 refused, 0 unknown" in load.stdout


def test_each_role_exports_metrics(target, voter):
    accepted = sum(target.sample("vote", "voting_ballots_accepted_total"))
    vote(voter, "a")
    assert sum(target.sample("vote", "voting_ballots_accepted_total")) == accepted + 1
    for role in get_args(Role):
        assert set(target.sample(role, f'voting_ready{{role="{role}"}}')) == {1.0}
