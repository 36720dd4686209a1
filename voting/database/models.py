"""The tables, as the migrations make them."""

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from voting.poll.question import MAX_NAME, MAX_TITLE

BUCKET = timedelta(seconds=10)
"""The length of a bucket of the tally."""


VERSION_TABLE = "voting_version"
"""Has the revision of the schema. Not Alembic's default, which another application may use."""


class Base(DeclarativeBase):
    type_annotation_map = {int: sa.BigInteger, datetime: sa.DateTime(timezone=True)}  # noqa: RUF012 - SQLAlchemy's way
    # Constraints have names, so that a migration can drop one.
    metadata = sa.MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(constraint_name)s_fkey",
        }
    )


class Vote(Base):
    """A voter's counted choice, with the version of its ballot."""

    __tablename__ = "votes"
    __table_args__ = (
        sa.CheckConstraint("choice BETWEEN 'a' AND 'l'", name="choice"),
        # Room on each page for changed votes, which then need no new index entry.
        {"postgresql_with": {"fillfactor": 80}},
    )

    voter: Mapped[UUID] = mapped_column(primary_key=True)
    choice: Mapped[str] = mapped_column(sa.String(1))
    ms: Mapped[int]
    seq: Mapped[int]


class Round(Base):
    """The question of a round, whose options are rows of `options`."""

    __tablename__ = "rounds"

    round: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column(sa.String(MAX_TITLE))
    asked: Mapped[bool]
    revealed: Mapped[bool] = mapped_column(server_default=sa.text("false"))


class Option(Base):
    """An option of a round's question. Only these can be chosen: the tally refers to them."""

    __tablename__ = "options"
    __table_args__ = (sa.ForeignKeyConstraint(["round"], ["rounds.round"], name="round"),)

    round: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(1), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_NAME))


class PreparedQuestion(Base):
    """A question that is to be asked, after those with a lower position."""

    __tablename__ = "questions"

    id: Mapped[int] = mapped_column(sa.Integer, sa.Identity(), primary_key=True)
    position: Mapped[int] = mapped_column(sa.Integer)
    title: Mapped[str] = mapped_column(sa.String(MAX_TITLE))
    names: Mapped[list[str]] = mapped_column(ARRAY(sa.String(MAX_NAME)))
    revision: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))


class Tally(Base):
    """What the votes counted in a bucket added to an option: negative if voters changed theirs.

    `ms` is the highest of their versions' `ms`, so that the newest version of all votes can be
    found without reading the votes.
    """

    __tablename__ = "tally"
    __table_args__ = (
        sa.ForeignKeyConstraint(["round", "choice"], [Option.round, Option.key], name="choice"),
        # A few rows are updated with every batch.
        {"postgresql_with": {"fillfactor": 50}},
    )

    round: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    choice: Mapped[str] = mapped_column(sa.String(1), primary_key=True)
    votes: Mapped[int]
    ms: Mapped[int]


class Poll(Base):
    """The one poll: a table of one row, inserted by the migration.

    `voting.poll.lifecycle.Poll` explains the columns. There `after_ms` and `after_seq` are the
    `after_version`, `until_ms` and `until_seq` the `last_version`, and `lost_at` is
    `queue_lost_at`.
    """

    __tablename__ = "poll"
    __table_args__ = (
        sa.CheckConstraint("id = 1", name="one"),
        sa.CheckConstraint("state IN ('open', 'closed')", name="state"),
        sa.CheckConstraint(
            "(until_ms IS NULL) = (until_seq IS NULL)"
            " AND (until_ms IS NULL OR state = 'closed')"
            " AND (final_at IS NULL OR until_ms IS NOT NULL)",
            name="life",
        ),
    )

    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, server_default=sa.text("1"))
    state: Mapped[str] = mapped_column(sa.String(6), server_default=sa.text("'open'"))
    round: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("1"))
    revision: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    closes_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    after_ms: Mapped[int] = mapped_column(server_default=sa.text("0"))
    after_seq: Mapped[int] = mapped_column(server_default=sa.text("0"))
    until_ms: Mapped[int | None]
    until_seq: Mapped[int | None]
    final_at: Mapped[datetime | None]
    lost_at: Mapped[datetime | None]
    database_id: Mapped[UUID] = mapped_column(server_default=sa.text("gen_random_uuid()"))
    has_queue: Mapped[bool] = mapped_column(server_default=sa.text("false"))


class Final(Base):
    """A round that was declared final. Rows are only added: a revoked result stays visible."""

    __tablename__ = "finals"

    round: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    final_at: Mapped[datetime] = mapped_column(primary_key=True)
    closed_at: Mapped[datetime]


class FinalTotal(Base):
    """The votes of an option in a result that was declared final."""

    __tablename__ = "final_totals"
    __table_args__ = (
        sa.ForeignKeyConstraint(["round", "final_at"], [Final.round, Final.final_at], name="final"),
        sa.ForeignKeyConstraint(["round", "choice"], [Option.round, Option.key], name="choice"),
    )

    round: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    final_at: Mapped[datetime] = mapped_column(primary_key=True)
    choice: Mapped[str] = mapped_column(sa.String(1), primary_key=True)
    votes: Mapped[int]
