"""Faults of a queue on three machines: each public coroutine function makes one happen under load.

Each waits until it has had its effect. `run` waits until all three machines are in sync again.
"""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError
from support.checker import Verdict, check_rounds
from support.replicated import ReplicatedServers
from support.voters import Voters
from support.wait import until

from faults import faults_of
from faults.runs import Rounds
from faults.stack import KEY, Stack
from voting.load.record import Acknowledgement
from voting.local.replication import HOST, NAME, NUMBERS
from voting.queue.client import Queue, connect
from voting.settings import Role

RATE = 300.0  # votes a second

# Flags of what a Sentinel does not see alive. "master_down" was said by another, maybe long ago.
DOWN = {"s_down", "o_down", "disconnected", "failover_in_progress"}

# More than the network between two servers holds.
OVERFLOW = bytes(32_000_000)


class ReplicatedStack(Stack):
    """The app with three machines for its queue, which roles and tests reach directly."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        machines = folder / "queue"
        machines.mkdir()
        self.servers = ReplicatedServers(machines)

    async def _enter(self) -> None:
        # First, so that they stop last.
        await self._exit.enter_async_context(self.servers)
        machines = self.servers.machines
        self.server = [self.servers.client(number) for number in NUMBERS]
        self.sentinel = [
            Redis(host=HOST, port=port, password=machines.password, decode_responses=True)
            for port in machines.ports[len(NUMBERS) :]
        ]
        for each in self.sentinel:
            self._exit.push_async_callback(each.aclose)
        await super()._enter()

    async def start_queue(self) -> Queue:
        return Queue(connect(self.servers.url), replicas=1)

    def queue_settings(self, _: Role) -> dict[str, str]:
        return {"REDIS_URL": self.servers.url, "REDIS_REPLICAS": "1"}

    async def ready(self) -> None:
        await super().ready()
        await self.in_sync()

    async def in_sync(self) -> None:
        """Wait until both replicas follow the primary, and all Sentinels see that."""
        programs = self.servers.machines.programs()

        async def all_are() -> bool:
            try:
                async with asyncio.timeout(2):
                    ready = await asyncio.gather(*(each.ready() for each in programs))
                    seen = await asyncio.gather(*map(self._sees_all, NUMBERS))
            except (RedisError, OSError):
                return False
            return all(ready) and None not in seen and len(set(seen)) == 1

        await until(all_are)

    async def _sees_all(self, number: int) -> int | None:
        """Return the port of the primary if a Sentinel sees all servers and Sentinels alive."""
        sentinel: Any = self.sentinel[number]
        primary = await sentinel.sentinel_master(NAME)
        replicas = await sentinel.sentinel_slaves(NAME)
        others = await sentinel.sentinel_sentinels(NAME)
        linked = all(each["master-link-status"] == "ok" for each in replicas)
        flags = {
            flag for each in (primary, *replicas, *others) for flag in each["flags"].split(",")
        }
        return primary["port"] if linked and not flags & DOWN else None

    async def primary(self) -> int:
        """Wait until most Sentinels agree on the primary, and return its number."""
        numbers: set[int] = set()

        async def agreed() -> bool:
            if (number := await self.servers.primary()) is not None:
                numbers.add(number)
            return bool(numbers)

        await until(agreed)
        return numbers.pop()

    async def replicas(self) -> list[int]:
        primary = await self.primary()
        return [number for number in NUMBERS if number != primary]

    async def replaced(self, number: int) -> None:
        """Wait until another server is the primary."""
        await until(self.servers.primary, check=lambda found: found not in {number, None})

    async def lose_primary(self) -> int:
        """Kill the machine of the primary and delete its disk. Returns its number."""
        number = await self.primary()
        self.servers.lose(number)
        return number

    def signal_server(self, number: int, signum: signal.Signals) -> None:
        """Signal the server of a machine, not its Sentinel."""
        psutil.Process(self.servers.pids[f"Valkey {number}"]).send_signal(signum)

    @asynccontextmanager
    async def frozen(self, *numbers: int, sentinels: bool = False) -> AsyncIterator[None]:
        """Suspend the servers of these machines, and their Sentinels if those shall be too."""
        send = self.servers.signal if sentinels else self.signal_server
        for each in numbers:
            send(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in numbers:
                send(each, signal.SIGCONT)

    async def good_replicas(self, number: int) -> int:
        """Return how many replicas a primary has that acknowledge in time."""
        return int((await self.server[number].info("replication"))["min_slaves_good_slaves"])


Fault = Callable[[ReplicatedStack, Voters, Rounds], Awaitable[None]]


async def primary_is_lost(stack: ReplicatedStack, _: Voters, __: Rounds) -> None:
    await stack.replaced(await stack.lose_primary())


async def primary_is_lost_with_what_no_replica_has(
    stack: ReplicatedStack, _: Voters, __: Rounds
) -> None:
    number = await stack.primary()
    server, key = stack.server[number], stack.queue.stream_key
    async with stack.frozen(*await stack.replicas()):
        await server.set("overflow", OVERFLOW)
        before = await server.xlen(key)
        await until(partial(server.xlen, key), check=lambda length: length > before + 10)
        await asyncio.sleep(0.3)  # in which votes are acknowledged if nothing waits for replicas
        stack.servers.lose(number)
    await stack.replaced(number)


async def primary_is_lost_while_the_poll_closes(
    stack: ReplicatedStack, voters: Voters, rounds: Rounds
) -> None:
    async def lose() -> None:
        await until(partial(stack.state.sql, "SELECT FROM poll WHERE state = 'closed'"))
        await _primary_is_lost_and_all_is_in_sync(stack)

    await rounds.ask(3, voters, while_closing=lose)


async def primary_is_lost_while_a_question_is_asked(
    stack: ReplicatedStack, voters: Voters, rounds: Rounds
) -> None:
    number = await stack.state.round()

    async def lose() -> None:
        await until(partial(stack.state.sql, "SELECT FROM poll WHERE round > $1", number))
        await _primary_is_lost_and_all_is_in_sync(stack)

    await rounds.ask(2, voters, while_asking=lose)


async def _primary_is_lost_and_all_is_in_sync(stack: ReplicatedStack) -> None:
    await stack.replaced(await stack.lose_primary())
    await stack.in_sync()


async def primary_is_cut_off_from_its_replicas(
    stack: ReplicatedStack, voters: Voters, _: Rounds
) -> None:
    """Let replicas not log in any more; clients and Sentinels still reach all servers."""
    number, replicas = await stack.primary(), await stack.replicas()
    for each in replicas:
        await stack.server[each].config_set("primaryuser", "unknown")
    try:
        await stack.server[number].execute_command("CLIENT", "KILL", "TYPE", "replica")
        await voters.wait_for_more(20, Acknowledgement.REFUSED)
        assert await stack.good_replicas(number) == 0
    finally:
        for each in replicas:
            await stack.server[each].config_set("primaryuser", "")


async def primary_is_cut_off_from_sentinels(
    stack: ReplicatedStack, voters: Voters, _: Rounds
) -> None:
    """Let Sentinels not log in at the primary; it has its replicas until one is promoted."""
    user, password = "sentinel", stack.servers.machines.password
    for each in stack.server:
        await each.execute_command(
            "ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all"
        )
    number = await stack.primary()
    server = stack.server[number]
    try:
        await _sentinels_log_in_as(stack, user)
        await stack.in_sync()
        await server.execute_command("ACL", "SETUSER", user, "off")
        await server.execute_command("CLIENT", "KILL", "USER", user)
        await stack.replaced(number)
        await voters.wait_for_more(200, Acknowledgement.ACKNOWLEDGED)
        assert (await server.info("replication"))["role"] == "master"
    finally:
        await server.execute_command("ACL", "SETUSER", user, "on")
        # A Sentinel keeps a connection on which it could not log in.
        await server.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await stack.in_sync()
        await _sentinels_log_in_as(stack, "")


async def _sentinels_log_in_as(stack: ReplicatedStack, user: str) -> None:
    for each in stack.sentinel:
        await each.execute_command("SENTINEL", "SET", NAME, "auth-user", user)


async def replica_is_frozen(stack: ReplicatedStack, voters: Voters, _: Rounds) -> None:
    number, [replica, _] = await stack.primary(), await stack.replicas()
    async with stack.frozen(replica, sentinels=True):
        await until(partial(stack.good_replicas, number), check=lambda found: found == 1)
        await voters.wait_for_more(300, Acknowledgement.ACKNOWLEDGED)


async def replicas_are_frozen(stack: ReplicatedStack, voters: Voters, _: Rounds) -> None:
    said = len(stack.log(Role.WORKER))
    async with stack.frozen(*await stack.replicas()):
        await voters.wait_for_more(20, Acknowledgement.REFUSED)
        await until(lambda: re.search("NOREPLICAS|NotReplicated", stack.log(Role.WORKER)[said:]))


async def primary_is_frozen(stack: ReplicatedStack, voters: Voters, _: Rounds) -> None:
    await _primary_is_frozen(stack, voters, sentinels=False)


async def primary_and_its_sentinel_are_frozen(
    stack: ReplicatedStack, voters: Voters, _: Rounds
) -> None:
    await _primary_is_frozen(stack, voters, sentinels=True)


async def _primary_is_frozen(stack: ReplicatedStack, voters: Voters, *, sentinels: bool) -> None:
    number = await stack.primary()
    async with stack.frozen(number, sentinels=sentinels):
        await stack.replaced(number)
        await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def machines_are_restarted_one_after_the_other(
    stack: ReplicatedStack, _: Voters, __: Rounds
) -> None:
    primary = await stack.primary()
    for number in (*await stack.replicas(), primary):
        if number == primary:
            [other, _] = await stack.replicas()
            # Otherwise a replica is promoted while the primary goes on acknowledging votes.
            failover = ("SENTINEL", "FAILOVER", NAME, "COORDINATED")
            await stack.sentinel[other].execute_command(*failover)
            await stack.replaced(primary)
            await stack.in_sync()
        before = stack.servers.pids
        stack.servers.signal(number, signal.SIGTERM)
        await until(lambda: _restarted(stack, number, before))  # noqa: B023 - awaited here
        await stack.in_sync()


def _restarted(stack: ReplicatedStack, number: int, before: dict[str, int]) -> bool:
    names = (f"Valkey {number}", f"Sentinel {number}")
    return all(stack.servers.pids.get(name) not in {before[name], None} for name in names)


FAULTS: tuple[Fault, ...] = faults_of(globals())


async def run(stack: ReplicatedStack, fault: Fault, votes: int = 300) -> Verdict:
    """Run a fault under load, with so many acknowledged votes before it and after it, and check."""
    await stack.state.settled()
    rounds = await Rounds.begin(stack)
    poll = await stack.state.poll()
    async with Voters(stack.address(Role.VOTE), KEY, poll, rate=RATE) as voters:
        await voters.wait_for(votes, Acknowledgement.ACKNOWLEDGED)
        await fault(stack, voters, rounds)
        await stack.ready()
        await voters.wait_for_more(votes, Acknowledgement.ACKNOWLEDGED)
    states = await rounds.final_states()
    await voters.read_receipts()
    return check_rounds(voters.results, states, voters.receipts)
