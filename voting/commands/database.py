"""The commands for the schema: migrate, wait. They do not import Redis' client."""

import asyncio
import os

import click

from voting.commands import options
from voting.database import schema
from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.settings import DatabaseSettings, MigrateSettings, load_settings
from voting.telemetry.logging import configure


@click.command()
@options.wait(help="Wait this long for the database server to respond.")
def migrate(wait: float) -> None:
    """Migrate the database to this version.

    Also sets the rights of the database's users. The schema of a later version stays as it is.
    POLL_TITLE and OPTION_A to OPTION_L are the question of a database that has none yet.
    """
    settings = load_settings(MigrateSettings, os.environ)
    configure(settings, "migrate")
    url = settings.database_url.get_secret_value()
    try:
        if wait:
            asyncio.run(schema.wait_for_server(url, wait))
        schema.migrate(url, settings.question)
    except DATABASE_ERRORS as error:
        reason = in_one_line(error)
        raise click.ClickException(f"the database can't be migrated: {reason}") from None


@click.command()
def wait() -> None:
    """Wait until the database is migrated.

    It must have this version's schema or a later one. There is no timeout.
    """
    settings = load_settings(DatabaseSettings, os.environ)
    configure(settings, "wait")
    asyncio.run(schema.wait_for_schema(settings.database_url.get_secret_value()))
