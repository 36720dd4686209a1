"""The commands that prepare questions, which the admin page asks: add, list, remove."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.commands import options
from voting.commands.context import exit_on_error, run_on_servers
from voting.commands.question_file import InvalidQuestions, read_questions
from voting.database.engine import DATABASE_ERRORS, in_one_line, is_uncertain
from voting.database.questions import (
    PreparedQuestion,
    add_questions,
    fetch_questions,
    remove_question,
)
from voting.queue.state import QueueState

_FAILURE = "the questions can't be reached"

_FORMS = {".yaml": "yaml", ".yml": "yaml", ".csv": "csv"}


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
    type=click.File("rb"),
    metavar="FILE",
    help="Add all questions of a .yaml or .csv file; - is the standard input.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "csv"]),
    help="What the file is, if its name does not tell.",
)
@options.data
def add(
    title: str | None,
    names: tuple[str, ...],
    file: BinaryIO | None,
    form: str | None,
    data: Path | None,
) -> None:
    """Add a question at the end, or all of a file.

    YAML: a list with the title and the options of each. CSV: a row with both. If one question is
    not valid, none is added.
    """
    if (title is None) == (file is None):
        raise click.UsageError("either a question or --file is needed")
    if file is not None:
        form = form or _FORMS.get(Path(file.name).suffix.lower())
        if form is None:
            raise click.UsageError(f"{file.name}: --format is needed, yaml or csv")
        try:
            added = read_questions(file.read(), form)
        except InvalidQuestions as error:
            raise options.refuse(f"{file.name}: no question was added:", error.problems) from None
    else:
        added = [options.parse_question(title or "", names)]

    async def apply(_: QueueState, engine: AsyncEngine) -> None:
        await add_questions(engine, added)

    _change(data, apply)


@questions.command("list")
@options.data
@options.json
def list_questions(data: Path | None, *, json_output: bool) -> None:
    """List the questions in order, each with its number."""
    found = run_on_servers(data, _FAILURE, _fetch)
    if json_output:
        click.echo(json.dumps([asdict(each) for each in found]))
    else:
        _show(found)


@questions.command()
@click.argument("number", type=int)
@options.data
def remove(number: int, data: Path | None) -> None:
    """Remove a question by its number.

    The number stays the same when other questions are asked, moved or removed.
    """

    async def apply(_: QueueState, engine: AsyncEngine) -> None:
        if not await remove_question(engine, number):
            raise click.ClickException(f"there is no question {number}")

    _change(data, apply)


def _change(data: Path | None, apply: Callable[[QueueState, AsyncEngine], Awaitable[None]]) -> None:
    """Change the questions and print them."""

    async def run(state: QueueState, engine: AsyncEngine) -> list[PreparedQuestion]:
        try:
            await apply(state, engine)
        except DATABASE_ERRORS as error:
            if not is_uncertain(error):
                raise
            raise click.ClickException(
                "the questions may have been changed: see `voting questions list`:"
                f" {in_one_line(error)}"
            ) from None
        with exit_on_error("the questions are changed, but can't be listed"):
            return await fetch_questions(engine)

    _show(run_on_servers(data, _FAILURE, run))


async def _fetch(_: QueueState, engine: AsyncEngine) -> list[PreparedQuestion]:
    return await fetch_questions(engine)


def _show(found: list[PreparedQuestion]) -> None:
    for each in found:
        click.echo(f"{each.id:<5} {each.question.title}: {', '.join(each.question.names)}")
