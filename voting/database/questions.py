"""The questions that are prepared beforehand, in the order in which they will be asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import transaction
from voting.database.models import PreparedQuestion as Row
from voting.poll.question import Question

IN_ORDER = select(Row).order_by(Row.position, Row.id)
IDS = select(Row.id).order_by(Row.position, Row.id)
HIGHEST = select(func.coalesce(func.max(Row.position), 0))

# What reads the order to change it: one after the other. Readers don't wait.
LOCK = text("LOCK TABLE questions IN SHARE ROW EXCLUSIVE MODE")

MOVE = update(Row).where(Row.id == bindparam("moved")).values(position=bindparam("place"))


@dataclass(frozen=True, slots=True)
class PreparedQuestion:
    """A question that has not been asked yet."""

    id: int
    """Stays the same whatever happens to other questions."""
    question: Question
    revision: int
    """The number of changes so far."""


class QuestionChanged(Exception):
    """The question was changed, asked or removed since it was seen: nothing was changed."""


async def fetch_questions(engine: AsyncEngine) -> list[PreparedQuestion]:
    """Return the questions in order: the first is the next to be asked."""
    async with engine.connect() as connection:
        rows = (await connection.execute(IN_ORDER)).all()
    return [
        PreparedQuestion(row.id, Question(row.title, tuple(row.names)), row.revision)
        for row in rows
    ]


async def add_questions(engine: AsyncEngine, questions: Sequence[Question]) -> None:
    """Add valid questions at the end: all of them or, if this raises, none."""
    async with transaction(engine) as connection:
        await connection.execute(LOCK)
        highest = (await connection.execute(HIGHEST)).scalar_one()
        rows = [
            {"position": position, "title": each.title, "names": each.names}
            for position, each in enumerate(questions, start=highest + 1)
        ]
        await connection.execute(insert(Row), rows)


async def change_question(engine: AsyncEngine, seen: PreparedQuestion, question: Question) -> None:
    """Replace a question at its place. Raises QuestionChanged if it is not as it was `seen`."""
    change = (
        update(Row)
        .where(Row.id == seen.id, Row.revision == seen.revision)
        .values(title=question.title, names=question.names, revision=Row.revision + 1)
    )
    async with engine.connect() as connection:
        if (await connection.execute(change)).rowcount == 0:
            raise QuestionChanged


async def remove_question(engine: AsyncEngine, id: int) -> bool:  # noqa: A002 - the column's name
    """Return whether there was a question of that id."""
    async with engine.connect() as connection:
        return (await connection.execute(delete(Row).where(Row.id == id))).rowcount > 0


async def move_question(engine: AsyncEngine, id: int, places: int) -> None:  # noqa: A002 - the column's name
    """Move a question down by that many places: -1 is one up. At an end it stays there."""
    async with transaction(engine) as connection:
        await connection.execute(LOCK)
        ids = list(await connection.scalars(IDS))
        if id not in ids:
            return
        place = max(0, ids.index(id) + places)
        ids.remove(id)
        ids.insert(place, id)
        moves = [{"moved": each, "place": n} for n, each in enumerate(ids, start=1)]
        await connection.execute(MOVE, moves)
