"""The engine, and what Postgres' errors mean."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
from sqlalchemy import ExceptionContext, Select, event, exc, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

# Seconds after which Postgres cancels a statement. A worker's entries are claimed by others only
# long after that, so two workers seldom count the same batch.
STATEMENT_TIMEOUT = 5.0

CONNECT_TIMEOUT = 5.0  # seconds
CLOSE_TIMEOUT = 2.0

# Seconds that the client waits where Postgres has no limit: for a migration, say. Without, it would
# wait for ever for a server that vanished.
LONGEST_PATIENCE = 3600.0

# What sessions rely on and a database or a user could set otherwise, as `ALTER DATABASE ... SET`
# does; a session's own settings take precedence. Not here: what only a superuser may set. The
# driver reads and writes binary values, to which time zone and formats are nothing.
SESSION = {
    # A commit is on disk, and on the synchronous standby's, before it is reported.
    "synchronous_commit": "on",
    # Statements that are a transaction of their own write, and see what the previous one left.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # Tables are where the migrations make them, and grant rights on them.
    "search_path": "public",
    # Rows that a policy hides from this user are an error, and no smaller total.
    "row_security": "off",
    # Our own limits, and no others: these end an export, or connections of the pool.
    "statement_timeout": f"{STATEMENT_TIMEOUT:.0f}s",
    "lock_timeout": f"{STATEMENT_TIMEOUT:.0f}s",
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT * 2:.0f}s",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    # Postgres notices that a client has gone: during a statement, and without one after minutes.
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "60s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "6",
    # Short statements over few rows: compiling them takes longer than running them.
    "jit": "off",
}

# Everything that a connection to Postgres raises. asyncpg's own errors come from connecting,
# OSError and TimeoutError from the network, SQLAlchemy's TimeoutError from a pool that has no
# connection left, the rest through SQLAlchemy.
DATABASE_ERRORS = (
    *(DBAPIError, exc.TimeoutError),
    *(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError),
)


class _Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that is dropped where asyncpg would cancel its statement.

    A statement that is canceled while its commit waits for a synchronous standby is committed, and
    visible, on the primary alone. asyncpg cancels after a timeout and with the task.
    """

    def _cancel_current_command(self, *_: object) -> None:
        # Not at once: the caller still changes the state of the statement.
        self._loop.call_soon(self.terminate)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's
        """Close, and don't wait for a server that does not respond."""
        await super().close(timeout=timeout or CLOSE_TIMEOUT)


def create_engine(
    url: str, *, name: str, pool_size: int = 2, patience: float | None = STATEMENT_TIMEOUT + 2
) -> AsyncEngine:
    """Create an engine for `url`, which is read as libpq does (sslmode, several hosts, sockets).

    Each statement is a transaction of its own unless a caller begins one. pg_stat_activity shows
    `name`. The client waits `patience` seconds for a response: longer than Postgres' own limits,
    so that on a working network Postgres reports the error first. None is an hour.
    """

    async def open_connection() -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                url,
                timeout=CONNECT_TIMEOUT,
                command_timeout=LONGEST_PATIENCE if patience is None else patience,
                connection_class=_Connection,
                server_settings={"application_name": name, **SESSION},
            )
        except TimeoutError as error:  # nothing was sent: see `is_uncertain`
            raise ConnectionError("Postgres accepts no connection in time") from error

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # errors are logged, and must not name a voter
        pool_timeout=5,
        pool_pre_ping=False,  # a lost connection is an error like any other: callers retry
    )
    event.listen(engine.sync_engine, "handle_error", _replace_all_after_timeout)
    return engine


def _replace_all_after_timeout(context: ExceptionContext) -> None:
    """Have the pool replace its other connections too: each would take as long to time out."""
    if isinstance(context.original_exception, TimeoutError):
        context.invalidate_pool_on_disconnect = True


def transaction(engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncConnection]:
    """Begin a transaction of several statements."""
    return engine.execution_options(isolation_level="READ COMMITTED").begin()


def read_only_snapshot(engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncConnection]:
    """Open a transaction whose statements all read the state at its first one."""
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return engine.execution_options(**options).connect()


def set_local(**settings: str) -> Select[Any]:
    """Return a statement that changes `settings` until the transaction ends, as SET LOCAL does."""
    return select(*(func.set_config(name, value, True) for name, value in settings.items()))  # noqa: FBT003 - set_config takes no keywords


def in_one_line(error: BaseException) -> str:
    """Return the first line of the error's text, without the statement that SQLAlchemy appends."""
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    return reason.partition("\n")[0] or type(error).__name__


def is_bad_data(error: BaseException) -> bool:
    """Whether Postgres refuses the values themselves: SQLSTATE class 22 or 23."""
    return _sqlstate(error)[:2] in {"22", "23"}


def is_uncertain(error: BaseException) -> bool:
    """Whether a statement or commit was under way when its connection was lost or dropped.

    It may have taken effect, or may do so later: while it waits for a synchronous standby, say.
    """
    if isinstance(error, DBAPIError):
        # InterfaceError: the connection was closed before, and nothing was sent.
        return error.connection_invalidated and not isinstance(error, exc.InterfaceError)
    return isinstance(error, TimeoutError)


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions interfered: a deadlock or a serialization failure."""
    return _sqlstate(error) in {"40001", "40P01"}


def is_timeout(error: BaseException) -> bool:
    """Whether a statement, or its wait for a lock, took longer than Postgres lets it."""
    return _sqlstate(error) in {"55P03", "57014"}


def _sqlstate(error: BaseException) -> str:
    """Return the five characters of https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(original, "sqlstate", None) or "")
