"""What the operator's commands share: finding the servers, and telling what came of it."""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, create_engine, in_one_line
from voting.local import data_dir as folder
from voting.queue.stream import BallotStream, StreamMissing
from voting.settings import ServersSettings, load

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Result = TypeVar("_Result")


async def with_servers(
    arguments: argparse.Namespace,
    work: Callable[[BallotStream, AsyncEngine], Awaitable[_Result]],
    **limits: Any,
) -> _Result:
    """Do `work` with the servers that the environment names, or those of a `voting up`.

    `limits` are create_engine's. Raises SettingsError and whatever `work` raises.
    """
    settings = load(ServersSettings, environ(arguments))
    stream = BallotStream.at(settings.redis_url.get_secret_value())
    engine = create_engine(
        settings.database_url.get_secret_value(), name="voting-operator", **limits
    )
    try:
        return await work(stream, engine)
    finally:
        await stream.close()
        await engine.dispose()


def environ(arguments: argparse.Namespace) -> Mapping[str, str]:
    """The environment; where it names no server, with those of the `voting up` that runs."""
    if os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL"):
        return os.environ
    servers = folder.running(arguments.data or folder.default())
    if servers is None:
        return os.environ
    return {**os.environ, "DATABASE_URL": servers.database_url(), "REDIS_URL": servers.redis_url}


@contextmanager
def one_line_for(failure: str) -> Iterator[None]:
    """End the process with one line, and exit code 1, where a server fails."""
    try:
        yield
    except StreamMissing:
        sys.exit(f"voting: {failure}: the queue is not there")
    except (RedisError, *DATABASE_ERRORS) as error:
        sys.exit(f"voting: {failure}: {in_one_line(error)}")


def say(*lines: str) -> None:
    """Print lines for whoever has given the command."""
    print("\n".join(lines))  # noqa: T201 - the terminal is the place


def as_json(found: "DataclassInstance") -> str:
    """Write what was found for machines, times as ISO 8601."""
    return json.dumps(asdict(found), default=datetime.isoformat)
