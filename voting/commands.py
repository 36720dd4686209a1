"""The operator's commands: what they read, say and return."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting import audit as auditing
from voting import folder, logs
from voting.audit import Audit, Replay
from voting.database import DATABASE_ERRORS, create_engine, in_one_line
from voting.settings import DatabaseSettings, ServersSettings, load
from voting.stream import BallotStream, StreamMissing

_Result = TypeVar("_Result", Audit, Replay)


def migrate(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails."""
    from voting import schema  # noqa: PLC0415 - the other commands do without Alembic

    url = _database_url("migrate")
    with _in_one_line("the database can't be migrated"):
        if arguments.wait:
            asyncio.run(schema.wait_for_server(url, arguments.wait))
        schema.migrate(url)
    return 0


def wait(_: argparse.Namespace) -> int:
    """Wait as long as it takes."""
    from voting import schema  # noqa: PLC0415 - as above

    asyncio.run(schema.wait_for_schema(_database_url("wait")))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Return 1 where something is wrong, or a server can't be asked."""
    # No patience of its own: adding up all votes takes as long as it takes.
    with _in_one_line("the votes can't be audited"):
        found = asyncio.run(_with_servers(arguments, auditing.audit, patience=None))
    if arguments.json:
        _say(_json(found))
    else:
        backlog = "unknown" if found.backlog is None else found.backlog
        age = found.oldest_pending_seconds
        oldest = "" if age is None else f", the oldest for {age:.0f} s"
        _say(
            f"votes         a {found.votes.a}, b {found.votes.b}",
            f"tally         a {found.tally.a}, b {found.tally.b}",
            f"compared      {_entries(found)}",
            f"not counted   {backlog}, with a worker {found.pending}{oldest}",
            f"dead letters  {found.dead_letters}",
            *(found.problems or ["fine"]),
        )
    return 1 if found.problems else 0


def replay(arguments: argparse.Namespace) -> int:
    """Return 1 where a server can't be asked."""
    with _in_one_line("the ballots can't be counted again"):
        found = asyncio.run(_with_servers(arguments, auditing.replay))
    if arguments.json:
        _say(_json(found))
    else:
        _say(
            f"compared      {_entries(found)}",
            f"counted again {found.votes}",
            # What was counted before that can be in a backup only.
            "fine, as far as the queue goes back",
        )
    return 0


def _database_url(command: str) -> str:
    settings = load(DatabaseSettings, os.environ)
    logs.configure(settings, command)
    return settings.database_url.get_secret_value()


def _entries(found: Audit | Replay) -> str:
    since = f", the oldest of {found.since:%Y-%m-%d %H:%M:%S} UTC" if found.since else ""
    return f"{found.entries} ballots{since}"


def _json(found: Audit | Replay) -> str:
    return json.dumps(asdict(found), default=datetime.isoformat)


async def _with_servers(
    arguments: argparse.Namespace,
    work: Callable[[BallotStream, AsyncEngine], Awaitable[_Result]],
    **limits: Any,
) -> _Result:
    settings = load(ServersSettings, _environ(arguments))
    stream = BallotStream.at(settings.redis_url.get_secret_value())
    engine = create_engine(
        settings.database_url.get_secret_value(), name="voting-operator", **limits
    )
    try:
        return await work(stream, engine)
    finally:
        await stream.close()
        await engine.dispose()


def _environ(arguments: argparse.Namespace) -> Mapping[str, str]:
    """The environment; where it names no server, with those of the `voting up` that runs."""
    if os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL"):
        return os.environ
    servers = folder.running(arguments.data or folder.default())
    if servers is None:
        return os.environ
    return {**os.environ, "DATABASE_URL": servers.database_url(), "REDIS_URL": servers.redis_url}


@contextmanager
def _in_one_line(failure: str) -> Iterator[None]:
    """End the process with one line, and exit code 1, where a server fails."""
    try:
        yield
    except StreamMissing:
        sys.exit(f"voting: {failure}: the queue is not there")
    except (RedisError, *DATABASE_ERRORS) as error:
        sys.exit(f"voting: {failure}: {in_one_line(error)}")


def _say(*lines: str) -> None:
    print("\n".join(lines))  # noqa: T201 - the terminal is the place
