"""Many voters, and servers that die under them: what was acknowledged is counted, exactly once."""

import asyncio
import random
import signal
from collections import Counter

from client import Answer, Connection

from .conftest import wait_for

CONNECTIONS = 50


async def test_ten_thousand_votes_are_counted_exactly_while_a_worker_is_killed(start, data):
    up = start(data, "--scale", "worker=3").ready()
    final: dict[str, str] = {}

    async def vote(voters: int) -> None:
        async with Connection(up.address("vote")) as connection:
            for number in range(voters):
                voter = await connection.new_voter()
                first = random.choice("ab")
                second = first if number % 2 else {"a": "b", "b": "a"}[first]
                for choice in (first, second):
                    assert (await connection.vote(voter, choice)).status == 303
                    final[voter] = choice

    async def kill_a_worker() -> None:
        while len(final) < 2_500:
            await asyncio.sleep(0.01)
        up.children("worker")[0].kill()

    await asyncio.gather(kill_a_worker(), *(vote(100) for _ in range(CONNECTIONS)))
    expected = Counter(final.values())
    assert expected.total() == 5_000
    wait_for("all votes to be counted", lambda: up.tally() == expected)
    wait_for("the worker to be back", lambda: len(up.children("worker")) == 3)
    assert "was killed by SIGKILL: starting it again" in up.output
    assert up.interrupt() == 0


async def test_votes_survive_the_death_of_valkey_and_of_postgres(start, data):
    up = start(data).ready()
    final: dict[str, str] = {}
    refused: list[Answer] = []
    stop = asyncio.Event()

    async def vote() -> None:
        """Vote as new voters, each of them until it is acknowledged."""
        async with Connection(up.address("vote")) as connection:
            while not stop.is_set():
                voter = await connection.new_voter()
                while voter not in final:
                    choice = random.choice("ab")
                    answer = await connection.vote(voter, choice)
                    if answer.status == 303:
                        final[voter] = choice
                    else:
                        refused.append(answer)
                        await asyncio.sleep(0.05)

    async def acknowledged(more: int) -> None:
        enough = len(final) + more
        while len(final) < enough:
            await asyncio.sleep(0.01)

    async def kill_servers() -> None:
        await acknowledged(500)
        up.children("valkey-server")[0].send_signal(signal.SIGKILL)
        while not refused:
            await asyncio.sleep(0.01)
        await acknowledged(500)
        up.children("postgres -D")[0].send_signal(signal.SIGKILL)
        await acknowledged(500)  # Redis keeps them until Postgres is back
        stop.set()

    await asyncio.gather(kill_servers(), *(vote() for _ in range(CONNECTIONS)))
    assert {answer.status for answer in refused} == {503}
    assert all("recorded" in answer.text for answer in refused)
    assert all("retry-after" in answer.headers for answer in refused)
    wait_for("all votes to be counted", lambda: up.tally() == Counter(final.values()))
    assert up.interrupt() == 0
