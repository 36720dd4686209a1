"""What is measured: real servers, and roles started as a container starts them."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import asyncpg
import httpx
import psutil
import uvloop
from redis.asyncio import Redis
from support.app import reserved_port
from support.environ import ENVIRON
from support.servers import TEMPLATE, Servers

from voting.local.data_dir import DataDir
from voting.local.supervisor import Child, Program
from voting.local.up import WITHHELD_ENV, is_ready
from voting.settings import Role

_Result = TypeVar("_Result")

# Runs the roles, with the packages of the image but none of those that only tests need.
PYTHON = os.environ.get("BENCH_PYTHON", sys.executable)

FIXED = {"HOST": "127.0.0.1", "LOG_LEVEL": "warning", "LOG_FORMAT": "console"}
KEY = "a key that only the benchmark has"


class Processes:
    """Processes that share a port."""

    def __init__(
        self, children: Sequence[Child], port: int, ops: Sequence[int], seconds: float
    ) -> None:
        self._children = children
        self._ops = ops
        self.url = f"http://127.0.0.1:{port}"
        self.seconds_to_ready = seconds

    def counter(self, name: str) -> float:
        """Return the sum of a counter over its labels and all processes."""
        total = 0.0
        for port in self._ops:
            for line in httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines():
                sample, _, value = line.rpartition(" ")
                if sample.partition("{")[0] == name:
                    total += float(value)
        return total

    def resident(self) -> float:
        """Return the memory of the largest process, in MB."""
        return max(psutil.Process(each.pid).memory_info().rss for each in self._children) / 1e6

    def processor_seconds(self) -> float:
        """Return the processor time of all processes so far."""
        times = [psutil.Process(each.pid).cpu_times() for each in self._children]
        return sum(each.user + each.system for each in times)


class Stack:
    """Postgres and Valkey of the benchmark's own, and the roles that it starts."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.redis_socket = f"{servers.folders.run}/valkey.sock"

    def sql(self, *statements: str) -> None:
        """Run statements as the owner of the database."""

        async def do() -> None:
            connection = await asyncpg.connect(self.servers.database_url(TEMPLATE))
            for each in statements:
                await connection.execute(each)
            await connection.close()

        asyncio.run(do())

    def reset(self) -> None:
        """Empty the queue and the tables."""

        async def trim() -> None:
            redis = Redis.from_url(self.servers.redis_url())
            await redis.xtrim("{voting}:ballots", maxlen=0, approximate=False)
            await redis.aclose()

        asyncio.run(trim())
        self.sql("TRUNCATE votes, tally", "CHECKPOINT")

    @contextmanager
    def role(self, role: Role, number: int = 1, **environ: str) -> Iterator[Processes]:
        """Run processes of a role, with the rights that it has in the deployment."""
        urls = {
            "REDIS_URL": self.servers.redis_url(None if role is Role.RESULT else role),
            "DATABASE_URL": self.servers.database_url(TEMPLATE, f"voting_{role}"),
            "SECRET_KEYS": KEY,
        }
        own = {key: value for key, value in urls.items() if key not in WITHHELD_ENV[role]}
        command = [PYTHON, "-m", "voting"]
        with self._running(command, number, {**own, "ROLE": role, **environ}) as processes:
            yield processes

    @contextmanager
    def bare(self, body: Path, number: int = 1) -> Iterator[Processes]:
        """Run the least that a web role could be: `bench.bare`."""
        command = [PYTHON, "-m", "bench.bare", str(body)]
        with self._running(command, number, {"SECRET_KEYS": KEY}) as processes:
            yield processes

    @contextmanager
    def _running(
        self, command: Sequence[str], number: int, environ: Mapping[str, str]
    ) -> Iterator[Processes]:
        with ExitStack() as exits:
            port = exits.enter_context(reserved_port())
            children, ops = [], []
            start = perf_counter()
            for _ in range(number):
                ops.append(exits.enter_context(reserved_port()))
                ports = {"PORT": str(port), "OPS_PORT": str(ops[-1])}
                program = Program(
                    name=" ".join(command[1:]),
                    command=command,
                    environment={**ENVIRON, **FIXED, **ports, **environ},
                    ready=partial(is_ready, "127.0.0.1", ops[-1]),
                )
                children.append(exits.enter_context(self.servers.running(program)))
            yield Processes(children, port, ops, (perf_counter() - start) / number)


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run it on uvloop, as a role."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


@contextmanager
def stack() -> Iterator[Stack]:
    """Run the servers in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="voting-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres may be another user
        (folder / "run").mkdir()
        servers = Servers(DataDir(folder, folder / "run"))
        try:
            made = Stack(servers)
            with made.role(Role.WORKER):
                pass  # it creates the stream
            yield made
        finally:
            servers.close()
