"""Real servers for the tests: one Postgres and one Valkey a run, apart from everything else."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from voting import embedded
from voting.database import create_engine
from voting.embedded import Folders
from voting.schema import migrate
from voting.stream import BallotStream, connect
from voting.supervisor import Child, Guardian, Program

TEMPLATE = "voting_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--votes", type=int, default=5_000, help="votes for each fault")
    parser.addoption("--repeat", type=int, default=1, help="how often each fault happens")
    parser.addoption("--seeds", type=int, default=2_000, help="how many seeds to simulate")
    parser.addoption("--seed", type=int, help="simulate this seed only, and tell its story")


class Servers:
    """Postgres and Valkey as `voting up` runs them; the guardian ends them with this process."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self._loop = asyncio.new_event_loop()
        self._lock = os.open(folders.data / "lock", os.O_CREAT | os.O_RDWR)
        self._guardian = Guardian(self._lock)
        self.programs = embedded.prepare_postgres(folders)
        servers = (embedded.postgres(folders, self.programs), embedded.valkey(folders))
        self._children = [Child(program, self._guardian, print) for program in servers]
        for child in self._children:
            self._loop.run_until_complete(child.start())
        self.sql(f"CREATE DATABASE {TEMPLATE}")
        migrate(self.database_url(TEMPLATE))

    def close(self) -> None:
        for child in self._children:
            self._loop.run_until_complete(child.stop(30))
        self._guardian.close()
        os.close(self._lock)
        self._loop.close()

    @contextmanager
    def running(self, program: Program) -> Iterator[None]:
        """Run one more server."""
        child = Child(program, self._guardian, print)
        self._loop.run_until_complete(child.start())
        try:
            yield
        finally:
            self._loop.run_until_complete(child.stop(30))

    def database_url(self, name: str) -> str:
        return self.folders.database_url(name)

    @property
    def redis_url(self) -> str:
        return self.folders.redis_url

    def sql(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.folders.database_url())
            await connection.execute(statement)
            await connection.close()

        self._loop.run_until_complete(run())


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    # Sockets have short paths and Postgres, as another user where this is root, must reach them.
    folder = Path(tempfile.mkdtemp(prefix="voting-tests-"))
    folder.chmod(0o711)
    run = folder / "run"
    run.mkdir(mode=0o700)
    servers = Servers(Folders(folder, run))
    yield servers
    servers.close()
    shutil.rmtree(folder)


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A database of the test's own, with the schema that the migrations make."""
    name = f"test_{uuid4().hex}"
    servers.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY WAL_LOG")
    yield servers.database_url(name)
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, name="tests")
    yield engine
    await engine.dispose()


@pytest.fixture
async def stream(servers: Servers) -> AsyncIterator[BallotStream]:
    """A stream of the test's own; nothing has prepared it."""
    redis = connect(servers.redis_url)
    name = f"test-{uuid4().hex}"
    yield BallotStream(redis, name=name)
    await redis.delete(*(f"{{{name}}}:{part}" for part in ("ballots", "poll", "dead", "tries")))
    await redis.aclose()
