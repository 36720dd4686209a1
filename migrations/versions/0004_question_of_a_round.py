"""Give each round its question, and each option a row of the tally and of the final totals.

The question of the rounds so far is that of `config.attributes["question"]`.
"""

import logging

import sqlalchemy as sa
from alembic import context, op

from voting.poll.question import Question

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

OPTION = sa.ForeignKeyConstraint(["round", "choice"], ["options.round", "options.key"])

# In a cluster, operators' commands run as the worker's user, which may not delete votes. It may
# call this function, which starts the next round after a final one. The lock comes first: a batch
# that is being counted commits before; a later one waits, then sees the new round. Its number is at
# least `lowest`: pages may show rounds that a database which was restored does not know.
START_ROUND = """
CREATE FUNCTION start_round(
  ended integer, lowest integer, title text, names text[], asked boolean
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
  started integer := greatest(ended + 1, lowest);
BEGIN
  LOCK TABLE votes IN ACCESS EXCLUSIVE MODE;
  UPDATE poll SET
    round = started, revision = revision + 1, state = 'open',
    closes_at = NULL, closed_at = NULL, final_at = NULL, lost_at = NULL,
    after_ms = until_ms, after_seq = until_seq, until_ms = NULL, until_seq = NULL
  WHERE round = ended AND final_at IS NOT NULL;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO rounds VALUES (started, title, asked);
  INSERT INTO options
    SELECT started, chr(96 + n::int), name FROM unnest(names) WITH ORDINALITY AS each (name, n);
  TRUNCATE votes;
  RETURN started;
END
$$
"""

# Nobody has seen the question as long as there is no queue.
REPLACE_QUESTION = """
CREATE FUNCTION replace_question(title text, names text[])
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
  unseen integer;
BEGIN
  UPDATE poll SET revision = revision + 1 WHERE NOT has_queue RETURNING round INTO unseen;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  UPDATE rounds SET title = replace_question.title WHERE round = unseen;
  DELETE FROM options WHERE round = unseen;
  INSERT INTO options
    SELECT unseen, chr(96 + n::int), name FROM unnest(names) WITH ORDINALITY AS each (name, n);
  RETURN unseen;
END
$$
"""

