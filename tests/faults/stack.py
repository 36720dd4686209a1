"""The servers and roles of `voting up`, with proxies between them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import psutil
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine
from support.app import reserved_port, role_environment
from support.database import fetch
from support.final_state import StateReader
from support.proxy import Proxy
from support.servers import TEMPLATE, as_user, make_roles, passwords, with_users
from support.wait import until

from voting.database.engine import create_engine
from voting.database.poll import PollChanged, close_poll, start_round
from voting.database.schema import migrate
from voting.database.totals import fetch_result
from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.local import servers as embedded
from voting.local import up as local
from voting.local.data_dir import DataDir
from voting.local.supervisor import Child, Guardian, Program
from voting.poll.lifecycle import Poll
from voting.poll.question import Question
from voting.queue.client import GROUP, Queue, StreamMissing, connect
from voting.queue.state import GroupProgress, QueueState
from voting.reconcile.audit import audit
from voting.reconcile.integrity import Untrusted
from voting.reconcile.poll import finalize, reconcile
from voting.roles.worker import CONCURRENT_BATCHES
from voting.settings import Role

TESTS = Path(__file__).parent.parent
KEY = "a key that only the fault suite has"
SERVERS = ("Valkey", "Postgres")
# Each after those that it refers to.
TABLES = ("rounds", "options", "poll", "votes", "tally", "finals", "final_totals")
PROCESSES = {Role.VOTE: 2, Role.WORKER: 2, Role.RESULT: 1}


class Stack:
    """Postgres and Valkey, and roles that reach them through `postgres` and `redis`.

    A process that dies is started again, as `voting up` does. Tests reach the servers directly.
    """

    def __init__(self, folder: Path) -> None:
        self.folders = DataDir(folder, folder / "run")
        self.said: list[str] = []
        self.mistakes: tuple[str, ...] = ()
        """Patches for all roles that start from now on."""
        self._children: dict[str, Child] = {}
        self._ports: dict[str, int] = {}
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _enter(self) -> None:
        lock = os.open(self.folders.data / "lock", os.O_CREAT | os.O_RDWR)
        self._exit.callback(os.close, lock)
        self._guardian = Guardian(lock)
        self._exit.callback(self._guardian.close)
        self._exit.push_async_callback(self.stop)
        programs = await asyncio.to_thread(embedded.prepare_postgres, self.folders)
        await self.start(embedded.postgres(self.folders, programs))
        self.queue = await self.start_queue()
        self.queue_state = QueueState(self.queue)
        self._exit.push_async_callback(self.queue.close)
        await fetch(self.folders.database_url(), f"CREATE DATABASE {TEMPLATE}")
        await asyncio.to_thread(make_roles, self.folders, programs)
        await asyncio.to_thread(migrate, as_user(self.database_url, "voting"))
        server = self.folders.run / ".s.PGSQL.5432"
        self.postgres = await self._exit.enter_async_context(Proxy(server))
        result = self.address(Role.RESULT)
        self.state = StateReader(self.database_url, self.queue_state, result)
        await self.start_roles()

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def start_queue(self) -> Queue:
        """Start the queue's server and the proxy to it."""
        await self.start(with_users(embedded.valkey(self.folders), self.folders.data))
        server = self.folders.run / "valkey.sock"
        self.redis = await self._exit.enter_async_context(Proxy(server))
        return Queue(connect(self.folders.redis_url))

    def queue_settings(self, role: Role) -> dict[str, str]:
        address = f"127.0.0.1:{self.redis.port}"
        return {"REDIS_URL": f"redis://{role}:{passwords().get(role)}@{address}"}

    # --- processes

    async def start(self, program: Program) -> Child:
        child = Child(program, self._guardian, self.said.append)
        self._children[program.name] = child
        await child.start()
        return child

    async def start_roles(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for role, number in PROCESSES.items():
                for index in range(number):
                    tasks.create_task(self.start(self.role(role, f"{role} {index}")))

    def role(self, role: Role, name: str, *patches: str) -> Program:
        ops = self._port(f"ops of {name}")
        postgres = f"127.0.0.1:{self.postgres.port}"
        urls = {
            **self.queue_settings(role),
            "DATABASE_URL": f"postgresql://voting_{role}@{postgres}/{TEMPLATE}",
            "SECRET_KEYS": KEY,
        }
        return Program(
            name=name,
            command=[sys.executable, "-P", "-m", "faults.role", *self.mistakes, *patches],
            environment={
                **role_environment(role, self._port(role), ops, urls),
                "PYTHONPATH": str(TESTS),
                # Entries are claimed much more often than in production, also from slow workers.
                "CLAIM_MIN_IDLE": "1",
                "MAINTENANCE_INTERVAL": "0.5",
                "LOG_LEVEL": "warning",
                "LOG_FORMAT": "console",
            },
            ready=partial(local.is_ready, "127.0.0.1", ops),
            log=self.folders.data / f"{role}.log",
        )

    @property
    def database_url(self) -> str:
        """The database for its owner."""
        return self.folders.database_url(TEMPLATE)

    def address(self, role: Role) -> str:
        return f"http://127.0.0.1:{self._port(role)}"

    def signal(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process by name: "Postgres", "Valkey", "vote 0", "worker 1"."""
        os.kill(self._children[name].pid, number)

    async def kill(self, name: str) -> None:
        self.said.clear()
        self.signal(name)
        await self.died(name)

    async def died(self, name: str) -> None:
        """Wait until the supervisor has logged that a child was killed; it then starts it again."""
        await until(lambda: any(f"{name} was killed" in line for line in self.said))

    def log(self, role: Role) -> str:
        """Return what all processes of a role have logged."""
        return (self.folders.data / f"{role}.log").read_text()

    def alarms(self) -> int:
        """Count how often workers have logged that the queue was lost."""
        return self.log(Role.WORKER).count("stream missing, recreated")

    async def ready(self) -> None:
        """Wait until all children are ready."""
        for child in self._children.values():
            await until(child.program.ready)

    async def unready(self, *names: str) -> None:
        """Wait until each of these children has been not ready once."""
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                ready = self._children[name].program.ready
                tasks.create_task(until(ready, check=lambda ready: not ready))

    async def recovered(self) -> None:
        """Wait until all that is queued by now is counted, and the result page shows newer votes.

        The load goes on meanwhile.
        """
        queued = await self.state.newest_entry()

        # Not until nothing is pending: under load, that is so for a moment now and then.
        def counted_until_then(found: GroupProgress) -> bool:
            oldest = found.oldest_pending
            return found.last_delivered >= queued and (oldest is None or oldest > queued)

        await until(self.queue_state.progress, check=counted_until_then)
        [counted] = await self.state.sql(
            "SELECT coalesce(sum(votes), 0) AS votes FROM tally JOIN poll USING (round)"
        )
        async with Connection(self.address(Role.RESULT)) as page:

            async def shown() -> bool:
                with suppress(PageError):
                    return (await fetch_totals(page)).votes >= counted["votes"]
                return False

            await until(shown)

    async def stop(self, *names: str, patience: float = 30.0) -> list[Program]:
        """Stop these children, or all, in the order of `voting up`."""
        stopped = []
        for kinds in (("vote", "result"), ("worker",), SERVERS):
            children = [
                self._children.pop(name)
                for name in list(self._children)
                if name.startswith(kinds) and (name in names or not names)
            ]
            await asyncio.gather(*(child.stop(patience) for child in children))
            stopped += [child.program for child in children]
        return stopped

    async def restart(self) -> None:
        """Stop all children, and start them again, the servers first."""
        programs = await self.stop()
        for program in programs:
            if program.name in SERVERS:
                await self.start(program)
        async with asyncio.TaskGroup() as tasks:
            for program in programs:
                if program.name not in SERVERS:
                    tasks.create_task(self.start(program))

    async def reset(self, *mistakes: str) -> None:
        """Delete all votes, and restart all roles with these mistakes in them."""
        self.mistakes = mistakes
        roles = [name for name in self._children if name not in SERVERS]
        await self.stop(*roles, patience=0)
        await self.state.sql(f"TRUNCATE {', '.join(TABLES)}")
        await self.state.sql("INSERT INTO poll DEFAULT VALUES")
        await self.state.sql("INSERT INTO rounds VALUES (1, 'Cats or Dogs?', false)")
        await self.state.sql("INSERT INTO options VALUES (1, 'a', 'Cats'), (1, 'b', 'Dogs')")
        await self.valkey.flushall()
        await self.start_roles()

    @asynccontextmanager
    async def traced(self, name: str, *tracer: str) -> AsyncIterator[None]:
        """Run a server under a tracer while the context lasts."""
        [program] = await self.stop(name)
        await self.start(replace(program, command=[*tracer, *program.command]))
        try:
            yield
        finally:
            await self.stop(name)
            await self.start(program)

    @asynccontextmanager
    async def another_worker(
        self, name: str, *patches: str, **environment: str
    ) -> AsyncIterator[Child]:
        """Run one more worker while the context lasts."""
        self.said.clear()
        child = Child(self.role(Role.WORKER, name, *patches), self._guardian, self.said.append)
        environment = {**child.program.environment, **environment}
        child.program = replace(child.program, ready=_at_once, environment=environment)
        self._children[name] = child
        await child.start()
        try:
            yield child
        finally:
            await self.stop(name)

    def _port(self, name: str) -> int:
        """Return the port of that name, reserved for its processes to share."""
        if name not in self._ports:
            self._ports[name] = self._exit.enter_context(reserved_port())
        return self._ports[name]

    # --- servers

    @property
    def valkey(self) -> Any:
        """A client of Valkey, past the proxy."""
        return self.queue.redis

    @asynccontextmanager
    async def workers_inside_a_statement(self) -> AsyncIterator[None]:
        """Block each worker in a statement that counts a batch, at its last row."""
        connection = await asyncpg.connect(self.database_url)
        await connection.execute("BEGIN")
        try:
            await connection.execute(
                "INSERT INTO tally (round, bucket, choice, votes, ms)"
                " SELECT round, bucket, key, 0, 0 FROM poll JOIN options USING (round),"
                " generate_series(date_bin('10 seconds', clock_timestamp(), 'epoch'),"
                " now() + interval '1 minute', '10 seconds') AS bucket"
                " ORDER BY bucket, key"  # as workers do, to wait for none that waits for this
                " ON CONFLICT (round, bucket, choice) DO UPDATE SET votes = tally.votes"
            )
            waiting = partial(
                connection.fetchval,
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND application_name = 'voting-worker'",
            )
            # More than all workers but one can have, claimed batches included.
            most = (PROCESSES[Role.WORKER] - 1) * (CONCURRENT_BATCHES + 1)
            await until(waiting, check=lambda number: number > most)
            yield
        finally:
            connection.terminate()  # rolls back, even if the server has died

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[AsyncEngine]:
        """The engine of an operator's command."""
        engine = create_engine(self.database_url, name="tests", patience=None)
        try:
            yield engine
        finally:
            await engine.dispose()

    async def end_round(self) -> Poll:
        """Close the round, and wait until its totals are final, as `voting ask` does."""
        async with self.operator() as engine:

            async def closed() -> bool:
                with suppress(PollChanged):  # by an attempt without a response
                    await close_poll(engine)
                return True

            async def final() -> bool:
                with suppress(RedisError, StreamMissing, Untrusted):
                    seen, _ = await reconcile(engine, self.queue_state)
                    return seen.final_at is not None or await finalize(
                        engine, self.queue_state, seen
                    )
                return False

            await until(closed)
            await until(final)
            return (await fetch_result(engine)).poll

    async def start_round(self, ended: int, options: int) -> None:
        """Ask a question with so many options, in the round after the one that has ended."""
        question = Question(
            f"What now, after {ended}?", tuple(map("Option {}".format, range(options)))
        )
        async with self.operator() as engine:

            async def started() -> bool:
                with suppress(PollChanged):
                    await start_round(engine, ended, question)
                return True

            await until(started)
            with suppress(RedisError):  # a worker does it too
                await reconcile(engine, self.queue_state)

    @asynccontextmanager
    async def another_database(self) -> AsyncIterator[str]:
        """A second database with the schema: its address for the owner."""
        name = f"other_{uuid4().hex}"
        await self.state.sql(f"CREATE DATABASE {name} OWNER voting")
        url = self.folders.database_url(name)
        await asyncio.to_thread(migrate, as_user(url, "voting"))
        yield url
        await self.state.sql(f"DROP DATABASE {name} WITH (FORCE)")

    async def back_up(self) -> None:
        """Copy all tables, as they are at one moment."""
        copies = [f"CREATE TABLE backup_{table} AS TABLE {table}" for table in TABLES]
        await self._transaction("ISOLATION LEVEL REPEATABLE READ", copies)

    async def restore(self) -> None:
        """Replace all tables by their copies, and drop those."""
        parts = ("INSERT INTO {0} TABLE backup_{0}", "DROP TABLE backup_{0}")
        statements = [part.format(table) for part in parts for table in TABLES]
        await self._transaction("", [f"TRUNCATE {', '.join(TABLES)}", *statements])

    async def _transaction(self, mode: str, statements: list[str]) -> None:
        connection = await asyncpg.connect(self.database_url)
        await connection.execute("; ".join([f"BEGIN {mode}", *statements, "COMMIT"]))
        await connection.close()

    async def a_minute_passes(self) -> None:
        """Have the latest change of the poll reach Redis a minute earlier."""
        key = self.queue.poll_key
        changed = int(await self.valkey.hget(key, "revised"))
        await self.valkey.hset(key, "revised", changed - 61_000)

    async def audit(self) -> list[str]:
        """Return what `voting audit` reports, except the dead letters that tests make."""
        async with self.operator() as engine:
            problems = (await audit(self.queue_state, engine)).problems
        return [each for each in problems if not each.startswith("dead letters")]

    async def end_connections(self) -> None:
        """Have Postgres end the connections of all roles, which rolls back their transactions."""
        await self.state.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'voting-%'"
        )

    async def entries_taken_from(self, worker: Child) -> None:
        """Wait until that worker has no pending entry any more."""
        mine = f"-{worker.pid}".encode()
        await until(
            partial(self.valkey.xinfo_consumers, self.queue.stream_key, GROUP),
            check=lambda found: all(
                not each["pending"] for each in found if each["name"].endswith(mine)
            ),
        )


async def _at_once() -> bool:
    return True


def suspended(child: Child) -> bool:
    return psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
