"""Each voter's last vote is recorded, counted and shown."""

import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
from support.environ import ENVIRON
from support.wait import wait_for

from voting.poll.ballot import Choice

A, B = Choice.A, Choice.B


@pytest.fixture
def voter(target):
    """A client without cookies."""
    with target.visitor("vote") as voter:
        yield voter


@pytest.fixture
def totals_moved(target):
    """Return a function that checks the change of the totals since the start of the test."""
    before = target.counted()

    def totals_moved(a: int, b: int) -> bool:
        now = target.tally()
        return (now[A] - before[A], now[B] - before[B]) == (a, b)

    return totals_moved


def vote(voter: httpx.Client, choice: str) -> httpx.Response:
    """Open the page, and send its form."""
    page = voter.get("/")
    assert page.status_code == httpx.codes.OK
    assert re.search(r'<form [^>]*method="post" action="/vote"', page.text)
    return voter.post("/vote", data={"choice": choice})


def pressed_choices(page: str) -> list[str]:
    """Find the options that a page marks as this voter's choice."""
    buttons = re.findall(r"<button[^>]*>", page)
    marked = [button for button in buttons if 'aria-pressed="true"' in button]
    return [re.search(r'value="(\w+)"', button)[1] for button in marked]


def tally(viewer: httpx.Client) -> dict[str, Any]:
    return viewer.get("/api/tally").json()


def test_a_vote_is_recorded_and_counted(voter, totals_moved):
    response = vote(voter, "a")
    assert [each.status_code for each in response.history] == [303]
    assert response.history[0].headers["Voting-Recorded"] == "yes"
    assert pressed_choices(response.text) == ["a"]
    wait_for("the vote to be counted", lambda: totals_moved(1, 0))
    wait_for("the receipt on the page", lambda: "is counted" in voter.get("/").text)


def test_a_voter_who_changes_their_mind_has_one_vote(voter, totals_moved):
    vote(voter, "a")
    wait_for("the vote to be counted", lambda: totals_moved(1, 0))
    assert pressed_choices(vote(voter, "b").text) == ["b"]
    wait_for("the change to be counted", lambda: totals_moved(0, 1))


def test_two_voters_have_two_votes(target, voter, totals_moved):
    with target.visitor("vote") as other:
        assert pressed_choices(vote(voter, "a").text) == ["a"]
        assert pressed_choices(vote(other, "b").text) == ["b"]
        assert pressed_choices(voter.get("/").text) == ["a"]
    wait_for("both votes to be counted", lambda: totals_moved(1, 1))


def test_a_closed_poll_takes_no_vote_and_its_result_is_final(target, voter):
    vote(voter, "a")
    target.command("close", "--yes", "--wait", "60")
    try:
        response = voter.post("/vote", data={"choice": "b"})
        assert response.status_code == httpx.codes.CONFLICT
        assert response.headers["Voting-Recorded"] == "no"
        assert "was not recorded" in response.text
        with target.visitor("result") as viewer:
            wait_for("the result to be final", lambda: tally(viewer)["phase"] == "final")
            wait_for("the page to show it", lambda: "Final" in viewer.get("/").text)
    finally:
        target.command("open", "--yes")
    wait_for("the poll to be open", lambda: vote(voter, "b").status_code == httpx.codes.OK)


def test_two_thousand_votes_match_their_responses(target):
    pages = (f"--{page}-url={target.address(page)}" for page in ("vote", "result"))
    load = subprocess.run(
        [sys.executable, "-m", "voting", "load", "--votes=2000", "--check", *pages],
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
    for role in ("vote", "result", "worker"):
        assert set(target.sample(role, f'voting_ready{{role="{role}"}}')) == {1.0}