# As migration 0002 makes it.
EARLIER_START_ROUND = """
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

ROUNDS = """
SELECT round FROM poll UNION SELECT round FROM finals UNION SELECT round FROM past_tally
"""


def upgrade() -> None:
    question: Question = context.config.attributes.get("question") or Question()
    options = ", ".join(question.names)
    logging.getLogger("alembic").info("rounds so far ask: %s (%s)", question.title, options)
    op.create_table(
        "rounds",
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("asked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("round", name="rounds_pkey"),
    )
    op.create_table(
        "options",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(1), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.PrimaryKeyConstraint("round", "key", name="options_pkey"),
        sa.ForeignKeyConstraint(["round"], ["rounds.round"], name=op.f("options_round_fkey")),
    )
    rounds = sa.text(f"INSERT INTO rounds SELECT round, :title, round > 1 FROM ({ROUNDS}) AS each")
    op.execute(rounds.bindparams(title=question.title))
    for key, name in question.options:
        option = sa.text("INSERT INTO options SELECT round, :key, :name FROM rounds")
        op.execute(option.bindparams(key=str(key), name=name))

    op.rename_table("tally", "old_tally")
    op.execute("ALTER INDEX tally_pkey RENAME TO old_tally_pkey")
    op.create_table(
        "tally",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("bucket", TIME, nullable=False),
        sa.Column("choice", sa.String(1), nullable=False),
        sa.Column("votes", sa.BigInteger(), nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("round", "bucket", "choice", name="tally_pkey"),
        sa.ForeignKeyConstraint(
            ["round", "choice"], ["options.round", "options.key"], name=op.f("tally_choice_fkey")
        ),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "final_totals",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("final_at", TIME, nullable=False),
        sa.Column("choice", sa.String(1), nullable=False),
        sa.Column("votes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("round", "final_at", "choice", name="final_totals_pkey"),
        sa.ForeignKeyConstraint(
            ["round", "final_at"],
            ["finals.round", "finals.final_at"],
            name=op.f("final_totals_final_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["round", "choice"],
            ["options.round", "options.key"],
            name=op.f("final_totals_choice_fkey"),
        ),
    )
    op.execute("""
        INSERT INTO final_totals
        SELECT round, final_at, key, CASE key WHEN 'a' THEN a WHEN 'b' THEN b ELSE 0 END
        FROM finals JOIN options USING (round)
    """)
    for key in "ab":
        op.execute(f"""
            INSERT INTO tally
            SELECT poll.round, bucket, '{key}', old_tally.{key}, ms FROM old_tally, poll
            UNION ALL SELECT round, bucket, '{key}', {key}, 0 FROM past_tally
        """)
    op.drop_table("old_tally")
    op.drop_table("past_tally")
    op.drop_column("finals", "a")
    op.drop_column("finals", "b")
    op.drop_constraint("votes_choice_check", "votes")
    op.create_check_constraint(op.f("votes_choice_check"), "votes", "choice BETWEEN 'a' AND 'l'")
    op.execute("DROP FUNCTION start_round(integer)")
    for name, function in (
        ("start_round(integer, integer, text, text[], boolean)", START_ROUND),
        ("replace_question(text, text[])", REPLACE_QUESTION),
    ):
        op.execute(function)
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")


def downgrade() -> None:
    """Fails, and changes nothing, if a round has more options than two."""
    op.execute("ALTER TABLE options ADD CHECK (key IN ('a', 'b'))")
    op.execute("DROP FUNCTION replace_question(text, text[])")
    op.execute("DROP FUNCTION start_round(integer, integer, text, text[], boolean)")
    op.drop_constraint("votes_choice_check", "votes")
    op.create_check_constraint(op.f("votes_choice_check"), "votes", "choice IN ('a', 'b')")
    op.rename_table("tally", "new_tally")
    op.execute("ALTER INDEX tally_pkey RENAME TO new_tally_pkey")
    op.create_table(
        "tally",
        sa.Column("bucket", TIME, nullable=False),
        *(sa.Column(key, sa.BigInteger(), nullable=False) for key in "ab"),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name="tally_pkey"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "past_tally",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("bucket", TIME, nullable=False),
        *(sa.Column(key, sa.BigInteger(), nullable=False) for key in "ab"),
        sa.PrimaryKeyConstraint("round", "bucket", name="past_tally_pkey"),
    )
    sums = ", ".join(
        f"coalesce(sum(votes) FILTER (WHERE choice = '{key}'), 0) AS {key}" for key in "ab"
    )
    op.execute(f"""
        INSERT INTO tally SELECT bucket, {sums}, max(ms) FROM new_tally, poll
        WHERE new_tally.round = poll.round GROUP BY bucket
    """)
    op.execute(f"""
        INSERT INTO past_tally SELECT new_tally.round, bucket, {sums} FROM new_tally, poll
        WHERE new_tally.round <> poll.round GROUP BY new_tally.round, bucket
    """)
    for key in "ab":
        op.add_column("finals", sa.Column(key, sa.BigInteger(), server_default="0", nullable=False))
        op.alter_column("finals", key, server_default=None)
        op.execute(f"""
            UPDATE finals SET {key} = votes FROM final_totals AS totals
            WHERE (totals.round, totals.final_at) = (finals.round, finals.final_at)
              AND choice = '{key}'
        """)
    for name in ("final_totals", "new_tally", "options", "rounds"):
        op.drop_table(name)
    op.execute(EARLIER_START_ROUND)
    op.execute("REVOKE ALL ON FUNCTION start_round(integer) FROM PUBLIC")
