import asyncio
import io
import os
import shutil
import subprocess
import sys
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from support.database import WRONG_SETTINGS, fetch
from support.wait import until

from voting.database import schema
from voting.database.engine import DATABASE_ERRORS, create_engine
from voting.database.models import Base
from voting.database.rights import RIGHTS


@pytest.fixture
def empty_url(servers):
    """A database with nothing in it."""
    name = f"empty_{uuid4().hex}"
    servers.sql(f"CREATE DATABASE {name}")
    yield servers.database_url(name)
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


def tables(url):
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    return {row["tablename"] for row in asyncio.run(fetch(url, query))}


def test_migrations_models_and_rights_agree(empty_url):
    schema.migrate(empty_url)
    command.check(schema.config(empty_url))
    assert tables(empty_url) == {*Base.metadata.tables, "voting_version"}
    for rights in RIGHTS.values():
        assert rights.keys() <= {
            *tables(empty_url),
            "close_environment_round(integer)",
            "close_on_time(timestamp with time zone,integer)",
            "declare_final(bigint,bigint)",
            "reopen_environment_round(integer,timestamp with time zone)",
            "replace_question(text,text[])",
            "start_environment_round(integer,integer,text,text[])",
            "start_round(integer,integer,text,text[],boolean)",
        }
    schema.migrate(empty_url)  # changes nothing
    command.check(schema.config(empty_url))


def test_constraints_have_the_names_of_the_models(empty_url):
    """By which a later migration may drop one."""
    schema.migrate(empty_url)
    named = "SELECT conname FROM pg_constraint WHERE contype IN ('c', 'f', 'p', 'u')"
    query = f"{named} AND connamespace = 'public'::regnamespace"
    rows = asyncio.run(fetch(empty_url, query))
    tables = Base.metadata.tables.values()
    names = {each.name for table in tables for each in table.constraints}
    assert {row["conname"] for row in rows} - {"voting_version_pkc"} == names


def test_migration_does_not_rely_on_settings_of_the_database(empty_url, servers):
    name = make_url(empty_url).database
    for setting, value in WRONG_SETTINGS.items():
        servers.sql(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    schema.migrate(empty_url)
    command.check(schema.config(empty_url))


def test_downgrade_leaves_nothing_and_can_be_undone(empty_url):
    schema.migrate(empty_url)
    command.downgrade(schema.config(empty_url), "base")
    assert tables(empty_url) == {"voting_version"}
    schema.migrate(empty_url)
    command.check(schema.config(empty_url))


def test_migrations_that_start_at_once_wait_for_each_other(empty_url):
    command_line = [sys.executable, "-P", "-m", "voting", "migrate"]
    environ = {**os.environ, "DATABASE_URL": empty_url}
    migrations = [subprocess.Popen(command_line, env=environ) for _ in range(3)]
    assert [each.wait() for each in migrations] == [0, 0, 0]
    command.check(schema.config(empty_url))


async def test_migration_may_wait_longer_than_a_statement_of_the_app(empty_url, monkeypatch):
    monkeypatch.setitem(create_engine.__kwdefaults__, "patience", 0.2)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'advisory' AND clock_timestamp() - query_start > '0.5 s'"
    )
    other = await asyncpg.connect(empty_url)
    await other.execute(f"SELECT pg_advisory_lock({0x766F7465})")
    migrating = asyncio.create_task(asyncio.to_thread(schema.migrate, empty_url))
    await until(partial(other.fetchval, waiting))
    await other.close()  # which releases the lock
    await migrating


def test_failed_migration_leaves_nothing_half_done(empty_url):
    asyncio.run(fetch(empty_url, "CREATE TABLE poll ()"))  # conflicts with the third table
    with pytest.raises(Exception, match="already exists"):
        schema.migrate(empty_url)
    assert tables(empty_url) == {"poll"}


def test_a_database_with_the_migrations_of_another_application_is_migrated(empty_url):
    for statement in (
        "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('c0ffee')",
    ):
        asyncio.run(fetch(empty_url, statement))
    schema.migrate(empty_url)
    asyncio.run(schema.wait_for_schema(empty_url))
    assert tables(empty_url) == {*Base.metadata.tables, "voting_version", "alembic_version"}


