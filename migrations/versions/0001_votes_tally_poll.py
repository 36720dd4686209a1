"""Make the tables of votes, tally and poll."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "votes",
        sa.Column("voter", sa.Uuid(), nullable=False),
        sa.Column("choice", sa.String(1), nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("voter", name="votes_pkey"),
        sa.CheckConstraint("choice IN ('a', 'b')", name=op.f("votes_choice_check")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "tally",
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("a", sa.BigInteger(), nullable=False),
        sa.Column("b", sa.BigInteger(), nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name="tally_pkey"),
        postgresql_with={"fillfactor": 50},
    )
    poll = op.create_table(
        "poll",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("state", sa.String(6), server_default=sa.text("'open'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="poll_pkey"),
        sa.CheckConstraint("id = 1", name=op.f("poll_one_check")),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("poll_state_check")),
    )
    op.bulk_insert(poll, [{}])


def downgrade() -> None:
    op.drop_table("poll")
    op.drop_table("tally")
    op.drop_table("votes")
