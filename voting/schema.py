"""Bringing the database to the schema that this package's models describe."""

from pathlib import Path

from alembic import command
from alembic.config import Config

_HERE = Path(__file__).parent


def config(database_url: str) -> Config:
    """Alembic's configuration for the migrations of this package."""
    # An installed package carries them; in a checkout they are beside it.
    installed = _HERE / "migrations"
    scripts = installed if installed.is_dir() else _HERE.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Apply every migration that is missing. Raises one of DATABASE_ERRORS."""
    command.upgrade(config(database_url), "head")
