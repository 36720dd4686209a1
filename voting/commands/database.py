"""The commands that look after the schema: migrate, wait. They need no Redis, and import none."""

import argparse
import asyncio
import os
import sys

from voting.database import schema
from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.settings import DatabaseSettings, load
from voting.telemetry.logging import configure


def migrate(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails."""
    url = _database_url("migrate")
    try:
        if arguments.wait:
            asyncio.run(schema.wait_for_server(url, arguments.wait))
        schema.migrate(url)
    except DATABASE_ERRORS as error:
        sys.exit(f"voting: the database can't be migrated: {in_one_line(error)}")
    return 0


def wait(_: argparse.Namespace) -> int:
    """Wait as long as it takes."""
    asyncio.run(schema.wait_for_schema(_database_url("wait")))
    return 0


def _database_url(command: str) -> str:
    settings = load(DatabaseSettings, os.environ)
    configure(settings, command)
    return settings.database_url.get_secret_value()
