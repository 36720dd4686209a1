"""The options and arguments that several commands have."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from voting.poll.question import Question

data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Data directory of a running `voting up`, whose servers are used if none is set.",
)
json = click.option("--json", "json_output", is_flag=True, help="Print JSON.")
yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
wait = partial(click.option, "--wait", type=click.FloatRange(min=0), default=0, metavar="SECONDS")


def parse_question(title: str, names: Sequence[str]) -> Question:
    """Return the question of a command's arguments. Raises UsageError with each problem."""
    question = Question.of(title, names)
    if problems := question.find_problems():
        raise refuse("this can't be asked:", problems)
    return question


def refuse(summary: str, problems: Sequence[str]) -> click.UsageError:
    return click.UsageError("\n  ".join([summary, *problems]))
