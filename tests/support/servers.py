"""Real servers for tests: Postgres and Valkey, with the users of the deployment."""

import asyncio
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from support.database import fetch
from support.wait import until
from voting.database import durability
from voting.database.schema import migrate
from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.local.supervisor import Child, Guardian, Program
from voting.poll.ballot import Ballot, Choice, Version
from voting.poll.lifecycle import CastRules
from voting.queue.client import Queue, connect
from voting.queue.consumer import Consumer
from voting.queue.producer import Caster
from voting.queue.state import QueueState

DEPLOY = Path(__file__).parents[2] / "deploy"
# Who may do what in the deployment.
USERS = DEPLOY / "overlays/kind/voting/users.acl"
ROLES = DEPLOY / "base/roles.sql"
USERS_OF_POSTGRES = ("MIGRATE", "WORKER", "RESULT", "ADMIN")

# The database that `deploy/` makes, with the schema: a test's own is a copy.
TEMPLATE = "voting"


def passwords() -> dict[str, str]:
    """Find the passwords of Redis' users."""
    lines = (shlex.split(line) for line in USERS.read_text().splitlines())
    return {line[1]: line[3].removeprefix(">") for line in lines}


def with_users(valkey: Program, folder: Path) -> Program:
    """Give Valkey the users of the deployment. Who does not say who it is may do all."""
    deployed = USERS.read_text().splitlines()
    users = ["user default on nopass ~* &* +@all"]
    users += [line for line in deployed if not line.startswith("user default ")]
    # To the keys of tests, what is to the keys of the app.
    users = [re.sub(r" (\S*)\{voting\}(\S*)", r"\g<0> \1{test-*}\2", line) for line in users]
    file = folder / "users.acl"
    file.write_text("".join(f"{line}\n" for line in users))
    return replace(valkey, command=[*valkey.command, "--aclfile", str(file)])


def make_roles(folders: DataDir, programs: Path) -> None:
    """Make the users of Postgres, and what is theirs of the database, as the deployment does."""
    passwords = {f"{name}_PASSWORD": f"pass'{name}" for name in USERS_OF_POSTGRES}
    subprocess.run(
        [
            str(programs / "psql"),
            *("-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--quiet", "--username=postgres"),
            *(f"--dbname={TEMPLATE}", f"--host={folders.run}", f"--file={ROLES}"),
        ],
        env={"PATH": os.defpath, **passwords},
        check=True,
    )


def as_user(url: str, user: str) -> str:
    """Say in the URL of a server who asks."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}@{rest.removeprefix('postgres@')}"


def redis_url(folders: DataDir, user: str) -> str:
    return f"{as_user(folders.redis_url, user)}?password={passwords()[user]}"


def without_fsync(postgres: Program) -> Program:
    """Have Postgres not wait for the disk, for tests that do not kill it: they make many databases.

    A database takes 0.1 s so, with the strategy FILE_COPY, and 0.2 s otherwise. The workers of this
    process declare totals final nevertheless.
    """
    durability.NAMES[:] = [name for name in durability.NAMES if name != "fsync"]
    return replace(postgres, command=[*postgres.command, "-c", "fsync=off"])


@asynccontextmanager
async def standby_away(url: str) -> AsyncIterator[None]:
    """Have each commit on the server of `url` wait for a synchronous standby, which is away."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    probe: asyncio.Task[Any] | None = None

    async def commits_wait() -> bool:
        nonlocal probe
        if probe is None or probe.done():
            write = "SELECT pg_logical_emit_message(true, 'tests', '')"
            probe = asyncio.create_task(fetch(url, write))
        return (await fetch(url, waiting))[0]["count"] > 0

    await fetch(url, "ALTER SYSTEM SET synchronous_standby_names = 'away'")
    try:
        await fetch(url, "SELECT pg_reload_conf()")
        await until(commits_wait)
        yield
    finally:
        await fetch(url, "ALTER SYSTEM RESET synchronous_standby_names")
        await fetch(url, "SELECT pg_reload_conf()")
        if probe is not None:
            await probe


