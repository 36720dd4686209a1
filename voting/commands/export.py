"""`voting export`: totals and timeline, or the anonymous votes, to the terminal or into a file."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from voting.commands.context import environ, one_line_for
from voting.database.engine import create_engine
from voting.database.export import NoSuchRound, Snapshot, VotesHidden, VotesNotKept, open_snapshot
from voting.poll import formats
from voting.settings import ExportSettings, load


class _ReaderGone(Exception):
    """Who was reading has seen enough."""


class _Refused(Exception):
    """Why nothing is exported, with the exit code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def export(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails or votes are kept back, 2 where there is no such thing."""
    settings = load(ExportSettings, environ(arguments))
    try:
        with one_line_for("the votes can't be exported"):
            asyncio.run(_export(settings, arguments))
    except _ReaderGone:
        return 141  # as of a program that SIGPIPE has ended
    except _Refused as refused:
        print("voting:", refused, file=sys.stderr)  # noqa: T201 - the terminal is the place
        return refused.code
    return 0


async def _export(settings: ExportSettings, arguments: argparse.Namespace) -> None:
    url = settings.database_url.get_secret_value()
    # No patience of its own: sorting all votes takes as long as it takes.
    engine = create_engine(url, name="voting-export", pool_size=1, patience=None)
    try:
        async with open_snapshot(
            engine,
            settings.show_results,
            arguments.round,
            votes=arguments.votes,
            long_timeouts=True,
        ) as found:
            pieces = _pieces(found, settings, arguments)
            with _output(arguments.output) as write:
                async with aclosing(pieces):
                    async for piece in pieces:
                        write(piece)
    except NoSuchRound:
        raise _Refused(2, f"there is no round {arguments.round}") from None
    except VotesNotKept:
        raise _Refused(2, "the votes of an earlier round are not kept, only its totals") from None
    except VotesHidden:
        raise _Refused(1, "the votes are kept back until the poll is closed") from None
    finally:
        await engine.dispose()


def _pieces(
    found: Snapshot, settings: ExportSettings, arguments: argparse.Namespace
) -> AsyncGenerator[bytes, None]:
    if arguments.votes:
        return found.votes(formats.VOTES[arguments.format](found.result, settings.question))
    return found.timeline(formats.TIMELINE[arguments.format](found.result, settings.question))


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Open a file that has its name once it is complete; without a path, standard output."""
    if path is None:
        # A buffer of its own: where Python is told to have none, a write may do half its work.
        with open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield partial(_print, file)
            _print(file, b"", flush=True)
        return
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise _Refused(2, f"{path} is there and no file")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _print(file: IO[bytes], piece: bytes, *, flush: bool = False) -> None:
    try:
        file.write(piece)
        if flush:
            file.flush()
    except OSError as error:
        # What is left in the buffer must not be tried once more when it is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        if isinstance(error, BrokenPipeError):
            raise _ReaderGone from None
        raise
