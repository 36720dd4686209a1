"""Add the life of a poll: closing, final totals, rounds."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

LIFE = (
    "(until_ms IS NULL) = (until_seq IS NULL)"
    " AND (until_ms IS NULL OR state = 'closed')"
    " AND (final_at IS NULL OR until_ms IS NOT NULL)"
)

# In a cluster, operators' commands run as the worker's user, which may not delete votes. It may
# call this function, which keeps the totals of a final round and starts the next. The lock comes
# first: a batch that is being counted commits before; a later one waits, then sees the new round.
START_ROUND = """
CREATE FUNCTION start_round(ended integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  LOCK TABLE votes IN ACCESS EXCLUSIVE MODE;
  UPDATE poll SET
    round = round + 1, revision = revision + 1, state = 'open',
    closes_at = NULL, closed_at = NULL, final_at = NULL, lost_at = NULL,
    after_ms = until_ms, after_seq = until_seq, until_ms = NULL, until_seq = NULL
  WHERE round = ended AND final_at IS NOT NULL;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO past_tally (round, bucket, a, b) SELECT ended, bucket, a, b FROM tally;
  DELETE FROM tally;
  TRUNCATE votes;
  RETURN ended + 1;
END
$$
"""


def upgrade() -> None:
    for column in (
        sa.Column("round", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("closes_at", TIME),
        sa.Column("closed_at", TIME),
        sa.Column("after_ms", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("after_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("until_ms", sa.BigInteger()),
        sa.Column("until_seq", sa.BigInteger()),
        sa.Column("final_at", TIME),
        sa.Column("lost_at", TIME),
    ):
        op.add_column("poll", column)
    op.create_check_constraint(op.f("poll_life_check"), "poll", LIFE)
    op.create_table(
        "finals",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("final_at", TIME, nullable=False),
        sa.Column("closed_at", TIME, nullable=False),
        sa.Column("a", sa.BigInteger(), nullable=False),
        sa.Column("b", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("round", "final_at", name="finals_pkey"),
    )
    op.create_table(
        "past_tally",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("bucket", TIME, nullable=False),
        sa.Column("a", sa.BigInteger(), nullable=False),
        sa.Column("b", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("round", "bucket", name="past_tally_pkey"),
    )
    op.execute(START_ROUND)
    op.execute("REVOKE ALL ON FUNCTION start_round(integer) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION start_round(integer)")
    op.drop_table("past_tally")
    op.drop_table("finals")
    op.drop_constraint(op.f("poll_life_check"), "poll")
    for column in (
        *("lost_at", "final_at", "until_seq", "until_ms", "after_seq", "after_ms"),
        *("closed_at", "closes_at", "revision", "round"),
    ):
        op.drop_column("poll", column)
