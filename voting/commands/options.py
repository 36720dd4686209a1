"""The options that several commands have."""

from functools import partial
from pathlib import Path

import click

data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Data directory of a running `voting up`, whose servers are used if none is set.",
)
json = click.option("--json", "json_output", is_flag=True, help="Print JSON.")
yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
wait = partial(click.option, "--wait", type=click.FloatRange(min=0), default=0, metavar="SECONDS")