def test_the_revision_moves_from_the_table_that_other_applications_use(empty_url):
    schema.migrate(empty_url)
    identity = asyncio.run(fetch(empty_url, "SELECT database_id FROM poll"))
    asyncio.run(fetch(empty_url, "ALTER TABLE voting_version RENAME TO alembic_version"))
    schema.migrate(empty_url)
    command.check(schema.config(empty_url))
    assert asyncio.run(fetch(empty_url, "SELECT database_id FROM poll")) == identity
    assert tables(empty_url) == {*Base.metadata.tables, "voting_version"}


def test_schema_can_be_written_as_sql():
    configuration = schema.config("postgresql://unused")
    configuration.output_buffer = io.StringIO()
    command.upgrade(configuration, "head", sql=True)
    assert "CREATE TABLE votes" in configuration.output_buffer.getvalue()


HEAD = ScriptDirectory.from_config(schema.config("")).get_current_head()


@pytest.fixture
def next_version(monkeypatch, tmp_path):
    """Make the migrations those of a version that has one more."""
    scripts = tmp_path / "migrations"
    shutil.copytree(schema.config("x").get_main_option("script_location"), scripts)
    (scripts / "versions/next.py").write_text(
        f'revision = "next"\ndown_revision = "{HEAD}"\ndef upgrade() -> None: ...\n'
    )
    config = schema.config

    def of_next(url):
        made = config(url)
        made.set_main_option("script_location", str(scripts))
        return made

    return lambda: monkeypatch.setattr(schema, "config", of_next)


@pytest.fixture
def logged(monkeypatch, caplog):
    """Wait, in short steps, until a line is logged."""
    monkeypatch.setattr(schema, "POLL_INTERVAL", 0.01)
    caplog.set_level("INFO", "voting.database.schema")

    def is_logged(message, fields):
        lines = [(each.getMessage(), each.__dict__) for each in caplog.records]
        return any(message == line and fields.items() <= given.items() for line, given in lines)

    async def logged(message, **fields):
        await until(partial(is_logged, message, fields))

    return logged


async def test_wait_for_schema_returns_once_it_is_migrated(empty_url, logged):
    waiting = asyncio.create_task(schema.wait_for_schema(empty_url))
    reason = 'relation "voting_version" does not exist'
    await logged("waiting for the database", reason=reason)
    await asyncio.to_thread(schema.migrate, empty_url)
    async with asyncio.timeout(30):
        await waiting


async def test_wait_for_schema_waits_for_its_own_version(empty_url, logged, next_version):
    await asyncio.to_thread(schema.migrate, empty_url)
    next_version()
    waiting = asyncio.create_task(schema.wait_for_schema(empty_url))
    await logged("waiting for the schema", here=HEAD, wanted="next")
    await asyncio.to_thread(schema.migrate, empty_url)
    async with asyncio.timeout(30):
        await waiting


async def test_schema_of_a_later_version_is_accepted(empty_url, monkeypatch, next_version):
    next_version()
    await asyncio.to_thread(schema.migrate, empty_url)
    monkeypatch.undo()
    async with asyncio.timeout(30):
        await schema.wait_for_schema(empty_url)
    # A rollback to this version migrates nothing.
    await asyncio.to_thread(schema.migrate, empty_url)
    [row] = await fetch(empty_url, "SELECT version_num FROM voting_version")
    assert row["version_num"] == "next"


async def test_wait_for_server_returns_once_it_is_there(servers, logged):
    name = f"later_{uuid4().hex}"
    waiting = asyncio.create_task(schema.wait_for_server(servers.database_url(name), 30))
    await logged("waiting for the database", reason=f'database "{name}" does not exist')
    await asyncio.to_thread(servers.sql, f"CREATE DATABASE {name}")
    await waiting
    await asyncio.to_thread(servers.sql, f"DROP DATABASE {name} WITH (FORCE)")


async def test_wait_for_server_raises_after_its_time(servers):
    with pytest.raises(DATABASE_ERRORS, match='"missing_database" does not exist'):
        await schema.wait_for_server(servers.database_url("missing_database"), 0.1)
