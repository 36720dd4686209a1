"""Settings of the server on which the promise rests, and which no session can set for itself."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

NAMES = ["fsync", "full_page_writes"]

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run it.
#
# A commit is on disk only with `fsync`, and survives a power failure only with `full_page_writes`.
# An unlogged table is empty after a crash.
UNSAFE_SETTINGS = text("""
SELECT 'Postgres: ' || name || ' is ' || setting FROM pg_settings
WHERE name = ANY (:names) AND setting = 'off'
UNION ALL
SELECT 'Postgres: table ' || relname || ' is unlogged' FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relpersistence <> 'p'
""")


async def find_unsafe_settings(connection: AsyncConnection) -> list[str]:
    """Return each setting that may lose committed votes, as "Postgres: fsync is off"."""
    return list(await connection.scalars(UNSAFE_SETTINGS, {"names": NAMES}))
