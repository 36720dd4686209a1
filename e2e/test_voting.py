"""Each voter's last vote is recorded, counted and shown."""

import re
import subprocess
import sys
from collections import Counter

import httpx
import pytest
from support.environ import ENVIRON
from support.wait import wait_for

from voting.poll.ballot import Choice


@pytest.fixture
def voter(target):
    """A client without cookies."""
    with target.visitor("vote") as voter:
        yield voter


def vote(voter: httpx.Client, choice: str) -> httpx.Response:
    """Open the page, and send its form."""
    page = voter.get("/")
    assert page.status_code == httpx.codes.OK
    assert re.search(r'<form [^>]*method="post" action="/vote"', page.text)
    return voter.post("/vote", data={"choice": choice})


def test_a_vote_is_recorded_and_counted(target, voter):
    before = target.counted()
    response = vote(voter, "a")
    assert [each.status_code for each in response.history] == [303]
    assert response.history[0].headers["Voting-Recorded"] == "yes"
    [pressed] = re.findall(r'<button[^>]*aria-pressed="true"[^>]*>', response.text)
    assert 'value="a"' in pressed
    wait_for("the vote to be counted", lambda: target.tally() == before + Counter([Choice.A]))
    wait_for("the receipt on the page", lambda: "is counted" in voter.get("/").text)


def test_a_closed_poll_takes_no_vote_and_its_result_is_final(target, voter):
    vote(voter, "a")
    target.command("close", "--yes", "--wait", "60")
    try:
        response = voter.post("/vote", data={"choice": "b"})
        assert response.status_code == httpx.codes.CONFLICT
        assert response.headers["Voting-Recorded"] == "no"
        assert "was not recorded" in response.text
        with target.visitor("result") as viewer:
            wait_for("a final result", lambda: '"final"' in viewer.get("/api/tally").text)
            wait_for("the page to show it", lambda: "Final" in viewer.get("/").text)
    finally:
        target.command("open", "--yes")
    wait_for("the poll to be open", lambda: vote(voter, "b").status_code == httpx.codes.OK)


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
    for role in ("vote", "result", "worker"):
        assert set(target.sample(role, f'voting_ready{{role="{role}"}}')) == {1.0}
