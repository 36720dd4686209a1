"""The engine, and what Postgres' errors mean."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import ExceptionContext, Select, event, exc, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from voting.settings import SettingsError

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

LEAST_VERSION = 18  # of Postgres: RETURNING old, new

# Errors that are about the connection, not the statement: it leads to a server that became a
# standby, or that is stopping. https://www.postgresql.org/docs/current/errcodes-appendix.html
_READ_ONLY = "25006"
_OBSOLETE = {_READ_ONLY, "57P01", "57P02", "57P03"}

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
    url: str,
    *,
    name: str,
    pool_size: int = 2,
    patience: float | None = STATEMENT_TIMEOUT + 2,
    writes: bool = True,
) -> AsyncEngine:
    """Create an engine for `url`, which is read as libpq does (sslmode, several hosts, sockets).

    Each statement is a transaction of its own unless a caller begins one. pg_stat_activity shows
    `name`. The client waits `patience` seconds for a response: longer than Postgres' own limits,
    so that on a working network Postgres reports the error first. None is an hour.

    `writes`: connect to a primary only, of several hosts to the one that is. Otherwise a standby
    will do, and a connection that was closed while idle is replaced before it is used: callers that
    write retry instead. A server that no waiting makes suitable is a SettingsError.
    """
    connect = partial(
        asyncpg.connect,
        url,
        timeout=CONNECT_TIMEOUT,
        command_timeout=LONGEST_PATIENCE if patience is None else patience,
        connection_class=_Connection,
        target_session_attrs="primary" if writes else None,
    )

    async def open_connection() -> asyncpg.Connection:
        try:
            try:
                settings = {"application_name": name, **SESSION}
                return await _check(await connect(server_settings=settings))
            except asyncpg.UndefinedObjectError as error:  # an earlier version lacks a setting
                return await _check(await connect(), str(error))
        except TimeoutError as error:  # nothing was sent: see `is_uncertain`
            raise ConnectionError("Postgres accepts no connection in time") from error
        except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
            raise ConnectionError("Postgres is a standby: nothing can be written") from error
        except asyncpg.ProtocolViolationError as error:  # "unsupported startup parameter"
            raise SettingsError([f"DATABASE_URL: {_POOLER} ({error})"]) from error

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # errors are logged, and must not name a voter
        pool_timeout=5,
        pool_pre_ping=not writes,
    )
    event.listen(engine.sync_engine, "handle_error", _replace_connections)
    return engine


_POOLER = (
    "a pooler such as PgBouncer is in front of Postgres, which drops the time limits of sessions:"
    " give the address of Postgres itself, to which few connections are made"
)


async def _check(connection: asyncpg.Connection, problem: str = "") -> asyncpg.Connection:
    """Return the connection; close it and raise SettingsError if its server can't be used."""
    try:
        problem = await _find_problem(connection) or problem
    except BaseException:
        connection.terminate()
        raise
    if problem:
        connection.terminate()
        raise SettingsError([f"DATABASE_URL: {problem}"])
    return connection


async def _find_problem(connection: asyncpg.Connection) -> str | None:
    """Return why this server can't be used, and what is needed."""
    server = connection.get_settings()
    if connection.get_server_version().major < LEAST_VERSION:
        return f"the server is Postgres {server.server_version}, {LEAST_VERSION} or newer is needed"
    if server.server_encoding != "UTF8":
        return f"the database has the encoding {server.server_encoding}, UTF8 is needed"
    # A pooler hands out process ids of its own. The simple protocol, which every pooler passes on.
    is_ours = f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid()}"
    found = await connection.execute(is_ours, timeout=CONNECT_TIMEOUT)
    return None if found == "SELECT 1" else _POOLER


def _replace_connections(context: ExceptionContext) -> None:
    """Have the pool replace connections that will not get better, and not only this one."""
    error = context.original_exception
    if _sqlstate(error) in _OBSOLETE:
        context.is_disconnect = True
    if isinstance(error, TimeoutError):  # each of the others would take as long to time out
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
        unsent = isinstance(error, exc.InterfaceError) or _sqlstate(error) == _READ_ONLY
        return error.connection_invalidated and not unsent
    return isinstance(error, TimeoutError)


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions interfered: a deadlock or a serialization failure."""
    return _sqlstate(error) in {"40001", "40P01"}


def is_refusal(error: BaseException) -> bool:
    """Whether Postgres works, and refuses the statement: rights or the schema are missing, say."""
    return _sqlstate(error)[:2] in {"28", "3D", "3F", "42"}


def is_timeout(error: BaseException) -> bool:
    """Whether a statement, or its wait for a lock, took longer than Postgres lets it."""
    return _sqlstate(error) in {"55P03", "57014"}


def _sqlstate(error: BaseException) -> str:
    """Return the five characters of https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(original, "sqlstate", None) or "")
