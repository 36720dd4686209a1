"""What the user of each role may do in Postgres."""

from sqlalchemy import Connection, text

from voting.database.models import VERSION_TABLE

# What Redis knows of the poll.
_FROM_REDIS = "closed_at, until_ms, until_seq, lost_at, has_queue"

# The rights of each user that exists in the database. A user has no other rights; the tables belong
# to the user that migrates. A role that starts reads VERSION_TABLE to wait for the schema.
RIGHTS = {
    "voting_worker": {
        "votes": "SELECT, INSERT, UPDATE",
        "tally": "SELECT, INSERT, UPDATE, DELETE",  # rows are folded
        "poll": f"SELECT, UPDATE ({_FROM_REDIS})",
        "finals": "SELECT",
        "final_totals": "SELECT",
        "rounds": "SELECT",
        "options": "SELECT",
        "declare_final(bigint,bigint)": "EXECUTE",
        "close_on_time(timestamp with time zone,integer)": "EXECUTE",
        "close_environment_round(integer)": "EXECUTE",
        "reopen_environment_round(integer,timestamp with time zone)": "EXECUTE",
        "start_environment_round(integer,integer,text,text[])": "EXECUTE",
        "replace_question(text,text[])": "EXECUTE",
        VERSION_TABLE: "SELECT",
    },
    # Operators, on the admin page or by a command.
    "voting_admin": {
        "votes": "SELECT",
        "tally": "SELECT",
        "poll": f"SELECT, UPDATE (state, revision, closes_at, final_at, {_FROM_REDIS})",
        "finals": "SELECT",
        "final_totals": "SELECT",
        "rounds": "SELECT, UPDATE (revealed)",
        "options": "SELECT",
        "questions": "SELECT, INSERT, UPDATE, DELETE",
        "declare_final(bigint,bigint)": "EXECUTE",
        "close_on_time(timestamp with time zone,integer)": "EXECUTE",
        "start_round(integer,integer,text,text[],boolean)": "EXECUTE",
        VERSION_TABLE: "SELECT",
    },
    "voting_result": {
        "tally": "SELECT",
        "poll": "SELECT",
        "finals": "SELECT",
        "final_totals": "SELECT",
        "rounds": "SELECT",
        "options": "SELECT",
        VERSION_TABLE: "SELECT",
    },
}

_TABLES_AND_FUNCTIONS = text("""
SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'
UNION
SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
""")

# The database, if this user may let others connect to it.
_DATABASE = text("""
SELECT quote_ident(current_database())
WHERE has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION')
""")


def grant(connection: Connection) -> None:
    """Grant the users of RIGHTS what is listed there, and revoke everything else.

    They may connect to the database too, if this user may grant that.
    """
    database = connection.scalar(_DATABASE)
    existing = set(connection.scalars(_TABLES_AND_FUNCTIONS))
    users = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    for user in RIGHTS.keys() & users:
        if database is not None:
            connection.execute(text(f"GRANT CONNECT ON DATABASE {database} TO {user}"))
        for kind in ("TABLES", "FUNCTIONS"):
            connection.execute(text(f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {user}"))
        for name in RIGHTS[user].keys() & existing:
            kind = "FUNCTION" if "(" in name else "TABLE"
            connection.execute(text(f"GRANT {RIGHTS[user][name]} ON {kind} {name} TO {user}"))
