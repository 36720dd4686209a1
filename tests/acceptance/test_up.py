"""`voting up`: what a newcomer sees."""

import httpx

from .conftest import wait_for


def vote(client: httpx.Client, address: str, choice: str) -> httpx.Response:
    client.get(address + "/")
    return client.post(address + "/vote", data={"choice": choice})


def test_votes_are_still_there_after_a_restart(start, data):
    up = start(data).ready()
    with httpx.Client() as voter:
        assert vote(voter, up.address("vote"), "a").status_code == 303
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
    assert up.interrupt() == 0

    again = start(data).ready()
    assert again.tally() == {"a": 1, "b": 0}
    assert again.interrupt() == 0
