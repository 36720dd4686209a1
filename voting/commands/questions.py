"""The commands that prepare questions, which the admin page asks: add, list, remove."""

from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.commands import options
from voting.commands.context import run_on_servers, to_json
from voting.commands.question_file import InvalidQuestions, read_questions
from voting.database.questions import (
    PreparedQuestion,
    add_questions,
    fetch_questions,
    remove_question,
)
from voting.poll.question import Question
from voting.queue.state import QueueState

_FAILURE = "the questions can't be reached"


@click.group()
def questions() -> None:
    """Prepare questions, which the admin page asks.

    In their order: the first is the next.
    """


@questions.command()
@click.argument("title", required=False)
@click.argument("names", metavar="[OPTION]...", nargs=-1)
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Add all questions of a .yaml or .csv file.",
)
@options.data
def add(title: str | None, names: tuple[str, ...], path: Path | None, data: Path | None) -> None:
    """Add a question at the end, or all of a file.

    YAML: a list with the title and the options of each. CSV: a row with both. If one question is
    not valid, none is added.
    """
    if (title is None) == (path is None):
        raise click.UsageError("either a question or --file is needed")
    if path is not None:
        try:
            added = read_questions(path)
        except InvalidQuestions as error:
            raise _refuse(f"{path}: no question was added:", error.problems) from None
    else:
        added = [Question.of(title or "", names)]
        if problems := added[0].find_problems():
            raise _refuse("this can't be asked:", problems)

    async def apply(_: QueueState, engine: AsyncEngine) -> list[PreparedQuestion]:
        await add_questions(engine, added)
        return await fetch_questions(engine)

    _show(run_on_servers(data, _FAILURE, apply))


@questions.command("list")
@options.data
@options.json
def list_questions(data: Path | None, *, json_output: bool) -> None:
    """List the questions in order, each with its number."""
    found = run_on_servers(data, _FAILURE, _fetch)
    if json_output:
        click.echo(f"[{', '.join(map(to_json, found))}]")
    else:
        _show(found)


@questions.command()
@click.argument("number", type=int)
@options.data
def remove(number: int, data: Path | None) -> None:
    """Remove a question by its number.

    The number stays the same when other questions are asked, moved or removed.
    """

    async def apply(_: QueueState, engine: AsyncEngine) -> list[PreparedQuestion]:
        if not await remove_question(engine, number):
            raise click.ClickException(f"there is no question {number}")
        return await fetch_questions(engine)

    _show(run_on_servers(data, _FAILURE, apply))


async def _fetch(_: QueueState, engine: AsyncEngine) -> list[PreparedQuestion]:
    return await fetch_questions(engine)


def _show(found: list[PreparedQuestion]) -> None:
    for each in found:
        click.echo(f"{each.id:<5} {each.question.title}: {', '.join(each.question.names)}")


def _refuse(summary: str, problems: list[str]) -> click.UsageError:
    return click.UsageError("\n  ".join([summary, *problems]))
