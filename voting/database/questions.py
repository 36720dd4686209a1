"""The questions that are prepared beforehand, in the order in which they will be asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database import models
from voting.database.engine import transaction
from voting.poll.question import Question

ORDER = (models.PreparedQuestion.position, models.PreparedQuestion.id)
IN_ORDER = select(models.PreparedQuestion).order_by(*ORDER)
IDS = select(models.PreparedQuestion.id).order_by(*ORDER)
HIGHEST = select(func.coalesce(func.max(models.PreparedQuestion.position), 0))

# What reads the order to change it: one after the other. Readers don't wait.
LOCK = text("LOCK TABLE questions IN SHARE ROW EXCLUSIVE MODE")

MOVE = (
    update(models.PreparedQuestion)
    .where(models.PreparedQuestion.id == bindparam("moved"))
    .values(position=bindparam("place"))
)


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
        await connection.execute(insert(models.PreparedQuestion), rows)


async def change_question(engine: AsyncEngine, seen: PreparedQuestion, question: Question) -> None:
    """Replace a question at its place. Raises QuestionChanged if it is not as it was `seen`."""
    change = (
        update(models.PreparedQuestion)
        .where(
            models.PreparedQuestion.id == seen.id,
            models.PreparedQuestion.revision == seen.revision,
        )
        .values(title=question.title, names=question.names, revision=seen.revision + 1)
    )
    async with engine.connect() as connection:
        if (await connection.execute(change)).rowcount == 0:
            raise QuestionChanged


async def remove_question(engine: AsyncEngine, number: int) -> bool:
    """Remove a question by its id. Return whether there was one."""
    removal = delete(models.PreparedQuestion).where(models.PreparedQuestion.id == number)
    async with engine.connect() as connection:
        return (await connection.execute(removal)).rowcount > 0


async def move_question(engine: AsyncEngine, number: int, places: int) -> None:
    """Move a question, by its id, down by that many places: -1 is one up. At an end it stays."""
    async with transaction(engine) as connection:
        await connection.execute(LOCK)
        ids = list(await connection.scalars(IDS))
        if number not in ids:
            return
        place = max(0, ids.index(number) + places)
        ids.remove(number)
        ids.insert(place, number)
        moves = [{"moved": each, "place": n} for n, each in enumerate(ids, start=1)]
        await connection.execute(MOVE, moves)
