"""Real servers for the tests: one Postgres and one Valkey a run, apart from everything else."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.servers import Servers, Stream

from voting.database.engine import create_engine
from voting.local.data_dir import DataDir
from voting.telemetry.logging import use_standard_library

use_standard_library()  # for tests that read log records with caplog


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--votes", type=int, default=1_500, help="votes for each fault")
    parser.addoption("--repeat", type=int, default=1, help="how often each fault happens")
    parser.addoption("--examples", type=int, default=500, help="how many for each operation")
    parser.addoption("--seeds", type=int, default=2_000, help="how many seeds to simulate")
    parser.addoption("--seed", type=int, help="simulate this seed only, and tell its story")


@contextmanager
def running_servers(*, fsync: bool) -> Iterator[Servers]:
    # Sockets have short paths and Postgres, as another user where this is root, must reach them.
    folder = Path(tempfile.mkdtemp(prefix="voting-tests-"))
    folder.chmod(0o711)
    run = folder / "run"
    run.mkdir(mode=0o700)
    servers = Servers(DataDir(folder, run), fsync=fsync)
    yield servers
    servers.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with running_servers(fsync=False) as servers:
        yield servers


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """The name of a database of the test's own, with the schema that the migrations make."""
    name = f"test_{uuid4().hex}"
    servers.make_database(name)
    yield name
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(servers: Servers, database: str) -> str:
    """The database as a worker has it."""
    return servers.database_url(database, "voting_worker")


@pytest.fixture
async def engine(servers: Servers, database: str) -> AsyncIterator[AsyncEngine]:
    """The database for a worker and an operator; `test_rights.py` is about each alone."""
    engine = create_engine(servers.database_url(database, "worker_and_admin"), name="tests")
    yield engine
    await engine.dispose()


@pytest.fixture
async def operator(servers: Servers, database: str) -> AsyncIterator[AsyncEngine]:
    """The database as the admin page has it, and an operator's command in its pod."""
    engine = create_engine(servers.database_url(database, "voting_admin"), name="tests")
    yield engine
    await engine.dispose()


@pytest.fixture
async def reader(servers: Servers, database: str) -> AsyncIterator[AsyncEngine]:
    """The database as the result role has it."""
    engine = create_engine(servers.database_url(database, "voting_result"), name="tests")
    yield engine
    await engine.dispose()


@pytest.fixture
async def admin(servers: Servers, database: str) -> AsyncIterator[AsyncEngine]:
    """The database for what a test arranges, and no role may do."""
    engine = create_engine(servers.database_url(database), name="tests")
    yield engine
    await engine.dispose()


@pytest.fixture
async def stream(servers: Servers) -> AsyncIterator[Stream]:
    """A stream of the test's own; nothing has prepared it."""
    stream = Stream(servers, f"test-{uuid4().hex}")
    yield stream
    await stream.close()
