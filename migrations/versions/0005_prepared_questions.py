"""Keep questions that are prepared beforehand, and which rounds' totals were revealed.

Operators get a user of their own. What writes totals, starts a round, or closes and opens it for
a worker, is a function for the users that may not do more.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The worker's user may call it. It deletes no vote, and replaces no question of an operator: the
# poll is one that a worker has closed to ask another question, `voting.database.poll.ASKING`. The
# lock comes first, as in `start_round`.
START_ENVIRONMENT_ROUND = """
CREATE FUNCTION start_environment_round(
  ended integer, lowest integer, title text, names text[]
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  LOCK TABLE votes IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM votes) OR NOT EXISTS (
    SELECT FROM poll JOIN rounds USING (round)
    WHERE round = ended AND NOT asked AND closes_at = to_timestamp(0)
  ) THEN
    RETURN NULL;
  END IF;
  RETURN start_round(ended, lowest, title, names, false);
END
$$
"""

# What a worker may close and open: a poll whose time has come, and one without votes whose question
# is of the environment, to ask another.
CLOSE_ON_TIME = """
CREATE FUNCTION close_on_time(at timestamptz, seen_revision integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  UPDATE poll SET state = 'closed', closed_at = at, revision = revision + 1
  WHERE state = 'open' AND closes_at IS NOT NULL AND revision = seen_revision;
  RETURN FOUND;
END
$$
"""
CLOSE_ENVIRONMENT_ROUND = """
CREATE FUNCTION close_environment_round(seen_revision integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  UPDATE poll SET state = 'closed', closes_at = to_timestamp(0), revision = revision + 1
  WHERE state = 'open' AND closes_at IS NULL AND revision = seen_revision
    AND round IN (SELECT round FROM rounds WHERE NOT asked) AND NOT EXISTS (SELECT FROM votes);
  RETURN FOUND;
END
$$
"""
REOPEN_ENVIRONMENT_ROUND = """
CREATE FUNCTION reopen_environment_round(seen_round integer, seen_final_at timestamptz)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  UPDATE poll SET
    revision = revision + 1, state = 'open', closes_at = NULL, closed_at = NULL,
    until_ms = NULL, until_seq = NULL, final_at = NULL
  WHERE state = 'closed' AND closes_at = to_timestamp(0) AND round = seen_round
    AND final_at IS NOT DISTINCT FROM seen_final_at;
  RETURN FOUND;
END
$$
"""

# Operators may declare totals final, and write none of the numbers. Two processes may call it at
# the same moment, and an operator may have reopened the poll meanwhile: it takes effect once, and
# only for the close that was counted.
DECLARE_FINAL = """
CREATE FUNCTION declare_final(ms bigint, seq bigint)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
WITH done AS (
  UPDATE poll SET final_at = now()
  WHERE final_at IS NULL AND (until_ms, until_seq) = (declare_final.ms, declare_final.seq)
  RETURNING round, closed_at, final_at
), stored AS (
  INSERT INTO finals (round, final_at, closed_at) SELECT round, final_at, closed_at FROM done
), totals AS (
  INSERT INTO final_totals (round, final_at, choice, votes)
  SELECT done.round, final_at, key, coalesce(sum(votes), 0)
  FROM done JOIN options USING (round)
  LEFT JOIN tally ON (tally.round, choice) = (options.round, key)
  GROUP BY done.round, final_at, key
)
SELECT EXISTS (SELECT FROM done)
$$
"""

FUNCTIONS = {
    "start_environment_round(integer, integer, text, text[])": START_ENVIRONMENT_ROUND,
    "close_on_time(timestamptz, integer)": CLOSE_ON_TIME,
    "close_environment_round(integer)": CLOSE_ENVIRONMENT_ROUND,
    "reopen_environment_round(integer, timestamptz)": REOPEN_ENVIRONMENT_ROUND,
    "declare_final(bigint, bigint)": DECLARE_FINAL,
}


def upgrade() -> None:
    op.create_table(
        "questions",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("names", postgresql.ARRAY(sa.String(60)), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="questions_pkey"),
    )
    op.add_column(
        "rounds",
        sa.Column("revealed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    for name, function in FUNCTIONS.items():
        op.execute(function)
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")


def downgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    op.drop_column("rounds", "revealed")
    op.drop_table("questions")