class Servers:
    """Postgres and Valkey as `voting up` runs them; the guardian ends them with this process.

    Their users are those of the deployment, so that a right that is missing there is missing here.
    """

    def __init__(self, folders: DataDir, *, fsync: bool = True) -> None:
        self.folders = folders
        self._loop = asyncio.new_event_loop()
        self._lock = os.open(folders.data / "lock", os.O_CREAT | os.O_RDWR)
        self._guardian = Guardian(self._lock)
        self.programs = embedded.prepare_postgres(folders)
        valkey = with_users(embedded.valkey(folders), folders.data)
        postgres = embedded.postgres(folders, self.programs)
        servers = (postgres if fsync else without_fsync(postgres), valkey)
        self._children = [Child(program, self._guardian, print) for program in servers]
        for child in self._children:
            self._loop.run_until_complete(child.start())
        self.sql(f"CREATE DATABASE {TEMPLATE}")
        make_roles(folders, self.programs)
        # For tests in which a worker works and an operator changes the poll.
        self.sql("CREATE ROLE worker_and_admin LOGIN IN ROLE voting_worker, voting_admin")
        migrate(self.database_url(TEMPLATE, "voting"))

    def make_database(self, name: str) -> None:
        """Make an empty one with the schema, for the users that may come into the template."""
        self.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        # That is no part of a template.
        rights = [line for line in ROLES.read_text().splitlines() if f"DATABASE {TEMPLATE}" in line]
        self.sql("\n".join(rights).replace(f"DATABASE {TEMPLATE}", f"DATABASE {name}"))

    def close(self) -> None:
        for child in self._children:
            self._loop.run_until_complete(child.stop(30))
        self._guardian.close()
        os.close(self._lock)
        self._loop.close()

    @contextmanager
    def running(self, program: Program) -> Iterator[Child]:
        """Run one more program."""
        with self.running_together([program]) as [child]:
            yield child

    @contextmanager
    def running_together(self, programs: Iterable[Program]) -> Iterator[list[Child]]:
        """Run more programs, which start at the same time and end in the opposite order."""
        children = [Child(each, self._guardian, print) for each in programs]

        async def start() -> None:
            await asyncio.gather(*(each.start() for each in children))

        try:
            self._loop.run_until_complete(start())
            yield children
        finally:
            for child in reversed(children):
                self._loop.run_until_complete(child.stop(30))

    def database_url(self, name: str, user: str = "postgres") -> str:
        return as_user(self.folders.database_url(name), user)

    def redis_url(self, user: str | None = None) -> str:
        """Tell the address for a user of the deployment; without one, for who may do all."""
        return redis_url(self.folders, user) if user else self.folders.redis_url

    def sql(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.folders.database_url())
            await connection.execute(statement)
            await connection.close()

        self._loop.run_until_complete(run())


def set_clock_back(caster: Caster) -> None:
    """Have the clock of the server be later than the caster takes it for."""
    for connection, clock in list(caster._clocks.items()):
        caster._clocks[connection] = clock._replace(ahead=clock.ahead - 100)


class Stream(QueueState):
    """The state of a queue of the test's own, read with a worker's rights.

    `cast`, `cast_rules` and `ready` have the rights of the vote role. `admin` is a client with all
    rights, for what a test arranges.
    """

    def __init__(self, servers: Servers, name: str) -> None:
        super().__init__(Queue(connect(servers.redis_url("worker")), name=name))
        self.vote = QueueState(Queue(connect(servers.redis_url("vote")), name=name))
        self.caster = Caster(self.vote.queue)
        self.admin = connect(servers.redis_url())

    def consumer(self, name: str) -> Consumer:
        return Consumer(self.queue, name)

    async def cast(self, ballot: Ballot, number: int = 1) -> Version:
        """Cast a ballot for a round."""
        return await self.caster.cast(ballot, number)

    async def cast_many(
        self, count: int, choice: Choice = Choice.A, *, number: int = 1
    ) -> list[Version]:
        """Cast that many ballots for a round at once, each of a new voter."""
        ballots = (Ballot(uuid4(), choice) for _ in range(count))
        return await asyncio.gather(*(self.cast(each, number) for each in ballots))

    async def append(self, fields: dict[Any, Any], version: str = "*") -> Version:
        """Append an entry past the app."""
        entry = await self.admin.xadd(self.queue.stream_key, fields, id=version)
        return Version.parse(entry)

    async def append_ballot(
        self, *, ago: float | None = None, choice: Choice = Choice.A
    ) -> Version:
        """Append a new voter's ballot past the app, as if it was cast that many seconds ago."""
        fields = dict(zip(("voter", "choice"), Ballot(uuid4(), choice).encode(), strict=True))
        version = "*" if ago is None else f"{int((await self.clock() - ago) * 1000)}-0"
        return await self.append(fields, version)

    @asynccontextmanager
    async def memory_limit(self, limit: str) -> AsyncIterator[None]:
        """Give Redis that much memory; "0" is as much as it needs."""
        await self.admin.config_set("maxmemory", limit)
        try:
            yield
        finally:
            await self.admin.config_set("maxmemory", "1gb")

    async def cast_rules(self) -> CastRules | None:
        return await self.vote.cast_rules()

    async def ready(self) -> bool:
        return await self.caster.ready()

    async def close(self) -> None:
        queue = self.queue
        await self.admin.delete(
            queue.stream_key, queue.poll_key, queue.dead_letters_key, queue.probe_key
        )
        await self.admin.aclose()
        await self.vote.queue.close()
        await queue.close()
