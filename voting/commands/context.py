"""What the operator's commands share: options, connections to the servers, errors."""

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line
from voting.queue.client import Queue, StreamMissing, connect
from voting.queue.state import QueueState
from voting.settings import ServersSettings, default_data_dir, load_settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Data directory of a running `voting up`, whose servers are used if none is set.",
)
json_option = click.option("--json", "json_output", is_flag=True, help="Print JSON.")


@asynccontextmanager
async def connect_servers(
    data: Path | None, **limits: Any
) -> AsyncIterator[tuple[QueueState, AsyncEngine]]:
    """Yield the queue and the database that `server_urls` names.

    `limits` are arguments of create_engine. Raises SettingsError.
    """
    settings = load_settings(ServersSettings, server_urls(data))
    queue = Queue(connect(settings.redis_url.get_secret_value()))
    engine = create_engine(
        settings.database_url.get_secret_value(), name="voting-operator", **limits
    )
    try:
        yield QueueState(queue), engine
    finally:
        await queue.close()
        await engine.dispose()


def server_urls(data: Path | None) -> Mapping[str, str]:
    """Return the environment. If it has no server's URL, add those of the running `voting up`."""
    if os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL"):
        return os.environ
    data = data or default_data_dir()
    try:
        # A killed `voting up` leaves its files: use them only while its process runs.
        os.kill(int((data / "lock").read_text()), 0)
        lines = (data / "servers.env").read_text().splitlines()
    except (OSError, ValueError):
        return os.environ
    return {**os.environ, **dict(line.split("=", 1) for line in lines)}


@contextmanager
def exit_on_error(failure: str) -> Iterator[None]:
    """Exit with code 1 and one line, which begins with `failure`, if a server fails."""
    try:
        yield
    except StreamMissing:
        raise click.ClickException(f"{failure}: the queue is missing") from None
    except (RedisError, *DATABASE_ERRORS) as error:
        raise click.ClickException(f"{failure}: {in_one_line(error)}") from None


def to_json(result: "DataclassInstance") -> str:
    """Serialize a result, with times as ISO 8601."""
    return json.dumps(asdict(result), default=datetime.isoformat)
