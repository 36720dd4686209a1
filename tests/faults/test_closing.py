"""A poll is closed in the middle of a crowd that goes on voting: what counts is what was told."""

import asyncio
import json
import signal
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from checker import Told, check
from client import Connection
from crowd import Crowd
from environ import ENVIRON
from servers import as_user, redis_url
from waiting import until

from faults.stack import KEY, Stack
from voting.poll.ballot import Choice
from voting.settings import Role

pytestmark = pytest.mark.asyncio(loop_scope="session")

VOTES = 3000  # before the close


async def voting(stack: Stack, *command: str) -> Any:
    """Give an operator's command, and return how the poll stands afterwards."""
    # As in a worker's pod.
    urls = {
        "DATABASE_URL": as_user(stack.database_url, "voting_worker"),
        "REDIS_URL": redis_url(stack.folders, "worker"),
    }
    for words in (command, ("status", "--json")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voting", *words),
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
        return json.loads((await connection.ask("GET", "/api/tally")).text)


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(stack: Stack) -> Stack:
    """A poll that is open and has no votes."""
    await stack.afresh()
    await stack.ready()
    return stack


async def test_no_vote_before_the_close_is_lost_and_none_after_it_counts(fresh: Stack) -> None:
    since = await fresh.ledger.newest_entry()
    async with Crowd(fresh.address(Role.VOTE), KEY, connections=4) as crowd:
        await crowd.reaches(Told.ACKNOWLEDGED, VOTES)
        # Workers that stand still: there is something to count when the poll is closed.
        for worker in ("worker 0", "worker 1"):
            fresh.signal(worker, signal.SIGSTOP)
        await crowd.hears(Told.ACKNOWLEDGED, 500)
        closed = await voting(fresh, "close", "--yes")
        await crowd.hears(Told.REFUSED, 8)  # each connection has heard of it
        acknowledged = crowd.told[Told.ACKNOWLEDGED]
        assert closed["phase"] == "counting"
        assert closed["backlog"] > 0
        assert closed["finals"] == []
        assert (await result(fresh))["votes"] < len(crowd.voters)

        for worker in ("worker 0", "worker 1"):
            fresh.signal(worker, signal.SIGCONT)
        await until(lambda: is_final(fresh))
        final = await voting(fresh, "status")
        await crowd.hears(Told.REFUSED, 40)
    assert final["backlog"] == 0
    assert crowd.told[Told.ACKNOWLEDGED] == acknowledged

    newest = max(each.version for each in crowd.requests if each.version)
    assert final["poll"]["until"] == list(newest)
    assert newest.ms <= datetime.fromisoformat(final["poll"]["closed_at"]).timestamp() * 1000

    books = await fresh.ledger.books(before=Counter(), since=since, voters=crowd.voters)
    [declared] = final["finals"]
    declared_totals = {Choice.A: declared["a"], Choice.B: declared["b"]}
    books = replace(books, tallies={**books.tallies, "the final result": declared_totals})
    assert check(crowd.requests, books).wrong == []


async def test_a_closed_poll_stays_closed_where_redis_loses_everything(fresh: Stack) -> None:
    async with Crowd(fresh.address(Role.VOTE), KEY, connections=4) as crowd:
        await crowd.reaches(Told.ACKNOWLEDGED, 500)
        closed = await voting(fresh, "close", "--yes", "--wait", "30")
        before = max(each.version for each in crowd.requests if each.version)
        await fresh.valkey.flushall()
        acknowledged = crowd.told[Told.ACKNOWLEDGED]
        await until(fresh.stream.ready)  # a worker has made it anew
        await crowd.hears(Told.REFUSED, 40)
        assert crowd.told[Told.ACKNOWLEDGED] == acknowledged
        lost = await voting(fresh, "status")
        assert (lost["phase"], lost["finals"]) == ("final", closed["finals"])

        await voting(fresh, "open", "--yes")
        await crowd.hears(Told.ACKNOWLEDGED, 100)
    after = [each.version for each in crowd.requests if each.version]
    assert min(after[acknowledged:]) > before
    books = await fresh.ledger.books(before=Counter(), since=None, voters=crowd.voters)
    assert check(crowd.requests, books).wrong == []


async def is_final(stack: Stack) -> bool:
    return (await stack.ledger.sql("SELECT final_at FROM poll"))[0][0] is not None
