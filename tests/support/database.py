"""What tests write and read directly in the servers, past the roles."""

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.engine import set_local, transaction
from voting.database.poll import confirm_close, declare_final, replace_unseen_question
from voting.database.totals import fetch_result
from voting.poll.ballot import Version
from voting.poll.question import Question
from voting.queue.state import QueueState

# What no session of the app may take over from its database or user.
WRONG_SETTINGS = {
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "search_path": "elsewhere",
    "row_security": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "transaction_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "client_connection_check_interval": "0",
    "tcp_keepalives_idle": "7200s",
    "tcp_keepalives_interval": "7200s",
    "tcp_keepalives_count": "100",
    "jit": "on",
}


async def fetch(url: str, statement: str, *arguments: Any) -> list[Any]:
    """Run a statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def execute(engine: AsyncEngine, statement: str) -> CursorResult:
    async with engine.connect() as connection:
        return await connection.execute(text(statement))


async def stored_votes(engine: AsyncEngine) -> dict[UUID, tuple[str, int, int]]:
    """Return the choice and version (ms, seq) of each voter."""
    rows = await execute(engine, "SELECT voter, choice, ms, seq FROM votes")
    return {row.voter: (row.choice, row.ms, row.seq) for row in rows}


async def stored_totals(engine: AsyncEngine) -> tuple[int, ...]:
    """Return the votes for each option of the current round, by the tally."""
    return (await fetch_result(engine)).totals.counts


class Bucket(NamedTuple):
    """The rows of a bucket of the tally."""

    start: datetime
    counts: tuple[int, ...]
    """The votes of each option that has a row."""
    ms: int


async def stored_tally(engine: AsyncEngine, number: int = 1) -> list[Bucket]:
    """Return the tally of a round."""
    rows = await execute(
        engine,
        "SELECT bucket, array_agg(votes ORDER BY choice) AS counts, max(ms) AS ms"
        f" FROM tally WHERE round = {number} GROUP BY bucket ORDER BY bucket",
    )
    return [Bucket(row.bucket, tuple(row.counts), row.ms) for row in rows]


async def insert_tally(engine: AsyncEngine, buckets: str, number: int = 1) -> None:
    """Insert rows into the tally of a round.

    `buckets` is a query with three columns: the bucket, an array with the votes for each option,
    and their `ms`. Rows that are there already stay.
    """
    insert = (
        f"INSERT INTO tally SELECT {number}, bucket, chr(96 + place::int), votes, ms"
        f" FROM ({buckets}) AS each (bucket, counts, ms),"
        " unnest(counts) WITH ORDINALITY AS option (votes, place) ON CONFLICT DO NOTHING"
    )
    async with transaction(engine) as connection:
        await connection.execute(set_local(statement_timeout="0"))
        await connection.execute(text(insert))


def question_of(options: int, title: str = "Which one?") -> Question:
    """Return a question with that many options."""
    return Question(title, tuple(f"Option {n}" for n in range(1, options + 1)))


async def ask(engine: AsyncEngine, question: Question | int) -> Question:
    """Ask a question, or one with that many options, in a round that has no queue yet."""
    asked = question if isinstance(question, Question) else question_of(question)
    assert await replace_unseen_question(engine, asked)
    return asked


async def close_after(engine: AsyncEngine, last: Version) -> None:
    """Close the poll after that version, without Redis."""
    await execute(engine, "UPDATE poll SET state = 'closed', closes_at = NULL")
    async with engine.connect() as connection:
        await confirm_close(connection, datetime.now(UTC), last)


async def finish(engine: AsyncEngine, last: Version) -> None:
    """Close the poll after that version, without Redis, and declare its totals final."""
    await close_after(engine, last)
    assert await declare_final(engine, last)


_TABLES = ("rounds", "options", "poll", "votes", "tally", "finals", "final_totals")


async def back_up(admin: AsyncEngine) -> None:
    """Copy what the database has."""
    await execute(admin, "CREATE SCHEMA backup")
    for table in _TABLES:
        await execute(admin, f"CREATE TABLE backup.{table} AS TABLE {table}")


async def restore(admin: AsyncEngine) -> None:
    """Give the database what it had at its backup."""
    async with transaction(admin) as connection:
        await connection.execute(text(f"TRUNCATE {', '.join(_TABLES)}"))
        for table in _TABLES:
            await connection.execute(text(f"INSERT INTO {table} TABLE backup.{table}"))


async def waits_for_lock(connection: AsyncConnection, condition: str) -> bool:
    """Whether a transaction waits for a lock that meets the condition on pg_locks."""
    query = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {condition}"
    return bool((await connection.execute(text(query))).scalar_one())


async def all_counted(state: QueueState) -> bool:
    """Whether workers have counted and acknowledged every entry."""
    return (await state.progress()).backlog == 0


def fail_to_connect(patch: pytest.MonkeyPatch, engine: AsyncEngine) -> None:
    """Have every connection and transaction of an engine fail, as without a server."""

    class Failing:
        async def __aenter__(self) -> None:
            raise OSError("gone")

        async def __aexit__(self, *_: object) -> None:
            pass

    for name in ("connect", "begin"):
        patch.setattr(type(engine), name, lambda _: Failing())
