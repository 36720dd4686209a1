"""The engine, and which of Postgres' answers mean what."""

from functools import partial

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# A statement that runs longer is given up by Postgres. Entries of a worker that is slow are taken
# over only long after, so that two workers seldom count the same batch.
STATEMENT_TIMEOUT = 5.0

# Whatever can go wrong between here and Postgres. asyncpg's own errors come from connecting,
# OSError and TimeoutError from the network, the rest through SQLAlchemy.
DATABASE_ERRORS = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


def create_engine(
    url: str, *, name: str, pool_size: int = 2, patience: float | None = STATEMENT_TIMEOUT + 2
) -> AsyncEngine:
    """Make an engine for `url` as libpq understands it (sslmode, several hosts, sockets).

    Each statement is a transaction of its own unless a caller begins one. `name` is what
    pg_stat_activity shows. `patience`: seconds until an answer is given up on this side; longer
    than Postgres' own limits, so that it speaks first where the network works.
    """
    open_connection = partial(
        asyncpg.connect,
        url,
        timeout=5,
        command_timeout=patience,
        server_settings={
            "application_name": name,
            "statement_timeout": f"{STATEMENT_TIMEOUT:.0f}s",
            "lock_timeout": f"{STATEMENT_TIMEOUT:.0f}s",
            "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT * 2:.0f}s",
            # Short statements over few rows: compiling them takes longer than running them.
            "jit": "off",
        },
    )
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # an error's text goes into logs: no voter may stand there
        pool_timeout=5,
        pool_pre_ping=False,  # a lost connection is an error like any other: callers try again
    )


def in_one_line(error: BaseException) -> str:
    """Tell what went wrong. SQLAlchemy would add the statement, over many lines."""
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    return reason.partition("\n")[0] or type(error).__name__


def is_bad_data(error: BaseException) -> bool:
    """Whether Postgres refuses the values themselves: SQLSTATE class 22 or 23."""
    return _sqlstate(error)[:2] in {"22", "23"}


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions got in each other's way: deadlock or serialization failure."""
    return _sqlstate(error) in {"40001", "40P01"}


def _sqlstate(error: BaseException) -> str:
    """The five characters of https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(original, "sqlstate", None) or "")
