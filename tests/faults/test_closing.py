"""A poll is closed while voters go on voting: exactly the acknowledged votes count."""

import asyncio
import json
import signal
import sys
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from support.checker import check_rounds
from support.environ import ENVIRON
from support.servers import as_user, redis_url
from support.voters import Voters
from support.wait import until

from faults.runs import Rounds
from faults.stack import KEY, Stack
from voting.load.client import Connection
from voting.load.record import Acknowledgement
from voting.queue.producer import Caster
from voting.settings import Role

pytestmark = pytest.mark.asyncio(loop_scope="session")

VOTES = 3000  # before the close


async def voting(stack: Stack, *command: str) -> Any:
    """Run an operator's command, and return the status of the poll after it."""
    # As in the admin's pod.
    urls = {
        "DATABASE_URL": as_user(stack.database_url, "voting_admin"),
        "REDIS_URL": redis_url(stack.folders, "admin"),
    }
    for words in (command, ("status", "--json")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "voting", *words),
            env={**ENVIRON, **urls},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, said
    return json.loads(said)


async def result(stack: Stack) -> dict[str, Any]:
    async with Connection(stack.address(Role.RESULT)) as connection:
        return (await connection.get("/api/tally")).json()


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(stack: Stack) -> Stack:
    """A poll that is open and has no votes."""
    await stack.reset()
    await stack.ready()
    return stack


async def test_no_vote_before_the_close_is_lost_and_none_after_it_counts(fresh: Stack) -> None:
    rounds = await Rounds.begin(fresh)
    poll = await fresh.state.poll()
    async with Voters(fresh.address(Role.VOTE), KEY, poll, connections=4) as voters:
        await voters.wait_for(VOTES, Acknowledgement.ACKNOWLEDGED)
        # Suspended workers leave a backlog to count when the poll is closed.
        for worker in ("worker 0", "worker 1"):
            fresh.signal(worker, signal.SIGSTOP)
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        closed = await voting(fresh, "close", "--yes")
        await voters.wait_for_more(8, Acknowledgement.REFUSED)  # two on each connection
        acknowledged = voters.counts[Acknowledgement.ACKNOWLEDGED]
        assert closed["phase"] == "counting"
        assert closed["backlog"] > 0
        assert closed["finals"] == []
        assert (await result(fresh))["votes"] < len(voters.voters)

        for worker in ("worker 0", "worker 1"):
            fresh.signal(worker, signal.SIGCONT)
        await until(lambda: is_final(fresh))
        final = await voting(fresh, "status")
        await voters.wait_for_more(40, Acknowledgement.REFUSED)
    assert final["backlog"] == 0
    assert voters.counts[Acknowledgement.ACKNOWLEDGED] == acknowledged

    newest = max(each.version for each in voters.results if each.version)
    assert final["poll"]["last_version"] == list(newest)
    assert newest.ms <= datetime.fromisoformat(final["poll"]["closed_at"]).timestamp() * 1000

    states = await rounds.final_states()
    [declared] = final["finals"]
    assert dict(zip("ab", declared["counts"], strict=True)) == states[1].totals["the final result"]
    assert check_rounds(voters.results, states).wrong == []


async def test_a_closed_poll_stays_closed_where_redis_loses_everything(fresh: Stack) -> None:
    rounds = await Rounds.begin(fresh, kept=False)
    poll = await fresh.state.poll()
    async with Voters(fresh.address(Role.VOTE), KEY, poll, connections=4) as voters:
        await voters.wait_for(500, Acknowledgement.ACKNOWLEDGED)
        closed = await voting(fresh, "close", "--yes", "--wait", "30")
        before = max(each.version for each in voters.results if each.version)
        await fresh.valkey.flushall()
        acknowledged = voters.counts[Acknowledgement.ACKNOWLEDGED]
        await until(Caster(fresh.queue_state.queue).ready)  # a worker has created it again
        await voters.wait_for_more(40, Acknowledgement.REFUSED)
        assert voters.counts[Acknowledgement.ACKNOWLEDGED] == acknowledged
        lost = await voting(fresh, "status")
        assert (lost["phase"], lost["finals"]) == ("final", closed["finals"])

        await voting(fresh, "open", "--yes")
        await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)
    after = [each.version for each in voters.results if each.version]
    assert min(after[acknowledged:]) > before
    assert check_rounds(voters.results, await rounds.final_states()).wrong == []


async def is_final(stack: Stack) -> bool:
    return (await stack.state.sql("SELECT final_at FROM poll"))[0][0] is not None
