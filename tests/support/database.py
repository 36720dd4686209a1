"""What tests write and read directly in the servers, past the roles."""

from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import CursorResult, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.totals import fetch_result
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


async def stored_totals(engine: AsyncEngine) -> tuple[int, int]:
    """Return the votes for a and b by the tally."""
    totals = (await fetch_result(engine)).totals
    return totals.a, totals.b


async def waits_for_lock(connection: AsyncConnection, condition: str) -> bool:
    """Whether a transaction waits for a lock that meets the condition on pg_locks."""
    query = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {condition}"
    return bool((await connection.execute(text(query))).scalar_one())


async def all_counted(state: QueueState) -> bool:
    """Whether workers have counted and acknowledged every entry."""
    return (await state.progress()).backlog == 0
