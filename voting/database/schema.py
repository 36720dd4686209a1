"""The database's schema: bringing it to this version, and what each role may do with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line

log = structlog.get_logger(__name__)

_PACKAGE = Path(__file__).parents[1]

# Seconds between two looks at a database that is not ready yet.
PAUSE = 1.0

_REVISION = "SELECT version_num FROM alembic_version"

_NAMES = """
SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'
UNION
SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""

# Who may do what, where the database has a user of that name. What a user is not named for, it may
# not do; the tables belong to whoever migrates. `alembic_version` tells a role that waits.
RIGHTS = {
    "voting_worker": {
        "votes": "SELECT, INSERT, UPDATE",
        "tally": "SELECT, INSERT, UPDATE",
        "poll": "SELECT, UPDATE"
        " (state, revision, closes_at, closed_at, until_ms, until_seq, final_at, lost_at)",
        "finals": "SELECT, INSERT",
        "past_tally": "SELECT",
        "start_round(integer)": "EXECUTE",
        "alembic_version": "SELECT",
    },
    "voting_result": {
        "tally": "SELECT",
        "poll": "SELECT",
        "finals": "SELECT",
        "past_tally": "SELECT",
        "alembic_version": "SELECT",
    },
}


def config(database_url: str) -> Config:
    """Alembic's configuration for the migrations of this package."""
    # An installed package carries them; in a checkout they are beside it.
    installed = _PACKAGE / "migrations"
    scripts = installed if installed.is_dir() else _PACKAGE.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Apply every migration that is missing. Raises one of DATABASE_ERRORS.

    The schema of a later version stays as it is: this one is being gone back to.
    """
    if asyncio.run(_revision(database_url)) in {None, *_revisions(database_url)}:
        command.upgrade(config(database_url), "head")
    else:
        log.info("the database has the schema of a later version")


def grant(connection: Connection) -> None:
    """Give the users of RIGHTS what they may do, and take what they may not do any more."""
    there = set(connection.scalars(text(_NAMES)))
    users = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    for user in RIGHTS.keys() & users:
        for kind in ("TABLES", "FUNCTIONS"):
            connection.execute(text(f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {user}"))
        for name in RIGHTS[user].keys() & there:
            kind = "FUNCTION" if "(" in name else "TABLE"
            connection.execute(text(f"GRANT {RIGHTS[user][name]} ON {kind} {name} TO {user}"))


async def wait_for_server(database_url: str, seconds: float) -> None:
    """Return once the database answers. Raises one of DATABASE_ERRORS after `seconds`."""
    async with _engine(database_url, "voting-wait") as engine:
        try:
            async with asyncio.timeout(seconds):
                await _persist(engine, "SELECT 'there'")
        except TimeoutError:
            async with engine.connect():  # says why not
                pass


async def wait_for_schema(database_url: str) -> None:
    """Return once the database has the schema of this version, or of a later one.

    Of a later one too: in the middle of a rollout, a process of the version before may start anew.
    """
    head, *earlier = _revisions(database_url)
    async with _engine(database_url, "voting-wait") as engine:
        if (revision := await _persist(engine, _REVISION)) in earlier:
            log.info("waiting for the schema", here=revision, wanted=head)
        while revision in earlier:
            await asyncio.sleep(PAUSE)
            revision = await _persist(engine, _REVISION)


@asynccontextmanager
async def _engine(database_url: str, name: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, name=name, pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()


def _revisions(database_url: str) -> list[str]:
    """List what this version knows, the newest first. What it does not know comes after them."""
    scripts = ScriptDirectory.from_config(config(database_url))
    return [script.revision for script in scripts.walk_revisions()]


async def _revision(database_url: str) -> str | None:
    """Tell the database's revision, None where it has none yet."""
    async with _engine(database_url, "voting-migrate") as engine, engine.connect() as connection:
        there = text("SELECT to_regclass('alembic_version')")
        if (await connection.execute(there)).scalar_one() is None:
            return None
        revision: str | None = (await connection.execute(text(_REVISION))).scalar_one_or_none()
        return revision


async def _persist(engine: AsyncEngine, query: str) -> str:
    """Ask until there is an answer, saying each new reason why there is none."""
    reason = ""
    while True:
        try:
            async with engine.connect() as connection:
                answer = (await connection.execute(text(query))).scalar_one_or_none()
            if answer is not None:
                return str(answer)
            error = "there is no revision yet"
        except DATABASE_ERRORS as failure:
            error = in_one_line(failure)
        if error != reason:
            log.info("waiting for the database", reason=error)
            reason = error
        await asyncio.sleep(PAUSE)
