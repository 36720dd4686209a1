"""What the operator's commands share: connections to the servers, errors, JSON."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line
from voting.database.poll import PollChanged
from voting.queue.client import Queue, StreamMissing
from voting.queue.state import PollConflict, QueueState
from voting.reconcile.changes import ChangeError
from voting.settings import ServersSettings, default_data_dir, load_settings

_Result = TypeVar("_Result")


def run_on_servers(
    data: Path | None,
    failure: str,
    work: Callable[[QueueState, AsyncEngine], Awaitable[_Result]],
    **limits: Any,
) -> _Result:
    """Run `work` with the queue and the database that `environment` names.

    `failure` begins the message if a server fails; `limits` are arguments of create_engine. A
    command that asks for confirmation does it between two runs: while an event loop runs, Ctrl-C
    does not interrupt a prompt. Raises SettingsError.
    """
    settings = load_settings(ServersSettings, environment(data))
    url = settings.database_url.get_secret_value()

    async def run() -> _Result:
        queue = Queue.of(settings)
        engine = create_engine(url, name="voting-operator", **limits)
        try:
            return await work(QueueState(queue), engine)
        finally:
            await queue.close()
            await engine.dispose()

    with exit_on_error(failure):
        return asyncio.run(run())


def environment(data: Path | None) -> Mapping[str, str]:
    """Return the environment. If it has no server's URL, add what the running `voting up` has."""
    if os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL"):
        return os.environ
    try:
        data = data or default_data_dir()
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
    except ChangeError as error:
        raise click.ClickException(str(error)) from None
    except PollConflict as error:
        raise click.ClickException(f"{failure}: {error}") from None
    except PollChanged:
        raise click.ClickException(f"{failure}: it has been changed meanwhile") from None
    except (RedisError, *DATABASE_ERRORS) as error:
        raise click.ClickException(f"{failure}: {in_one_line(error)}") from None


def to_json(result: Any) -> str:
    """Serialize a dataclass, with times as ISO 8601."""
    return json.dumps(asdict(result), default=datetime.isoformat)
