"""Give the database an identity, and remember whether it ever had a queue."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind, default in (
        ("database_id", sa.Uuid(), "gen_random_uuid()"),
        ("has_queue", sa.Boolean(), "false"),
    ):
        column = sa.Column(name, kind, server_default=sa.text(default), nullable=False)
        op.add_column("poll", column)
    op.execute("UPDATE poll SET has_queue = after_ms > 0 OR EXISTS (SELECT FROM tally)")


def downgrade() -> None:
    op.drop_column("poll", "has_queue")
    op.drop_column("poll", "database_id")
