"""Runs the migrations: one at a time in the whole cluster, and never stuck behind a lock."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, inspect, text

from voting.database.engine import create_engine
from voting.database.models import VERSION_TABLE, Base
from voting.database.rights import grant

# The key of an advisory lock: any number that nothing else in this database uses.
LOCK = 0x766F7465

OPTIONS = {"target_metadata": Base.metadata, "version_table": VERSION_TABLE}

# In which the revision stood at first.
EARLIER_TABLE = "alembic_version"


def run(connection: Connection) -> None:
    # While a migration waits for a table's lock, it blocks every vote behind it. Better that it
    # fails and is run again.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = 0"))
    tables = set(inspect(connection).get_table_names())
    if (
        EARLIER_TABLE in tables
        and {"poll", "votes", "tally"} <= tables
        and VERSION_TABLE not in tables
    ):
        connection.execute(text(f"ALTER TABLE {EARLIER_TABLE} RENAME TO {VERSION_TABLE}"))
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
        grant(connection)


async def run_alone(url: str) -> None:
    engine = create_engine(url, name="voting-migrate", patience=None)
    try:
        # The lock has its own connection: it outlives the migrations' transactions, and Postgres
        # releases it if this process dies.
        async with engine.connect() as guard:
            await guard.execute(text("SET statement_timeout = '60s'"))
            await guard.execute(text("SET lock_timeout = '60s'"))
            await guard.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            # Not AUTOCOMMIT, the engine's default: a migration is applied whole or not at all.
            migrating = engine.execution_options(isolation_level="READ COMMITTED")
            async with migrating.begin() as connection:
                await connection.run_sync(run)
            await guard.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
else:
    # The command line `alembic` sets no URL.
    url = context.config.attributes.get("database_url") or os.environ["DATABASE_URL"]
    asyncio.run(run_alone(url))
