"""`voting load`: casts votes over HTTP, and checks that the result has them all."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import click
import uvloop

from voting import __version__
from voting.load.check import Expected, Verdict, wait_until_stable
from voting.load.check import check as check_result
from voting.load.client import Connection
from voting.load.generator import LoadGenerator
from voting.load.pages import PageError, PageUnavailable, fetch_totals, new_voter, offered
from voting.load.record import Header, RecordError, RecordWriter, Totals, read_record
from voting.load.report import Report, echo
from voting.poll.ballot import Choice
from voting.settings import LoadSettings, load_settings

THIS_LOAD = Path("-")  # the value of --check without a file

RATE = 100.0  # votes a second, without --rate and --votes

_RETRY_INTERVAL = 0.5  # seconds, with --wait

_COUNT = click.IntRange(min=1)
_FILE = click.Path(path_type=Path)


def _positive(text: str) -> float:  # click.FloatRange accepts NaN and infinity
    with suppress(ValueError):
        if 0 < (number := float(text)) < inf:
            return number
    raise click.BadParameter("must be a positive number")


def _choices(text: str) -> frozenset[Choice]:
    try:
        return frozenset(map(Choice, text.split(",")))
    except ValueError:
        raise click.BadParameter("must be keys of options, like a,c") from None


@click.command(context_settings={"show_default": True})
@click.option("--votes", type=_COUNT, metavar="N", help="Number of votes (default: no limit).")
@click.option(
    "--rate",
    type=_positive,
    metavar="R",
    help="Votes a second (default: 100; with --votes: as fast as responses come).",
)
@click.option(
    "--voters",
    type=_COUNT,
    metavar="M",
    help="Maximum number of different voters; VOTES_PER_MINUTE limits each of them.",
)
@click.option(
    "--revote-ratio",
    type=click.FloatRange(0, 1),
    default=0.1,
    metavar="RATIO",
    help="Share of votes by voters who have voted before, for another option.",
)
@click.option(
    "--options",
    type=_choices,
    metavar="KEYS",
    help="Vote for these options only, like a,c (default: all).",
)
@click.option(
    "--connections", type=_COUNT, default=64, metavar="C", help="Maximum concurrent connections."
)
@click.option("--vote-url", metavar="URL", help="Default: VOTE_URL, else http://localhost:8080.")
@click.option(
    "--result-url", metavar="URL", help="Default: RESULT_URL, else http://localhost:8081."
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Wait this long for each page to be ready.",
)
@click.option("--record", type=_FILE, metavar="FILE", help="Write what each voter was told.")
@click.option(
    "--check",
    type=_FILE,
    is_flag=False,
    flag_value=THIS_LOAD,
    metavar="[FILE]",
    help="Wait until the result agrees. With a record, cast nothing and check that.",
)
@click.option(
    "--timeout",
    type=_positive,
    default=60,
    metavar="SECONDS",
    help="Fail after the result has differed without changing for this long.",
)
def load(  # noqa: PLR0913 - its options
    *,
    vote_url: str | None,
    result_url: str | None,
    wait: float,
    record: Path | None,
    check: Path | None,
    timeout: float,
    **options: Any,
) -> None:
    """Cast votes over HTTP and check the result.

    Each voter opens the page and votes; some vote again later, for another option. Without options
    it sends 100 votes a second until Ctrl-C to the `voting up` of this machine. When the next
    question is asked, each voter whose page shows the last is refused once, and goes on with it.

    With --rate each vote is due at its own time, and its latency starts then, even if it has to
    wait for a connection. Each vote is sent once: it is acknowledged, refused, or its fate is
    unknown.

    --check and --record compare totals. They are exact only if nothing else votes from the start of
    the load to the end of the check. A vote of unknown fate may be counted or not: both are
    consistent. The exit code is 1 if the result differs from what voters were told.
    """
    if options["votes"] is None and options["rate"] is None:
        options["rate"] = RATE
    if check is None or check == THIS_LOAD:
        urls = {"VOTE_URL": vote_url, "RESULT_URL": result_url}
        environ = {**os.environ, **{name: url for name, url in urls.items() if url}}
        settings = load_settings(LoadSettings, environ)
        patience = timeout if check else None
        command: _Command = partial(_load, settings, options, record, patience)
        if wait:
            command = partial(_once_ready, settings, wait, command)
    else:
        command = partial(_check_record, check, result_url, timeout)
    sys.exit(uvloop.run(_run(command)))


class _Signals:
    """The first SIGINT or SIGTERM stops the load, if it runs; the next ends the command."""

    def __init__(self) -> None:
        self.generator: LoadGenerator | None = None
        self.last: int | None = None
        self._command = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._handle, number)

    def _handle(self, number: int) -> None:
        if self.generator is not None:
            self.generator.stop()
            self.generator = None
        elif self._command is not None:
            self.last = number
            self._command.cancel()


_Command = Callable[[_Signals], Awaitable[Verdict | None]]


async def _run(command: _Command) -> int:
    """Return the exit code: 1 if a page does not respond, or the result differs."""
    signals = _Signals()
    try:
        verdict = await command(signals)
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


async def _once_ready(
    settings: LoadSettings, seconds: float, command: _Command, signals: _Signals
) -> Verdict | None:
    """Run the command once each page is ready. Raises PageError if one is not after `seconds`."""
    loop = asyncio.get_running_loop()
    for url, read in ((settings.vote_url, new_voter), (settings.result_url, fetch_totals)):
        end = loop.time() + seconds
        async with Connection(url) as page:
            while True:
                try:
                    await read(page)
                    break
                except PageError:
                    if loop.time() >= end:
                        raise
                await asyncio.sleep(_RETRY_INTERVAL)
    return await command(signals)


async def _load(
    settings: LoadSettings,
    options: dict[str, Any],
    path: Path | None,
    patience: float | None,
    signals: _Signals,
) -> Verdict | None:
    """Cast votes, write the record to `path`, and with `patience` check the result."""
    async with Connection(settings.vote_url) as vote_page:
        with suppress(PageUnavailable):
            offered((await new_voter(vote_page)).form, options["options"])
    async with Connection(settings.result_url) as result_page:
        compares = path is not None or patience is not None
        before = await wait_until_stable(result_page) if compares else Totals(0, None, 0)
        expected = Expected()
        listeners = [expected.add] if patience else []
        # Line buffering: a killed load leaves all its votes in the record.
        with path.open("w", encoding="utf-8", buffering=1) if path else nullcontext() as file:
            if file is not None:
                urls = (settings.vote_url, settings.result_url)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                header = Header(__version__, *urls, started, before)
                listeners.append(RecordWriter(file, header).add)
            async with Report(*listeners) as report:
                signals.generator = LoadGenerator(settings.vote_url, report.record, **options)
                await signals.generator.run()
        signals.generator = None  # from now on, a signal ends the command
        if patience is None:
            return None
        return await check_result(result_page, expected, before, patience)


async def _check_record(
    path: Path, result_url: str | None, patience: float, _: _Signals
) -> Verdict:
    expected = Expected()
    header, complete = read_record(path, expected.add)
    if not complete:
        echo("voting: the end of the record is cut off, so votes may be missing", to=2)
    settings = load_settings(LoadSettings, {"RESULT_URL": result_url or header.result_url})
    async with Connection(settings.result_url) as result_page:
        return await check_result(result_page, expected, header.before, patience)
