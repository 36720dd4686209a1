"""`voting load`: casts votes over HTTP, and checks that the result has them all."""

import argparse
import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from voting import __version__
from voting.load.check import Expected, Verdict, check, wait_until_stable
from voting.load.client import Connection
from voting.load.generator import LoadGenerator
from voting.load.pages import PageError, new_voter
from voting.load.record import Header, Record, RecordError, RecordWriter, Totals
from voting.load.report import Report, echo
from voting.settings import LoadSettings, load

RATE = 100.0  # votes a second, without --rate and --votes


def run(arguments: argparse.Namespace) -> int:
    """Return the exit code: 1 if a page does not respond, or the result differs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    # The first SIGINT or SIGTERM stops the load, if it runs; the next ends the command.
    signals = _Signals()
    verdict: Verdict | None
    try:
        if isinstance(arguments.check, Path):
            verdict = await _check_record(arguments)
        else:
            verdict = await _load(arguments, signals)
    except (PageError, RecordError) as error:
        echo(f"voting: {error}", to=2)
        return 1
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


async def _load(arguments: argparse.Namespace, signals: _Signals) -> Verdict | None:
    urls = {"VOTE_URL": arguments.vote_url, "RESULT_URL": arguments.result_url}
    given = {name: url for name, url in urls.items() if url}
    settings = load(LoadSettings, {**os.environ, **given})
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


async def _generate(
    arguments: argparse.Namespace, vote_url: str, report: Report, signals: _Signals
) -> None:
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


async def _check_record(arguments: argparse.Namespace) -> Verdict:
    expected = Expected()
    record = Record.read(arguments.check, expected.add)
    if not record.complete:
        echo("voting: the end of the record is cut off, so votes may be missing", to=2)
    url = arguments.result_url or record.header.result_url
    settings = load(LoadSettings, {"RESULT_URL": url})
    async with Connection(settings.result_url) as result_page:
        return await check(result_page, expected, record.header.before, arguments.timeout)
