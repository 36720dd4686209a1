"""The servers and roles to measure, started as a container starts them."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter

import asyncpg
import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from support.app import reserved_port
from support.environ import ENVIRON
from support.servers import TEMPLATE, Servers

from bench.bare import POLL
from voting.local.data_dir import DataDir
from voting.local.supervisor import Child, Program
from voting.local.up import WITHHELD_ENV, is_ready
from voting.poll.question import CHOICES, MIN_OPTIONS
from voting.settings import Role

# Runs the roles, with the packages of the image but none of those that only tests need.
PYTHON = os.environ.get("BENCH_PYTHON", sys.executable)

FIXED = {
    "HOST": "127.0.0.1",
    "VOTE_URL": "http://localhost",
    "LOG_LEVEL": "warning",
    "LOG_FORMAT": "console",
}
KEY = "a key that only the benchmark has"


@dataclass
class Processes:
    """Processes that share the port of `url`."""

    url: str
    seconds_to_ready: float
    _children: Sequence[Child]
    _ops_ports: Sequence[int]

    def counter(self, name: str) -> float:
        """Return the sum of a counter over its labels and all processes."""
        pages = [httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in self._ops_ports]
        families = chain.from_iterable(map(text_string_to_metric_families, pages))
        return sum(s.value for each in families for s in each.samples if s.name == name)

    def resident(self) -> float:
        """Return the memory of the largest process, in MB."""
        return max(psutil.Process(each.pid).memory_info().rss for each in self._children) / 1e6

    def processor_seconds(self) -> float:
        """Return the processor time of all processes so far."""
        times = [psutil.Process(each.pid).cpu_times() for each in self._children]
        return sum(each.user + each.system for each in times)

    def wake_ups(self) -> int:
        """Return how often threads of all processes went to sleep so far (Linux only)."""
        folders = (Path(f"/proc/{each.pid}/task") for each in self._children)
        files = chain.from_iterable(each.glob("*/status") for each in folders)
        # Next to last is `voluntary_ctxt_switches: 123`.
        return sum(int(each.read_text().splitlines()[-2].split()[1]) for each in files)


class Stack:
    """Postgres and Valkey of the benchmark's own, and the roles that it starts."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.redis_socket = f"{servers.folders.run}/valkey.sock"

    def sql(self, *statements: str) -> None:
        """Run statements, each by itself, as the owner of the database."""

        async def execute() -> None:
            connection = await asyncpg.connect(self.servers.database_url(TEMPLATE))
            for each in statements:
                await connection.execute(each)
            await connection.close()

        asyncio.run(execute())

    def reset(self, options: int = MIN_OPTIONS) -> None:
        """Empty the queue and the tables, and have a question with so many options."""
        with Redis.from_url(self.servers.redis_url()) as redis:
            redis.xgroup_setid("{voting}:ballots", "workers", "$")
            redis.xtrim("{voting}:ballots", maxlen=0, approximate=False)
        keys = ", ".join(f"('{key}')" for key in CHOICES[:options])
        insert = f"INSERT INTO options SELECT round, key, key FROM poll, (VALUES {keys}) AS _ (key)"
        # Asked: else the next worker would ask the question of its environment.
        asked = "UPDATE rounds SET asked = true"
        self.sql("TRUNCATE votes, tally, final_totals, options", insert, asked, "CHECKPOINT")

    def role(
        self, role: Role, number: int = 1, *, settings: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Processes]:
        """Run processes of a role, with the rights that it has in the deployment.

        `settings` are those that differ.
        """
        own = {
            "REDIS_URL": self.servers.redis_url(None if role is Role.RESULT else role),
            "DATABASE_URL": self.servers.database_url(TEMPLATE, f"voting_{role}"),
            "SECRET_KEYS": KEY,
        }
        own |= settings or {}
        own = {key: value for key, value in own.items() if key not in WITHHELD_ENV[role]}
        return self._running([PYTHON, "-P", "-m", "voting"], number, {**own, "ROLE": role})

    def bare(self, body: Path, number: int = 1) -> AbstractContextManager[Processes]:
        """Run the least that a web role could be: `bench.bare`."""
        command = [PYTHON, "-m", "bench.bare", str(body)]
        return self._running(command, number, {"SECRET_KEYS": KEY})

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
            seconds = (perf_counter() - start) / number
            yield Processes(f"http://127.0.0.1:{port}", seconds, children, ops)


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
            made.sql(f"UPDATE poll SET database_id = '{POLL}'")  # for which cookies are signed
            with made.role(Role.WORKER):
                pass  # it creates the stream
            yield made
        finally:
            servers.close()
