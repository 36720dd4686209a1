"""`voting export`: writes totals over time, or the anonymous votes, to stdout or to a file."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import click

from voting.commands import options
from voting.commands.context import environment, exit_on_error
from voting.database.engine import create_engine
from voting.database.export import NoSuchRound, VotesHidden, VotesNotKept, open_snapshot
from voting.poll import formats
from voting.settings import ExportSettings, load_settings


@click.command()
@options.data
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "json"]),
    default="csv",
    help="Output format.",
    show_default=True,
)
@click.option("--round", "number", type=int, metavar="N", help="Export an earlier round.")
@click.option("--votes", is_flag=True, help="Export the anonymous votes instead, one a line.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to a file (default: stdout).",
)
def export(
    data: Path | None, output_format: str, number: int | None, output: Path | None, *, votes: bool
) -> None:
    """Export totals over time, or the anonymous votes.

    A file gets its name when it is complete. Votes are in random order. They are exported only of
    the current round, and not while SHOW_RESULTS hides its totals.
    """
    settings = load_settings(ExportSettings, environment(data))
    with exit_on_error("the votes can't be exported"):
        asyncio.run(_export(settings, output_format, number, output, votes=votes))


async def _export(
    settings: ExportSettings,
    output_format: str,
    number: int | None,
    output: Path | None,
    *,
    votes: bool,
) -> None:
    url = settings.database_url.get_secret_value()
    # Sorting all votes has no time limit on this side: it grows with their number.
    engine = create_engine(url, name="voting-export", pool_size=1, patience=None, writes=False)
    try:
        async with open_snapshot(
            engine, settings.show_results, number, votes=votes, long_timeouts=True
        ) as found:
            if votes:
                chunks = found.votes(formats.VOTES[output_format](found.result))
            else:
                chunks = found.timeline(formats.TIMELINE[output_format](found.result))
            with _output(output) as write:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        write(chunk)
    except NoSuchRound:
        raise click.BadParameter(f"there is no round {number}", param_hint="--round") from None
    except VotesNotKept:
        message = "the votes of an earlier round are not kept, only its totals"
        raise click.UsageError(message) from None
    except VotesHidden:
        raise click.ClickException("the votes are hidden until the result is shown") from None
    finally:
        await engine.dispose()


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes to stdout, or to the file.

    The file gets its name when all is on disk.
    """
    if path is None:
        yield _write_to_stdout
        return
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise click.BadParameter(f"{path} is not a file", param_hint="--output")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _write_to_stdout(chunk: bytes) -> None:
    # Not with sys.stdout: at exit it would try again to write what a failed write has left.
    try:
        while chunk:
            chunk = chunk[os.write(1, chunk) :]
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)  # as a program that SIGPIPE ends
