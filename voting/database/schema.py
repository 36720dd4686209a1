"""The schema: migrating it to this version, and waiting for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line
from voting.database.models import VERSION_TABLE
from voting.poll.question import Question

log = structlog.get_logger(__name__)

# Seconds between two queries of a database that is not ready yet.
POLL_INTERVAL = 1.0

_REVISION = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - a constant


def config(database_url: str) -> Config:
    """Return Alembic's configuration for the migrations of this package."""
    # An installed package contains them; in a checkout they are beside it.
    package = Path(__file__).parents[1]
    scripts = next(each for each in (package, package.parent) if (each / "migrations").is_dir())
    config = Config()
    config.set_main_option("script_location", str(scripts / "migrations").replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str, question: Question = Question()) -> None:  # noqa: B008 - immutable
    """Apply every missing migration. Raises one of DATABASE_ERRORS.

    `question` is that of the rounds so far, if the database does not have their questions. The
    schema of a later version stays as it is: the operator is rolling back to this version.
    """
    if asyncio.run(_revision(database_url)) in {None, *_revisions(database_url)}:
        migrations = config(database_url)
        migrations.attributes["question"] = question
        command.upgrade(migrations, "head")
    else:
        log.info("the database has the schema of a later version")


async def wait_for_server(database_url: str, seconds: float) -> None:
    """Return once the database responds. Raises one of DATABASE_ERRORS after `seconds`."""
    async with _engine(database_url) as engine:
        try:
            async with asyncio.timeout(seconds):
                await _retry(engine, "SELECT 'ready'")
        except TimeoutError:
            async with engine.connect():  # raises the reason
                pass


async def wait_for_schema(database_url: str) -> None:
    """Return once the database has the schema of this version, or of a later one.

    During a rollout, a process of the previous version may restart after the migration.
    """
    head, *earlier = _revisions(database_url)
    async with _engine(database_url) as engine:
        if (revision := await _retry(engine, _REVISION)) in earlier:
            log.info("waiting for the schema", here=revision, wanted=head)
        while revision in earlier:
            await asyncio.sleep(POLL_INTERVAL)
            revision = await _retry(engine, _REVISION)


@asynccontextmanager
async def _engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, name="voting-schema", pool_size=1, writes=False)
    try:
        yield engine
    finally:
        await engine.dispose()


def _revisions(database_url: str) -> list[str]:
    """Return the revisions of this version, the newest first. Any other is of a later version."""
    scripts = ScriptDirectory.from_config(config(database_url))
    return [script.revision for script in scripts.walk_revisions()]


async def _revision(database_url: str) -> str | None:
    """Return the database's revision; None if it has none yet."""
    async with _engine(database_url) as engine, engine.connect() as connection:
        if await connection.scalar(text(f"SELECT to_regclass('{VERSION_TABLE}')")) is None:
            return None
        return cast("str | None", await connection.scalar(text(_REVISION)))


async def _retry(engine: AsyncEngine, query: str) -> str:
    """Run `query` until it returns a value, logging each new reason why it does not."""
    reason = ""
    while True:
        try:
            async with engine.connect() as connection:
                value = await connection.scalar(text(query))
            if value is not None:
                return str(value)
            error = "there is no revision yet"
        except DATABASE_ERRORS as failure:
            error = in_one_line(failure)
        if error != reason:
            log.info("waiting for the database", reason=error)
            reason = error
        await asyncio.sleep(POLL_INTERVAL)
