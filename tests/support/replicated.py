"""Three Valkey servers and Sentinels, as `voting up --replicated` runs them."""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil
from redis.asyncio import Redis

from support.app import alive
from voting.local.replication import HOST, NUMBERS, Machines
from voting.local.supervisor import Child, Guardian


def client(machines: Machines, number: int) -> Any:
    """Create a client of one server."""
    return Redis(host=HOST, port=machines.ports[number], password=machines.password)


async def primary(machines: Machines) -> int | None:
    """Return which server most Sentinels name as the primary, if most respond and agree."""
    named = await asyncio.gather(*map(machines.named_by, NUMBERS))
    [(number, count)] = Counter(each and each.primary for each in named).most_common(1)
    return number if count > len(NUMBERS) // 2 else None


def destroy(machines: Machines, number: int, processes: Iterable[psutil.Process]) -> None:
    """Kill the processes of a machine and delete its disk, before its supervisor can act."""
    killed = list(processes)
    for each in killed:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    while alive(killed):
        pass  # for a millisecond
    shutil.rmtree(machines.folder(number))


class ReplicatedServers:
    """They run while the context lasts, and are restarted when they die.

    A machine is a server and a Sentinel; `said` is what the supervisor has reported.
    """

    def __init__(self, folder: Path) -> None:
        self.machines = Machines.of(folder)
        self.said: list[str] = []
        self._children: dict[str, Child] = {}
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            lock = os.open(self.machines.data / "lock", os.O_CREAT | os.O_RDWR)
            self._exit.callback(os.close, lock)
            guardian = Guardian(lock)
            self._exit.callback(guardian.close)
            self._exit.push_async_callback(self._stop)
            async with asyncio.TaskGroup() as tasks:
                for program in self.machines.programs():
                    child = Child(program, guardian, self.said.append)
                    self._children[program.name] = child
                    tasks.create_task(child.start())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._exit.aclose()

    async def _stop(self) -> None:
        for kind in ("Sentinel", "Valkey"):
            stopping = [each for name, each in self._children.items() if name.startswith(kind)]
            await asyncio.gather(*(child.stop(30) for child in stopping))

    @property
    def url(self) -> str:
        return self.machines.url

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run: "Valkey 0", "Sentinel 0" and so on."""
        running = {each.pid for each in alive(psutil.Process().children())}
        pids = {name: child.pid for name, child in self._children.items()}
        return {name: pid for name, pid in pids.items() if pid in running}

    async def primary(self) -> int | None:
        return await primary(self.machines)

    def signal(self, number: int, signum: signal.Signals) -> None:
        """Signal the server and the Sentinel of a machine."""
        for each in self._processes(number):
            each.send_signal(signum)

    def lose(self, number: int) -> None:
        """Lose a machine with its disk. Its programs start again without it."""
        destroy(self.machines, number, self._processes(number))

    def client(self, number: int) -> Any:
        """Create a client of one server, for as long as the servers run."""
        created = client(self.machines, number)
        self._exit.push_async_callback(created.aclose)
        return created

    def _processes(self, number: int) -> list[psutil.Process]:
        mine = (pid for name, pid in self.pids.items() if name.endswith(f" {number}"))
        return [psutil.Process(pid) for pid in mine]
