"""`voting load`: casts votes over HTTP, and checks that the result has them all."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import click
import uvloop

from voting import __version__
from voting.load.check import Expected, Verdict, check, wait_until_stable
from voting.load.client import Connection
from voting.load.generator import LoadGenerator
from voting.load.pages import PageError, new_voter
from voting.load.record import Header, Record, RecordError, RecordWriter, Totals
from voting.load.report import Report, echo
from voting.settings import LoadSettings, load_settings

THIS_LOAD = Path("-")  # the value of --check without a file

RATE = 100.0  # votes a second, without --rate and --votes


class PositiveNumber(click.FloatRange):
    """A finite number above 0. FloatRange accepts NaN."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail("must be a finite number", param, ctx)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line of `voting load`. `check` is a record, or THIS_LOAD."""

    vote_url: str | None
    result_url: str | None
    votes: int | None
    rate: float | None
    voters: int | None
    revote_ratio: float
    connections: int
    record: Path | None
    check: Path | None
    timeout: float


@click.command()
@click.option(
    "--votes", type=click.IntRange(min=1), metavar="N", help="Number of votes (default: no limit)."
)
@click.option(
    "--rate",
    type=PositiveNumber(),
    metavar="R",
    help="Votes a second (default: 100; with --votes: as fast as responses come).",
)
@click.option(
    "--voters",
    type=click.IntRange(min=1),
    metavar="M",
    help="Maximum number of different voters; VOTES_PER_MINUTE limits each of them.",
)
@click.option(
    "--revote-ratio",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    metavar="RATIO",
    help="Share of votes by voters who have voted before, for the other option.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="C",
    help="Maximum concurrent connections.",
)
@click.option("--vote-url", metavar="URL", help="Default: VOTE_URL, else http://localhost:8080.")
@click.option(
    "--result-url", metavar="URL", help="Default: RESULT_URL, else http://localhost:8081."
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what each voter was told.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=THIS_LOAD,
    metavar="[FILE]",
    help="Wait until the result agrees. With a record, cast nothing and check that.",
)
@click.option(
    "--timeout",
    type=PositiveNumber(),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Fail after the result has differed without changing for this long.",
)
def load(**options: Any) -> None:
    """Cast votes over HTTP and check the result.

    Each voter opens the page and votes; some vote again later, for the other option. Without
    options it sends 100 votes a second until Ctrl-C to the `voting up` of this machine.

    With --rate each vote is due at its own time, and its latency starts then, even if it has to
    wait for a connection. Each vote is sent once: it is acknowledged, refused, or its fate is
    unknown.

    --check and --record compare totals. They are exact only if nothing else votes from the start of
    the load to the end of the check. A vote of unknown fate may be counted or not: both are
    consistent. The exit code is 1 if the result differs from what voters were told.
    """
    sys.exit(run(Options(**options)))


def run(arguments: Options) -> int:
    """Return the exit code: 1 if a page does not respond, or the result differs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments))


async def _run(arguments: Options) -> int:
    # The first SIGINT or SIGTERM stops the load, if it runs; the next ends the command.
    signals = _Signals()
    verdict: Verdict | None
    try:
        if arguments.check is None or arguments.check == THIS_LOAD:
            verdict = await _load(arguments, signals)
        else:
            verdict = await _check_record(arguments.check, arguments)
    except (PageError, RecordError) as error:
        raise click.ClickException(str(error)) from None
    except asyncio.CancelledError:
        if signals.last is None:
            raise
        return 128 + signals.last
    if verdict is None:
        return 0
    echo(verdict.line)
    return 0 if verdict.agrees else 1


class _Signals:
    def __init__(self) -> None:
        self.generator: LoadGenerator | None = None
        self.last: int | None = None
        self._command = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._handle, number)

    def _handle(self, number: int) -> None:
        if self.generator is not None:
            self.generator.stop()
            self.generator = None
        elif self._command is not None:
            self.last = number
            self._command.cancel()


async def _load(arguments: Options, signals: _Signals) -> Verdict | None:
    urls = {"VOTE_URL": arguments.vote_url, "RESULT_URL": arguments.result_url}
    given = {name: url for name, url in urls.items() if url}
    settings = load_settings(LoadSettings, {**os.environ, **given})
    async with Connection(settings.vote_url) as vote_page:
        try:
            await new_voter(vote_page)
        except PageError as error:
            if not error.temporary:
                raise
    async with Connection(settings.result_url) as result_page:
        compares = arguments.record or arguments.check
        before = await wait_until_stable(result_page) if compares else None
        expected = Expected() if arguments.check else None
        with _writing(arguments.record, settings, before) as writer:
            await _generate(arguments, settings.vote_url, Report(expected, writer), signals)
        if expected is None or before is None:
            return None
        return await check(result_page, expected, before, arguments.timeout)


@contextmanager
def _writing(
    path: Path | None, settings: LoadSettings, before: Totals | None
) -> Iterator[RecordWriter | None]:
    if path is None or before is None:
        yield None
        return
    started = datetime.now(UTC).isoformat(timespec="seconds")
    header = Header(__version__, settings.vote_url, settings.result_url, started, before)
    with path.open("w", encoding="utf-8") as file:
        yield RecordWriter(file, header)


async def _generate(arguments: Options, vote_url: str, report: Report, signals: _Signals) -> None:
    rate = RATE if arguments.rate is None and arguments.votes is None else arguments.rate
    async with report:
        signals.generator = generator = LoadGenerator(
            vote_url,
            report.record,
            votes=arguments.votes,
            rate=rate,
            voters=arguments.voters,
            revote_ratio=arguments.revote_ratio,
            connections=arguments.connections,
        )
        try:
            await generator.run()
        finally:
            signals.generator = None


async def _check_record(path: Path, arguments: Options) -> Verdict:
    expected = Expected()
    record = Record.read(path, expected.add)
    if not record.complete:
        echo("voting: the end of the record is cut off, so votes may be missing", to=2)
    url = arguments.result_url or record.header.result_url
    settings = load_settings(LoadSettings, {"RESULT_URL": url})
    async with Connection(settings.result_url) as result_page:
        return await check(result_page, expected, record.header.before, arguments.timeout)
